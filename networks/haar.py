"""Orthonormal Haar wavelet split and merge in 1 to 3 dimensions, by reshape and add.

One level turns ``c`` channels into ``c * 2**d`` sub-bands at half the size. The bands count in
binary over the axes, first axis first, 0 = low (sum) and 1 = high (first minus second): in 3D LLL,
LLH, LHL, LHH, HLL, ..., HHH.
Channels are band-major: all channels of LLL, then all of LLH, and so on.
"""

import math

import torch
from torch import Tensor


def haar_split(volume: Tensor, spatial_dims: int = 3) -> Tensor:
    """Split features into their Haar sub-bands.

    Along one axis, low = (first + second) / sqrt(2) and high = (first - second) / sqrt(2), so the
    transform is orthonormal: it keeps the sum of squares.

    Args:
        volume: Features of shape (b, c, *size); every spatial size even.
        spatial_dims: 1, 2 or 3.

    Returns:
        Sub-bands of shape (b, 2**d * c, *size / 2), band-major.

    Raises:
        ValueError: A spatial size is odd.
    """
    if volume.dim() - 2 != spatial_dims:
        raise ValueError(f"expected {spatial_dims} spatial axes, got shape {volume.shape}")
    bands = volume.unsqueeze(1)  # (b, band, c, *size)
    for axis in range(spatial_dims):
        length = bands.shape[3 + axis]
        if length % 2 != 0:
            raise ValueError(f"every spatial size must be even, got {volume.shape}")
        pairs = bands.unflatten(3 + axis, [length // 2, 2])
        first, second = pairs.select(4 + axis, 0), pairs.select(4 + axis, 1)
        bands = torch.stack((first + second, first - second), dim=2).flatten(1, 2)
    return bands.flatten(1, 2) * math.pow(2.0, -0.5 * spatial_dims)


def haar_merge(bands: Tensor, spatial_dims: int = 3) -> Tensor:
    """Merge Haar sub-bands back into features; the exact inverse of ``haar_split``.

    Args:
        bands: Sub-bands of shape (b, 2**d * c, *size), band-major.
        spatial_dims: 1, 2 or 3.

    Returns:
        Features of shape (b, c, *size * 2).

    Raises:
        ValueError: The number of channels is not a multiple of ``2**d``.
    """
    count = 1 << spatial_dims
    if bands.shape[1] % count != 0:
        raise ValueError(f"channels must be a multiple of {count}, got {bands.shape[1]}")
    volume = bands.unflatten(1, [count, bands.shape[1] // count])
    for step in range(spatial_dims):
        axis = spatial_dims - 1 - step
        pairs = volume.unflatten(1, [volume.shape[1] // 2, 2])
        low, high = pairs.select(2, 0), pairs.select(2, 1)
        volume = torch.stack((low + high, low - high), dim=4 + axis).flatten(3 + axis, 4 + axis)
    return volume.squeeze(1) * math.pow(2.0, -0.5 * spatial_dims)
