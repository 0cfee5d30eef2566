"""One axis of a filter bank, tap by tap: every tap is one sum over a whole slice.

The axis is a circle; even and odd samples are set apart first, so that a step of two is a step of
one in each. Results are written where they belong.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .slices import Scratch


class Tap(NamedTuple):
    """Step k meets sample 2 (k + shift) + odd, weighted."""

    odd: int
    shift: int
    weight: float


def taps_of(filters: Tensor) -> list[list[Tap]]:
    """The taps that are not 0 of both filters (2, L), L even; tap i meets 2k + 1 - L/2 + i."""
    first = 1 - filters.shape[1] // 2
    return [
        [Tap((first + i) % 2, (first + i) // 2, w) for i, w in enumerate(line) if w != 0]
        for line in filters.tolist()
    ]


def analyse(taps: list[list[Tap]], x: Tensor, out: Tensor, room: Scratch) -> None:
    """Write both bands of the middle axis.

    Args:
        taps: See ``taps_of``.
        x: (n, length, m), length even.
        out: (2, n, length / 2, m).
        room: Its place 2 is used.
    """
    shifts = [tap.shift for band in taps for tap in band]
    before, after = max(0, -min(shifts)), max(0, max(shifts))
    phases = x.unflatten(1, [x.shape[1] // 2, 2]).movedim(2, 0)
    phases = on_circle(phases, before, after, room)
    for band, made in zip(taps, out.unbind(0), strict=True):
        starts = [(phases[tap.odd], before + tap.shift, tap.weight) for tap in band]
        add_up(starts, made)


def synthesise(taps: list[list[Tap]], bands: Tensor, out: Tensor, room: Scratch) -> None:
    """Write the middle axis that both bands were made of.

    Args:
        taps: See ``taps_of``.
        bands: (2, n, length / 2, m).
        out: (n, length, m).
        room: Its places 2 and 3 are used.
    """
    shifts = [tap.shift for band in taps for tap in band]
    before, after = max(0, max(shifts)), max(0, -min(shifts))
    n, half, m = bands.shape[1:]
    around = on_circle(bands, before, after, room)
    made = room(3, (n, half, m))
    phases = out.unflatten(1, [half, 2])
    for odd in (0, 1):
        starts = [
            (around[band], before - tap.shift, tap.weight)
            for band in (0, 1)
            for tap in taps[band]
            if tap.odd == odd
        ]
        add_up(starts, made)
        phases[:, :, odd] = made


def add_up(parts: Sequence[tuple[Tensor, int, float]], out: Tensor) -> None:
    """Write the weighted sum of (lines (n, l, m), where they start, weight)."""
    out.zero_()
    for lines, start, weight in parts:
        torch.add(out, lines.narrow(1, start, out.shape[1]), alpha=weight, out=out)


def on_circle(x: Tensor, before: int, after: int, room: Scratch) -> Tensor:
    """Copy (2, n, l, m) with so many places of the circle before and after axis 2."""
    length = x.shape[2]
    out = room(2, (*x.shape[:2], before + length + after, x.shape[3]))
    out[:, :, before : before + length] = x
    places = torch.arange(-before, length + after, device=x.device) % length
    out[:, :, :before] = x.index_select(2, places[:before])
    out[:, :, before + length :] = x.index_select(2, places[before + length :])
    return out
