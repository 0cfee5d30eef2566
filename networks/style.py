"""Style of a contrast (MSG-LDM): a short vector, and what adaptive instance norm makes of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .haar import haar_split
from .structure_encoder import ConvUnit


class StyleEncoder(nn.Module):
    """S_j = E_j(X_j): units that halve the size, the mean over all voxels, a linear layer.

    Args:
        spatial_dims: 2 or 3.
        channels: Width of each unit; the first keeps the size, the others halve it (plus one
            voxel).
        style_channels: Length of the style vector.
        stem_levels: Haar levels before the first unit.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        *,
        channels: Sequence[int] = (32, 64, 128, 128, 128),
        style_channels: int = 8,
        stem_levels: int = 0,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.stem_levels = spatial_dims, stem_levels
        widths = [2 ** (spatial_dims * stem_levels), *channels]
        self.units = nn.Sequential(
            *(
                ConvUnit(
                    spatial_dims, before, after, 7 if index == 0 else 4, stride=1 + (index > 0)
                )
                for index, (before, after) in enumerate(zip(widths, channels, strict=False))
            )
        )
        self.out = nn.Linear(channels[-1], style_channels)

    def forward(self, volume: Tensor) -> Tensor:
        """Volume (b, 1, *size), size a multiple of 2 ** stem_levels, to its style (b, d)."""
        for _ in range(self.stem_levels):
            volume = haar_split(volume, self.spatial_dims)
        return self.out(self.units(volume).flatten(2).mean(2))


class StyleModulation(nn.Module):
    """Two hidden layers from a style to the scale and shift of every channel.

    Scales start around 1 and shifts around 0, where adaptive instance norm changes nothing.

    Args:
        style_channels: Length of the style vector.
        channels: Channels to modulate; also the width of the hidden layers.
    """

    def __init__(self, style_channels: int, channels: int) -> None:
        super().__init__()
        self.hidden1 = nn.Linear(style_channels, channels)
        self.hidden2 = nn.Linear(channels, channels)
        self.scale = nn.Linear(channels, channels)
        self.shift = nn.Linear(channels, channels)
        nn.init.ones_(self.scale.bias)

    def forward(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """Style (b, d) to scale and shift, (b, c) each."""
        h = F.leaky_relu(self.hidden1(style), 0.01)
        h = F.leaky_relu(self.hidden2(h), 0.01)
        return self.scale(h), self.shift(h)


def adaptive_instance_norm(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Give every channel a mean and a standard deviation (Huang and Belongie 2017, AdaIN).

    scale * (x - mean) / sqrt(variance + eps) + shift, with the unbiased variance of the channel; a
    constant channel becomes its shift.

    Args:
        x: (b, c, *size).
        scale: (b, c).
        shift: (b, c).
        eps: Keeps constant channels finite.
    """
    axes = list(range(2, x.dim()))
    several = x[0, 0].numel() > 1
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(precise, dim=axes, correction=int(several), keepdim=True)
    ones = (1,) * len(axes)
    normed = ((precise - mean) * (variance + eps).rsqrt()).to(x.dtype)
    return normed * scale.reshape(scale.shape + ones) + shift.reshape(shift.shape + ones)


class AdaptiveResBlock(nn.Module):
    """unit - AdaIN - LeakyReLU - unit - AdaIN, plus the input; one modulation for both norms.

    Args:
        spatial_dims: 2 or 3.
        channels: Channels of the features.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.unit1 = ConvUnit(spatial_dims, channels, channels)
        self.unit2 = ConvUnit(spatial_dims, channels, channels)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """(b, c, *size), with scale and shift (b, c), to the same shape."""
        h = F.leaky_relu(adaptive_instance_norm(self.unit1(x), scale, shift), 0.01)
        return x + adaptive_instance_norm(self.unit2(h), scale, shift)


class StyleBank(nn.Module):
    """A learned style for each contrast, for cases whose own is not to be seen.

    Args:
        num_modalities: Contrasts m.
        style_channels: Length of a style d.
    """

    def __init__(self, num_modalities: int, style_channels: int) -> None:
        super().__init__()
        self.styles = nn.Parameter(torch.zeros(num_modalities, style_channels))

    def forward(self, styles: Tensor, seen: Tensor) -> Tensor:
        """Styles (b, m, d) where seen (b, m) bool, the learned ones elsewhere."""
        return torch.where(seen.unsqueeze(2), styles, self.styles.to(styles.dtype))
