"""Results to disk: on the scan's own grid, with none of its text, and never half a file."""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .errors import OutputError
from .reading import Scan

COMPRESSION = 1  #: on float data higher levels take several times as long and save a few per cent


def write_scan(
    path: str | os.PathLike[str],
    data: npt.ArrayLike,
    like: Scan,
    *,
    description: str = "voxlate synthetic image",
) -> Path:
    """Write a volume as float32 NIfTI-1 on the grid of ``like``.

    Affine, sform and qform with their codes, voxel sizes and units are those of ``like``; its free
    text and extensions are left behind, for they may name a patient. Equal data give equal bytes.

    Args:
        path: ``.nii`` or ``.nii.gz``; appears only when complete.
        data: Intensities with the shape of ``like``.
        like: The scan whose grid it is.
        description: Goes to the header, 79 bytes at most.

    Returns:
        The path written.

    Raises:
        ValueError: The shape is not that of ``like``.
        OutputError: The folder is missing or read-only, or the disk is full.
    """
    path = Path(path)
    values = np.asarray(data, dtype=np.float32)
    if values.shape != like.shape:
        raise ValueError(f"data must have shape {like.shape}, got {values.shape}")
    header = _header(like, description)
    packed = path.name.lower().endswith(".gz")
    with write_atomically(path) as file:
        if packed:
            with gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as stream:
                _write(stream, header, values)
        else:
            _write(file, header, values)
    return path


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the name ``path`` only when the block ends without an error.

    Raises:
        OutputError: The folder or the disk does not let it be written.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=".voxlate-", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror or error})",
            "check the folder, its permissions and the free space",
            code="E_OUTPUT",
            file=path,
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _header(like: Scan, description: str) -> nib.Nifti1Header:
    """Build a fresh header that takes from the old one what is geometry, and nothing else."""
    old = like.header
    header = nib.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(like.shape)
    for name in ("sform_code", "qform_code", "xyzt_units"):
        header[name] = old[name]
    for name in (*(f"quatern_{a}" for a in "bcd"), *(f"qoffset_{a}" for a in "xyz")):
        header[name] = old[name]
    for axis, name in enumerate(("srow_x", "srow_y", "srow_z")):
        header[name] = old[name] if int(old["sform_code"]) > 0 else like.affine[axis]
    pixdim = np.ones(8, dtype=np.float32)
    pixdim[0] = -1 if float(old["pixdim"][0]) < 0 else 1
    stored = np.abs(np.asarray(old["pixdim"][1:4], dtype=np.float64))
    usable = np.isfinite(stored) & (stored > 0)
    pixdim[1:4] = np.where(usable, stored, like.spacing)
    header["pixdim"] = pixdim
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    header["descrip"] = description.encode("ascii", "replace")[:79]
    return header


def _write(
    stream: BinaryIO | gzip.GzipFile, header: nib.Nifti1Header, values: npt.NDArray[np.float32]
) -> None:
    little = header.as_byteswapped("<")
    stream.write(little.binaryblock + b"\0\0\0\0")
    flat = values.astype("<f4", copy=False).ravel(order="F")
    for start in range(0, flat.size, 2**22):
        stream.write(flat[start : start + 2**22].tobytes())
