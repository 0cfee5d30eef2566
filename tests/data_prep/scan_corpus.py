"""Files as they reach a batch: damaged, mislabelled, contradictory, hostile; and their verdicts.

Headers are packed here with ``struct``, so that the corpus owes nothing to the reader it tests.
Each entry names the right verdict: a refusal's code, or acceptance with warnings. Line by line it
is the table of bad files that the common readers were measured on; the letters are its sections.
"""

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SHAPE = (36, 40, 34)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -40], [0, 0, 2.5, 5], [0, 0, 0, 1]])
CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "u2": 512, "i8": 1024, "c8": 32}
SECRET = b"DOE^JANE 1970"
TEXTS = ("descrip", "aux_file", "db_name", "intent_name")

FIELDS = {
    "sizeof_hdr": ("i", 0), "db_name": ("18s", 14), "dim": ("8h", 40), "datatype": ("h", 70),
    "bitpix": ("h", 72), "pixdim": ("8f", 76), "vox_offset": ("f", 108), "scl_slope": ("f", 112),
    "scl_inter": ("f", 116), "xyzt_units": ("B", 123), "glmin": ("i", 144), "descrip": ("80s", 148),
    "aux_file": ("24s", 228), "qform_code": ("h", 252), "sform_code": ("h", 254),
    "quatern": ("3f", 256), "qoffset": ("3f", 268), "srow": ("12f", 280),
    "intent_name": ("16s", 328), "magic": ("4s", 344),
}  # fmt: skip


def voxels(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    """A head in noise, int16, brightest near 680."""
    rng = np.random.default_rng(seed)
    at = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape[:3]], indexing="ij")
    head = sum(a**2 for a in at) < 0.7
    texture = rng.normal(0, 40, shape[:3])
    values = np.where(head, 380 + 120 * np.sin(5 * at[0]) + texture, np.abs(texture) / 4)
    return values.clip(0, 680).astype(np.int16)


def header(
    shape: tuple[int, ...] = SHAPE,
    code: int = 4,
    bits: int = 16,
    order: str = "<",
    **fields: object,
) -> bytearray:
    """A NIfTI-1 header and the 4 bytes after it; ``fields`` replace what is right."""
    values: dict[str, object] = {
        "sizeof_hdr": 348, "dim": [len(shape), *shape, *[1] * (7 - len(shape))], "datatype": code,
        "bitpix": bits, "pixdim": [-1, 2, 2, 2.5, 1, 1, 1, 1], "vox_offset": 352.0,
        "scl_slope": 1.0, "scl_inter": 0.0, "xyzt_units": 2, "qform_code": 1, "sform_code": 1,
        "quatern": [0, 1, 0], "qoffset": AFFINE[:3, 3], "srow": AFFINE[:3].ravel(),
        "magic": b"n+1\0",
    } | fields  # fmt: skip
    raw = bytearray(352)
    for name, value in values.items():
        kind, offset = FIELDS[name]
        many = isinstance(value, list | tuple | np.ndarray)
        struct.pack_into(order + kind, raw, offset, *(value if many else [value]))
    return raw


def plain(data: np.ndarray | None = None, order: str = "<", **fields: object) -> bytes:
    """A whole ``.nii`` file."""
    data = voxels() if data is None else data
    kind = data.dtype.str[1:]
    head = header(data.shape, CODES[kind], 8 * data.dtype.itemsize, order, **fields)
    return bytes(head) + data.astype(order + kind).tobytes("F")


def packed(content: bytes, level: int = 6) -> bytes:
    return gzip.compress(content, level, mtime=0)


def nifti2(data: np.ndarray) -> bytes:
    raw = bytearray(544)
    struct.pack_into("<i8shh", raw, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16)
    struct.pack_into("<8q", raw, 16, 3, *data.shape, 1, 1, 1, 1)
    struct.pack_into("<8d", raw, 104, -1, 2, 2, 2.5, 1, 1, 1, 1)
    struct.pack_into("<q2d", raw, 168, 544, 1.0, 0.0)
    struct.pack_into("<2i6d", raw, 344, 1, 1, 0, 1, 0, *AFFINE[:3, 3])
    struct.pack_into("<12d", raw, 400, *AFFINE[:3].ravel())
    struct.pack_into("<i", raw, 500, 2)
    return bytes(raw) + data.tobytes("F")


def bomb(shape: tuple[int, int, int], mebibytes: int) -> bytes:
    """A header, and then zeros that pack a thousandfold: one compressed block, again and again."""
    head, block = bytes(header(shape, 2, 8)), bytes(2**20)
    engine = zlib.compressobj(9, wbits=-15)
    first = engine.compress(head) + engine.flush(zlib.Z_FULL_FLUSH)
    again = engine.compress(block) + engine.flush(zlib.Z_FULL_FLUSH)
    checksum = zlib.crc32(head)
    for _ in range(mebibytes):
        checksum = zlib.crc32(block, checksum)
    size = (len(head) + mebibytes * 2**20) % 2**32
    start = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return start + first + again * mebibytes + engine.flush() + struct.pack("<2I", checksum, size)


def oblique(angle: float) -> dict[str, object]:
    """Header fields for a rotation about the first axis, right-handed."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    axes = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) * [2, 2, 2.5]
    rows = np.column_stack([axes, [-36, -40, -42]])
    half = np.radians(angle) / 2
    return {
        "srow": rows.ravel(),
        "quatern": [np.sin(half), 0, 0],
        "qoffset": [-36, -40, -42],
        "pixdim": [1, 2, 2, 2.5, 1, 1, 1, 1],
    }


def sagittal() -> dict[str, object]:
    """Voxel axes posterior, inferior, right: a sagittal acquisition, 2 mm."""
    rows = [[0, 0, 2, -34], [-2, 0, 0, 36], [0, -2, 0, 40]]
    return {
        "srow": np.ravel(rows),
        "qform_code": 0,
        "pixdim": [1, 2, 2, 2, 1, 1, 1, 1],
    }


def with_values(value: float, count: int) -> np.ndarray:
    flat = voxels().astype(np.float32).ravel()
    flat[20_000 : 20_000 + count] = value
    return flat.reshape(SHAPE)


def hot(data: np.ndarray) -> np.ndarray:
    data = data.astype(np.float32)
    data[18, 20, 17] = 1e7
    return data


def affine(**cells: float) -> np.ndarray:
    """AFFINE with the cells ``r<row><column>`` replaced, as twelve numbers."""
    rows = AFFINE[:3].copy()
    for name, value in cells.items():
        rows[int(name[1]), int(name[2])] = value
    return rows.ravel()


@dataclass(frozen=True)
class Entry:
    """One file: how it is made and what is right.

    Attributes:
        name: Of the file; its first word is the number in the table.
        make: Its bytes, or what puts it at a path.
        code: Of the refusal; empty where the file is to be read.
        warnings: Codes of the warnings of a file that is read.
        says: What the refusal's line must contain.
    """

    name: str
    make: bytes | Callable[[Path], object]
    code: str = ""
    warnings: tuple[str, ...] = ()
    says: str = ""

    def write(self, folder: Path) -> Path:
        """Put the file into ``folder``."""
        path = folder / self.name
        if isinstance(self.make, bytes):
            path.write_bytes(self.make)
        else:
            self.make(path)
        return path


def link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def beside(content: bytes) -> Callable[[Path], object]:
    """A link to a file in the same folder, as in DataLad's trees."""

    def make(path: Path) -> None:
        (path.parent / "content.bin").write_bytes(content)
        path.symlink_to("content.bin")

    return make


def outside(path: Path) -> None:
    secret = path.parent / "secret.txt"
    secret.write_text("root:x:0:0")
    path.symlink_to(secret)


def changed(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def extension(size: int) -> bytes:
    head = header(vox_offset=384.0)
    head[348] = 1
    return bytes(head) + struct.pack("<2i", size, 6) + bytes(24) + voxels().tobytes("F")


def four(count: int) -> np.ndarray:
    return np.stack([voxels()] * count, -1)


def coloured(code: int, channels: int) -> bytes:
    head = header(SHAPE, code, 8 * channels)
    return bytes(head) + bytes(channels * int(np.prod(SHAPE)))


GOOD = plain()
GZ = packed(GOOD)
HU = voxels() - np.int16(1024)

ENTRIES = [
    Entry("00_control.nii.gz", GZ),
    Entry("A01_half.nii.gz", GZ[: len(GZ) // 2], "E_TRUNCATED", says="copy or download"),
    Entry("A02_no_trailer.nii.gz", GZ[:-8], "E_TRUNCATED"),
    Entry("A03_bad_crc.nii.gz", changed(GZ, len(GZ) - 8, b"\1\2\3\4"), "E_CRC", says="checksum"),
    Entry("A04_bitflips.nii.gz", changed(GZ, len(GZ) // 2, b"\xff" * 48), "E_CORRUPT"),
    Entry("A05_empty.nii.gz", b"", "E_EMPTY"),
    Entry("A06_plain_named_gz.nii.gz", GOOD, "E_NAME", says="rename it to .nii"),
    Entry("A07_gz_named_nii.nii", GZ, "E_NAME", says="rename it to .nii.gz"),
    Entry(
        "A08_web_page.nii.gz", b"\n<!DOCTYPE html><html>404</html>", "E_NOT_NIFTI", says="web page"
    ),
    Entry(
        "A09_pointer.nii.gz",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "E_POINTER",
        says="fetch",
    ),
    Entry("A10_garbage_after.nii.gz", GZ + b"garbage" * 20, warnings=("W_TRAILING",)),
    Entry("A11_members.nii.gz", packed(GOOD[:9999]) + packed(GOOD[9999:])),
    Entry("A12_twice.nii.gz", packed(GZ), "E_NAME", says="compressed twice"),
    Entry("A13_bomb.nii.gz", lambda p: p.write_bytes(bomb((1024,) * 3, 1024)), "E_SIZE"),
    Entry("A14_20000_cubed.nii.gz", packed(bytes(header((20000,) * 3)) + bytes(999)), "E_SIZE"),
    Entry("A15_200_bytes.nii", GOOD[:200], "E_TRUNCATED"),
    Entry("A16_header_only.nii", GOOD[:352], "E_TRUNCATED"),
    Entry("A17_half.nii", GOOD[: len(GOOD) // 2], "E_TRUNCATED"),
    Entry("A18_tail.nii", GOOD + bytes(100), warnings=("W_TRAILING",)),
    Entry("B01_magic.nii.gz", packed(plain(magic=b"xyz\0")), "E_MAGIC"),
    Entry("B02_sizeof_hdr.nii.gz", packed(plain(sizeof_hdr=0)), warnings=("W_HEADER",)),
    Entry("B03_dim0_0.nii.gz", packed(plain(dim=[0, *SHAPE, 1, 1, 1, 1])), "E_DIM"),
    Entry("B04_dim0_9.nii.gz", packed(plain(dim=[9, *SHAPE, 1, 1, 1, 1])), "E_DIM"),
    Entry("B05_negative.nii.gz", packed(plain(dim=[3, 36, -40, 34, 1, 1, 1, 1])), "E_DIM"),
    Entry("B06_axis_zero.nii.gz", packed(plain(dim=[3, 36, 0, 34, 1, 1, 1, 1])), "E_DIM"),
    Entry("B07_datatype.nii.gz", packed(plain(datatype=999)), "E_DTYPE", says="999"),
    Entry("B08_bitpix.nii.gz", packed(plain(bitpix=8)), warnings=("W_HEADER",)),
    Entry("B09_offset_0.nii.gz", packed(plain(vox_offset=0.0)), "E_OFFSET"),
    Entry("B10_offset_nan.nii.gz", packed(plain(vox_offset=np.nan)), "E_OFFSET"),
    Entry("B11_offset_past_end.nii.gz", packed(plain(vox_offset=1e6)), "E_OFFSET"),
    Entry("B11b_offset_past_end.nii", plain(vox_offset=1e6), "E_OFFSET"),
    Entry("B11c_offset_shifted.nii", plain(vox_offset=1024.0), "E_OFFSET"),
    Entry("B12_offset_negative.nii.gz", packed(plain(vox_offset=-16.0)), "E_OFFSET"),
    Entry(
        "B13_pixdim_0.nii.gz",
        packed(plain(pixdim=[-1, 0, 0, 0, 1, 1, 1, 1])),
        warnings=("W_PIXDIM",),
    ),
    Entry(
        "B14_pixdim_negative.nii.gz",
        packed(plain(pixdim=[-1, -2, 2, 2.5, 1, 1, 1, 1])),
        warnings=("W_PIXDIM",),
    ),
    Entry(
        "B15_pixdim_nan.nii.gz",
        packed(plain(pixdim=[-1, *[np.nan] * 3, 1, 1, 1, 1])),
        warnings=("W_PIXDIM",),
    ),
    Entry("B16_metre.nii.gz", packed(plain(xyzt_units=1)), "E_UNITS", says="--assume-mm"),
    Entry("B17_micron.nii.gz", packed(plain(xyzt_units=3)), "E_UNITS", says="--assume-mm"),
    Entry(
        "B18_slope_0.nii.gz",
        packed(plain(scl_slope=0.0, scl_inter=1000.0)),
        warnings=("W_SCALE",),
    ),
    Entry("B19_slope_nan.nii.gz", packed(plain(scl_slope=np.nan)), warnings=("W_SCALE",)),
    Entry("B20_slope_inf.nii.gz", packed(plain(scl_slope=np.inf)), warnings=("W_SCALE",)),
    Entry("B21_inter_nan.nii.gz", packed(plain(scl_slope=2.0, scl_inter=np.nan)), "E_SCALE"),
    Entry("B22_slope_negative.nii.gz", packed(plain(scl_slope=-0.25)), warnings=("W_SCALE",)),
    Entry("B23_big_endian.nii.gz", packed(plain(order=">"))),
    Entry("B24_nifti2.nii.gz", packed(nifti2(voxels()))),
    Entry("B25_pair.hdr", bytes(header(magic=b"ni1\0")), "E_PAIR"),
    Entry("B25b_pair_named_nii.nii.gz", packed(plain(magic=b"ni1\0")), "E_PAIR"),
    Entry("B26_extension_1GiB.nii.gz", packed(extension(2**30)), "E_HEADER"),
    Entry("B26b_extension.nii.gz", packed(extension(32))),
    Entry("B27_freesurfer.nii.gz", packed(plain(dim=[3, -1, 40, 34, 1, 1, 1, 1])), "E_DIM"),
    Entry("B28_name_in_text.nii.gz", packed(plain(**dict.fromkeys(TEXTS, SECRET)))),
    Entry(
        "C01_sform_qform.nii.gz",
        packed(plain(qoffset=[35, -40, 5])),
        "E_GEOM_CONFLICT",
        says="--geometry",
    ),
    Entry("C01b_half_mm.nii.gz", packed(plain(qoffset=[30.5, -40, 5])), warnings=("W_GEOM",)),
    Entry("C02_codes_0.nii.gz", packed(plain(sform_code=0, qform_code=0)), warnings=("W_NOGEOM",)),
    Entry("C03_singular.nii.gz", packed(plain(srow=affine(r22=0, r23=0))), "E_AFFINE"),
    Entry("C04_sform_nan.nii.gz", packed(plain(srow=[np.nan] * 12)), warnings=("W_AFFINE",)),
    Entry(
        "C04b_sform_nan_alone.nii.gz",
        packed(plain(srow=[np.nan] * 12, qform_code=0)),
        "E_AFFINE",
    ),
    Entry(
        "C05_sheared.nii.gz",
        packed(plain(srow=affine(r01=0.2), qform_code=0)),
        "E_SHEAR",
        says="--allow-shear",
    ),
    Entry("C06_right_handed.nii.gz", packed(plain(**oblique(0)))),
    Entry("C07_quaternion.nii.gz", packed(plain(quatern=[9, 1, 0], sform_code=0)), "E_AFFINE"),
    Entry("C07b_quaternion.nii.gz", packed(plain(quatern=[9, 1, 0])), warnings=("W_AFFINE",)),
    Entry(
        "C08_qfac_0.nii.gz",
        packed(plain(**oblique(20) | {"pixdim": [0, 2, 2, 2.5, 1, 1, 1, 1]})),
    ),
    Entry("C09_oblique.nii.gz", packed(plain(**oblique(30)))),
    Entry(
        "C10_other_sizes.nii.gz",
        packed(plain(srow=(AFFINE[:3] * [2, 2, 2, 1]).ravel(), qform_code=0)),
        "E_GEOM_CONFLICT",
    ),
    Entry("C11_sagittal.nii.gz", packed(plain(**sagittal()))),
    Entry(
        "C12_6mm.nii.gz",
        packed(plain(srow=affine(r22=6), qform_code=0, pixdim=[1, 2, 2, 6, 1, 1, 1, 1])),
        warnings=("W_RANGE",),
    ),
    Entry(
        "C13_far.nii.gz",
        packed(plain(srow=affine(r03=1e6), qoffset=[1e6, -40, 5])),
        warnings=("W_ORIGIN",),
    ),
    Entry("C14_qform_only.nii.gz", packed(plain(sform_code=0))),
    Entry("C15_near_singular.nii.gz", packed(plain(srow=affine(r22=2.5e-7))), "E_AFFINE"),
    Entry("D01_2d.nii.gz", packed(plain(voxels()[:, :, 17])), "E_DIM", says="2D"),
    Entry("D02_one_slice.nii.gz", packed(plain(voxels()[:, :, 17:18])), "E_SMALL"),
    Entry("D03_4d.nii.gz", packed(plain(four(3))), "E_4D", says="--volume"),
    Entry("D04_singleton.nii.gz", packed(plain(voxels()[..., None]))),
    Entry("D05_5d.nii.gz", packed(plain(four(3)[:, :, :, None])), "E_4D"),
    Entry("D06_1x1x1.nii.gz", packed(plain(np.full((1, 1, 1), 7, np.int16))), "E_SMALL"),
    Entry("D07_5x5x5.nii.gz", packed(plain(voxels()[15:20, 15:20, 15:20])), "E_SMALL"),
    Entry("D08_rgb24.nii.gz", packed(coloured(128, 3)), "E_RGB"),
    Entry("D09_rgba32.nii.gz", packed(coloured(2304, 4)), "E_RGB"),
    Entry(
        "D10_complex.nii.gz",
        packed(plain(voxels().astype(np.complex64))),
        "E_COMPLEX",
        says="magnitude",
    ),
    Entry("D11_float64.nii.gz", packed(plain(voxels() * 0.99))),
    Entry("D12_int64.nii.gz", packed(plain(voxels().astype(np.int64)))),
    Entry("D13_bits.nii.gz", packed(plain(datatype=1, bitpix=1)), "E_DTYPE"),
    Entry("D14_uint16.nii.gz", packed(plain(voxels().astype(np.uint16) * 90))),
    Entry("E01_few_nan.nii.gz", packed(plain(with_values(np.nan, 24))), warnings=("W_NONFINITE",)),
    Entry("E01b_many_nan.nii.gz", packed(plain(with_values(np.nan, 480))), "E_NONFINITE"),
    Entry("E02_all_nan.nii.gz", packed(plain(np.full(SHAPE, np.nan, np.float32))), "E_NONFINITE"),
    Entry("E03_inf.nii.gz", packed(plain(with_values(np.inf, 24))), warnings=("W_NONFINITE",)),
    Entry("E04_zero.nii.gz", packed(plain(np.zeros(SHAPE, np.int16))), "E_CONSTANT"),
    Entry("E05_constant.nii.gz", packed(plain(np.full(SHAPE, 100, np.int16))), "E_CONSTANT"),
    Entry(
        "E05b_constant_and_nan.nii.gz",
        packed(plain(with_values(np.nan, 24) * 0 + 100)),
        "E_CONSTANT",
    ),
    Entry(
        "E06_1e30.nii.gz",
        packed(plain((voxels() * 1e30).astype(np.float32))),
        warnings=("W_RANGE",),
    ),
    Entry("E07_hounsfield.nii.gz", packed(plain(HU)), "E_MODALITY", says="--force"),
    Entry("E08_labels.nii.gz", packed(plain(voxels() // 200)), "E_LABELMAP", says="--force"),
    Entry(
        "E08b_many_labels.nii.gz",
        packed(plain((np.indices(SHAPE) // 8 * np.array([1, 5, 25])[:, None, None, None]).sum(0))),
        "E_LABELMAP",
    ),
    Entry("E09_hot_voxel.nii.gz", packed(plain(hot(voxels()))), warnings=("W_RANGE",)),
    Entry("F01_loop.nii.gz", link("F01_loop.nii.gz"), "E_PATH"),
    Entry("F02_dangling.nii.gz", link("nowhere"), "E_PATH"),
    Entry("F02b_annex.nii.gz", link(".git/annex/objects/x"), "E_PATH", says="datalad get"),
    Entry("F03_link.nii.gz", beside(GZ)),
    Entry("F04_outside.nii.gz", outside, "E_NOT_NIFTI"),
    Entry("F05_Größe_日本 語.nii.gz", GZ),
    Entry("F06_new\nline.nii.gz", GZ),
    Entry("F07_" + "n" * 200 + ".nii.gz", GZ),
    Entry("F08_folder.nii.gz", lambda path: path.mkdir(), "E_PATH", says="a folder"),
    Entry("F09_fifo.nii.gz", lambda path: os.mkfifo(path), "E_PATH", says="not a regular file"),
    Entry("._F10_side_file.nii.gz", b"\0\5\x16\7" + bytes(40), "E_NAME", says="leave it out"),
    Entry("-F11_dash.nii.gz", GZ),
    Entry("F12_UPPER.NII.GZ", GZ),
    Entry("F13_device.nii", link("/dev/zero"), "E_PATH", says="not a regular file"),
    Entry("F14_$(touch pwned);x.nii.gz", GZ),
]


def write_corpus(folder: Path) -> dict[str, Path]:
    """Write every file into ``folder``; return their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    return {entry.name: entry.write(folder) for entry in ENTRIES}
