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
from .overrides import NONE, Overrides
from .plausibility import refuse_intensities, refuse_parcels, refuse_size, unusual_spacing
from .voxel_census import Census

FloatArray = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]

MIN_VOXELS = 32
MIN_EXTENT_MM = 60.0


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
    overrides: Overrides = NONE,
) -> Scan:
    """Read one NIfTI image (``.nii`` or ``.nii.gz``) and refuse what a model must not see.

    Args:
        path: File to read; its name may be in any case and any script.
        min_voxels: Fewest voxels along an axis.
        min_extent_mm: Smallest field of view along an axis.
        overrides: What the user vouches for, where the file alone would be refused.

    Returns:
        The scan on its own grid; singleton fourth axes are squeezed away.

    Raises:
        ScanError: The file is missing, damaged, not NIfTI, not one 3D image of numbers, or what it
            holds is no brain scan (constant, NaN, CT, a label map, far too small).
    """
    path = Path(path)
    notes: list[str] = []
    with nifti.NiftiFile(path, overrides) as file:
        refuse_size(
            file.shape, file.affine, path, min_voxels=min_voxels, min_extent_mm=min_extent_mm
        )

        def judge(census: Census) -> None:
            notes.extend(refuse_intensities(census, path, force=overrides.content))

        data = file.voxels(judge)
        notes += refuse_parcels(data, path, force=overrides.content)
        notes += unusual_spacing(file.affine)
        return Scan(
            path=path,
            data=data,
            affine=file.affine,
            header=file.header,
            dtype=file.dtype,
            warnings=(*file.warnings, *notes),
            sha256=file.sha256,
        )


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
    x, y, z = values.shape
    refuse_size((x, y, z), matrix, path, min_voxels=min_voxels, min_extent_mm=min_extent_mm)
    header = nib.Nifti1Header()
    header.set_data_shape(values.shape)
    header.set_sform(matrix, code=2)
    header.set_qform(matrix, code=2, strip_shears=True)
    header.set_xyzt_units("mm")
    clean = np.array(values, dtype=np.float32, order="C")
    census = Census()
    census.add(clean.reshape(-1))
    notes = refuse_intensities(census, path, force=False)
    notes += refuse_parcels(clean, path, force=False)
    return Scan(path, clean, matrix, header, values.dtype, notes)


def read_mask(path: str | os.PathLike[str], *, like: Scan) -> npt.NDArray[np.bool_]:
    """Read a mask or label map (anything above 0 is inside) that lies on the grid of ``like``.

    Raises:
        ScanError: The file is damaged, or on another grid.
    """
    path = Path(path)
    with nifti.NiftiFile(path) as file:
        if file.shape != like.shape or not np.allclose(file.affine, like.affine, atol=1e-3):
            raise ScanError(
                f"its grid {file.shape} is not that of {printable(like.path.name)} {like.shape}",
                "resample the mask onto the scan",
                code="E_GRID",
                file=path,
            )
        return file.voxels(_accept) > 0


def _accept(_: Census) -> None:
    """Masks may be constant, and are labels."""
