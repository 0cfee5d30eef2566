"""Results to disk: on the scan's own grid, with none of its text, and never half a file."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from .atomic_file import unlike_written, write_atomically
from .byte_stream import ByteStream
from .errors import OutputError, ScanError
from .nifti_header import parse_header
from .output_header import output_header
from .reading import Scan
from .scan_file import ScanFile

__all__ = ["write_atomically", "write_scan"]

COMPRESSION = 1  #: on float data higher levels take several times as long and save a few per cent
BLOCK = 2**22  #: voxels that are turned to bytes at a time
LEVELS = 2**15 - 1  #: of a stored integer; more bits would cost space and show nothing
MAX_NAME = 255  #: bytes that file systems allow


def write_scan(
    path: str | os.PathLike[str],
    data: npt.ArrayLike,
    like: Scan,
    *,
    dtype: npt.DTypeLike = np.float32,
    description: str = "voxlate synthetic image",
) -> Path:
    """Write a volume as NIfTI-1 on the grid of ``like``, read it back, and only then name it.

    Affine, sform and qform with their codes, voxel sizes and units are those of ``like``; its free
    text and extensions are left behind, for they may name a patient. Equal data give equal bytes.
    What the rename guarantees is told at ``write_atomically``. NIfTI-2 is written where an axis has
    more voxels than NIfTI-1 can say.

    Args:
        path: ``.nii`` or ``.nii.gz``; appears only when complete.
        data: Intensities with the shape of ``like``.
        like: The scan whose grid it is.
        dtype: How voxels are stored; ``like.dtype`` for the scan's own choice. An integer type has
            at most 32767 levels (255 in 8 bits) over the range of the data, 0 stays exactly 0, and
            the header's slope gives true intensities again, half a level off at most.
        description: Goes to the header, 79 bytes at most.

    Returns:
        The path written.

    Raises:
        ValueError: The shape is not that of ``like``, or a value is not finite.
        OutputError: The name is too long, the folder missing or read-only, or the disk full; or
            what was read back differs.
    """
    path = Path(path)
    values = np.asarray(data, dtype=np.float32)
    if values.shape != like.shape:
        raise ValueError(f"data must have shape {like.shape}, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("data must be finite")
    refuse_long_name(path)
    stored, scaling = store(values, np.dtype(dtype))
    header = output_header(like, stored.dtype, scaling, description)
    head = header.binaryblock + b"\0\0\0\0"

    def verify(temporary: Path) -> None:
        _verify(temporary, path, head, stored)

    with write_atomically(path, verify=verify) as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as stream:
                _write(stream, head, stored)
        else:
            _write(file, head, stored)
    return path


def refuse_long_name(path: Path) -> None:
    """Refuse a name that no common file system takes.

    Raises:
        OutputError: It has more than 255 bytes.
    """
    length = len(os.fsencode(path.name))
    if length > MAX_NAME:
        raise OutputError(
            f"its name would have {length} bytes, {MAX_NAME} are possible",
            "give the scan a shorter name",
            code="E_NAME",
            file=path,
        )


def store(
    values: npt.NDArray[np.float32], dtype: np.dtype[np.generic]
) -> tuple[npt.NDArray[np.generic], tuple[float, float]]:
    """Take intensities to a voxel type; return them with slope and intercept of the way back.

    true = slope * stored + intercept

    Args:
        values: Finite intensities.
        dtype: Any byte order; the result is little-endian.
    """
    if dtype.kind == "f":
        return values.astype(dtype.newbyteorder("<")), (1.0, 0.0)
    limits = np.iinfo(dtype.name)
    most, least = min(int(limits.max), LEVELS), max(int(limits.min), -LEVELS)
    low, high = float(values.min()), float(values.max())
    inter = low if least == 0 and low < 0 else 0.0
    largest = max(high - inter, -(low - inter) if least else 0.0)
    slope = float(np.float32(largest / most)) or 1.0
    inter = float(np.float32(inter))
    levels = np.rint((values - np.float64(inter)) / slope).clip(least, most)
    return levels.astype(dtype.newbyteorder("<")), (slope, inter)


def _write(stream: BinaryIO | gzip.GzipFile, head: bytes, stored: npt.NDArray[np.generic]) -> None:
    stream.write(head)
    for block in _blocks(stored):
        stream.write(block)


def _blocks(stored: npt.NDArray[np.generic]) -> Iterator[bytes]:
    """Bytes of the voxels in the order of the file, first axis fastest."""
    flat = stored.ravel(order="F")
    for start in range(0, flat.size, BLOCK):
        yield flat[start : start + BLOCK].tobytes()


def _verify(temporary: Path, path: Path, head: bytes, stored: npt.NDArray[np.generic]) -> None:
    """Read a file as if it were a scan, to gzip's trailer; header and voxels must be those given.

    Raises:
        OutputError: They are not.
    """
    file = ScanFile(temporary, name=path.name)
    try:
        stream = ByteStream(file)
        try:
            header = parse_header(stream, file)
            size = len(header.binaryblock)
            same = stream.peek(len(head)) == head and size + 4 == len(head)
            stream.skip_to(len(head))
            for block in _blocks(stored):
                same &= b"".join(stream.take(len(block), len(block))) == block
            stream.finish()
        finally:
            stream.close()
    except ScanError as error:
        raise unlike_written(path) from error
    if not same or file.warnings:
        raise unlike_written(path)
