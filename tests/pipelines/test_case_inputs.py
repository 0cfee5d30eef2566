"""Contrasts of one case whose headers do not say how they lie."""

from pathlib import Path

import nibabel as nib
import pytest

from voxlate.data_prep import ScanError, write_phantom_case
from voxlate.pipelines.case_inputs import read_inputs

MODALITIES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture
def unoriented(tmp_path: Path) -> dict[str, Path]:
    """A T1, and a T2 on the same grid whose header has both codes 0."""
    write_phantom_case(tmp_path, (44, 52, 42), seed=3, spacing=3.5, modalities=("t1", "t2"))
    image = nib.Nifti1Image.from_filename(tmp_path / "t2.nii.gz")
    image.header.set_sform(None, 0)
    image.header.set_qform(None, 0)
    bare = nib.Nifti1Image(image.dataobj, None, image.header)
    bare.to_filename(tmp_path / "t2.nii.gz")
    return {name: tmp_path / f"{name}.nii.gz" for name in ("t1", "t2")}


def test_scan_without_orientation_is_taken_alone_with_a_warning(
    unoriented: dict[str, Path],
) -> None:
    inputs = read_inputs({"t2": unoriented["t2"]}, MODALITIES)
    header = inputs.scans["t2"].header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)
    assert any(warning.startswith("W_NOGEOM") for warning in inputs.warnings)


@pytest.mark.parametrize("register", [False, True])
def test_scan_without_orientation_is_refused_where_several_must_match(
    register: bool, unoriented: dict[str, Path]
) -> None:
    with pytest.raises(ScanError) as caught:
        read_inputs(unoriented, MODALITIES, register=register)
    assert caught.value.code == "E_NOGEOM"
    assert caught.value.file == str(unoriented["t2"]) and "of the t2" in caught.value.what
