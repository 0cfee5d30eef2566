"""The NIfTI format, byte by byte: header, geometry and voxels of one file, or why not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .byte_stream import ByteStream
from .nifti_geometry import read_affine
from .nifti_header import intensity_scaling, parse_header, voxel_layout, voxel_offset
from .scan_file import ScanFile


@dataclass(frozen=True)
class Image:
    """One 3D image: scaled voxels (X, Y, Z), affine in mm RAS+, and the header they came with."""

    data: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    header: nib.Nifti1Header
    dtype: np.dtype[np.generic]
    warnings: tuple[str, ...]
    sha256: str


def read(path: Path) -> Image:
    """Read one NIfTI-1 or NIfTI-2 file that holds a 3D image of real numbers.

    Raises:
        ScanError: For every file that cannot be believed; no other exception leaves here.
    """
    file = ScanFile(path)
    stream = ByteStream(file)
    try:
        header = parse_header(stream, file)
        shape, dtype = voxel_layout(header, stream, file)
        affine = read_affine(header, shape, file)
        offset = voxel_offset(header, stream, file)
        stream.skip_to(offset)
        count = math.prod(shape)
        raw = stream.take(count * dtype.itemsize)
        stream.finish()
    except OSError as error:
        raise file.refuse(
            "E_PATH", f"cannot be read ({error.strerror})", "check the disk and the permissions"
        ) from None
    finally:
        stream.close()
    voxels = np.frombuffer(raw, dtype).reshape(shape, order="F")
    slope, inter = intensity_scaling(header, file)
    with np.errstate(over="ignore", invalid="ignore"):
        if (slope, inter) == (1.0, 0.0):
            data = np.asarray(voxels, dtype=np.float32)
        else:
            data = (voxels * slope + inter).astype(np.float32)
    if slope < 0:
        file.warn("W_SCALE", "the intensity slope is negative; is the contrast inverted?")
    return Image(
        np.ascontiguousarray(data), affine, header, dtype, tuple(file.warnings), stream.sha256
    )
