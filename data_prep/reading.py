"""Scans from disk: every byte accounted for before a voxel is believed.

The header is read and judged first, then exactly the bytes it promises are inflated (checksum and
length included), and only then does an array exist. The common readers each accept some damaged
files in silence (missing data as zeros, wrong checksums, invented geometry); this one refuses with
a line that names the file, what is wrong and what to do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from . import nifti
from .errors import ScanError, printable
from .nifti_geometry import is_usable_affine

FloatArray = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

MAX_NONFINITE = 1e-3  #: share of NaN or infinite voxels that is set to 0 with a warning
MIN_VOXELS = 32
MIN_EXTENT_MM = 60.0
MIN_SPACING_MM, MAX_SPACING_MM = 0.3, 5.0
MAX_INTENSITY = 1e6
MAX_LABELS = 64  #: a volume with no more distinct values than this, all whole, is a label map


@dataclass(frozen=True)
class Scan:
    """One 3D image as it lies on disk, or as it was given in memory.

    Attributes:
        path: Where it came from; for an array, the name it was given.
        data: Intensities (X, Y, Z), scaled by the header's slope and intercept.
        affine: Voxel indices to scanner coordinates, mm, RAS+.
        header: The header as read; ``write_scan`` takes codes and units from it, never its text.
        dtype: Type of the voxels on disk.
        warnings: What was tolerated, each ``W_CODE: text``.
        sha256: Of the file as read; empty for an array.
    """

    path: Path
    data: FloatArray
    affine: Affine
    header: nib.Nifti1Header = field(repr=False)
    dtype: np.dtype[np.generic]
    warnings: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the three axes of the file."""
        x, y, z = self.data.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the three axes of the file."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def read_scan(
    path: str | os.PathLike[str],
    *,
    min_voxels: int = MIN_VOXELS,
    min_extent_mm: float = MIN_EXTENT_MM,
) -> Scan:
    """Read one NIfTI image (``.nii`` or ``.nii.gz``) and refuse what a model must not see.

    Args:
        path: File to read; its name may be in any case and any script.
        min_voxels: Fewest voxels along an axis.
        min_extent_mm: Smallest field of view along an axis.

    Returns:
        The scan on its own grid; singleton fourth axes are squeezed away.

    Raises:
        ScanError: The file is missing, damaged, not NIfTI, not one 3D image of numbers, or what it
            holds is no brain scan (constant, NaN, a label map, far too small).
    """
    path = Path(path)
    image = nifti.read(path)
    data, notes = _finite(image.data, path)
    scan = Scan(
        path=path,
        data=data,
        affine=image.affine,
        header=image.header,
        dtype=image.dtype,
        warnings=(*image.warnings, *notes, *_unusual(data, image.affine)),
        sha256=image.sha256,
    )
    _refuse_small(scan, min_voxels, min_extent_mm)
    _refuse_empty(scan)
    return scan


def scan_from_array(
    data: npt.ArrayLike,
    affine: npt.ArrayLike,
    *,
    name: str = "array",
    min_voxels: int = MIN_VOXELS,
    min_extent_mm: float = MIN_EXTENT_MM,
) -> Scan:
    """Take a volume that is already in memory through the same checks as a file.

    Args:
        data: Intensities (X, Y, Z).
        affine: 4x4, voxel indices to mm, RAS+.
        name: What messages and outputs call it.
        min_voxels: Fewest voxels along an axis.
        min_extent_mm: Smallest field of view along an axis.

    Raises:
        ScanError: As ``read_scan``.
    """
    path = Path(name)
    values = np.asarray(data)
    matrix = np.asarray(affine, dtype=np.float64)
    if values.ndim != 3:
        raise ScanError(
            f"a volume has 3 axes, this array has {values.ndim}",
            "give one 3D array",
            code="E_DIM",
            file=path,
        )
    if np.iscomplexobj(values):
        raise ScanError("complex values", "give the magnitude", code="E_COMPLEX", file=path)
    if matrix.shape != (4, 4) or not is_usable_affine(matrix):
        raise ScanError(
            "the affine is not an invertible 4x4 matrix",
            "give the matrix that takes voxel indices to mm",
            code="E_AFFINE",
            file=path,
        )
    header = nib.Nifti1Header()
    header.set_data_shape(values.shape)
    header.set_sform(matrix, code=2)
    header.set_qform(matrix, code=2, strip_shears=True)
    header.set_xyzt_units("mm")
    clean, notes = _finite(values.astype(np.float32), path)
    scan = Scan(path, clean, matrix, header, values.dtype, notes)
    _refuse_small(scan, min_voxels, min_extent_mm)
    _refuse_empty(scan)
    return scan


def read_mask(path: str | os.PathLike[str], *, like: Scan) -> npt.NDArray[np.bool_]:
    """Read a mask or label map (anything above 0 is inside) that lies on the grid of ``like``.

    Raises:
        ScanError: The file is damaged, or on another grid.
    """
    path = Path(path)
    image = nifti.read(path)
    if image.data.shape != like.data.shape or not np.allclose(image.affine, like.affine, atol=1e-3):
        raise ScanError(
            f"its grid {image.data.shape} is not that of {printable(like.path.name)} {like.shape}",
            "resample the mask onto the scan",
            code="E_GRID",
            file=path,
        )
    return image.data > 0


def _finite(data: FloatArray, path: Path) -> tuple[FloatArray, tuple[str, ...]]:
    """Set a few NaN and infinite voxels to 0; refuse more than a few."""
    bad = ~np.isfinite(data)
    count = int(bad.sum())
    if count == 0:
        return data, ()
    if count > MAX_NONFINITE * data.size:
        raise ScanError(
            f"{count} of {data.size} voxels are NaN or infinite",
            "export the scan again, or repair it before use",
            code="E_NONFINITE",
            file=path,
        )
    data = np.where(bad, np.float32(0), data)
    return data, (f"W_NONFINITE: {count} NaN or infinite voxels set to 0",)


def _unusual(data: FloatArray, affine: Affine) -> tuple[str, ...]:
    """Warn of voxel sizes and intensities that no scan in training had."""
    notes = []
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if spacing.max() > MAX_SPACING_MM or spacing.min() < MIN_SPACING_MM:
        sizes = " x ".join(f"{s:.2g}" for s in spacing)
        notes.append(f"W_RANGE: voxels of {sizes} mm are outside what the models were made for")
    if (largest := float(np.abs(data).max())) > MAX_INTENSITY:
        notes.append(f"W_RANGE: intensities reach {largest:.2g}")
    return tuple(notes)


def _refuse_small(scan: Scan, min_voxels: int, min_extent_mm: float) -> None:
    extent = [n * s for n, s in zip(scan.shape, scan.spacing, strict=True)]
    if min(scan.shape) < min_voxels or min(extent) < min_extent_mm:
        grid = "x".join(map(str, scan.shape))
        size = " x ".join(f"{e:.0f}" for e in extent)
        raise ScanError(
            f"too small for a whole-brain volume: {grid} voxels, {size} mm",
            f"give a 3D scan with at least {min_voxels} voxels and {min_extent_mm:.0f} mm "
            "along every axis",
            code="E_SMALL",
            file=scan.path,
        )


def _refuse_empty(scan: Scan) -> None:
    low, high = float(scan.data.min()), float(scan.data.max())
    if low == high:
        raise ScanError(
            f"every voxel is {low:g}", "export the scan again", code="E_CONSTANT", file=scan.path
        )
    sample = np.unique(scan.data[::3, ::3, ::3])
    if len(sample) <= MAX_LABELS and np.array_equal(sample, np.rint(sample)):
        values = np.unique(scan.data)
        if len(values) <= MAX_LABELS and np.array_equal(values, np.rint(values)):
            raise ScanError(
                f"only {len(values)} distinct whole numbers: it looks like a label map",
                "give the image it was drawn on",
                code="E_LABELMAP",
                file=scan.path,
            )
