"""Orthonormal Haar wavelet split and merge in 1 to 3 dimensions, by reshape and add.

One level turns ``c`` channels into ``c * 2**d`` sub-bands at half the size. The bands count in
binary over the axes, first axis first, 0 = low (sum) and 1 = high (first minus second): in 3D LLL,
LLH, LHL, LHH, HLL, ..., HHH.
Channels are band-major: all channels of LLL, then all of LLH, and so on.

Eager calls work through the volume in slices that stay in the processor's cache and write each band
where it belongs; each function is the other's gradient. TorchScript and recorded graphs get the
same sums as plain tensor operations.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .blocks import recording

SLICE = 1 << 18
"""Values of a slice: with its sums it fits into a second-level cache."""


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
    for length in volume.shape[2:]:
        if length % 2 != 0:
            raise ValueError(f"every spatial size must be even, got {volume.shape}")
    if not torch.jit.is_scripting() and not recording():
        return _Split.apply(volume)
    return torch.cat(corner_sums(volume), dim=1) * math.pow(2.0, -0.5 * spatial_dims)


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
    if not torch.jit.is_scripting() and not recording():
        return _Merge.apply(bands, spatial_dims)
    volume = bands.unflatten(1, [count, bands.shape[1] // count])
    for step in range(spatial_dims):
        axis = spatial_dims - 1 - step
        pairs = volume.unflatten(1, [volume.shape[1] // 2, 2])
        low, high = pairs.select(2, 0), pairs.select(2, 1)
        volume = torch.stack((low + high, low - high), dim=4 + axis).flatten(3 + axis, 4 + axis)
    return volume.squeeze(1) * math.pow(2.0, -0.5 * spatial_dims)


def corner_sums(volume: Tensor) -> list[Tensor]:
    """Signed sums over the corners of each 2 x 2 x 2 block: the bands in order, unscaled."""
    parts = [volume]
    for axis in range(2, volume.dim()):
        halves: list[Tensor] = []
        for part in parts:
            pairs = part.unflatten(axis, [part.shape[axis] // 2, 2])
            first, second = pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)
            halves.append(first + second)
            halves.append(first - second)
        parts = halves
    return parts


def band_sums(bands: list[Tensor]) -> list[Tensor]:
    """Signed sums of the bands: the corners of each block in binary order, unscaled."""
    stride = 1
    while stride < len(bands):  # the last axis first, as the plain merge has it
        pairs = [(i, i | stride) for i in range(len(bands)) if not i & stride]
        sums = list(bands)
        for low, high in pairs:
            sums[low], sums[high] = bands[low] + bands[high], bands[low] - bands[high]
        bands, stride = sums, 2 * stride
    return bands


def slices(channels: int, rows: int, like: Tensor) -> list[tuple[slice, slice]]:
    """Cut the channels, or the rows where channels are few, to about ``SLICE`` values a slice.

    A GPU takes all at once.
    """
    pieces = -(-like.numel() // SLICE) if like.is_cpu else 1
    if pieces <= channels:
        return [(part, slice(0, rows)) for part in cut(channels, pieces)]
    return [(slice(0, channels), part) for part in cut(rows, pieces)]


def cut(length: int, pieces: int) -> list[slice]:
    """Cut an axis into at most so many parts, one step long at least."""
    step = max(1, -(-length // max(pieces, 1)))
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


class _Split(torch.autograd.Function):
    """``haar_split``, slice by slice."""

    @staticmethod
    def forward(ctx: Any, volume: Tensor) -> Tensor:
        dims = ctx.dims = volume.dim() - 2
        (b, c), half = volume.shape[:2], [length // 2 for length in volume.shape[2:]]
        out = volume.new_empty((b, 1 << dims, c, *half))
        for some, rows in slices(c, half[0], volume):
            sums = corner_sums(volume[:, some, 2 * rows.start : 2 * rows.stop])
            for band, part in enumerate(sums):
                torch.mul(part, math.pow(2.0, -0.5 * dims), out=out[:, band, some, rows])
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Merge.apply(gradients[0], ctx.dims)


class _Merge(torch.autograd.Function):
    """``haar_merge``, slice by slice."""

    @staticmethod
    def forward(ctx: Any, bands: Tensor, dims: int) -> Tensor:
        size = bands.shape[2:]
        parts = bands.unflatten(1, [1 << dims, bands.shape[1] >> dims])
        out = bands.new_empty((*parts.shape[:1], parts.shape[2], *(2 * length for length in size)))
        for some, rows in slices(parts.shape[2], size[0], bands):
            sums = band_sums(list(parts[:, :, some, rows].unbind(1)))
            place = out[:, some, 2 * rows.start : 2 * rows.stop]
            for corner, part in enumerate(sums):
                into = place
                bits = [corner >> (dims - 1 - axis) & 1 for axis in range(dims)]
                for axis, bit in enumerate(bits, start=2):
                    into = into.unflatten(axis, [-1, 2]).select(axis + 1, bit)
                torch.mul(part, math.pow(2.0, -0.5 * dims), out=into)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Split.apply(gradients[0]), None
