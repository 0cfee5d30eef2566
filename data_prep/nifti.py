"""One NIfTI file, byte by byte: its header judged when it is opened, its voxels when asked for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .byte_stream import ByteStream
from .errors import ScanError
from .nifti_geometry import read_affine
from .nifti_header import intensity_scaling, parse_header, voxel_layout, voxel_offset
from .overrides import NONE, Overrides
from .scan_file import ScanFile
from .voxel_census import Census

FloatArray = npt.NDArray[np.float32]
Judge = Callable[[Census], None]

ONE_PASS = 2**25  #: voxels; of a larger file none is kept before all of them have been judged
BLOCK = 2**18  #: voxels that are converted at a time
CERTAIN = {"E_SIZE", "E_NAME", "E_NOT_NIFTI", "E_POINTER"}  #: no damage of the gzip data says so


class NiftiFile:
    """An open NIfTI-1 or NIfTI-2 file with one image of real numbers.

    Opening reads and judges the header alone: at most 16 MiB are inflated, whatever it announces.

    Attributes:
        header: As it is written.
        shape: Voxels along the three axes.
        affine: Voxel indices to mm, RAS+.
        dtype: Type of the voxels in the file.
    """

    def __init__(self, path: Path, overrides: Overrides = NONE) -> None:
        self._file = ScanFile(path)
        self._stream = ByteStream(self._file)
        try:
            with self._told_of_the_disk():
                self._judge_header(overrides)
        except BaseException:
            self._stream.close()
            raise

    def __enter__(self) -> NiftiFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was tolerated so far, each ``W_CODE: text``."""
        return tuple(self._file.warnings)

    @property
    def sha256(self) -> str:
        """Of the file; empty until the voxels have been read."""
        return self._stream.sha256

    def voxels(self, judge: Judge) -> FloatArray:
        """Read the scaled intensities (X, Y, Z); every byte up to gzip's trailer is accounted for.

        Args:
            judge: Called with the census of all voxels; refuses them by raising. NaN and infinite
                ones are counted, and 0 in the result.

        Raises:
            ScanError: The data are damaged, too short, far too long, or refused by the judge.
        """
        with self._told_of_the_disk():
            if math.prod(self.shape) > ONE_PASS:
                census = Census()
                for values in self._values():
                    census.add(values)
                self._finish()
                judge(census)
                self._stream.rewind()
                judge = _accept
            census, flat, done = Census(), np.empty(math.prod(self.shape), np.float32), 0
            for values in self._values():
                census.add(values)
                flat[done : done + len(values)] = values
                done += len(values)
            if not self.sha256:
                self._finish()
        judge(census)
        return np.ascontiguousarray(flat.reshape(self.shape, order="F"))

    def _judge_header(self, overrides: Overrides) -> None:
        stream, file = self._stream, self._file
        try:
            self.header = parse_header(stream, file)
            self._layout = voxel_layout(self.header, stream, file, overrides.volume)
            self.shape, self.dtype = self._layout.shape, self._layout.dtype
            self.affine = read_affine(self.header, self.shape, file, overrides)
            self._offset = voxel_offset(self.header, self._layout, stream, file)
            self._slope, self._inter = intensity_scaling(self.header, file)
        except ScanError as refusal:
            damage = None if refusal.code in CERTAIN else stream.damage()
            raise damage or refusal from None

    def _values(self) -> Iterator[FloatArray]:
        """Blocks of scaled voxels in the order of the file; the caller may write to them."""
        stream, layout = self._stream, self._layout
        stream.skip_to(self._offset + layout.volume * layout.nbytes)
        for block in stream.take(layout.nbytes, BLOCK * self.dtype.itemsize):
            stored = np.frombuffer(block, self.dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                if (self._slope, self._inter) == (1.0, 0.0):
                    yield stored.astype(np.float32)
                else:
                    yield (stored * np.float64(self._slope) + self._inter).astype(np.float32)

    def _finish(self) -> None:
        """Pass the volumes that are not wanted, and see the last checksum."""
        self._stream.skip_to(self._offset + self._layout.volumes * self._layout.nbytes)
        self._stream.finish()

    @contextlib.contextmanager
    def _told_of_the_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._file.refuse(
                "E_PATH", f"cannot be read ({error.strerror})", "check the disk and the permissions"
            ) from None


def _accept(_: Census) -> None:
    """What has been judged is read again."""
