"""Where a NIfTI file's voxels lie: sform and qform checked, compared, never invented."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .overrides import Overrides
from .scan_file import ScanFile

Affine = npt.NDArray[np.float64]

MAX_SHEAR_DEG = 0.1
MAX_CONFLICT_MM = 1.0
MAX_CONFLICT_RATIO = 0.01
FAR_MM, TOO_FAR_MM = 1e4, 1e7  #: beyond the second, float32 cannot tell voxels apart
REPAIR = "repair the header (fslorient, nibabel)"
SEVERAL = f"choose one (--geometry sform or qform) or {REPAIR}"

_UNITS = {1: "metre", 3: "micron"}


def is_usable_affine(affine: Affine) -> bool:
    """Tell whether every number is finite and the axes span space."""
    if not np.isfinite(affine).all():
        return False
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing < 1e-3).any() or (spacing > 1e3).any():
        return False
    if np.abs(affine[:3, 3]).max() > TOO_FAR_MM:
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / spacing)) > 1e-3)


def read_affine(
    header: nib.Nifti1Header, shape: tuple[int, int, int], file: ScanFile, overrides: Overrides
) -> Affine:
    """Voxel indices to mm from sform or qform, where both agree; never invented.

    Raises:
        ScanError: The header's units, voxel sizes and transforms do not say one thing.
    """
    _check_units(header, file, overrides)
    pixdim = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    sizes_known = bool(np.isfinite(pixdim).all() and (pixdim != 0).all())
    if not sizes_known or (pixdim < 0).any():
        file.warn("W_PIXDIM", f"voxel sizes {pixdim.tolist()} in the header are not positive")
    sform = sform_of(header)
    qform = qform_of(header) if sizes_known or sform is None else None
    if overrides.geometry is not None:
        affine = _chosen(overrides.geometry, sform, qform, file)
    else:
        sform, qform = _usable(sform, qform, file)
        if sform is not None and sizes_known:
            _refuse_other_sizes(sform, pixdim, file)
        if sform is not None and qform is not None:
            _compare(sform, qform, shape, file)
        found = sform if sform is not None else qform
        affine = _unoriented(pixdim, shape, sizes_known, file) if found is None else found
    _check_axes(affine, file, overrides)
    return affine


def sform_of(header: nib.Nifti1Header) -> Affine | None:
    """The sform as it is written, or None where its code says that there is none."""
    if int(header["sform_code"]) <= 0:
        return None
    rows = [header["srow_x"], header["srow_y"], header["srow_z"], [0, 0, 0, 1]]
    with np.errstate(invalid="ignore"):  # NaN comes in kinds that tell
        return np.array(rows, dtype=np.float64)


def qform_of(header: nib.Nifti1Header) -> Affine | None:
    """The rotation of the quaternion; NaN where it is none, None where there is no qform."""
    if int(header["qform_code"]) <= 0:
        return None
    b, c, d = (float(header[f"quatern_{axis}"]) for axis in "bcd")
    square = 1 - (b * b + c * c + d * d)
    if not math.isfinite(square) or square < -1e-5:
        return np.full((4, 4), np.nan)
    quaternion = [math.sqrt(max(square, 0)), b, c, d]
    zooms = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    zooms[2] *= -1 if float(header["pixdim"][0]) < 0 else 1
    affine = np.eye(4)
    with np.errstate(invalid="ignore", over="ignore"):
        affine[:3, :3] = nib.quaternions.quat2mat(quaternion) * zooms
    affine[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return affine


def _check_units(header: nib.Nifti1Header, file: ScanFile, overrides: Overrides) -> None:
    unit = int(header["xyzt_units"]) & 7
    if unit in _UNITS and not overrides.assume_mm:
        raise file.refuse(
            "E_UNITS",
            f"its lengths are in {_UNITS[unit]}s",
            "if they are mm all the same add --assume-mm, else write the header in mm",
        )
    if unit in _UNITS:
        file.warn("W_UNITS", f"lengths in {_UNITS[unit]}s by the header, taken as mm as asked")
    elif unit not in (0, 2):
        file.warn("W_HEADER", f"unknown unit of length {unit}, taken as mm")


def _chosen(choice: str, sform: Affine | None, qform: Affine | None, file: ScanFile) -> Affine:
    affine = sform if choice == "sform" else qform
    if affine is None or not is_usable_affine(affine):
        raise file.refuse(
            "E_AFFINE", f"it has no usable {choice}", f"leave out --geometry {choice}"
        )
    file.warn("W_GEOM", f"the {choice} is used, as asked")
    return affine


def _usable(
    sform: Affine | None, qform: Affine | None, file: ScanFile
) -> tuple[Affine | None, Affine | None]:
    """Drop a transform that is no number where the other one is sound."""
    if sform is not None and not is_usable_affine(sform):
        if qform is None or not is_usable_affine(qform) or np.isfinite(sform).all():
            raise file.refuse("E_AFFINE", "its sform is no transform to mm", REPAIR)
        file.warn("W_AFFINE", "the sform is not a number; the qform is used")
        sform = None
    if qform is not None and not is_usable_affine(qform):
        if sform is None:
            raise file.refuse("E_AFFINE", "its qform is no transform to mm", REPAIR)
        file.warn("W_AFFINE", "the qform is no transform to mm; the sform is used")
        qform = None
    return sform, qform


def _refuse_other_sizes(sform: Affine, pixdim: npt.NDArray[np.float64], file: ScanFile) -> None:
    with np.errstate(over="ignore"):
        ratio = np.linalg.norm(sform[:3, :3], axis=0) / np.abs(pixdim)
    if (np.abs(ratio - 1) > MAX_CONFLICT_RATIO).any():
        raise file.refuse(
            "E_GEOM_CONFLICT", "its sform and pixdim give different voxel sizes", SEVERAL
        )


def _compare(sform: Affine, qform: Affine, shape: tuple[int, int, int], file: ScanFile) -> None:
    """Refuse a header whose two transforms put a corner of the volume in different places."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    moved = (sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:]
    distance = float(np.linalg.norm(moved, axis=0).max())
    if distance > MAX_CONFLICT_MM:
        raise file.refuse(
            "E_GEOM_CONFLICT", f"its sform and qform differ by {distance:.1f} mm", SEVERAL
        )
    if distance > 0.1:
        file.warn("W_GEOM", f"sform and qform differ by {distance:.2f} mm; the sform is used")


def _unoriented(
    pixdim: npt.NDArray[np.float64], shape: tuple[int, int, int], known: bool, file: ScanFile
) -> Affine:
    """Voxel sizes alone: the volume's centre at the origin, axes as scanners store them."""
    affine = np.diag([-abs(pixdim[0]), abs(pixdim[1]), abs(pixdim[2]), 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    if not known or not is_usable_affine(affine):
        raise file.refuse("E_AFFINE", "no orientation and no voxel size", "export the scan again")
    file.warn("W_NOGEOM", "no orientation in the header; taken as left-anterior-superior")
    return affine


def _check_axes(affine: Affine, file: ScanFile, overrides: Overrides) -> None:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    skew = np.degrees(np.arcsin(np.abs(np.triu(axes.T @ axes, 1)).max().clip(0, 1)))
    if skew > MAX_SHEAR_DEG and not overrides.shear:
        raise file.refuse(
            "E_SHEAR",
            f"its axes are {skew:.1f} degrees from square",
            "resample it to square axes, or add --allow-shear",
        )
    if skew > MAX_SHEAR_DEG:
        file.warn("W_SHEAR", f"axes {skew:.1f} degrees from square, accepted as asked")
    if np.abs(affine[:3, 3]).max() > FAR_MM:
        file.warn("W_ORIGIN", "the origin is more than 10 m away")
