"""What anyone could answer without a network: the source itself, recoloured."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .metrics import Volume, reference_map

COPY, MATCHED, INVERTED = "copy", "matched copy", "matched inverse"


def trivial_answers(
    source: Float[Tensor, "*size"], reference: Float[Tensor, "*size"], mask: Bool[Tensor, "*size"]
) -> dict[str, Volume]:
    """Answers that see no anatomy but the source's.

    ``copy`` is the source on its own 0.5 to 99.5 percentile scale. ``matched copy`` and ``matched
    inverse`` are the source, and its negative, with the histogram of the reference inside the mask:
    they know the very answer's histogram, which a translation does not, so they are a high bar.

    Args:
        source: In any unit.
        reference: On the scale in which metrics are taken.
        mask: The brain, not empty.

    Raises:
        ValueError: The source is constant in the mask.
    """
    return {
        COPY: reference_map(source, mask)(source).clamp(0, 1),
        MATCHED: match_histogram(source, reference, mask),
        INVERTED: match_histogram(-source, reference, mask),
    }


def match_histogram(
    volume: Float[Tensor, "*size"], reference: Float[Tensor, "*size"], mask: Bool[Tensor, "*size"]
) -> Volume:
    """Give ``volume`` the reference's histogram inside the mask, in the volume's own order.

    The k-th smallest voxel gets the k-th smallest value; voxels that are equal get one value, the
    mean of their share. Voxels outside the mask get the value of the next higher one inside.
    """
    ordered = reference[mask].double().sort().values
    levels, counts = volume[mask].unique(return_counts=True)
    ends = counts.cumsum(0)
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    means = ((sums[ends] - sums[ends - counts]) / counts).float()
    return means[torch.searchsorted(levels, volume).clamp(max=len(levels) - 1)]
