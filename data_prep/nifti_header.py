"""A NIfTI header, parsed with nothing repaired, judged before a voxel is read."""

from __future__ import annotations

import math

import nibabel as nib
import numpy as np

from .byte_stream import MAX_TAIL, ByteStream
from .scan_file import ScanFile

MAX_VOXELS = 2**28  #: 512 x 512 x 1024; more than any head needs
MAX_INFLATION = 1100  #: deflate cannot pack tighter than about 1030 to 1

_RGB = {128: "RGB", 2304: "RGBA"}
_COMPLEX = {32, 1792, 2048}
_BITS = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"} | {
    1024: "i8",
    1280: "u8",
}


def parse_header(stream: ByteStream, file: ScanFile) -> nib.Nifti1Header:
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


def voxel_layout(
    header: nib.Nifti1Header, stream: ByteStream, file: ScanFile
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


def voxel_offset(header: nib.Nifti1Header, stream: ByteStream, file: ScanFile) -> int:
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


def intensity_scaling(header: nib.Nifti1Header, file: ScanFile) -> tuple[float, float]:
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
