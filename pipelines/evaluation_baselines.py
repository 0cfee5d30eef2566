"""What anyone could answer without a network: a given contrast itself, or the average patient."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from .evaluation_truth import Truth
from .intensity_scale import reference_map
from .ssim import Volume

COPY, MATCHED, INVERTED, MEAN = "copy", "matched copy", "matched inverse", "mean image"


def trivial_answers(
    source: Float[Tensor, "x y z"], truth: Truth
) -> Iterator[tuple[str, Float[Tensor, "x y z"]]]:
    """Answers that see no anatomy but the source's, in the unit of the truth, one after the other.

    ``copy`` is the source on its own 0.5 to 99.5 percentile scale, clipped. ``matched copy`` and
    ``matched inverse`` are the source, and its negative, with the histogram of the reference inside
    the brain: they know the very answer's histogram, which a translation does not, so they are a
    high bar.

    Args:
        source: In any unit, on the grid of the truth.
        truth: The real scan.

    Raises:
        ValueError: The source is constant in the brain.
    """
    copy = reference_map(source, truth.brain)(source).clamp(0, 1)
    yield COPY, truth.from_scale(copy * truth.head)
    for name, sign in ((MATCHED, 1), (INVERTED, -1)):
        matched = match_histogram(sign * source, truth.scaled, truth.brain)
        yield name, truth.from_scale(matched * truth.head)


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


class MeanImage:
    """The mean of a contrast over patients, each on its own [0, 1] scale, without one of them.

    Everything is summed on the grid of the first scan; scans on others are resampled there
    (linearly, by their affines), so it means something only where brains lie alike.
    """

    def __init__(self) -> None:
        self.affine: np.ndarray | None = None
        self.sums: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}

    def add(self, subject: str, truth: Truth) -> None:
        """Add a patient's scan; of several sessions all count."""
        if self.affine is None:
            self.affine, self.shape = truth.affine, tuple(truth.volume.shape)
        volume = resampled(truth.scaled.numpy(), truth.affine, self.affine, self.shape)
        for name in ("", subject):  # the total, and the patient's share of it
            self.sums[name] = self.sums.get(name, 0) + volume
            self.counts[name] = self.counts.get(name, 0) + 1

    def without(self, subject: str, truth: Truth) -> Float[Tensor, "x y z"] | None:
        """The mean of all other patients on the grid and in the unit of a truth; None for none."""
        count = self.counts.get("", 0) - self.counts.get(subject, 0)
        if count == 0 or self.affine is None:
            return None
        mean = (self.sums[""] - self.sums.get(subject, 0)) / count
        own = resampled(mean, self.affine, truth.affine, tuple(truth.volume.shape))
        return truth.from_scale(torch.from_numpy(own) * truth.head)


def resampled(
    volume: np.ndarray, affine: np.ndarray, onto: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """A volume on another grid, linearly, 0 where it does not reach."""
    if volume.shape == shape and np.allclose(affine, onto, atol=1e-3):
        return volume.astype(np.float32)
    step = np.linalg.inv(affine) @ onto
    return ndimage.affine_transform(
        volume.astype(np.float32), step[:3, :3], step[:3, 3], output_shape=shape, order=1
    )
