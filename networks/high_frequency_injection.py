"""High-frequency injection: what a Gaussian takes away is added once more (MSG-LDM, eq. 2)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import conv

MIN_SIGMA = 1e-3


def gaussian_blur(
    x: Tensor, sigma: Tensor, kernel_size: int = 3, padding_mode: str = "replicate"
) -> Tensor:
    """Blur by a truncated, normalised Gaussian, one axis after the other.

    Weight of the voxel at distance i: exp(-i^2 / (2 sigma^2)) / sum. Along every axis in turn this
    is the normalised Gaussian on the whole cube. Shifts and sums only: as fast in 3D as in 2D.

    Args:
        x: (b, c, *size).
        sigma: Standard deviation in voxels, above zero; any shape that broadcasts to (b, c).
        kernel_size: Voxels across, odd.
        padding_mode: ``"replicate"`` repeats the border, so that a constant stays constant;
            ``"constant"`` pads with zeros.

    Returns:
        The shape and type of ``x``.
    """
    reach = kernel_size // 2
    distance = torch.arange(-reach, reach + 1, device=x.device, dtype=sigma.dtype)
    weights = torch.exp(-0.5 * (distance / sigma.unsqueeze(-1)).square())
    weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
    for _ in range(x.dim() - 2):
        weights = weights.unsqueeze(2)
    taps = weights.unbind(-1)
    for axis in range(2, x.dim()):
        length = x.shape[axis]
        padding = [0, 0] * (x.dim() - 1 - axis) + [reach, reach] + [0, 0] * (axis - 2)
        padded = F.pad(x, padding, mode=padding_mode)
        x = torch.zeros_like(x)
        for start, tap in enumerate(taps):
            x = x + tap * padded.narrow(axis, start, length)
    return x


class HighFrequencyInjection(nn.Module):
    """Add to features what a learned Gaussian removes from them (MSG-LDM, eq. 2).

    S = C + (C - G(C)). The Gaussian adapts to its input: each sample and channel has its own
    standard deviation, 0.001 + softplus(W mean(C) + b) voxels, with mean(C) the channels' means
    over the volume. W starts at zero and b so that sigma is 1.

    Args:
        channels: Channels of the features.
        kernel_size: Voxels across the Gaussian, odd.
    """

    def __init__(self, channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        self.kernel_size, self.min_sigma = kernel_size, MIN_SIGMA
        self.width = nn.Linear(channels, channels)
        nn.init.zeros_(self.width.weight)
        nn.init.constant_(self.width.bias, math.log(math.expm1(1 - MIN_SIGMA)))

    def sigma(self, x: Tensor) -> Tensor:
        """Standard deviations (b, c) in voxels for features (b, c, *size)."""
        logit = self.width(x.flatten(2).mean(2))
        precise = logit if logit.dtype == torch.float64 else logit.float()
        return self.min_sigma + F.softplus(precise)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to the same shape."""
        return 2 * x - gaussian_blur(x, self.sigma(x), kernel_size=self.kernel_size)


class OneSigmaInjection(nn.Module):
    """The published code's form: one sigma for all, and a convolution over C and C - G(C).

    S = LeakyReLU(conv([C, C - G(C)])) with slope 0.05, a 3-voxel Gaussian and zeros around the
    volume. It does not adapt to its input, and the zeros make every border a high frequency.

    Args:
        spatial_dims: 2 or 3.
        channels: Channels of the features.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.min_sigma = MIN_SIGMA
        self.sigma = nn.Parameter(torch.ones(()))
        self.conv = conv(spatial_dims, 2 * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to the same shape."""
        sigma = self.sigma.clamp(min=self.min_sigma).reshape(1, 1)
        high = x - gaussian_blur(x, sigma, padding_mode="constant")
        return F.leaky_relu(self.conv(torch.cat([x, high], dim=1)), 0.05)
