"""One axis of a filter bank as products with a small matrix, the filters once for each step.

Long axes go in windows of ``WINDOW`` steps (of two samples), each by the same matrix with the
samples around it; the axis is a circle. Results are written where they belong.
"""

import torch
from torch import Tensor

from .slices import Scratch

WINDOW = 32


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


def analysis_lines(filters: Tensor, length: int, like: Tensor) -> Tensor:
    """What makes both bands' steps of samples: (2, steps, samples), of an axis or of a window."""
    reach = filters.shape[1] // 2 - 1  # samples that a window's steps meet on each side of it
    if length <= 2 * WINDOW + 4 * reach:
        return circle(filters, length).to(like)
    window = circle(filters, 2 * WINDOW + 4 * reach)[:, reach : reach + WINDOW]
    return window[:, :, reach : 2 * WINDOW + 3 * reach].to(like).contiguous()


def synthesis_lines(filters: Tensor, length: int, like: Tensor) -> Tensor:
    """What makes samples of both bands' steps: (2, samples, steps), of an axis or of a window."""
    reach, beside = filters.shape[1] // 2 - 1, filters.shape[1] // 4
    if length <= 2 * WINDOW + 4 * reach:
        return circle(filters, length).mT.to(like).contiguous()
    window = circle(filters, 2 * WINDOW + 4 * reach)[:, reach - beside : reach + WINDOW + beside]
    return window[:, :, 2 * reach : 2 * reach + 2 * WINDOW].mT.to(like).contiguous()


def analyse(lines: Tensor, x: Tensor, out: Tensor, room: Scratch) -> None:
    """Write both bands of the middle axis.

    Args:
        lines: See ``analysis_lines``.
        x: (n, length, m), contiguous.
        out: (2, n, length / 2, m), contiguous.
        room: Its places from 2 on are used.
    """
    (n, length, m), half, window = x.shape, out.shape[2], lines.shape[1]
    seen, beside = lines.shape[2], lines.shape[2] // 2 - window
    if seen == length:
        for band in (0, 1):
            product(lines[band], x, out[band])
    elif m == 1:
        count = -(-half // window)
        line = around(x.squeeze(2), beside, room(2, (n, 2 * (window * count + beside))))
        windows = room(3, (n, count, seen)).copy_(line.unfold(1, seen, 2 * window))
        made = room(2, (n, count * window))
        for band in (0, 1):
            torch.mm(windows.flatten(0, 1), lines[band].t(), out=made.view(-1, window))
            out[band].squeeze(2).copy_(made[:, :half])
    else:
        for first in range(0, half, window):
            steps = min(window, half - first)
            part = wrapped(x, 2 * first - beside, 2 * (steps + beside))
            made = room(2, (n, steps, m))
            for band in (0, 1):
                product(lines[band, :steps, : part.shape[1]], part, made)
                out[band, :, first : first + steps] = made


def synthesise(lines: Tensor, bands: Tensor, out: Tensor, room: Scratch) -> None:
    """Write the middle axis that both bands were made of.

    Args:
        lines: See ``synthesis_lines``.
        bands: (2, n, length / 2, m), contiguous.
        out: (n, length, m), contiguous.
        room: Its places from 2 on are used.
    """
    (n, length, m), half, window = out.shape, bands.shape[2], lines.shape[1] // 2
    seen, beside = lines.shape[2], (lines.shape[2] - window) // 2
    if seen == half:
        product(lines[0], bands[0], out)
        product(lines[1], bands[1], out, add=True)
    elif m == 1:
        count = -(-half // window)
        windows = room(3, (n, count, 2, seen))
        for band in (0, 1):
            line = room(2, (n, window * count + 2 * beside))
            line = around(bands[band].squeeze(2), beside, line)
            windows[:, :, band] = line.unfold(1, seen, window)
        made = room(2, (n, 2 * window * count))
        matrix = lines.movedim(0, 1).flatten(1)
        torch.mm(windows.view(n * count, 2 * seen), matrix.t(), out=made.view(-1, 2 * window))
        out.squeeze(2).copy_(made[:, :length])
    else:
        for first in range(0, half, window):
            steps = min(window, half - first)
            made = room(2, (n, 2 * steps, m))
            for band in (0, 1):
                part = wrapped(bands[band], first - beside, steps + 2 * beside)
                matrix = lines[band, : 2 * steps, : part.shape[1]]
                product(matrix, part, made, add=band == 1)
            out[:, 2 * first : 2 * (first + steps)] = made


def product(matrix: Tensor, x: Tensor, out: Tensor, *, add: bool = False) -> None:
    """Write or add the product of a matrix (k, l) with the middle axis of (n, l, m)."""
    if x.shape[2] == 1:
        rows = out.squeeze(2)
        torch.addmm(rows, x.squeeze(2), matrix.t(), beta=int(add), out=rows)
    else:
        matrices = matrix.expand(x.shape[0], -1, -1)
        torch.baddbmm(out, matrices, x, beta=int(add), out=out)


def wrapped(x: Tensor, start: int, count: int) -> Tensor:
    """So many places of the middle axis from one that may lie before its start, as on a circle."""
    if start >= 0 and start + count <= x.shape[1]:
        return x.narrow(1, start, count)
    places = torch.arange(start, start + count, device=x.device) % x.shape[1]
    return x.index_select(1, places)


def around(line: Tensor, beside: int, out: Tensor) -> Tensor:
    """Write lines (n, l) with the ends of the circle on both sides, and zeros behind."""
    length = line.shape[1]
    out[:, :beside] = line[:, length - beside :]
    out[:, beside : beside + length] = line
    out[:, beside + length : length + 2 * beside] = line[:, :beside]
    out[:, length + 2 * beside :] = 0
    return out
