"""What the structure stage decodes (MSG-LDM): a contrast from structure and style, and lesions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import conv
from .haar import haar_merge
from .structure_encoder import ConvUnit
from .style import AdaptiveResBlock, StyleModulation

UP_SLOPE = 1e-4  #: of the LeakyReLUs on the way up, as published: almost ReLU


class Reconstruction(NamedTuple):
    """A decoded volume (b, 1, *size) in [-1, 1], with the scale and shift (b, c) of its style."""

    volume: Tensor
    scale: Tensor
    shift: Tensor


class ReconstructionDecoder(nn.Module):
    """X_j = D_j(F_s, S_j): blocks that take the style by AdaIN, then upsampling to the volume.

    Each level on the way up doubles the size (linear interpolation) and halves the channels.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of F_s.
        style_channels: Length of the style vector.
        num_res_blocks: Blocks that see the style.
        up_levels: Doublings from F_s to the volume, without those of the stem.
        up_kernel_size: Of the convolutions on the way up (5 in the published code).
        out_kernel_size: Of the last convolution (7).
        stem_levels: Haar levels merged at the end, in place of the last doublings.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 256,
        *,
        style_channels: int = 8,
        num_res_blocks: int = 4,
        up_levels: int = 3,
        up_kernel_size: int = 5,
        out_kernel_size: int = 7,
        stem_levels: int = 0,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.stem_levels = spatial_dims, stem_levels
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        self.modulation = StyleModulation(style_channels, in_channels)
        self.blocks = nn.ModuleList(
            AdaptiveResBlock(spatial_dims, in_channels) for _ in range(num_res_blocks)
        )
        widths = [in_channels >> level for level in range(up_levels + 1)]
        self.up = nn.ModuleList(
            ConvUnit(spatial_dims, before, after, up_kernel_size, slope=UP_SLOPE)
            for before, after in zip(widths, widths[1:], strict=False)
        )
        bands = 2 ** (spatial_dims * stem_levels)
        self.conv_out = conv(spatial_dims, widths[-1], bands, out_kernel_size)

    def forward(self, shared: Tensor, style: Tensor) -> Reconstruction:
        """F_s (b, c, *size) and style (b, d) to a volume of size * 2 ** (levels and stem)."""
        scale, shift = self.modulation(style)
        h = shared
        for block in self.blocks:
            h = block(h, scale, shift)
        for unit in self.up:
            h = unit(F.interpolate(h, scale_factor=2.0, mode=self.mode))
        h = self.conv_out(h)
        for _ in range(self.stem_levels):
            h = haar_merge(h, self.spatial_dims)
        return Reconstruction(torch.tanh(h), scale, shift)


class SegmentationDecoder(nn.Module):
    """D_seg: logits of each class from the fused scales, one decoder whatever the contrasts are.

    From the coarsest scale up: double the size, a unit to the next scale's width, concatenate that
    scale, a unit of 3 and one of 1 voxels. A plain 1x1 convolution ends it, so that any probability
    can be said.

    Args:
        spatial_dims: 2 or 3.
        num_classes: Classes, each with a sigmoid of its own.
        channels: Width of each scale, finest first.
        stem_levels: Haar levels merged at the end, in place of features at full resolution.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        num_classes: int = 4,
        *,
        channels: Sequence[int] = (32, 64, 128, 256),
        stem_levels: int = 0,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.stem_levels = spatial_dims, stem_levels
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        steps = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.enter = nn.ModuleList(ConvUnit(spatial_dims, coarse, fine) for coarse, fine in steps)
        self.merge = nn.ModuleList(
            nn.Sequential(
                ConvUnit(spatial_dims, 2 * fine, fine), ConvUnit(spatial_dims, fine, fine, 1)
            )
            for _, fine in steps
        )
        bands = 2 ** (spatial_dims * stem_levels)
        self.conv_out = conv(spatial_dims, channels[0], num_classes * bands, 1)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """Scales, finest first, (b, channels[l], *size / 2 ** l), to logits (b, k, *volume)."""
        h = scales[-1]
        for enter, merge, finer in zip(self.enter, self.merge, scales[-2::-1], strict=True):
            h = enter(F.interpolate(h, scale_factor=2.0, mode=self.mode))
            h = merge(torch.cat([h, finer], dim=1))
        h = self.conv_out(h)
        for _ in range(self.stem_levels):
            h = haar_merge(h, self.spatial_dims)
        return h
