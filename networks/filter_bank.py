"""Wavelet split and merge by any filter bank of two bands, axis by axis.

Eager calls work in slices that stay in the processor's cache: a short axis is one matrix product, a
long one a sum for each tap. Each function is the other's gradient. TorchScript and recorded graphs
get matrix products alone.
"""

from typing import Any

import torch
from torch import Tensor

from . import axis_product, axis_taps
from .blocks import recording
from .slices import Scratch, large_empty, slices


def bank_split(filters: Tensor, x: Tensor) -> Tensor:
    """Split features into sub-bands.

    Args:
        filters: Taps of the low and the high filter; see ``circle``.
        x: Features (b, c, *size), every size even.

    Returns:
        Sub-bands (b, 2**d * c, *size / 2), band-major, in binary order.
    """
    if not torch.jit.is_scripting() and not recording():
        return _Split.apply(x, filters)
    dims = x.dim() - 2
    for axis in range(2, 2 + dims):  # b c (band half) ... (band half)
        x = along(circle(filters, x.shape[axis]).flatten(0, 1).to(x), x, axis)
    for axis in range(dims):  # b band ... band c half ... half
        place = 2 + 2 * axis
        x = x.unflatten(place, [2, x.shape[place] // 2]).movedim(place, 1 + axis)
    return x.flatten(1, 1 + dims)


def bank_merge(filters: Tensor, bands: Tensor, spatial_dims: int) -> Tensor:
    """The transpose of ``bank_split``; its inverse, for filters that make it one.

    Args:
        filters: (2, L).
        bands: Sub-bands (b, 2**d * c, *size), band-major.
        spatial_dims: 1, 2 or 3.

    Returns:
        Features (b, c, *size * 2).
    """
    if not torch.jit.is_scripting() and not recording():
        return _Merge.apply(bands, filters)
    x = bands.unflatten(1, [2] * spatial_dims + [bands.shape[1] >> spatial_dims])
    for step in range(spatial_dims):
        axis = spatial_dims - 1 - step  # the band of the last axis stands before c
        x = x.movedim(1 + axis, 2 + 2 * axis).flatten(2 + 2 * axis, 3 + 2 * axis)
    for axis in range(2, 2 + spatial_dims):
        x = along(circle(filters, x.shape[axis]).flatten(0, 1).t().to(x), x, axis)
    return x


def along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """The product of a matrix (n, m) with one axis of x, m long."""
    if axis == x.dim() - 1:
        return x @ matrix.t()
    tail = x.shape[axis + 1 :]
    return (matrix @ x.flatten(axis + 1)).unflatten(axis + 1, tail)


def circle(filters: Tensor, length: int) -> Tensor:
    """Two filters (2, L), L even, moved in steps of two around a circle: (2, length / 2, length).

    Tap i of step k meets sample 2k + 1 - L/2 + i.
    """
    taps = filters.shape[1]
    steps = torch.arange(length // 2, device=filters.device)
    offsets = torch.arange(taps, device=filters.device) + (1 - taps // 2)
    columns = (2 * steps.unsqueeze(1) + offsets) % length  # a filter may go round more than once
    rows = filters.unsqueeze(1).expand(2, length // 2, taps)
    matrix = torch.zeros(2, length // 2, length, dtype=filters.dtype, device=filters.device)
    return matrix.scatter_add(2, columns.expand(2, -1, -1), rows)


class Axis:
    """One axis of a filter bank, by the quicker of two ways.

    Args:
        filters: (2, L).
        length: Of the axis, even.
        like: A tensor of the dtype and device.
    """

    def __init__(self, filters: Tensor, length: int, like: Tensor) -> None:
        self.taps = axis_taps.taps_of(filters)
        short = length <= axis_product.SHORT * filters.shape[1]
        self.matrix = circle(filters, length).to(like) if short else None

    def analyse(self, x: Tensor, out: Tensor, room: Scratch) -> None:
        """Write both bands (2, n, length / 2, m) of x (n, length, m)."""
        if self.matrix is None:
            axis_taps.analyse(self.taps, x, out, room)
        else:
            axis_product.analyse(self.matrix, x, out)

    def synthesise(self, bands: Tensor, out: Tensor, room: Scratch) -> None:
        """Write (n, length, m) of both bands (2, n, length / 2, m)."""
        if self.matrix is None:
            axis_taps.synthesise(self.taps, bands, out, room)
        else:
            axis_product.synthesise(self.matrix, bands, out)


def exact(dtype: torch.dtype) -> torch.dtype:
    """What sums of many taps are made in: float32 for half precision."""
    return torch.float64 if dtype is torch.float64 else torch.float32


class _Split(torch.autograd.Function):
    """``bank_split``, slice by slice. Each axis puts its band before all others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(filters)
        (b, c), size, dims = x.shape[:2], x.shape[2:], x.dim() - 2
        out = large_empty((b, *[2] * dims, c, *(length // 2 for length in size)), x)
        order = [dims, *reversed(range(dims)), *range(1 + dims, 2 + 2 * dims)]
        room = Scratch(x.new_empty(0, dtype=exact(x.dtype)))
        axes = [Axis(filters, length, room.like) for length in size]
        for samples, some, _ in slices(b, c, 1, x):
            part = x[samples, some].contiguous().to(exact(x.dtype))
            for axis in range(2, 2 + dims):
                place = part.dim() + axis - 2 - dims
                before, after = part.shape[:place], part.shape[place + 1 :]
                made = room(axis % 2, (2, *before, size[axis - 2] // 2, *after))
                n, m = before.numel(), after.numel()
                axes[axis - 2].analyse(part.view(n, -1, m), made.view(2, n, -1, m), room)
                part = made
            out[(samples, *[slice(None)] * dims, some)] = part.permute(order)
        return out.flatten(1, 1 + dims)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Merge.apply(gradients[0], *ctx.saved_tensors), None


class _Merge(torch.autograd.Function):
    """``bank_merge``, slice by slice."""

    @staticmethod
    def forward(ctx: Any, bands: Tensor, filters: Tensor) -> Tensor:
        ctx.save_for_backward(filters)
        dims, size = bands.dim() - 2, [2 * length for length in bands.shape[2:]]
        b, c = bands.shape[0], bands.shape[1] >> dims
        given = bands.unflatten(1, [*[2] * dims, c])
        out = large_empty((b, c, *size), bands)
        order = [*reversed(range(1, 1 + dims)), 0, *range(1 + dims, 2 + 2 * dims)]
        room = Scratch(bands.new_empty(0, dtype=exact(bands.dtype)))
        axes = [Axis(filters, length, room.like) for length in size]
        for samples, some, _ in slices(b, c, 1, bands):
            part = given[(samples, *[slice(None)] * dims, some)].permute(order)
            part = room(dims % 2, part.shape).copy_(part)
            for axis in reversed(range(dims)):
                place = part.dim() + axis - dims
                before, after = part.shape[1:place], part.shape[place + 1 :]
                made = (
                    out[samples, some]
                    if axis == 0 and out.dtype is room.like.dtype
                    else room(axis % 2, (*before, size[axis], *after))
                )
                n, m = before.numel(), after.numel()
                axes[axis].synthesise(part.view(2, n, -1, m), made.view(n, -1, m), room)
                part = made
            if out.dtype is not part.dtype:
                out[samples, some] = part
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Split.apply(gradients[0], *ctx.saved_tensors), None
