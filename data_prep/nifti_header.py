"""A NIfTI header, parsed with nothing repaired, judged before a voxel is read."""

from __future__ import annotations

import math
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from .byte_stream import MAX_TAIL, ByteStream
from .file_content import refuse_other_content
from .scan_file import ScanFile

MAX_VOXELS = 2**27  #: 512 x 512 x 512; more than any head needs
MAX_BYTES = 2**30
MAX_INFLATION = 1100  #: deflate cannot pack tighter than about 1030 to 1
BOMB_BYTES, BOMB_INFLATION = 2**26, 200  #: no scan of that size packs that tightly

_RGB = {128: "RGB", 2304: "RGBA"}
_COMPLEX = {32, 1792, 2048}
_BITS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"} | {
    1024: "i8",
    1280: "u8",
}


@dataclass(frozen=True)
class Layout:
    """What lies after the header.

    Attributes:
        shape: Voxels along the three axes of one volume.
        dtype: Their type and byte order.
        volumes: How many there are.
        volume: Which of them is wanted.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    volumes: int = 1
    volume: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of one volume."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_header(stream: ByteStream, file: ScanFile) -> nib.Nifti1Header:
    """Parse the header block without letting anything be repaired.

    Raises:
        ScanError: It is not a whole header of NIfTI-1 or NIfTI-2.
    """
    head = stream.peek(540)
    if head.startswith(b"\x1f\x8b"):
        raise file.refuse("E_NAME", "compressed twice", "gunzip it once")
    refuse_other_content(head, file)
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


def voxel_layout(
    header: nib.Nifti1Header, stream: ByteStream, file: ScanFile, volume: int | None = None
) -> Layout:
    """Shape and voxel type, judged against the size of the file before anything is inflated.

    Args:
        header: As parsed.
        stream: Where it came from.
        file: Likewise.
        volume: Which one of a 4D file, from 0; without it, such a file is refused.

    Raises:
        ScanError: No 3D image of real numbers, or one that cannot be in a file of this size.
    """
    shape, volumes = _dimensions(header, file, volume)
    layout = Layout(shape, _voxel_type(header, file), volumes, volume or 0)
    needed = layout.nbytes * volumes
    grid = "x".join(map(str, (*shape, volumes) if volumes > 1 else shape))
    if math.prod(shape) > MAX_VOXELS or layout.nbytes > MAX_BYTES:
        raise file.refuse(
            "E_SIZE", f"the header announces {grid} voxels", "give a scan of one head"
        )
    if not stream.packed and needed > stream.size:
        raise file.truncated()
    bomb = needed > BOMB_BYTES and needed > BOMB_INFLATION * stream.size
    if stream.packed and (bomb or needed > MAX_INFLATION * stream.size):
        raise file.refuse(
            "E_SIZE",
            f"the header announces {grid} voxels, the file is only {stream.size} bytes",
            "export the scan again",
        )
    if stream.size > 1.1 * needed + 2 * MAX_TAIL:
        raise file.refuse(
            "E_SIZE",
            f"the header announces {grid} voxels, the file is {stream.size} bytes",
            "export the scan again",
        )
    return layout


def _dimensions(
    header: nib.Nifti1Header, file: ScanFile, volume: int | None
) -> tuple[tuple[int, int, int], int]:
    """Three axes, and the number of volumes along a fourth."""
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise file.refuse("E_DIM", f"impossible dimensions {dim} in the header", "export it again")
    shape = dim[1 : dim[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) < 3:
        raise file.refuse(
            "E_DIM", f"a {len(shape)}D image {shape}", "give the whole 3D scan, not one slice"
        )
    grid = "x".join(map(str, shape))
    if len(shape) > 4 or (len(shape) == 4 and volume is None):
        todo = "name one volume of it (--volume 0)" if len(shape) == 4 else "extract one 3D volume"
        raise file.refuse("E_4D", f"{len(shape)}D data, {grid}", todo)
    volumes = shape[3] if len(shape) == 4 else 1
    if volume is not None and not 0 <= volume < volumes:
        raise file.refuse(
            "E_4D", f"there is no volume {volume} in {grid}", f"name one from 0 to {volumes - 1}"
        )
    return (shape[0], shape[1], shape[2]), volumes


def _voxel_type(header: nib.Nifti1Header, file: ScanFile) -> np.dtype[np.generic]:
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
    return dtype


def voxel_offset(
    header: nib.Nifti1Header, layout: Layout, stream: ByteStream, file: ScanFile
) -> int:
    """Where the voxels start; every extension before them must fit, and they after it.

    Raises:
        ScanError: They cannot start where the header says.
    """
    value = float(header["vox_offset"])
    lowest = 544 if isinstance(header, nib.Nifti2Header) else 352
    impossible = file.refuse(
        "E_OFFSET", f"the header puts the voxels at byte {value:g}", "export the scan again"
    )
    if not math.isfinite(value) or value < lowest or value > MAX_TAIL or value != int(value):
        raise impossible
    offset = int(value)
    if not stream.packed and offset > lowest:
        needed = layout.nbytes * layout.volumes
        if stream.size - lowest >= needed > stream.size - offset:
            raise impossible  # they are there, elsewhere
    block = stream.peek(offset)
    if len(block) < lowest:
        raise file.truncated()
    if len(block) < offset:
        raise impossible
    start = lowest - 4
    if block[start] != 0:
        _refuse_bad_extensions(block[lowest:], header.endianness, file)
    return offset


def _refuse_bad_extensions(block: bytes, endianness: str, file: ScanFile) -> None:
    """Every extension says how long it is; together they must fill the block, zeros aside."""
    position, end = 0, len(block.rstrip(b"\0"))
    while position < end and position + 8 <= len(block):
        field = block[position : position + 4]
        size = int.from_bytes(field, "little" if endianness == "<" else "big", signed=True)
        if size < 8 or size > len(block) - position:
            raise file.refuse(
                "E_HEADER", "a header extension has an impossible size", "export it again"
            )
        position += size


def intensity_scaling(header: nib.Nifti1Header, file: ScanFile) -> tuple[float, float]:
    """Slope and intercept by the standard: slope 0 (or not a number) means no scaling at all.

    Raises:
        ScanError: The intercept is not a number.
    """
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not math.isfinite(slope):
        if inter != 0 or slope != 0:
            file.warn("W_SCALE", f"intensity slope {slope:g}: no scaling applied")
        return 1.0, 0.0
    if not math.isfinite(inter):
        raise file.refuse(
            "E_SCALE", f"the intensity intercept is {inter:g}", "export the scan again"
        )
    if slope < 0:
        file.warn("W_SCALE", "the intensity slope is negative; is the contrast inverted?")
    return slope, inter
