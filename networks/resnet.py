"""The denoiser's residual block and how a timestep enters it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import conv, group_norm, zero


def timestep_embedding(timesteps: Tensor, channels: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoids of a timestep: cosines, then sines, of t * max_period ** (-i / half).

    Args:
        timesteps: (b,), whole or fractional.
        channels: Length of the embedding; if odd, the last entry is zero.
        max_period: Longest period over 2 pi.

    Returns:
        Float32 embedding of shape (b, channels).
    """
    half = channels // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float().unsqueeze(1) * torch.exp(-math.log(max_period) / half * index)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), [0, channels % 2])


class TimeResBlock(nn.Module):
    """norm - SiLU - conv, embedding, norm - SiLU - conv, plus the input.

    The embedding is added to the features before the second norm, or scales and shifts them after
    it. The second convolution starts at zero.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels in.
        out_channels: Channels out.
        embedding_channels: Length of the embedding.
        scale_shift: norm(h) * (1 + scale) + shift in place of norm(h + embedding).
        norm_groups: Most groups of the norms.
        dropout: Before the second convolution.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        embedding_channels: int,
        *,
        scale_shift: bool = False,
        norm_groups: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = group_norm(in_channels, norm_groups)
        self.conv1 = conv(spatial_dims, in_channels, out_channels, 3)
        self.embedding = nn.Linear(
            embedding_channels, 2 * out_channels if scale_shift else out_channels
        )
        self.norm2 = group_norm(out_channels, norm_groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(conv(spatial_dims, out_channels, out_channels, 3))
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else conv(spatial_dims, in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(b, in, *size) and embedding (b, e) to (b, out, *size)."""
        h = self.conv1(F.silu(self.norm1(x)))
        condition = self.embedding(F.silu(embedding))
        condition = condition.reshape(condition.shape + (1,) * (x.dim() - 2))
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + condition)
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class Downsample(nn.Module):
    """Halve the size by a stride-2 convolution, one voxel of zeros on both sides."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(spatial_dims, channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to (b, c, *size / 2)."""
        return self.conv(x)


class Upsample(nn.Module):
    """Double the size: nearest neighbour, then a convolution."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(spatial_dims, channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to (b, c, *size * 2)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
