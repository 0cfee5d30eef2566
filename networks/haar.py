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
from .slices import Scratch, large_empty, slices


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


class _Split(torch.autograd.Function):
    """``haar_split``, slice by slice."""

    @staticmethod
    def forward(ctx: Any, volume: Tensor) -> Tensor:
        dims = ctx.dims = volume.dim() - 2
        (b, c), half = volume.shape[:2], [length // 2 for length in volume.shape[2:]]
        out = large_empty((b, 1 << dims, c, *half), volume)
        room = Scratch(volume)
        for samples, some, rows in slices(b, c, half[0], volume):
            parts = volume[samples, some, 2 * rows.start : 2 * rows.stop].unsqueeze(0)
            for axis in range(3, 3 + dims):  # bands b c ...
                pairs = parts.unflatten(axis, [parts.shape[axis] // 2, 2])
                first, second = pairs.select(axis + 1, 0), pairs.select(axis + 1, 1)
                sums = room(axis % 2, (first.shape[0], 2, *first.shape[1:]))
                torch.add(first, second, out=sums[:, 0])
                torch.sub(first, second, out=sums[:, 1])
                parts = sums.flatten(0, 1)
            place = out[samples, :, some, rows].transpose(0, 1)
            torch.mul(parts, math.pow(2.0, -0.5 * dims), out=place)
        return out.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Merge.apply(gradients[0], ctx.dims)


class _Merge(torch.autograd.Function):
    """``haar_merge``, slice by slice."""

    @staticmethod
    def forward(ctx: Any, bands: Tensor, dims: int) -> Tensor:
        size, b, c = bands.shape[2:], bands.shape[0], bands.shape[1] >> dims
        given = bands.unflatten(1, [1 << dims, c])
        out = large_empty((b, c, *(2 * length for length in size)), bands)
        corners = out
        for axis in range(dims):  # corner of each axis b c ...
            place = 2 + 2 * axis
            corners = corners.unflatten(place, [size[axis], 2]).movedim(place + 1, axis)
        outer = (slice(None),) * (dims - 1)
        room = Scratch(bands)
        for samples, some, rows in slices(b, c, size[0], bands):
            parts = given[samples, :, some, rows].transpose(0, 1)
            for step in range(dims):  # the last axis first, as the plain merge has it
                pairs = parts.unflatten(0, [1 << dims - 1 - step, 2, 1 << step])
                sums = room(step % 2, pairs.shape)
                torch.add(pairs[:, 0], pairs[:, 1], out=sums[:, 0])
                torch.sub(pairs[:, 0], pairs[:, 1], out=sums[:, 1])
                parts = sums.flatten(0, 2)
            for last in (0, 1):  # one by one, so that the innermost axis is not two long
                into = corners.select(dims - 1, last)[outer + (samples, some, rows)]
                part = parts[last::2].unflatten(0, [2] * (dims - 1)) if dims > 1 else parts[last]
                torch.mul(part, math.pow(2.0, -0.5 * dims), out=into)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Split.apply(gradients[0]), None
