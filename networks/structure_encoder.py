"""Structure encoder of one contrast: four scales, each with high-frequency injection (MSG-LDM)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import conv, instance_norm
from .haar import haar_split
from .high_frequency_injection import HighFrequencyInjection, OneSigmaInjection

HIGH_FREQUENCY = ("adaptive", "one_sigma", "none")


class ConvUnit(nn.Module):
    """conv - dropout - instance norm - LeakyReLU: what the structure stage is made of.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Voxels across; an even kernel of stride 2 gives size / 2 + 1.
        stride: 1 or 2.
        dropout: Share of values dropped in training.
        slope: Of the LeakyReLU.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dropout: float = 0.0,
        slope: float = 0.01,
    ) -> None:
        super().__init__()
        self.conv = conv(spatial_dims, in_channels, out_channels, kernel_size, stride=stride)
        self.dropout = nn.Dropout(dropout)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, *size) to (b, out, *size / stride)."""
        return F.leaky_relu(instance_norm(self.dropout(self.conv(x))), self.slope)


class StructureScale(nn.Module):
    """One scale: u = unit(x), v = unit(unit(u)) + u, then high-frequency injection.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the scale before.
        out_channels: Channels of this scale.
        stride: Of the first unit; 1 on the first scale, 2 on the others.
        high_frequency: See ``StructureEncoder``.
        dropout: In the first unit.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        high_frequency: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.enter = ConvUnit(
            spatial_dims, in_channels, out_channels, stride=stride, dropout=dropout
        )
        self.body = nn.Sequential(
            ConvUnit(spatial_dims, out_channels, out_channels),
            ConvUnit(spatial_dims, out_channels, out_channels),
        )
        self.inject: nn.Module = nn.Identity()
        if high_frequency == "adaptive":
            self.inject = HighFrequencyInjection(out_channels)
        elif high_frequency == "one_sigma":
            self.inject = OneSigmaInjection(spatial_dims, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, *size) to (b, out, *size / stride)."""
        u = self.enter(x)
        return self.inject(self.body(u) + u)


class StructureEncoder(nn.Module):
    """E_j of MSG-LDM: structure of one contrast at several scales, each half the one before.

    Args:
        spatial_dims: 2 or 3.
        channels: Width of each scale, finest first.
        high_frequency: ``"adaptive"`` (eq. 2), ``"one_sigma"`` (the published code) or ``"none"``
            (the ablation).
        stem_levels: Haar levels that split the volume before the first scale, in place of
            convolutions at full resolution.
        dropout: In the first unit of the first scale (0.3 in the published code).

    Raises:
        ValueError: ``high_frequency`` is unknown.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        *,
        channels: Sequence[int] = (32, 64, 128, 256),
        high_frequency: str = "adaptive",
        stem_levels: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if high_frequency not in HIGH_FREQUENCY:
            raise ValueError(f"high_frequency must be in {HIGH_FREQUENCY}, got {high_frequency!r}")
        self.spatial_dims, self.stem_levels = spatial_dims, stem_levels
        widths = [2 ** (spatial_dims * stem_levels), *channels]
        self.scales = nn.ModuleList(
            StructureScale(
                spatial_dims,
                width_in,
                width_out,
                stride=1 if index == 0 else 2,
                high_frequency=high_frequency,
                dropout=dropout if index == 0 else 0.0,
            )
            for index, (width_in, width_out) in enumerate(zip(widths, channels, strict=False))
        )

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Encode.

        Args:
            volume: (b, 1, *size) in [-1, 1], every size a multiple of 2 ** (stem_levels + scales
                - 1).

        Returns:
            Features of each scale l, (b, channels[l], *size / 2 ** (stem_levels + l)).
        """
        h = volume
        for _ in range(self.stem_levels):
            h = haar_split(h, self.spatial_dims)
        features: list[Tensor] = []
        for scale in self.scales:
            h = scale(h)
            features.append(h)
        return features
