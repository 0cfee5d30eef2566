"""Where a NIfTI file's voxels lie: sform and qform checked, compared, never invented."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .scan_file import ScanFile

MAX_SHEAR_DEG = 0.1
MAX_CONFLICT_MM = 1.0
MAX_CONFLICT_RATIO = 0.01

_UNITS = {1: "metre", 3: "micron"}


def is_usable_affine(affine: npt.NDArray[np.float64]) -> bool:
    """Tell whether every number is finite and the axes span space."""
    if not np.isfinite(affine).all():
        return False
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing < 1e-3).any() or (spacing > 1e3).any():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / spacing)) > 1e-3)


def read_affine(
    header: nib.Nifti1Header, shape: tuple[int, int, int], file: ScanFile
) -> npt.NDArray[np.float64]:
    """Voxel indices to mm from sform or qform, where both agree; never invented."""
    unit = int(header["xyzt_units"]) & 7
    if unit in _UNITS:
        raise file.refuse(
            "E_UNITS", f"its lengths are in {_UNITS[unit]}s", "write the header in mm"
        )
    pixdim = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not np.isfinite(pixdim).all() or (pixdim <= 0).any():
        file.warn("W_PIXDIM", f"voxel sizes {pixdim.tolist()} in the header are not positive")
    sizes_known = bool(np.isfinite(pixdim).all() and (pixdim != 0).all())
    sform = _sform(header)
    qform = _qform(header) if sizes_known or sform is None else None
    if sform is not None and not is_usable_affine(sform):
        if qform is None or not is_usable_affine(qform) or np.isfinite(sform).all():
            raise file.refuse(
                "E_AFFINE", "its sform is singular", "repair the header (fslorient, nibabel)"
            )
        file.warn("W_AFFINE", "the sform is not a number; the qform is used")
        sform = None
    if qform is not None and not is_usable_affine(qform):
        if sform is None:
            raise file.refuse(
                "E_AFFINE", "its qform is not a rotation", "repair the header (fslorient, nibabel)"
            )
        file.warn("W_AFFINE", "the qform is not a rotation; the sform is used")
        qform = None
    if sform is not None and sizes_known:
        ratio = np.linalg.norm(sform[:3, :3], axis=0) / np.abs(pixdim)
        if (np.abs(ratio - 1) > MAX_CONFLICT_RATIO).any():
            raise file.refuse(
                "E_GEOM_CONFLICT",
                "its sform and pixdim give different voxel sizes",
                "repair the header (fslorient, nibabel)",
            )
    if sform is not None and qform is not None:
        _compare(sform, qform, shape, file)
    affine = sform if sform is not None else qform
    if affine is None:
        if not sizes_known:
            raise file.refuse(
                "E_AFFINE", "no orientation and no voxel size", "export the scan again"
            )
        file.warn("W_NOGEOM", "no orientation in the header; taken as left-posterior-superior")
        affine = np.diag([-abs(pixdim[0]), abs(pixdim[1]), abs(pixdim[2]), 1.0])
        centre = (np.array(shape) - 1) / 2
        affine[:3, 3] = -affine[:3, :3] @ centre
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    skew = np.degrees(np.arcsin(np.abs(np.triu(axes.T @ axes, 1)).max().clip(0, 1)))
    if skew > MAX_SHEAR_DEG:
        raise file.refuse(
            "E_SHEAR", f"its axes are {skew:.1f} degrees from square", "resample it to square axes"
        )
    if np.abs(affine[:3, 3]).max() > 1e4:
        file.warn("W_ORIGIN", "the origin is more than 10 m away")
    return affine


def _sform(header: nib.Nifti1Header) -> npt.NDArray[np.float64] | None:
    if int(header["sform_code"]) <= 0:
        return None
    rows = [header["srow_x"], header["srow_y"], header["srow_z"], [0, 0, 0, 1]]
    return np.array(rows, dtype=np.float64)


def _qform(header: nib.Nifti1Header) -> npt.NDArray[np.float64] | None:
    """The rotation of the quaternion; NaN where it is none."""
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
    affine[:3, :3] = nib.quaternions.quat2mat(quaternion) * zooms
    affine[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return affine


def _compare(
    sform: npt.NDArray[np.float64],
    qform: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    file: ScanFile,
) -> None:
    """Refuse a header whose two transforms put a corner of the volume in different places."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    moved = (sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:]
    distance = float(np.linalg.norm(moved, axis=0).max())
    if distance > MAX_CONFLICT_MM:
        raise file.refuse(
            "E_GEOM_CONFLICT",
            f"its sform and qform differ by {distance:.1f} mm",
            "keep the right one (fslorient -copysform2qform or -copyqform2sform)",
        )
    if distance > 0.1:
        file.warn("W_GEOM", f"sform and qform differ by {distance:.2f} mm; the sform is used")
