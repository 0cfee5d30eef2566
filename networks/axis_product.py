"""One short axis of a filter bank as a matrix product: more sums than tap by tap, at full speed."""

import torch
from torch import Tensor

SHORT = 16  #: samples for each tap up to which the product was found faster


def analyse(matrix: Tensor, x: Tensor, out: Tensor) -> None:
    """Write both bands of the middle axis.

    Args:
        matrix: (2, length / 2, length), see ``circle``.
        x: (n, length, m).
        out: (2, n, length / 2, m), contiguous.
    """
    for rows, made in zip(matrix.unbind(0), out.unbind(0), strict=True):
        if x.shape[2] == 1:
            torch.mm(x.squeeze(2), rows.t(), out=made.squeeze(2))
        else:
            torch.matmul(rows, x, out=made)


def synthesise(matrix: Tensor, bands: Tensor, out: Tensor) -> None:
    """Write the middle axis that both bands were made of.

    Args:
        matrix: As for ``analyse``, of the other filters.
        bands: (2, n, length / 2, m), contiguous.
        out: (n, length, m), contiguous.
    """
    (low, high), (to_low, to_high) = bands.unbind(0), matrix.unbind(0)
    if bands.shape[3] == 1:
        torch.mm(low.squeeze(2), to_low, out=out.squeeze(2))
        out.squeeze(2).addmm_(high.squeeze(2), to_high)
    else:
        torch.matmul(to_low.t(), low, out=out)
        out.baddbmm_(to_high.t().expand(len(high), -1, -1), high)
