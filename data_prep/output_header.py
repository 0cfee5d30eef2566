"""The header of an output: of the scan's it keeps the geometry, and none of the text."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .nifti_geometry import is_usable_affine, qform_of, sform_of
from .reading import Scan

MAX_NIFTI1 = 2**15 - 1  #: voxels along an axis; beyond, NIfTI-2 is written
KNOWN_CODES = 5  #: the standard's codes of a transform are 1 to 5
MM, TIME = 2, 0o70


def output_header(
    like: Scan, dtype: npt.DTypeLike, scaling: tuple[float, float], description: str
) -> nib.Nifti1Header:
    """Build a little-endian header from the fields of ``like`` that are geometry.

    Sform, qform, their codes, the voxel sizes and the units are copied bit by bit where they mean
    something. A transform that is announced but is none (NaN, no rotation) is replaced by the one
    that the scan was read with, and lengths that were read as mm are labelled mm.

    Args:
        like: The scan whose grid it is.
        dtype: Of the voxels.
        scaling: Slope and intercept from stored to true intensities.
        description: ASCII, 79 bytes at most.
    """
    old = like.header
    kind = nib.Nifti2Header if max(like.shape) > MAX_NIFTI1 else nib.Nifti1Header
    header = kind(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(like.shape)
    _copy_codes(old, header)
    with np.errstate(over="ignore", invalid="ignore"):  # of NIfTI-2, unused fields only
        _copy_transforms(old, header, like)
    unit = int(old["xyzt_units"])
    header["xyzt_units"] = (MM if unit & 7 else 0) | unit & TIME
    header["scl_slope"], header["scl_inter"] = scaling
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    header["descrip"] = description.encode("ascii", "replace")[:79]
    return header


def _copy_codes(old: nib.Nifti1Header, header: nib.Nifti1Header) -> None:
    for name in ("sform_code", "qform_code"):
        header[name] = min(max(int(old[name]), 0), KNOWN_CODES)


def _copy_transforms(old: nib.Nifti1Header, header: nib.Nifti1Header, like: Scan) -> None:
    stored = np.abs(np.asarray(old["pixdim"][1:4], dtype=np.float64))
    usable = np.isfinite(stored) & (stored > 0)
    pixdim = np.ones(8)
    pixdim[0] = -1 if float(old["pixdim"][0]) < 0 else 1
    pixdim[1:4] = np.where(usable, stored, like.spacing)
    header["pixdim"] = pixdim
    qform, sform = qform_of(old), sform_of(old)
    if qform is not None and not is_usable_affine(qform):
        header.set_qform(like.affine, code=int(header["qform_code"]), strip_shears=True)
    elif qform is not None:
        for name in (*(f"quatern_{a}" for a in "bcd"), *(f"qoffset_{a}" for a in "xyz")):
            header[name] = old[name]
    keep = sform is not None and is_usable_affine(sform)
    for axis, name in enumerate(("srow_x", "srow_y", "srow_z")):
        header[name] = old[name] if keep else like.affine[axis]
