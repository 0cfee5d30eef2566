import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxlate.data_prep import OutputError, Scan, read_scan, scan_from_array, write_scan


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
