"""Whether a readable scan is one that the models were made for: doubts, never a refusal.

Simple statistics of the foreground, on blocks of about 3 mm. What they can and cannot tell, and how
often they were right on real scans, is in docs/quality.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .intensity import block_means, coarse_blocks, percentile_map
from .reading import Scan

BoolArray = npt.NDArray[np.bool_]

MAX_BRAIN_ML = 2200.0  #: no brain is larger; a head with its skull has 3 litres and more
MIN_BRAIN_ML = 700.0
MIN_EXTENT_MM = (100.0, 120.0, 90.0)  #: right to left, front to back, top to bottom
MAX_CUT_MM2 = 2000.0  #: of the foreground in the topmost slice of the field of view
MAX_SPACING_MM = 4.0
WHOLE_HEADS = ("mr", "ct")  #: contrasts of models that saw heads with their skull, as CT shows it
FLUID_SKEWNESS = 0.2  #: above, a few voxels are bright (fluid in T2); below, a few are dark (T1)


@dataclass(frozen=True)
class Suitability:
    """What was measured of a scan, and the doubts that follow.

    Attributes:
        foreground_ml: Volume of the foreground.
        extent_mm: Of the foreground, right to left, front to back, top to bottom.
        cut_mm2: Foreground in the topmost slice.
        skewness: Of intensities in the foreground.
        skull: Whether the foreground is too large to be a brain alone.
        warnings: Each ``W_CODE: text``.
    """

    foreground_ml: float
    extent_mm: tuple[float, float, float]
    cut_mm2: float
    skewness: float
    skull: bool
    warnings: tuple[str, ...]


def assess(scan: Scan, modality: str, head: BoolArray) -> Suitability:
    """Measure a scan and say what is doubtful about it as a model's input.

    Args:
        scan: As read.
        modality: The contrast that it is said to be; tells whether models of it saw the skull.
        head: Its foreground, on its grid.
    """
    blocks = coarse_blocks(scan.spacing)
    inside = block_means(head.astype(np.float32), blocks) > 0.5
    values = block_means(scan.data, blocks)[inside]
    volume = float(np.count_nonzero(head)) * float(np.prod(scan.spacing)) / 1000
    extent, cut = _extent(head, scan)
    skull = volume > MAX_BRAIN_ML
    skewness = _skewness(values, scan, head)
    doubts = []
    brain_only = modality not in WHOLE_HEADS
    if skull and brain_only:
        doubts.append(
            f"W_SKULL: the foreground is {volume:.0f} mL, more than any brain: the skull seems to "
            "be there, the models saw brains alone"
        )
    elif not skull and not brain_only:
        doubts.append(
            f"W_SKULL: the foreground is {volume:.0f} mL, as of a brain without its skull; the "
            "models saw whole heads"
        )
    doubts += _coverage(volume, extent, cut)
    if max(scan.spacing) > MAX_SPACING_MM:
        doubts.append(f"W_COARSE: voxels up to {max(scan.spacing):.1f} mm hide detail")
    if not skull:
        doubts += _contrast(modality, skewness)
    return Suitability(volume, extent, cut, skewness, skull, tuple(doubts))


def _coverage(volume: float, extent: tuple[float, float, float], cut: float) -> list[str]:
    size = " x ".join(f"{e:.0f}" for e in extent)
    if volume < MIN_BRAIN_ML or any(
        e < least for e, least in zip(extent, MIN_EXTENT_MM, strict=True)
    ):
        return [f"W_COVERAGE: the foreground, {volume:.0f} mL in {size} mm, is no whole brain"]
    if cut > MAX_CUT_MM2:
        return [f"W_COVERAGE: the field of view cuts {cut / 100:.0f} cm2 off the top of the head"]
    return []


def _contrast(modality: str, skewness: float) -> list[str]:
    """Compare T1 and T2 with how fluid looks; of other contrasts too little can be said."""
    if modality == "t1" and skewness > FLUID_SKEWNESS:
        return ["W_CONTRAST: fluid seems bright, as in T2; is it a T1?"]
    if modality == "t2" and skewness < FLUID_SKEWNESS:
        return ["W_CONTRAST: fluid seems dark, as in T1 or FLAIR; is it a T2?"]
    return []


def _extent(head: BoolArray, scan: Scan) -> tuple[tuple[float, float, float], float]:
    """Size of the foreground's box along right, anterior, superior; its area in the top slice."""
    orientation = nib.orientations.io_orientation(scan.affine)
    extent = [0.0, 0.0, 0.0]
    for axis, (world, _) in enumerate(orientation):
        found = np.flatnonzero(head.any(axis=tuple(a for a in range(3) if a != axis)))
        extent[int(world)] = float(found[-1] - found[0] + 1) * scan.spacing[axis]
    axis = int(np.flatnonzero(orientation[:, 0] == 2)[0])
    top = head.take(-1 if orientation[axis, 1] > 0 else 0, axis=axis)
    pixel = float(np.prod(scan.spacing)) / scan.spacing[axis]
    return (extent[0], extent[1], extent[2]), float(np.count_nonzero(top)) * pixel


def _skewness(values: npt.NDArray[np.float32], scan: Scan, head: BoolArray) -> float:
    """Third standardised moment of the intensities between two percentiles of the foreground."""
    limits = percentile_map(scan.data, head, (0.5, 99.5))
    inside = values.clip(limits.low, limits.high).astype(np.float64)
    spread = inside.std() if inside.size else 0.0
    return float(((inside - inside.mean()) ** 3).mean() / spread**3) if spread > 0 else 0.0
