"""Fusion of the given contrasts' structure at one scale (MSG-LDM's MMSF): gates that can close."""

import torch
from torch import Tensor, nn

from .availability import mask_missing
from .blocks import conv
from .structure_encoder import ConvUnit


class GatedFusion(nn.Module):
    """F = unit(sum_j w_j S_j): a gate for each contrast and voxel, then a 1x1 unit (the paper's).

    (w_1, ..., w_m) = sigmoid(conv([S_1, ..., S_m])), times one for a given contrast and zero for a
    missing one. There is nothing between convolution and sigmoid, so a gate can open and close
    fully. How many contrasts are given does not change the scale of F: the unit's instance norm
    divides it out.

    Args:
        num_modalities: Contrasts m.
        channels: Channels of the features.
        spatial_dims: 2 or 3.
    """

    def __init__(self, num_modalities: int, channels: int, *, spatial_dims: int = 3) -> None:
        super().__init__()
        self.gate = conv(spatial_dims, num_modalities * channels, num_modalities, 3)
        self.unit = ConvUnit(spatial_dims, channels, channels, 1)

    def gates(self, features: Tensor, available: Tensor) -> Tensor:
        """Weights (b, m, *size) in [0, 1] of features whose missing slots are masked."""
        return mask_missing(torch.sigmoid(self.gate(features.flatten(1, 2))), available)

    def forward(self, features: Tensor, available: Tensor) -> Tensor:
        """Fuse.

        Args:
            features: One slot for each contrast, (b, m, c, *size); missing slots may hold anything.
            available: (b, m) bool.

        Returns:
            (b, c, *size).
        """
        features = mask_missing(features, available)
        weights = self.gates(features, available)
        total = weights[:, 0].unsqueeze(1) * features[:, 0]
        for slot in range(1, features.shape[1]):
            total = total + weights[:, slot].unsqueeze(1) * features[:, slot]
        return self.unit(total)


class ConcatFusion(nn.Module):
    """The published code's form: F = unit([w_1 S_1, ..., w_m S_m]), w = sigmoid(unit([S])).

    Instance norm and LeakyReLU before the sigmoid keep every gate above about a half, also that of
    a missing contrast (whose features are zero). See docs/decisions/0007-msg-departures.md.

    Args:
        num_modalities: Contrasts m.
        channels: Channels of the features.
        spatial_dims: 2 or 3.
    """

    def __init__(self, num_modalities: int, channels: int, *, spatial_dims: int = 3) -> None:
        super().__init__()
        self.gate = ConvUnit(spatial_dims, num_modalities * channels, num_modalities, 3)
        self.unit = ConvUnit(spatial_dims, num_modalities * channels, channels, 1)

    def gates(self, features: Tensor) -> Tensor:
        """Weights (b, m, *size) of features whose missing slots are masked."""
        return torch.sigmoid(self.gate(features.flatten(1, 2)))

    def forward(self, features: Tensor, available: Tensor) -> Tensor:
        """(b, m, c, *size) and available (b, m) to (b, c, *size)."""
        features = mask_missing(features, available)
        weighted = self.gates(features).unsqueeze(2) * features
        return self.unit(weighted.flatten(1, 2))


class MeanFusion(nn.Module):
    """The mean of the given contrasts' features, without weights: the ablation without MMSF."""

    def forward(self, features: Tensor, available: Tensor) -> Tensor:
        """(b, m, c, *size) and available (b, m) to (b, c, *size)."""
        count = available.sum(1)
        for _ in range(features.dim() - 2):
            count = count.unsqueeze(-1)
        return mask_missing(features, available).sum(1) / count
