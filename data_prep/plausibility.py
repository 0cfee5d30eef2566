"""Whether what a file holds can be a brain MR scan at all, by its size and its intensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import ScanError
from .voxel_census import HOUNSFIELD, Census

MAX_NONFINITE = 1e-3  #: share of NaN or infinite voxels that is set to 0 with a warning
MAX_NEGATIVE = 0.1  #: share of voxels below ``HOUNSFIELD`` that no magnitude image has
MAX_EXTENT_MM = 1000.0
MIN_SPACING_MM, MAX_SPACING_MM = 0.3, 5.0
MAX_INTENSITY = 1e6
MAX_FLAT = 0.8  #: share of equal neighbours above which whole numbers are labels
FORCE = "give the MR scan, or add --force (batch: --any-content) if it is one"


def refuse_size(
    shape: tuple[int, int, int],
    affine: npt.NDArray[np.float64],
    path: Path,
    *,
    min_voxels: int,
    min_extent_mm: float,
) -> None:
    """Refuse a grid that no head was scanned on.

    Raises:
        ScanError: It is too small for a brain, or metres long.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    extent = [n * float(s) for n, s in zip(shape, spacing, strict=True)]
    grid = "x".join(map(str, shape))
    size = " x ".join(f"{e:.0f}" for e in extent)
    if min(shape) < min_voxels or min(extent) < min_extent_mm:
        raise ScanError(
            f"too small for a whole-brain volume: {grid} voxels, {size} mm",
            f"give a 3D scan with at least {min_voxels} voxels and {min_extent_mm:.0f} mm "
            "along every axis",
            code="E_SMALL",
            file=path,
        )
    if max(extent) > MAX_EXTENT_MM:
        raise ScanError(
            f"{size} mm is longer than any head scan",
            "correct the voxel sizes in its header",
            code="E_SIZE",
            file=path,
        )


def refuse_intensities(census: Census, path: Path, *, force: bool) -> tuple[str, ...]:
    """Refuse intensities that are those of no MR scan; return warnings about the rest.

    Args:
        census: Of all voxels.
        path: Where they came from.
        force: Take CT and label maps for MR.

    Raises:
        ScanError: NaN, one value, Hounsfield units, or the labels of a segmentation.
    """
    notes = []
    if census.nonfinite > MAX_NONFINITE * census.total:
        raise ScanError(
            f"{census.nonfinite} of {census.total} voxels are NaN or infinite",
            "export the scan again, or repair it before use",
            code="E_NONFINITE",
            file=path,
        )
    if census.low == census.high:
        raise ScanError(
            f"every voxel is {census.low:g}", "export the scan again", code="E_CONSTANT", file=path
        )
    if census.nonfinite:
        notes.append(f"W_NONFINITE: {census.nonfinite} NaN or infinite voxels set to 0")
    if census.negative > MAX_NEGATIVE * census.total:
        what = (
            f"{census.negative / census.total:.0%} of its voxels are below {HOUNSFIELD:g}: "
            "it looks like CT"
        )
        if not force:
            raise ScanError(what, FORCE, code="E_MODALITY", file=path)
        notes.append(f"W_MODALITY: {what}; accepted as asked")
    if census.labels is not None:
        what = f"only {len(census.labels)} distinct whole numbers: it looks like a label map"
        notes += _forced_label(what, path, force=force)
    largest = max(abs(census.low), abs(census.high))
    if largest > MAX_INTENSITY:
        notes.append(f"W_RANGE: intensities reach {largest:.2g}")
    return tuple(notes)


def refuse_parcels(data: npt.NDArray[np.float32], path: Path, *, force: bool) -> tuple[str, ...]:
    """Refuse a label map of many labels: whole numbers, next to all of them like their neighbour.

    Args:
        data: Intensities (X, Y, Z).
        path: Where they came from.
        force: Take it for MR.

    Raises:
        ScanError: It is one.
    """
    middle = data.shape[2] // 2
    part = data[:, :, max(0, middle - 4) : middle + 4]
    if not np.array_equal(part, np.rint(part)):
        return ()
    values, counts = np.unique(part, return_counts=True)
    inside = part[1:] != values[counts.argmax()]
    same = np.count_nonzero((part[1:] == part[:-1]) & inside)
    if same <= MAX_FLAT * np.count_nonzero(inside) or not inside.any():
        return ()
    what = "next to every voxel has its neighbour's whole number: it looks like a label map"
    return _forced_label(what, path, force=force)


def unusual_spacing(affine: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Warn of voxel sizes that no scan in training had."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.max() <= MAX_SPACING_MM and spacing.min() >= MIN_SPACING_MM:
        return ()
    sizes = " x ".join(f"{s:.2g}" for s in spacing)
    return (f"W_RANGE: voxels of {sizes} mm are outside what the models were made for",)


def _forced_label(what: str, path: Path, *, force: bool) -> tuple[str, ...]:
    if not force:
        raise ScanError(
            what,
            "give the image it was drawn on, or add --force (batch: --any-content) if it is one",
            code="E_LABELMAP",
            file=path,
        )
    return (f"W_LABELMAP: {what}; accepted as asked",)
