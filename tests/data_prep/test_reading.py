import gzip
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxlate.data_prep import ScanError, read_mask, read_scan, scan_from_array

SHAPE = (36, 40, 34)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, 2.0, 0, -40], [0, 0, 2.5, 5], [0, 0, 0, 1]])
OFFSET = {"dim": 40, "datatype": 70, "pixdim": 76, "vox_offset": 108, "magic": 344}


def voxels(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    at = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    head = sum(a**2 for a in at) < 0.8
    return (head * rng.uniform(100, 600, SHAPE)).astype(np.int16)


def plain(data: np.ndarray | None = None, affine: np.ndarray = AFFINE, **fields: object) -> bytes:
    """A whole .nii file as bytes, header fields overwritten without nibabel's repairs."""
    image = nib.Nifti1Image(voxels() if data is None else data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    header = image.header.copy()
    raw = bytearray(image.to_bytes())
    for name, value in fields.items():
        index = None
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], list):
            index, value = value[0], value[1][0]
        dtype, offset = header.template_dtype.fields[name]
        if index is not None:
            offset, dtype = offset + index * dtype.base.itemsize, dtype.base
        block = np.asarray(value, dtype=dtype.base).tobytes()
        raw[offset : offset + len(block)] = block
    return bytes(raw)


def packed(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


GOOD = plain()
FLOATS = voxels().astype(np.float32)


def with_nan(share: float) -> bytes:
    data = FLOATS.copy()
    data.ravel()[: int(share * data.size)] = np.nan
    return plain(data)


def bomb() -> bytes:
    header = bytearray(GOOD[:352])
    header[40:56] = struct.pack("<8h", 3, 1024, 1024, 1024, 1, 1, 1, 1)
    header[70:74] = struct.pack("<2h", 2, 8)
    return packed(bytes(header) + bytes(2**24))


def tail_bomb() -> bytes:
    return packed(GOOD + bytes(2**26))


def moved(mm: float) -> bytes:
    return plain(qoffset_x=30 + mm)


def big_endian() -> bytes:
    header = nib.Nifti1Image.from_bytes(GOOD).header.as_byteswapped(">")
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = 1, 0
    return header.binaryblock + bytes(4) + voxels().astype(">i2").tobytes("F")


def sheared() -> bytes:
    affine = AFFINE.copy()
    affine[0, 1] = 0.3
    return plain(affine=affine, qform_code=0)


BAD: dict[str, tuple[str, bytes, str]] = {
    "half a gzip": ("a.nii.gz", packed(GOOD)[: len(packed(GOOD)) // 2], "E_TRUNCATED"),
    "gzip without its end": ("a.nii.gz", packed(GOOD)[:-8], "E_TRUNCATED"),
    "wrong checksum": (
        "a.nii.gz",
        packed(GOOD)[:-8] + b"\1\2\3\4" + packed(GOOD)[-4:],
        "E_CRC",
    ),
    "damaged gzip": ("a.nii.gz", packed(GOOD)[:2000] + b"\xff" * 64 + packed(GOOD)[2064:], "*"),
    "empty": ("a.nii.gz", b"", "E_EMPTY"),
    "plain named gzip": ("a.nii.gz", GOOD, "E_NAME"),
    "gzip named plain": ("a.nii", packed(GOOD), "E_NAME"),
    "web page": ("a.nii.gz", b"<!DOCTYPE html><html>404</html>", "E_NOT_NIFTI"),
    "text": ("a.nii.gz", b"hello", "E_NOT_NIFTI"),
    "git-lfs pointer": (
        "a.nii.gz",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "E_POINTER",
    ),
    "compressed twice": ("a.nii.gz", packed(packed(GOOD)), "E_NAME"),
    "gzip bomb": ("a.nii.gz", bomb(), "E_SIZE"),
    "gzip bomb after the voxels": ("a.nii.gz", tail_bomb(), "E_SIZE"),
    "header far larger than the file": (
        "a.nii.gz",
        packed(plain(dim=[3, 600, 600, 600, 1, 1, 1, 1])),
        "E_SIZE",
    ),
    "short header": ("a.nii", GOOD[:200], "E_TRUNCATED"),
    "header only": ("a.nii", GOOD[:352], "E_TRUNCATED"),
    "half the voxels": ("a.nii", GOOD[: len(GOOD) // 2], "E_TRUNCATED"),
    "no signature": ("a.nii.gz", packed(plain(magic=b"xyz")), "E_MAGIC"),
    "pair by signature": ("a.nii.gz", packed(plain(magic=b"ni1")), "E_PAIR"),
    "pair by name": ("a.hdr", GOOD[:352], "E_PAIR"),
    "another format": ("a.mgz", packed(GOOD), "E_FORMAT"),
    "no dimensions": ("a.nii.gz", packed(plain(dim=(0, [0]))), "E_DIM"),
    "nine dimensions": ("a.nii.gz", packed(plain(dim=(0, [9]))), "E_DIM"),
    "negative axis": ("a.nii.gz", packed(plain(dim=(2, [-40]))), "E_DIM"),
    "empty axis": ("a.nii.gz", packed(plain(dim=(2, [0]))), "E_DIM"),
    "2D": ("a.nii.gz", packed(plain(voxels()[:, :, 17])), "E_DIM"),
    "one slice": ("a.nii.gz", packed(plain(voxels()[:, :, 17:18])), "E_SMALL"),
    "4D": ("a.nii.gz", packed(plain(np.stack([voxels()] * 3, -1))), "E_4D"),
    "5D": ("a.nii.gz", packed(plain(np.stack([voxels()] * 3, -1)[:, :, :, None])), "E_4D"),
    "RGB": (
        "a.nii.gz",
        packed(plain(np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))),
        "E_RGB",
    ),
    "complex": ("a.nii.gz", packed(plain(FLOATS.astype(np.complex64))), "E_COMPLEX"),
    "unknown type": ("a.nii.gz", packed(plain(datatype=999)), "E_DTYPE"),
    "bits": ("a.nii.gz", packed(plain(datatype=1)), "E_DTYPE"),
    "offset 0": ("a.nii.gz", packed(plain(vox_offset=0)), "E_OFFSET"),
    "offset NaN": ("a.nii.gz", packed(plain(vox_offset=np.nan)), "E_OFFSET"),
    "offset negative": ("a.nii.gz", packed(plain(vox_offset=-16)), "E_OFFSET"),
    "offset past the end": ("a.nii", plain(vox_offset=1e6), "E_OFFSET"),
    "huge extension": (
        "a.nii.gz",
        packed(
            plain(vox_offset=368)[:348]
            + b"\1\0\0\0"
            + struct.pack("<4i", 2**30, 6, 0, 0)
            + GOOD[352:]
        ),
        "E_HEADER",
    ),
    "metres": ("a.nii.gz", packed(plain(xyzt_units=1)), "E_UNITS"),
    "microns": ("a.nii.gz", packed(plain(xyzt_units=3)), "E_UNITS"),
    "intercept NaN": ("a.nii.gz", packed(plain(scl_slope=2.0, scl_inter=np.nan)), "E_SCALE"),
    "transforms apart": ("a.nii.gz", packed(moved(5)), "E_GEOM_CONFLICT"),
    "sizes apart": (
        "a.nii.gz",
        packed(plain(qform_code=0, pixdim=[1, 1, 2, 2.5, 1, 1, 1, 1])),
        "E_GEOM_CONFLICT",
    ),
    "singular sform": ("a.nii.gz", packed(plain(srow_z=[0, 0, 0, 0])), "*"),
    "NaN sform alone": ("a.nii.gz", packed(plain(srow_x=[np.nan] * 4, qform_code=0)), "E_AFFINE"),
    "no rotation": ("a.nii.gz", packed(plain(quatern_b=9.0, sform_code=0)), "E_AFFINE"),
    "sheared": ("a.nii.gz", packed(sheared()), "E_SHEAR"),
    "5x5x5": ("a.nii.gz", packed(plain(voxels()[15:20, 15:20, 15:20])), "E_SMALL"),
    "many NaN": ("a.nii.gz", packed(with_nan(0.01)), "E_NONFINITE"),
    "all NaN": ("a.nii.gz", packed(with_nan(1)), "E_NONFINITE"),
    "all zero": ("a.nii.gz", packed(plain(np.zeros(SHAPE, np.int16))), "E_CONSTANT"),
    "constant": ("a.nii.gz", packed(plain(np.full(SHAPE, 100, np.int16))), "E_CONSTANT"),
    "label map": ("a.nii.gz", packed(plain(voxels() // 200)), "E_LABELMAP"),
    "macOS side file": ("._a.nii.gz", packed(GOOD), "E_NAME"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_refused_with_one_line_and_a_code(tmp_path: Path, case: str) -> None:
    name, content, code = BAD[case]
    path = tmp_path / name
    path.write_bytes(content)
    begun = time.perf_counter()
    with pytest.raises(ScanError) as caught:
        read_scan(path)
    assert time.perf_counter() - begun < 2
    assert code in ("*", caught.value.code), str(caught.value)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"{path}: ") and " - " in line
    assert caught.value.exit_code == 9


GOOD_FILES: dict[str, tuple[str, bytes, str]] = {
    "gzip": ("a.nii.gz", packed(GOOD), ""),
    "plain": ("a.nii", GOOD, ""),
    "upper case": ("A.NII.GZ", packed(GOOD), ""),
    "any script": ("Größe_日本 語.nii.gz", packed(GOOD), ""),
    "shell in its name": ("$(touch pwned);x.nii.gz", packed(GOOD), ""),
    "members": ("a.nii.gz", packed(GOOD[:9999]) + packed(GOOD[9999:]), ""),
    "after the gzip": ("a.nii.gz", packed(GOOD) + b"garbage", "W_TRAILING"),
    "one byte after the gzip": ("a.nii.gz", packed(GOOD) + b"g", "W_TRAILING"),
    "zeros after the gzip": ("a.nii.gz", packed(GOOD) + bytes(512), ""),
    "after the voxels": ("a.nii", GOOD + b"tail", "W_TRAILING"),
    "header size 0": ("a.nii.gz", packed(plain(sizeof_hdr=0)), "W_HEADER"),
    "wrong bitpix": ("a.nii.gz", packed(plain(bitpix=8)), "W_HEADER"),
    "pixdim zero": ("a.nii.gz", packed(plain(pixdim=[1, 0, 0, 0, 1, 1, 1, 1])), "W_PIXDIM"),
    "pixdim NaN": ("a.nii.gz", packed(plain(pixdim=[1] + [np.nan] * 7)), "W_PIXDIM"),
    "pixdim negative": ("a.nii.gz", packed(plain(pixdim=[-1, -2, 2, 2.5, 1, 1, 1, 1])), "W_PIXDIM"),
    "slope 0": ("a.nii.gz", packed(plain(scl_slope=0.0, scl_inter=1000.0)), "W_SCALE"),
    "slope infinite": ("a.nii.gz", packed(plain(scl_slope=np.inf, scl_inter=0.0)), "W_SCALE"),
    "transforms nearly apart": ("a.nii.gz", packed(moved(0.5)), "W_GEOM"),
    "NaN sform": ("a.nii.gz", packed(plain(srow_x=[np.nan] * 4)), "W_AFFINE"),
    "NaN qform": ("a.nii.gz", packed(plain(quatern_b=9.0)), "W_AFFINE"),
    "only qform": ("a.nii.gz", packed(plain(sform_code=0)), ""),
    "only sform": ("a.nii.gz", packed(plain(qform_code=0)), ""),
    "singleton fourth axis": ("a.nii.gz", packed(plain(voxels()[..., None])), ""),
    "big endian": (
        "a.nii.gz",
        packed(big_endian()),
        "",
    ),
    "NIfTI-2": ("a.nii.gz", packed(nib.Nifti2Image(voxels(), AFFINE).to_bytes()), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD_FILES)
def test_good_file_is_read_with_its_voxels_and_place(tmp_path: Path, case: str) -> None:
    name, content, warning = GOOD_FILES[case]
    path = tmp_path / name
    path.write_bytes(content)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.data, voxels())
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-4)
    assert scan.data.dtype == np.float32 and scan.affine.dtype == np.float64
    if warning:
        assert any(text.startswith(warning) for text in scan.warnings)
    else:
        assert scan.warnings == ()


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_every_voxel_type_reads_as_nibabel_does(tmp_path: Path, dtype: str) -> None:
    data = (voxels() % 251).astype(dtype)
    image = nib.Nifti1Image(data, AFFINE, dtype=dtype)
    image.header.set_slope_inter(0.1, -3)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed(image.to_bytes()))
    scan = read_scan(path)
    wanted = nib.load(path).get_fdata(dtype=np.float32)
    np.testing.assert_allclose(scan.data, wanted, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(scan.affine, nib.load(path).affine, atol=1e-6)
    assert scan.dtype == np.dtype(dtype)


def test_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed(plain(scl_slope=0.5, scl_inter=-7.0)))
    np.testing.assert_array_equal(read_scan(path).data, voxels() * 0.5 - 7)


def test_few_nan_become_zero_and_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed(with_nan(0.0005)))
    scan = read_scan(path)
    assert np.isfinite(scan.data).all()
    count = int(0.0005 * scan.data.size)
    assert scan.warnings == (f"W_NONFINITE: {count} NaN or infinite voxels set to 0",)


def test_unusual_voxels_and_intensities_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    affine = np.diag([2.0, 2.0, 6.0, 1.0])
    path.write_bytes(packed(plain(FLOATS * np.float32(1e30), affine)))
    codes = [text.split(":")[0] for text in read_scan(path).warnings]
    assert codes == ["W_RANGE", "W_RANGE"]


def test_no_orientation_is_told_not_invented_silently(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed(plain(sform_code=0, qform_code=0)))
    scan = read_scan(path)
    assert scan.warnings[0].startswith("W_NOGEOM")
    assert scan.spacing == (2.0, 2.0, 2.5)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "loop", "dangling", "nul"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.nii.gz"
    make: dict[str, Callable[[], object]] = {
        "missing": lambda: None,
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "loop": lambda: path.symlink_to(path),
        "dangling": lambda: path.symlink_to(tmp_path / "nowhere"),
        "nul": lambda: None,
    }
    make[kind]()
    begun = time.perf_counter()
    with pytest.raises(ScanError) as caught:
        read_scan(f"{path}\0.nii" if kind == "nul" else path)
    assert caught.value.code == "E_PATH"
    assert time.perf_counter() - begun < 1


def test_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.nii.gz").write_bytes(packed(GOOD))
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "real.nii.gz")
    assert read_scan(tmp_path / "link.nii.gz").shape == SHAPE


def test_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(bomb())
    root = Path(__file__).parents[2]
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[2]); import conftest\n"
        "from voxlate.data_prep import read_scan, ScanError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_scan(sys.argv[1])\n"
        "except ScanError as e: print(e.code)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, root], capture_output=True, text=True, check=True
    )
    verdict, grown = done.stdout.split()
    assert verdict == "E_SIZE"
    assert int(grown) < 100 * 1024  # KiB


def test_every_shortened_file_is_refused(tmp_path: Path) -> None:
    """Never another exception, and never half an image, wherever the copy stopped."""
    whole = packed(GOOD)
    path = tmp_path / "a.nii.gz"
    for length in [*range(0, 400, 13), *range(400, len(whole), len(whole) // 25)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ScanError):
            read_scan(path)


def test_no_header_byte_leads_to_another_exception(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "a.nii"
    for position in range(0, 352):
        raw = bytearray(GOOD)
        raw[position] = int(rng.integers(256))
        path.write_bytes(raw)
        try:
            scan = read_scan(path)
        except ScanError:
            continue
        assert np.isfinite(scan.data).all() and np.isfinite(scan.affine).all()


def test_size_limits_are_arguments(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed(plain(voxels()[8:28, 8:28, 8:28])))
    with pytest.raises(ScanError, match="too small"):
        read_scan(path)
    assert read_scan(path, min_voxels=16, min_extent_mm=30).shape == (20, 20, 20)


def test_array_goes_through_the_same_checks() -> None:
    scan = scan_from_array(voxels(), AFFINE, name="x")
    assert scan.shape == SHAPE and scan.spacing == (2.0, 2.0, 2.5)
    for wrong, code in [
        (voxels()[0], "E_DIM"),
        (np.zeros(SHAPE), "E_CONSTANT"),
        (np.full(SHAPE, np.nan), "E_NONFINITE"),
        (FLOATS.astype(complex), "E_COMPLEX"),
    ]:
        with pytest.raises(ScanError) as caught:
            scan_from_array(wrong, AFFINE)
        assert caught.value.code == code
    with pytest.raises(ScanError, match="affine"):
        scan_from_array(voxels(), np.zeros((4, 4)))


def test_mask_must_lie_on_the_grid_of_its_scan(tmp_path: Path) -> None:
    scan = scan_from_array(voxels(), AFFINE)
    path = tmp_path / "lesion.nii.gz"
    path.write_bytes(packed(plain((voxels() > 300).astype(np.uint8))))
    np.testing.assert_array_equal(read_mask(path, like=scan), voxels() > 300)
    path.write_bytes(packed(plain((voxels() > 300).astype(np.uint8)[1:])))
    with pytest.raises(ScanError, match="resample"):
        read_mask(path, like=scan)
