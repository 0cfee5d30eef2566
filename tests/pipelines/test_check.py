"""A prepared folder passes; each thing that can be wrong with one is found and named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from voxlate.data_prep import NoInputError, UsageError
from voxlate.pipelines.check import Report, check
from voxlate.pipelines.prepare import prepare
from voxlate.pipelines.prepare_options import PrepareOptions


@pytest.fixture(scope="module")
def good(layout_trees: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    root = layout_trees("brats2021", folder / "raw", count=3)
    prepare("brats2021", root, folder / "out", options=PrepareOptions(crop=False), quiet=True)
    return folder / "out"


@pytest.fixture
def prepared(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "out"))


def change(file: Path, how: Callable[[np.ndarray], np.ndarray], **shift: float) -> None:
    image = nib.load(file)
    affine = image.affine.copy()
    affine[0, 3] += shift.get("x", 0.0)
    nib.save(nib.Nifti1Image(how(image.get_fdata()).astype(np.float32), affine), file)


def texts(report: Report, level: str, kind: str) -> list[str]:
    return [f"{f.case}: {f.text}" for f in report.findings if (f.level, f.check) == (level, kind)]


def test_prepared_folder_passes_and_tells_what_was_measured(prepared: Path) -> None:
    report = check(prepared, quiet=True)
    assert report.errors == 0, report.findings
    content = report.as_json()
    assert [case["modalities"] for case in content["cases"]] == [["t1", "t1ce", "t2", "flair"]] * 3
    assert {case["side"] for case in content["cases"]} == {"training", "validation"}
    assert max(max(case["offsets_mm"].values()) for case in content["cases"]) < 1.0
    json.dumps(content)


def test_each_fault_of_a_scan_is_found(prepared: Path) -> None:
    cases = prepared / "cases"
    damaged = cases / "BraTS2021_00000/t1.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:1500])
    shutil.copy(cases / "BraTS2021_00002/t1.nii.gz", cases / "BraTS2021_00002/t1ce.nii.gz")
    change(cases / "BraTS2021_00002/flair.nii.gz", lambda v: v, x=9.0)
    change(cases / "BraTS2021_00004/t2.nii.gz", lambda v: np.roll(v, 3, axis=1))
    change(cases / "BraTS2021_00004/flair.nii.gz", lambda v: v.clip(0, np.percentile(v[v > 0], 60)))
    report = check(prepared, quiet=True)
    (read,) = texts(report, "error", "read")
    assert str(damaged) in read
    assert "BraTS2021_00002: t1 and t1ce are the same voxels" in texts(report, "error", "duplicate")
    (grid,) = texts(report, "error", "geometry")
    assert "BraTS2021_00002: flair is on another grid than t1" in grid
    away = texts(report, "error", "alignment")
    assert any(line.startswith("BraTS2021_00004: t2 is about 1") for line in away)
    (bright,) = texts(report, "warning", "intensity")
    assert "flair" in bright and "is at the largest value" in bright
    assert [f.level for f in report.findings] == sorted(f.level for f in report.findings)


def test_scan_on_both_sides_is_a_leak_even_under_another_name(prepared: Path) -> None:
    listed = json.loads((prepared / "brats2021.json").read_text())
    held = listed["validation"][0]["id"]
    copied, near = (entry["id"] for entry in listed["training"])
    cases = prepared / "cases"
    shutil.copy(cases / held / "t1.nii.gz", cases / copied / "t1.nii.gz")
    shutil.copy(cases / held / "t2.nii.gz", cases / near / "t2.nii.gz")
    change(cases / near / "t2.nii.gz", lambda v: v * 1.01 + (v > 0))
    lines = texts(check(prepared, quiet=True), "error", "leakage")
    assert any("the same voxels in training and validation: t1 of" in line for line in lines)
    assert any("nearly the same in training and validation: t2" in line for line in lines)


def test_patient_on_both_sides_is_a_leak(prepared: Path) -> None:
    path = prepared / "brats2021.json"
    listed = json.loads(path.read_text())
    for side in ("training", "validation"):
        listed[side][0]["patient"] = "anna"
    listed["training"].append(dict(listed["training"][0]))
    listed["training"].append({"id": "gone", "t1": "cases/gone/t1.nii.gz"})
    path.write_text(json.dumps(listed))
    report = check(prepared, quiet=True)
    lines = texts(report, "error", "leakage")
    assert any("anna: the patient is in training and in validation" in line for line in lines)
    assert any("is there twice" in line for line in lines)
    assert any("no such file" in line for line in texts(report, "error", "read"))


def test_folder_without_a_list_is_checked_without_a_split(prepared: Path) -> None:
    (prepared / "brats2021.json").unlink()
    shutil.rmtree(prepared / "cases/BraTS2021_00002")
    report = check(prepared, quiet=True)
    assert [facts.case for facts in report.cases] == [
        "cases/BraTS2021_00000",
        "cases/BraTS2021_00004",
    ]
    assert not report.sides and report.errors == 0


def test_what_cannot_be_checked_is_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such folder"):
        check(tmp_path / "nowhere", quiet=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError):
        check(tmp_path / "empty", quiet=True)
    shutil.copy(prepared / "brats2021.json", prepared / "other.json")
    with pytest.raises(UsageError, match="several data lists: brats2021.json, other.json"):
        check(prepared, quiet=True)
    with pytest.raises(UsageError, match="not a data list"):
        check(prepared, datalist=prepared / "prepared.json", quiet=True)
