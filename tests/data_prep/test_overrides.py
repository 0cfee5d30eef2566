from pathlib import Path

import numpy as np
import pytest
from scan_corpus import AFFINE, ENTRIES, affine, four, packed, plain, voxels

from voxlate.data_prep import Overrides, ScanError, read_scan


@pytest.mark.parametrize(
    ("number", "overrides", "warning"),
    [
        ("B16", Overrides(assume_mm=True), "W_UNITS"),
        ("C05", Overrides(shear=True), "W_SHEAR"),
        ("C01", Overrides(geometry="sform"), "W_GEOM"),
        ("C10", Overrides(geometry="sform"), "W_GEOM"),
        ("E07", Overrides(content=True), "W_MODALITY"),
        ("E08", Overrides(content=True), "W_LABELMAP"),
        ("E08b", Overrides(content=True), "W_LABELMAP"),
    ],
)
def test_what_the_user_vouches_for_is_read_with_a_warning(
    tmp_path: Path, number: str, overrides: Overrides, warning: str
) -> None:
    path = next(e for e in ENTRIES if e.name.startswith(number + "_")).write(tmp_path)
    with pytest.raises(ScanError):
        read_scan(path)
    warnings = read_scan(path, overrides=overrides).warnings
    assert [text.split(":")[0] for text in warnings] == [warning]


@pytest.mark.parametrize(("choice", "x"), [("sform", 30), ("qform", 35)])
def test_the_chosen_transform_is_the_one_that_is_used(
    tmp_path: Path, choice: str, x: float
) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed(plain(qoffset=[35, -40, 5])))
    overrides = Overrides(geometry="sform" if choice == "sform" else "qform")
    np.testing.assert_allclose(read_scan(path, overrides=overrides).affine[:3, 3], [x, -40, 5])


def test_a_chosen_transform_must_be_there_and_be_one(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    for content in (plain(sform_code=0), plain(srow=affine(r22=0, r23=0))):
        path.write_bytes(packed(content))
        with pytest.raises(ScanError, match="sform"):
            read_scan(path, overrides=Overrides(geometry="sform"))


@pytest.mark.parametrize("volume", [0, 1, 2])
def test_one_volume_of_a_4d_file_is_read(tmp_path: Path, volume: int) -> None:
    path = tmp_path / "a.nii.gz"
    data = four(3)
    data[..., volume] = voxels(seed=9)
    path.write_bytes(packed(plain(data)))
    scan = read_scan(path, overrides=Overrides(volume=volume))
    np.testing.assert_array_equal(scan.data, voxels(seed=9))
    np.testing.assert_allclose(scan.affine, AFFINE)


def test_a_volume_that_is_not_there_is_refused_and_so_is_a_cut_one(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(plain(four(3)))
    with pytest.raises(ScanError, match="0 to 2") as caught:
        read_scan(path, overrides=Overrides(volume=3))
    assert caught.value.code == "E_4D"
    path.write_bytes(plain(four(3))[:-9])
    with pytest.raises(ScanError) as caught:
        read_scan(path, overrides=Overrides(volume=0))
    assert caught.value.code == "E_TRUNCATED"
