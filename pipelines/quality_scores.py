"""Whether a translation can be of the same head as its source: simple measures, never a refusal.

What they can and cannot tell, and how often they were right, is in docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxlate.data_prep.intensity import block_means

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

BLOCK_MM = 2.0  #: measured on means of blocks of about this size
RIM_MM, SKULL_MM = 6.0, 18.0  #: left out inside the foreground's edge: of a brain, of a whole head
MIN_BLOCKS = 500  #: that have to be left
MIN_SLICE = 0.4  #: of the largest slice, for a slice to count in the profile

MIN_EDGES = 0.60
MAX_STEP = 0.11
MIN_SPREAD = 0.08
MAX_CLIPPED = 0.05


class Scores(NamedTuple):
    """What was measured of one translation; None where too little of the head was left.

    Attributes:
        edges: Agreement of edges with the source, 0 to 1; 1/3 is chance.
        step: Largest jump of the brain's intensity from a slice to the next, window widths.
        spread: From the 5th to the 95th percentile in the brain, window widths.
        clipped: Share of the brain at either end of the window.
        warnings: Doubts that follow, each ``W_CODE: text``.
        deviation: Mean over the head of the samples' standard deviation, window widths; None of
            one answer.
    """

    edges: float | None
    step: float | None
    spread: float | None
    clipped: float | None
    warnings: tuple[str, ...]
    deviation: float | None = None

    def fields(self) -> dict[str, float | None]:
        """For the record."""
        named = {
            "EdgeAgreement": self.edges,
            "LargestStep": self.step,
            "Spread": self.spread,
            "Clipped": self.clipped,
            **({} if self.deviation is None else {"MeanSD": self.deviation}),
        }
        return {name: None if v is None else round(v, 4) for name, v in named.items()}


def score(
    target: str,
    translation: FloatArray,
    source: FloatArray,
    head: BoolArray,
    spacing: tuple[float, float, float],
    *,
    stripped: bool,
) -> Scores:
    """Compare a translation with the scan it was made from.

    Args:
        target: Its modality, for the warnings.
        translation: (X, Y, Z), in the networks' window, [0, 1].
        source: On the same grid, in any unit.
        head: The source's foreground.
        spacing: Voxel size in mm.
        stripped: Whether that foreground is a brain; else it is a head, whose outer part is left
            out.
    """
    blocks = [max(1, round(BLOCK_MM / size)) for size in spacing]
    box = ndimage.find_objects(head.astype(np.uint8))[0]
    head, translation, source = head[box], translation[box], source[box]
    inner = _inner(head, blocks, spacing, RIM_MM if stripped else SKULL_MM)
    if np.count_nonzero(inner) < MIN_BLOCKS:
        return Scores(None, None, None, None, ())
    made, given = block_means(translation, blocks), block_means(source, blocks)
    sizes = [block * size for block, size in zip(blocks, spacing, strict=True)]
    edges = edge_agreement(made, given, inner, sizes)
    step = largest_step(made, given, inner)
    low, high = np.percentile(made[inner], (5, 95))
    spread = float(high - low)
    clipped = float(np.mean((made[inner] <= 0.002) | (made[inner] >= 0.998)))
    return Scores(edges, step, spread, clipped, _doubts(target, edges, step, spread, clipped))


def severity(scores: Mapping[str, Mapping[str, float | None]]) -> float:
    """How near the worst of a case's scores is to its limit, or how far beyond: 1 is there.

    Args:
        scores: By target, as ``Scores.fields`` gives them; what is missing or None is no matter.
    """
    worst = 0.0
    for fields in scores.values():
        for name, limit in (("EdgeAgreement", MIN_EDGES), ("Spread", MIN_SPREAD)):
            if (value := fields.get(name)) is not None:
                worst = max(worst, limit / max(value, 1e-3))
        for name, limit in (("LargestStep", MAX_STEP), ("Clipped", MAX_CLIPPED)):
            if (value := fields.get(name)) is not None:
                worst = max(worst, value / limit)
    return worst


def edge_agreement(
    first: FloatArray, second: FloatArray, inside: BoolArray, spacing: list[float]
) -> float:
    """How well the directions of two volumes' gradients agree, whatever the contrasts.

    sum |a| |b| cos^2 / sum |a| |b| over gradients a, b: the normalised gradient field of Haber and
    Modersitzki (2006) with the product of the edges' strengths as weight. 1 if all edges are
    parallel, 1/3 for directions by chance, 0 where there are no edges.

    Args:
        first: (X, Y, Z).
        second: (X, Y, Z).
        inside: Where to compare.
        spacing: Voxel size in mm.
    """
    a, b = _gradient(first, inside, spacing), _gradient(second, inside, spacing)
    weight = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    along = (a * b).sum(0) ** 2
    total = float(weight.sum())
    if not total > 0:
        return 0.0
    return float(np.divide(along, weight, out=np.zeros_like(along), where=weight > 0).sum() / total)


def largest_step(volume: FloatArray, source: FloatArray, inside: BoolArray) -> float:
    """Largest jump from a slice to the next that the source lacks: a seam, or a missing slab.

    The jump is the median difference of neighbouring voxels that are both inside: anatomy changes
    some of them, a seam all. What the source jumps there, over its own window, is taken off.
    Slices with little of the brain do not count.

    Args:
        volume: (X, Y, Z), window [0, 1].
        source: On the same grid, in any unit.
        inside: Where to look.
    """
    low, high = np.percentile(source[inside], (0.5, 99.5))
    width = max(float(high - low), 1e-6)
    largest = 0.0
    for axis in range(3):
        made, given = np.moveaxis(volume, axis, 0), np.moveaxis(source, axis, 0)
        mask = np.moveaxis(inside, axis, 0)
        both = mask[1:] & mask[:-1]
        counts = both.sum((1, 2))
        for k in np.flatnonzero(counts > MIN_SLICE * counts.max()):
            jumps = [np.median(v[k + 1][both[k]] - v[k][both[k]]) for v in (made, given)]
            largest = max(largest, abs(float(jumps[0])) - abs(float(jumps[1])) / width)
    return largest


def _gradient(volume: FloatArray, inside: BoolArray, spacing: list[float]) -> FloatArray:
    smooth = ndimage.gaussian_filter(volume, [BLOCK_MM / size for size in spacing])
    return np.stack([part[inside] for part in np.gradient(smooth, *spacing)]).astype(np.float64)


def _inner(
    head: BoolArray, blocks: list[int], spacing: tuple[float, float, float], rim: float
) -> BoolArray:
    """The part of the foreground that is farther than ``rim`` mm from its edge."""
    whole = np.pad(block_means(head.astype(np.float32), blocks) > 0.5, 1)
    sizes = [block * size for block, size in zip(blocks, spacing, strict=True)]
    inner = ndimage.distance_transform_edt(whole, sampling=sizes) > rim
    return np.asarray(inner[1:-1, 1:-1, 1:-1])


def _doubts(
    target: str, edges: float, step: float, spread: float, clipped: float
) -> tuple[str, ...]:
    doubts = []
    if edges < MIN_EDGES:
        doubts.append(
            f"W_EDGES: {target} agrees with the edges of the scan by {edges:.2f}, under "
            f"{MIN_EDGES:.2f} (chance is 0.33)"
        )
    if step > MAX_STEP:
        doubts.append(
            f"W_PROFILE: {target} jumps by {step:.2f} of its window from a slice to the next"
        )
    if spread < MIN_SPREAD:
        doubts.append(f"W_FLAT: {target} uses {spread:.2f} of its window in the brain")
    if clipped > MAX_CLIPPED:
        doubts.append(f"W_CLIPPED: {clipped:.0%} of the brain in {target} is at its window's ends")
    return tuple(doubts)
