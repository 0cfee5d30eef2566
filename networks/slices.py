"""Work on large maps in slices that stay in the processor's cache."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SLICE = 1 << 18
"""Values of a slice: with what is made of it, it fits into a second-level cache."""
LARGE = 1 << 22
"""Bytes from which NumPy asks for huge pages."""
LINE = 64
"""Bytes of a cache line: where torch's own tensors begin."""


def slices(batch: int, channels: int, rows: int, like: Tensor) -> list[tuple[slice, slice, slice]]:
    """Cut into about ``SLICE`` values: samples, or large ones' channels, or large ones' rows.

    Args:
        batch: Samples of ``like``.
        channels: Of ``like``.
        rows: Of a channel; 1 where it cannot be cut.
        like: What is cut, of any layout. On a GPU it stays whole.

    Returns:
        (samples, channels, rows) of each slice.
    """
    each = like.numel() // max(1, batch * channels)
    most = SLICE if like.is_cpu else max(1, like.numel())
    samples = cut(batch, most // max(1, channels * each))
    some = cut(channels, channels if channels * each <= most else most // max(1, each))
    lines = cut(rows, rows if each <= most else most * rows // each)
    return [(b, c, r) for b in samples for c in some for r in lines]


def cut(length: int, step: int) -> list[slice]:
    """Cut an axis into parts of ``step``, at least one."""
    step = max(1, step)
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def large_empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uninitialized values of the dtype and device of ``like``, quick to be written first.

    Linux hands out memory page by page, at the first write to each. For a map of tens of megabytes
    in pages of 4 KiB that takes longer than sums over the map do. NumPy asks for huge pages where
    the system gives them to those who ask, torch does not; so a large map's memory is NumPy's.
    """
    size = math.prod(shape) * like.element_size()
    if not like.is_cpu or size < LARGE:
        return like.new_empty(tuple(shape))
    held = torch.from_numpy(np.empty(size + LINE, dtype=np.uint8))
    return held.narrow(0, -held.data_ptr() % LINE, size).view(like.dtype).view(tuple(shape))


class Scratch:
    """Memory that every slice uses again: what a slice allocates costs more than what it computes.

    Args:
        like: A tensor of the dtype and device.
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.held: dict[int, Tensor] = {}

    def __call__(self, place: int, shape: Sequence[int]) -> Tensor:
        """Values of this shape at a place; what was there is lost."""
        count = math.prod(shape)
        held = self.held.get(place)
        if held is None or held.numel() < count:
            held = self.held[place] = self.like.new_empty(count)
        return held.narrow(0, 0, count).view(tuple(shape))
