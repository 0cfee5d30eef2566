"""MS-SPADE: normalisation whose modulation weights are switched by each sample's target modality.

Source: Kim and Park, "Adaptive Latent Diffusion Model for 3D Medical Image to Image Translation"
(ALDM), WACV 2024, eq. 1 and Table B, and the authors' public code where the two differ (said at the
class).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import check_modality, conv, crop_like, instance_norm, pad_to_multiple, zero
from .haar import haar_merge, haar_split


class SwitchedConv(nn.Module):
    """One convolution for each modality; every sample is convolved with its target's.

    The weights of all modalities are one parameter with a leading modality axis. A mixed batch
    gathers its rows and runs as one grouped convolution: no loop, no data-dependent branch, so it
    also exports.
    """

    def __init__(
        self,
        num_modalities: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.padding = spatial_dims, kernel_size // 2
        kernel = (kernel_size,) * spatial_dims
        self.weight = nn.Parameter(torch.empty(num_modalities, out_channels, in_channels, *kernel))
        self.bias = nn.Parameter(torch.empty(num_modalities, out_channels))
        bound = 1 / math.sqrt(in_channels * kernel_size**spatial_dims)  # torch's own default
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """(b, in, *size) and target (b,) to (b, out, *size)."""
        batch = x.shape[0]
        weight = self.weight.index_select(0, target).flatten(0, 1)  # (b out) in *kernel
        bias = self.bias.index_select(0, target).flatten()
        grouped = x.flatten(0, 1).unsqueeze(0)  # 1 (b in) *size
        if self.spatial_dims == 3:
            out = F.conv3d(grouped, weight, bias, padding=self.padding, groups=batch)
        else:
            out = F.conv2d(grouped, weight, bias, padding=self.padding, groups=batch)
        return out.squeeze(0).unflatten(0, [batch, out.shape[1] // batch])


class MSSpade(nn.Module):
    """Normalize features, then modulate them with the target modality's weights (ALDM eq. 1).

    y = norm(x) * (1 + gamma(x)) + beta(x), where norm is instance norm and gamma, beta come from
    the features themselves: hidden = ReLU(conv(x)), (gamma, beta) = conv(hidden), plain
    convolutions, all of the target's own. The paper prints gamma; its code, as here, has 1 + gamma.

    Args:
        channels: Channels of the features.
        num_modalities: Number of targets.
        spatial_dims: 2 or 3.
        hidden: Channels between features and modulation (64 in the reference).
    """

    def __init__(
        self, channels: int, num_modalities: int, *, spatial_dims: int = 3, hidden: int = 64
    ) -> None:
        super().__init__()
        self.shared = SwitchedConv(num_modalities, channels, hidden, spatial_dims=spatial_dims)
        self.modulation = SwitchedConv(
            num_modalities, hidden, 2 * channels, spatial_dims=spatial_dims
        )

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """(b, c, *size) and target (b,) to (b, c, *size)."""
        hidden = F.relu(self.shared(x, target))
        gamma, beta = self.modulation(hidden, target).chunk(2, dim=1)
        return instance_norm(x) * (1 + gamma) + beta


class MSSpadeResBlock(nn.Module):
    """MS-SPADE - LeakyReLU - conv, twice, plus the input (bare 1x1 conv if the channels change).

    Args:
        in_channels: Channels in.
        out_channels: Channels out; the smaller of the two is the width between the convolutions.
        num_modalities: Number of targets.
        spatial_dims: 2 or 3.
        hidden: See ``MSSpade``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_modalities: int,
        *,
        spatial_dims: int = 3,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.norm1 = MSSpade(in_channels, num_modalities, spatial_dims=spatial_dims, hidden=hidden)
        self.conv1 = conv(spatial_dims, in_channels, middle, 3)
        self.norm2 = MSSpade(middle, num_modalities, spatial_dims=spatial_dims, hidden=hidden)
        self.conv2 = conv(spatial_dims, middle, out_channels, 3)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else conv(spatial_dims, in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """(b, in, *size) and target (b,) to (b, out, *size)."""
        h = self.conv1(F.leaky_relu(self.norm1(x, target), 0.2))
        h = self.conv2(F.leaky_relu(self.norm2(h, target), 0.2))
        return self.shortcut(x) + h


class MSSpadeGenerator(nn.Module):
    """Turn a source latent into a target-like latent by four MS-SPADE blocks, as ALDM's code does.

    Widths are latent -> features -> 2 features -> features -> latent.

    Args:
        latent_channels: Channels of the latent.
        num_modalities: Number of targets.
        features: Width of the outer blocks (128 in the reference, its ``nf``).
        hidden: See ``MSSpade``.
        spatial_dims: 2 or 3.
        residual: Predict the difference from the source instead, through a 1x1 convolution that
            starts at zero: an untrained generator then returns the source.
        stem_levels: Haar levels that split the latent before the first block and are merged after
            the last: each halves the size the blocks work at. Any size goes in; see ``Denoiser``.

    Raises:
        ValueError: (call, outside TorchScript) a target is out of range.
    """

    def __init__(
        self,
        latent_channels: int,
        num_modalities: int,
        *,
        features: int = 128,
        hidden: int = 64,
        spatial_dims: int = 3,
        residual: bool = False,
        stem_levels: int = 0,
    ) -> None:
        super().__init__()
        self.num_modalities, self.residual = num_modalities, residual
        self.spatial_dims, self.stem_levels = spatial_dims, stem_levels
        outer = latent_channels * 2 ** (spatial_dims * stem_levels)
        widths = [outer, features, 2 * features, features, outer]
        self.blocks = nn.ModuleList(
            MSSpadeResBlock(
                width_in, width_out, num_modalities, spatial_dims=spatial_dims, hidden=hidden
            )
            for width_in, width_out in zip(widths, widths[1:], strict=False)
        )
        self.difference = zero(conv(spatial_dims, outer, outer, 1)) if residual else nn.Identity()

    def forward(self, latent: Tensor, target: Tensor) -> Tensor:
        """Latent (b, c, *size) and target (b,) int64 to a latent like the target's."""
        if not torch.jit.is_scripting():
            check_modality(target, self.num_modalities, latent.shape[0])
        h = pad_to_multiple(latent, 1 << self.stem_levels)
        for _ in range(self.stem_levels):
            h = haar_split(h, self.spatial_dims)
        for block in self.blocks:
            h = block(h, target)
        h = self.difference(h)
        for _ in range(self.stem_levels):
            h = haar_merge(h, self.spatial_dims)
        h = crop_like(h, latent)
        return latent + h if self.residual else h


class PlainResBlock(nn.Module):
    """conv - instance norm - ReLU - conv - instance norm, plus the input."""

    def __init__(self, in_channels: int, out_channels: int, *, spatial_dims: int = 3) -> None:
        super().__init__()
        self.conv1 = conv(spatial_dims, in_channels, out_channels, 3)
        self.conv2 = conv(spatial_dims, out_channels, out_channels, 3)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else conv(spatial_dims, in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, *size) to (b, out, *size)."""
        h = instance_norm(self.conv2(F.relu(instance_norm(self.conv1(x)))))
        return self.shortcut(x) + h


class ConvMSSpade(nn.Module):
    """conv - ReLU - MS-SPADE, the order of Table B."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_modalities: int,
        *,
        spatial_dims: int = 3,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.conv = conv(spatial_dims, in_channels, out_channels, 3)
        self.norm = MSSpade(out_channels, num_modalities, spatial_dims=spatial_dims, hidden=hidden)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """(b, in, *size) and target (b,) to (b, out, *size)."""
        return self.norm(F.relu(self.conv(x)), target)


class TableBGenerator(nn.Module):
    """The generator the paper prints (ALDM Table B), in place of its code's ``MSSpadeGenerator``.

    7x7x7 conv, instance norm, ReLU; residual blocks; conv - ReLU - MS-SPADE blocks; 7x7x7 conv.
    What Table B leaves open (the inside of its residual blocks, the kernel of the other
    convolutions) follows the usual: see ``PlainResBlock``, 3x3x3.

    Args:
        latent_channels: Channels of the latent.
        num_modalities: Number of targets.
        stem_channels: Width after the first convolution.
        res_channels: Width of each residual block.
        spade_channels: Width of each MS-SPADE block.
        hidden: See ``MSSpade``.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: (call, outside TorchScript) a target is out of range.
    """

    def __init__(
        self,
        latent_channels: int,
        num_modalities: int,
        *,
        stem_channels: int = 128,
        res_channels: Sequence[int] = (256, 256),
        spade_channels: Sequence[int] = (256, 256, 256, 128),
        hidden: int = 64,
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        self.num_modalities = num_modalities
        self.conv_in = conv(spatial_dims, latent_channels, stem_channels, 7)
        width = stem_channels
        self.res_blocks = nn.Sequential()
        for out in res_channels:
            self.res_blocks.append(PlainResBlock(width, out, spatial_dims=spatial_dims))
            width = out
        self.spade_blocks = nn.ModuleList()
        for out in spade_channels:
            self.spade_blocks.append(
                ConvMSSpade(width, out, num_modalities, spatial_dims=spatial_dims, hidden=hidden)
            )
            width = out
        self.conv_out = conv(spatial_dims, width, latent_channels, 7)

    def forward(self, latent: Tensor, target: Tensor) -> Tensor:
        """Latent (b, c, *size) and target (b,) int64 to a latent like the target's."""
        if not torch.jit.is_scripting():
            check_modality(target, self.num_modalities, latent.shape[0])
        h = self.res_blocks(F.relu(instance_norm(self.conv_in(latent))))
        for block in self.spade_blocks:
            h = block(h, target)
        return self.conv_out(h)
