"""Batches of cases with several contrasts, and of scans that somebody has to vouch for."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from voxlate.pipelines import Translator
from voxlate.pipelines.cli import app

SCHEMA = Path(__file__).parents[2] / "pipelines" / "manifest.schema.json"
Batch = Callable[..., Any]


@pytest.fixture
def scans(tmp_path: Path, patient: Path) -> Path:
    shutil.copytree(patient, tmp_path / "in" / "p1")
    return tmp_path / "in"


@pytest.fixture
def batch(tmp_path: Path, several_bundle: Path, inline: type) -> Batch:
    """``voxlate batch INPUT`` into ``out``, with the bundle that takes several contrasts."""

    def batch(given: Path, *more: str, bundle: Path = several_bundle) -> Any:
        arguments = ["batch", str(given), "--output", str(tmp_path / "out"), "--steps", "0"]
        arguments += ["--bundle", str(bundle), "--device", "cpu"]
        return CliRunner().invoke(app, [*arguments, *more])

    return batch


def table(scans: Path, *columns: str, **files: str) -> Path:
    """A list of one case, p1, with a column for each contrast."""
    row = [files.get(name, f"p1/{name}.nii.gz") for name in columns]
    text = f"id,{','.join(columns)}\np1,{','.join(row)}\n"
    (scans / "list.csv").write_text(text)
    return scans / "list.csv"


def record(out: Path, name: str = "p1.json") -> dict[str, Any]:
    found = json.loads((out / name).read_text())
    jsonschema.validate(found, json.loads(SCHEMA.read_text()))
    return found


def test_every_column_of_a_row_is_given_to_a_bundle_that_takes_several(
    batch: Batch, scans: Path, tmp_path: Path, several_bundle: Path
) -> None:
    result = batch(table(scans, "flair", "t1"), "--to", "t2", "--to", "flair", "--no-picture")
    assert result.exit_code == 0, result.output
    found = record(tmp_path / "out")
    assert found["Input"]["Modality"] == "t1"  # the first of the bundle's order is the grid
    assert [other["Modality"] for other in found["OtherInputs"]] == ["flair"]
    assert list(found["Outputs"]) == ["t2"]
    assert "W_GIVEN: flair is given, so it is not made" in found["Warnings"]
    translator = Translator.from_bundle(several_bundle, device="cpu")
    files = {name: scans / "p1" / f"{name}.nii.gz" for name in ("t1", "flair")}
    alone = translator(volumes=files, targets=["t2"], case_id="p1", steps=0)
    made = nib.load(tmp_path / "out" / "p1_t2.nii.gz").get_fdata()
    np.testing.assert_array_equal(made.astype(np.float32), alone["t2"])


def test_case_whose_further_contrast_changed_is_not_taken_for_finished(
    batch: Batch, scans: Path, tmp_path: Path
) -> None:
    def why(*columns: str) -> str:
        result = batch(table(scans, *columns), "--to", "t2", "--no-picture")
        assert result.exit_code == 0, result.output
        if "1 verified" in result.stdout:
            return "verified"
        redone = [w for w in record(tmp_path / "out")["Warnings"] if w.startswith("W_REDONE")]
        return redone[0] if redone else "written"

    assert why("t1", "flair") == "written"
    assert why("t1", "flair") == "verified"
    path = scans / "p1" / "flair.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 0.9, image.affine), path)
    assert why("t1", "flair") == "W_REDONE: the flair is another than before"
    assert why("t1") == "W_REDONE: it was made from flair, too"
    assert why("t1", "t1ce") == "W_REDONE: there was no t1ce before"
    assert why("t1", "t1ce") == "verified"


def test_contrasts_on_two_grids_fail_with_the_way_out_and_can_be_registered(
    batch: Batch, scans: Path, tmp_path: Path
) -> None:
    path = scans / "p1" / "flair.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 7
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    given = table(scans, "t1", "flair")
    result = batch(given, "--to", "t2", "--no-picture")
    assert result.exit_code == 9 and "E_GRID" in result.stderr
    assert "--register rigid" in result.stderr
    with (tmp_path / "out" / "failed.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["t1"] == str(scans / "p1" / "t1.nii.gz") and row["flair"] == str(path)
    assert batch(given, "--to", "t2", "--register", "rigid").exit_code == 4  # another run's folder
    result = batch(given, "--to", "t2", "--no-picture", "--register", "rigid", "--overwrite")
    assert result.exit_code == 0, result.output
    found = record(tmp_path / "out")
    assert found["Options"]["Register"] == "rigid"
    assert found["OtherInputs"][0]["Registered"]["ShiftMM"] == pytest.approx(7, abs=1.5)


def test_bundle_of_one_contrast_says_which_of_several_it_takes(
    batch: Batch, scans: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    given = table(scans, "t1", "flair")
    options = ("--to", "t2", "--no-picture")
    result = batch(given, *options, bundle=tiny_bundle)
    assert result.exit_code == 0, result.output
    assert "1 case(s) have several contrasts, and this bundle translates one" in result.stderr
    assert record(tmp_path / "out")["OtherInputs"] == []
    named = batch(given, *options, "--source", "flair", bundle=tiny_bundle)
    assert "several contrasts" not in named.stderr
    assert record(tmp_path / "out")["Input"]["Modality"] == "flair"
    refused = batch(given, *options, "--register", "rigid", bundle=tiny_bundle)
    assert refused.exit_code == 2 and "nothing to register" in refused.stderr


def test_sources_choose_what_a_bundle_of_several_sees(
    batch: Batch, scans: Path, tmp_path: Path
) -> None:
    result = batch(scans, "--source", "t2", "--source", "t1", "--to", "flair", "--no-picture")
    assert result.exit_code == 0, result.output
    found = record(tmp_path / "out", "p1/t1.json")
    assert found["Input"]["Modality"] == "t1" and list(found["Outputs"]) == ["flair"]
    assert [other["Modality"] for other in found["OtherInputs"]] == ["t2"]
    nothing = batch(scans, "--to", "flair", "--no-picture", "--overwrite")
    assert nothing.exit_code == 9 and "E_TARGET nothing to make" in nothing.stderr


def test_bids_sidecar_names_every_scan_and_the_picture_shows_it(
    batch: Batch, scans: Path, tmp_path: Path
) -> None:
    (scans / "dataset_description.json").write_text("{}")
    folder = scans / "sub-1" / "anat"
    folder.mkdir(parents=True)
    for name, suffix in (("t1", "T1w"), ("flair", "FLAIR")):
        shutil.move(scans / "p1" / f"{name}.nii.gz", folder / f"sub-1_{suffix}.nii.gz")
    shutil.rmtree(scans / "p1")
    assert batch(scans, "--to", "t2").exit_code == 0
    out = tmp_path / "out" / "sub-1" / "anat"
    sidecar = json.loads((out / "sub-1_desc-synth_T2w.json").read_text())
    assert sidecar["Synthetic"] is True
    assert sidecar["Description"] == "t2 made from t1, flair by voxlate"
    assert sidecar["Sources"] == [
        "bids:raw:sub-1/anat/sub-1_T1w.nii.gz",
        "bids:raw:sub-1/anat/sub-1_FLAIR.nii.gz",
    ]
    three = nib.load(out / "sub-1_desc-synth_T2w.nii.gz").shape
    assert three == (44, 52, 42)
    picture = (out / "sub-1_from-T1w_qc.png").read_bytes()
    width = int.from_bytes(picture[16:20], "big")  # of a PNG
    assert width == pytest.approx(3 * 2.6 * 110, abs=2)  # t1, flair and the made t2


def test_what_was_vouched_for_is_in_record_and_fingerprint(
    batch: Batch, head_file: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    (tmp_path / "in").mkdir()
    image = nib.load(head_file)
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "in" / "t1.nii.gz")
    options = ("--source", "t1", "--to", "t2", "--no-picture")
    result = batch(tmp_path / "in", *options, bundle=tiny_bundle)
    assert result.exit_code == 9 and "E_UNITS" in result.stderr
    vouched = (*options, "--assume-mm")
    refused = batch(tmp_path / "in", *vouched, bundle=tiny_bundle)
    assert refused.exit_code == 4 and "other options or weights" in refused.stderr
    made = batch(tmp_path / "in", *vouched, "--overwrite", bundle=tiny_bundle)
    assert made.exit_code == 0, made.output
    found = record(tmp_path / "out", "t1.json")
    assert found["Options"]["Overrides"] == {"assume_mm": True}
    assert any(text.startswith("W_UNITS") for text in found["Warnings"])
    again = CliRunner().invoke(app, ["retry", str(tmp_path / "out"), "--device", "cpu"])
    assert again.exit_code == 3  # nothing failed
    assert "1 verified" in batch(tmp_path / "in", *vouched, bundle=tiny_bundle).stdout
