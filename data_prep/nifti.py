"""The NIfTI format, byte by byte: header, geometry and voxels of one file, or why not."""

from __future__ import annotations

import hashlib
import math
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from .errors import ScanError

MAX_VOXELS = 2**28  #: 512 x 512 x 1024; more than any head needs
MAX_INFLATION = 1100  #: deflate cannot pack tighter than about 1030 to 1
MAX_TAIL = 2**24  #: bytes after the voxels that are read through to reach the checksum
CHUNK = 2**20
MAX_SHEAR_DEG = 0.1
MAX_CONFLICT_MM = 1.0
MAX_CONFLICT_RATIO = 0.01

_RGB = {128: "RGB", 2304: "RGBA"}
_COMPLEX = {32, 1792, 2048}
_BITS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"} | {
    1024: "i8",
    1280: "u8",
}
_UNITS = {1: "metre", 3: "micron"}


@dataclass(frozen=True)
class Image:
    """One 3D image: scaled voxels (X, Y, Z), affine in mm RAS+, and the header they came with."""

    data: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    header: nib.Nifti1Header
    dtype: np.dtype[np.generic]
    warnings: tuple[str, ...]
    sha256: str


class _File:
    """What a refusal needs to know, and the warnings gathered on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []

    def refuse(self, code: str, what: str, todo: str) -> ScanError:
        return ScanError(what, todo, code=code, file=self.path)

    def warn(self, code: str, text: str) -> None:
        self.warnings.append(f"{code}: {text}")

    def truncated(self) -> ScanError:
        return self.refuse("E_TRUNCATED", "the file ends too early", "copy or download it again")


def read(path: Path) -> Image:
    """Read one NIfTI-1 or NIfTI-2 file that holds a 3D image of real numbers.

    Raises:
        ScanError: For every file that cannot be believed; no other exception leaves here.
    """
    file = _File(path)
    stream = _Stream(file)
    try:
        header = _header(stream, file)
        shape, dtype = _layout(header, stream, file)
        affine = _affine(header, shape, file)
        offset = _offset(header, stream, file)
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
    slope, inter = _scaling(header, file)
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


class _Stream:
    """The plain bytes of a file, inflated as they are asked for, with the checksum verified."""

    def __init__(self, file: _File) -> None:
        self.file = file
        self._hash = hashlib.sha256()
        path = file.path
        name = path.name.lower()
        if name.startswith("._"):
            raise file.refuse("E_NAME", "a macOS side file, not an image", "leave it out")
        if name.endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
            raise file.refuse(
                "E_PAIR", "one half of a header/image pair", "convert the pair to one .nii.gz file"
            )
        try:
            info = os.stat(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not a valid path"
            raise file.refuse("E_PATH", f"cannot be opened ({reason})", "check the path") from None
        if not stat.S_ISREG(info.st_mode):
            what = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise file.refuse("E_PATH", what, "give a .nii or .nii.gz file")
        if not name.endswith((".nii", ".nii.gz")):
            raise file.refuse(
                "E_FORMAT",
                "not a NIfTI file by its name",
                "convert it to .nii.gz (dcm2niix for DICOM, mri_convert for .mgz)",
            )
        if info.st_size == 0:
            raise file.refuse("E_EMPTY", "the file is empty", "copy or download it again")
        self.size = info.st_size
        try:
            self._handle = open(path, "rb")  # noqa: SIM115 (closed by close())
        except OSError as error:
            raise file.refuse(
                "E_PATH", f"cannot be opened ({error.strerror})", "check the permissions"
            ) from None
        self.packed = name.endswith(".gz")
        self._buffer = bytearray()
        self.position = 0
        try:
            self._check_name(self._handle.read(512))
        except BaseException:
            self.close()
            raise
        self._handle.seek(0)
        self._chunks = self._inflate() if self.packed else self._plain()

    def close(self) -> None:
        self._handle.close()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _check_name(self, head: bytes) -> None:
        """Refuse content that is not what the name says, by what it is instead."""
        text = head.lstrip()[:64].lower()
        if text.startswith((b"<!doctype", b"<html", b"<?xml")):
            raise self.file.refuse(
                "E_NOT_NIFTI", "looks like a web page: a failed download", "download it again"
            )
        if text.startswith(b"version https://git-lfs") or b"/annex/objects/" in head:
            raise self.file.refuse(
                "E_POINTER", "a git-lfs or DataLad pointer, not the image", "fetch the file first"
            )
        gzipped = head.startswith(b"\x1f\x8b")
        if self.packed and not gzipped:
            is_nifti = len(head) >= 348 and head[344:347] in (b"n+1", b"ni1")
            if is_nifti:
                raise self.file.refuse("E_NAME", "not gzip data", "rename it to .nii")
            raise self.file.refuse(
                "E_NOT_NIFTI", "neither gzip nor NIfTI data", "export or download it again"
            )
        if not self.packed and gzipped:
            raise self.file.refuse("E_NAME", "gzip data", "rename it to .nii.gz")

    def _read(self) -> bytes:
        chunk = self._handle.read(CHUNK)
        self._hash.update(chunk)
        return chunk

    def _plain(self) -> Iterator[bytes]:
        while chunk := self._read():
            yield chunk

    def _inflate(self) -> Iterator[bytes]:
        """Inflate every gzip member; zlib checks the CRC and the length at the end of each."""
        engine = zlib.decompressobj(wbits=31)
        pending = b""
        while True:
            pending = pending or self._read()
            if not pending:
                raise self.file.truncated()
            try:
                plain = engine.decompress(pending, CHUNK)
            except zlib.error as error:
                if "incorrect" in str(error) and "check" in str(error) and "data" in str(error):
                    raise self.file.refuse(
                        "E_CRC", "the gzip checksum does not match", "copy or download it again"
                    ) from None
                raise self.file.refuse(
                    "E_CORRUPT", "the gzip data is damaged", "copy or download it again"
                ) from None
            pending = engine.unconsumed_tail
            yield plain
            if not engine.eof:
                continue
            rest = engine.unused_data or self._read()
            while rest and not rest.strip(b"\0"):  # zero padding of tapes and tar
                rest = self._read()
            if not rest:
                return
            if not (rest + self._handle.peek(1) if len(rest) < 2 else rest).startswith(b"\x1f\x8b"):
                self.file.warn("W_TRAILING", "data after the gzip stream was ignored")
                while self._read():
                    pass
                return
            engine, pending = zlib.decompressobj(wbits=31), rest

    def peek(self, count: int) -> bytes:
        """Return the next ``count`` plain bytes, fewer at the end, without passing them."""
        while len(self._buffer) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._buffer += chunk
        return bytes(self._buffer[:count])

    def take(self, count: int) -> bytearray:
        """Return exactly the next ``count`` plain bytes."""
        parts = bytearray(count)  # one block: no copy grows while the file is read
        have = min(count, len(self._buffer))
        parts[:have] = self._buffer[:have]
        del self._buffer[:have]
        while have < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise self.file.truncated()
            used = min(count - have, len(chunk))
            parts[have : have + used] = chunk[:used]
            self._buffer += chunk[used:]
            have += used
        self.position += count
        return parts

    def skip_to(self, offset: int) -> None:
        self.take(offset - self.position)

    def finish(self) -> None:
        """Read to the end, so that the checksum of the last byte has been seen."""
        extra = len(self._buffer)
        self._buffer.clear()
        for chunk in self._chunks:
            extra += len(chunk)
            if extra > MAX_TAIL:
                raise self.file.refuse(
                    "E_SIZE",
                    "far more data than the header announces",
                    "export the scan again",
                )
        if extra:
            self.file.warn("W_TRAILING", f"{extra} bytes after the voxels were ignored")


def _header(stream: _Stream, file: _File) -> nib.Nifti1Header:
    """Parse the header block without letting anything be repaired."""
    head = stream.peek(540)
    if head.startswith(b"\x1f\x8b"):
        raise file.refuse("E_NAME", "compressed twice", "gunzip it once")
    if len(head) < 348:
        raise file.truncated()
    if head[4:8] == b"n+2\0":
        if len(head) < 540:
            raise file.truncated()
        kind: type[nib.Nifti1Header] = nib.Nifti2Header
        size = 540
    elif head[344:348] == b"n+1\0":
        kind, size = nib.Nifti1Header, 348
    elif head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        raise file.refuse(
            "E_PAIR", "one half of a header/image pair", "convert the pair to one .nii.gz file"
        )
    else:
        raise file.refuse(
            "E_MAGIC", "no NIfTI signature in its header", "export the scan as NIfTI again"
        )
    field = slice(40, 42) if size == 348 else slice(16, 24)
    little = int.from_bytes(head[field], "little", signed=True)
    big = int.from_bytes(head[field], "big", signed=True)
    endian = "<" if 1 <= little <= 7 or not 1 <= big <= 7 else ">"
    header = kind(head[:size], endianness=endian, check=False)
    if int(header["sizeof_hdr"]) != size:
        file.warn("W_HEADER", f"the header says that it is {int(header['sizeof_hdr'])} bytes long")
    return header


def _layout(
    header: nib.Nifti1Header, stream: _Stream, file: _File
) -> tuple[tuple[int, int, int], np.dtype[np.generic]]:
    """Shape and voxel type, judged against the size of the file before anything is inflated."""
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise file.refuse(
            "E_DIM", f"impossible dimensions {dim[1:]} in the header", "export the scan again"
        )
    shape = dim[1 : dim[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) < 3:
        raise file.refuse(
            "E_DIM", f"a {len(shape)}D image {shape}", "give the whole 3D scan, not one slice"
        )
    if len(shape) > 3:
        raise file.refuse(
            "E_4D",
            f"{len(shape)}D data {'x'.join(map(str, shape))}",
            "split it and give one 3D volume",
        )
    code = int(header["datatype"])
    if code in _RGB:
        raise file.refuse("E_RGB", f"a {_RGB[code]} colour image", "give the grey-scale scan")
    if code in _COMPLEX:
        raise file.refuse("E_COMPLEX", "complex voxels", "give the magnitude image")
    if code not in _BITS:
        raise file.refuse(
            "E_DTYPE", f"voxel type {code} cannot be read", "export as int16 or float32"
        )
    dtype = np.dtype(_BITS[code]).newbyteorder(header.endianness)
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        file.warn("W_HEADER", f"bitpix is {int(header['bitpix'])}, voxel type says otherwise")
    count = math.prod(shape)
    needed = count * dtype.itemsize
    available = stream.size * MAX_INFLATION if stream.packed else stream.size
    grid = "x".join(map(str, shape))
    if count > MAX_VOXELS:
        raise file.refuse(
            "E_SIZE", f"the header announces {grid} voxels", "give a scan of one head"
        )
    if needed > available:
        if not stream.packed:
            raise file.truncated()
        raise file.refuse(
            "E_SIZE",
            f"the header announces {grid} voxels, the file is only {stream.size} bytes",
            "export the scan again",
        )
    return (shape[0], shape[1], shape[2]), dtype


def _offset(header: nib.Nifti1Header, stream: _Stream, file: _File) -> int:
    """Where the voxels start; every extension before them must fit."""
    value = float(header["vox_offset"])
    lowest = 544 if isinstance(header, nib.Nifti2Header) else 352
    if not math.isfinite(value) or value < lowest or value > MAX_TAIL or value != int(value):
        raise file.refuse(
            "E_OFFSET", f"the header puts the voxels at byte {value:g}", "export the scan again"
        )
    if not stream.packed and value >= stream.size:
        raise file.refuse(
            "E_OFFSET", f"the header puts the voxels at byte {value:g}", "export the scan again"
        )
    block = stream.peek(int(value))
    start = lowest - 4
    if len(block) >= lowest and block[start] != 0:
        position = lowest
        order = "little" if header.endianness == "<" else "big"
        while position + 8 <= int(value):
            size = int.from_bytes(block[position : position + 4], order, signed=True)  # type: ignore[arg-type]
            if size < 8 or size > int(value) - position:
                raise file.refuse(
                    "E_HEADER", "a header extension has an impossible size", "export it again"
                )
            position += size
    return int(value)


def _scaling(header: nib.Nifti1Header, file: _File) -> tuple[float, float]:
    """Slope and intercept by the standard: slope 0 (or not a number) means no scaling at all."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        if inter != 0 or slope != 0:
            file.warn("W_SCALE", f"intensity slope {slope:g}: no scaling applied")
        return 1.0, 0.0
    if not math.isfinite(inter):
        raise file.refuse(
            "E_SCALE", f"the intensity intercept is {inter:g}", "export the scan again"
        )
    return slope, inter


def is_usable_affine(affine: npt.NDArray[np.float64]) -> bool:
    """Tell whether every number is finite and the axes span space."""
    if not np.isfinite(affine).all():
        return False
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing < 1e-3).any() or (spacing > 1e3).any():
        return False
    return bool(abs(np.linalg.det(affine[:3, :3] / spacing)) > 1e-3)


def _affine(
    header: nib.Nifti1Header, shape: tuple[int, int, int], file: _File
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
    file: _File,
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
