import contextlib
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scan_corpus import ENTRIES, SECRET

from voxlate.data_prep import (
    OutputError,
    Overrides,
    Scan,
    atomic_file,
    read_scan,
    scan_from_array,
    write_atomically,
    write_scan,
)
from voxlate.data_prep.output_header import output_header


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    rng = np.random.default_rng(0)
    affine = np.array([[0, 0, -1.5, 40], [-2, 0, 0, 7], [0, 2.0, 0, -12], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(rng.uniform(0, 900, (40, 36, 44)).astype(np.float32), affine)
    image.set_sform(affine, 4)
    image.set_qform(affine, 2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"DOE^JANE 1970"
    image.header["aux_file"] = b"jane.txt"
    image.header["db_name"] = b"ward 7"
    image.header["intent_name"] = b"secret"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE"))
    nib.save(image, tmp_path / "in.nii.gz")
    return read_scan(tmp_path / "in.nii.gz")


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nii", "OUT.NII.GZ"])
def test_output_has_the_voxels_and_the_place_of_its_scan(
    scan: Scan, tmp_path: Path, name: str
) -> None:
    data = scan.data / 3
    path = write_scan(tmp_path / name, data, scan)
    again = read_scan(path)
    np.testing.assert_array_equal(again.data, data)
    np.testing.assert_allclose(again.affine, scan.affine, atol=1e-4)
    assert again.dtype == np.float32 and again.warnings == ()
    old, new = nib.load(scan.path), nib.load(path)
    np.testing.assert_array_equal(new.get_sform(), old.get_sform())
    np.testing.assert_allclose(new.get_qform(), old.get_qform(), atol=1e-6)
    for field in ("sform_code", "qform_code", "xyzt_units"):
        assert new.header[field] == old.header[field]
    np.testing.assert_array_equal(new.header["pixdim"][:4], old.header["pixdim"][:4])


def test_text_and_extensions_of_the_scan_stay_behind(scan: Scan, tmp_path: Path) -> None:
    path = write_scan(tmp_path / "out.nii", scan.data, scan)
    head = path.read_bytes()[:352]
    for secret in (b"DOE", b"jane", b"ward", b"secret"):
        assert secret not in head
    assert len(nib.load(path).header.extensions) == 0
    assert b"voxlate" in head


def test_equal_data_gives_equal_bytes(scan: Scan, tmp_path: Path) -> None:
    first = write_scan(tmp_path / "a.nii.gz", scan.data, scan).read_bytes()
    assert write_scan(tmp_path / "b.nii.gz", scan.data, scan).read_bytes() == first


@pytest.mark.parametrize("codes", [(0, 0), (0, 1), (3, 0), (4, 1)])
def test_codes_are_kept(scan: Scan, tmp_path: Path, codes: tuple[int, int]) -> None:
    header = scan.header.copy()
    header["sform_code"], header["qform_code"] = codes
    like = Scan(scan.path, scan.data, scan.affine, header, scan.dtype)
    out = nib.load(write_scan(tmp_path / "out.nii", scan.data, like))
    assert (int(out.header["sform_code"]), int(out.header["qform_code"])) == codes


def test_scan_from_an_array_is_written_where_it_lies(tmp_path: Path) -> None:
    affine = np.diag([-1.0, 1, 2, 1])
    data = np.random.default_rng(1).uniform(size=(64, 60, 34)).astype(np.float32)
    like = scan_from_array(data, affine)
    again = read_scan(write_scan(tmp_path / "o.nii.gz", data, like))
    np.testing.assert_allclose(again.affine, affine, atol=1e-6)


def test_no_part_of_a_file_is_left_when_writing_fails(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "o.nii.gz"
    target.parent.mkdir()
    target.write_bytes(b"what was there")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        write_scan(target, scan.data, scan)
    assert caught.value.exit_code == 4
    assert [p.name for p in target.parent.iterdir()] == ["o.nii.gz"]
    assert target.read_bytes() == b"what was there"


def test_missing_folder_is_refused(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="check the folder"):
        write_scan(tmp_path / "nowhere" / "o.nii.gz", scan.data, scan)


def test_wrong_shape_is_refused(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        write_scan(tmp_path / "o.nii.gz", scan.data[1:], scan)


def test_permissions_follow_the_umask(scan: Scan, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        path = write_scan(tmp_path / "o.nii.gz", scan.data, scan)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("entry", [e for e in ENTRIES if not e.code], ids=lambda e: e.name[:4])
def test_header_of_every_usable_file_is_kept_without_its_text(entry, tmp_path: Path) -> None:
    scan = read_scan(entry.write(tmp_path))
    old, new = scan.header, nib.load(write_scan(tmp_path / "o.nii.gz", scan.data, scan)).header
    assert new["sform_code"] == old["sform_code"] and new["qform_code"] == old["qform_code"]
    assert new["xyzt_units"] == old["xyzt_units"]
    broken = "W_AFFINE" in " ".join(scan.warnings)
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        if int(old["qform_code"]) > 0 and not broken:
            assert new[name] == old[name]
    for name in ("srow_x", "srow_y", "srow_z"):
        if int(old["sform_code"]) > 0 and not broken:
            np.testing.assert_array_equal(new[name], old[name])
    if not broken and "W_PIXDIM" not in " ".join(scan.warnings):
        np.testing.assert_array_equal(new["pixdim"][1:4], old["pixdim"][1:4])
    assert SECRET not in (tmp_path / "o.nii.gz").read_bytes()


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">f4"])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 900), (40, 41)])
def test_integers_of_the_scan_hold_the_result_to_half_a_level(
    tmp_path: Path, dtype: str, low: float, high: float
) -> None:
    data = np.random.default_rng(0).uniform(low, high, (32, 33, 34)).astype(np.float32)
    data[4:9] = 0 if low <= 0 else low
    like = scan_from_array(data, np.diag([2.0, 2, 2, 1]))
    path = write_scan(tmp_path / "o.nii.gz", data, like, dtype=dtype)
    image = nib.load(path)
    assert image.get_data_dtype() == np.dtype(dtype).newbyteorder("<")
    levels = 32767 if np.dtype(dtype).itemsize > 1 else {"u1": 255, "i1": 127}[dtype]
    span = max(high, -low) if np.dtype(dtype).kind == "i" or low >= 0 else high - low
    half = 0 if np.dtype(dtype).kind == "f" else span / levels / 2
    np.testing.assert_allclose(read_scan(path).data, data, atol=1.01 * half + 1e-6)
    np.testing.assert_allclose(image.get_fdata(), data, atol=1.01 * half + 1e-6)
    if low == 0:
        assert (read_scan(path).data[4:9] == 0).all()


def test_lengths_that_were_vouched_for_are_labelled_mm(tmp_path: Path) -> None:
    path = next(e for e in ENTRIES if e.name.startswith("B16")).write(tmp_path)
    scan = read_scan(path, overrides=Overrides(assume_mm=True))
    again = read_scan(write_scan(tmp_path / "o.nii.gz", scan.data, scan))
    np.testing.assert_allclose(again.affine, scan.affine)


def test_an_axis_too_long_for_nifti1_gets_nifti2(scan: Scan) -> None:
    like = Scan(
        scan.path, np.empty((40_000, 1, 1), np.float32), scan.affine, scan.header, scan.dtype
    )
    header = output_header(like, np.float32, (1, 0), "")
    assert isinstance(header, nib.Nifti2Header) and header.get_data_shape() == (40_000, 1, 1)
    assert header["vox_offset"] == 544 and len(header.binaryblock) == 540


def test_what_is_not_finite_is_not_written(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        write_scan(tmp_path / "o.nii", np.full(scan.shape, np.nan), scan)
    assert not (tmp_path / "o.nii").exists()


def test_name_that_no_file_system_takes_is_refused(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="shorter") as caught:
        write_scan(tmp_path / ("ö" * 130 + ".nii.gz"), scan.data, scan)
    assert caught.value.code == "E_NAME"


def test_order_is_sync_verify_rename_sync(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")

    def noted_replace(*paths: Path) -> None:
        steps.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with write_atomically(tmp_path / "a", verify=lambda _: steps.append("verify")) as file:
        file.write(b"x")
    assert steps == ["file", "verify", "rename", "folder"]


@pytest.mark.parametrize("stage", ["disk", "compression"])
def test_bytes_that_change_on_the_way_are_noticed(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def flip(temporary: Path) -> None:
        content = bytearray(temporary.read_bytes())
        content[-1000] ^= 1
        temporary.write_bytes(content)

    compare = atomic_file._compare

    def damage(temporary: Path, digest: str, path: Path) -> None:
        flip(temporary)
        if stage == "disk":
            compare(temporary, digest, path)

    monkeypatch.setattr(atomic_file, "_compare", damage)
    with pytest.raises(OutputError, match="read back") as caught:
        write_scan(tmp_path / "o.nii.gz", scan.data, scan)
    assert caught.value.code == "E_VERIFY"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.nii.gz"]


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("size", [0, 100, 400, 60_000])
def test_nothing_is_left_where_the_disk_is_full(scan: Scan, tmp_path: Path, size: int) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(OutputError) as caught, file_size_limit(size):
        write_scan(out / "o.nii.gz", scan.data, scan)
    assert caught.value.code == "E_DISK_FULL" and caught.value.exit_code == 4
    assert "MB free" in str(caught.value) and str(caught.value).isprintable()
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("kilobytes", [16, 100, 240])
def test_nothing_is_left_on_a_small_disk_that_fills_up(
    scan: Scan, tmp_path: Path, kilobytes: int
) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(tmp_path / "m")]
    (tmp_path / "m").mkdir()
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(OutputError, match="No space left") as caught:
            write_scan(tmp_path / "m" / "o.nii", scan.data, scan)
        assert caught.value.code == "E_DISK_FULL"
        assert list((tmp_path / "m").iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path / "m")], check=True)


def test_folder_without_permission_is_refused_and_stays_empty(scan: Scan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may write anywhere
        try:
            with pytest.raises(OutputError, match="Permission denied") as caught:
                write_scan(Path(folder, "o.nii"), scan.data, scan)
        finally:
            if user == 0:
                os.seteuid(0)
        assert caught.value.code == "E_OUTPUT"
        assert os.listdir(folder) == []


def test_folder_that_vanishes_while_writing_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        pytest.raises(OutputError, match="No such file") as caught,
        write_atomically(out / "o.csv") as file,
    ):
        file.write(b"x")
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
    assert caught.value.code == "E_OUTPUT"
    assert not out.exists()


def test_an_interruption_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), write_atomically(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["o.csv"]
