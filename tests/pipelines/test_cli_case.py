"""The command with several contrasts of a case: what is written, and what is refused."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from voxlate.data_prep.modalities import ALIASES
from voxlate.pipelines.cli import app

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["translate", *map(str, arguments), "--device", "cpu"])


def line(result: Any) -> str:
    lines = [text for text in result.stderr.splitlines() if text.startswith("voxlate: ")]
    assert len(lines) == 1 and "Traceback" not in result.output, result.output
    return lines[0]


def test_the_missing_contrasts_of_a_case_are_written_with_their_inputs(
    patient: Path, several_bundle: Path, tmp_path: Path
) -> None:
    image = nib.load(patient / "flair.nii.gz")
    affine = image.affine.copy()
    affine[0, 3] += 7
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "b.nii.gz")
    out = tmp_path / "out"
    arguments = ("--t1", patient / "t1.nii.gz", "--flair", tmp_path / "b.nii.gz", "--to", "t2")
    refused = run(*arguments, "-o", out, "--bundle", several_bundle)
    assert refused.exit_code == 9 and "--register rigid" in line(refused) and not out.exists()
    assert "b.nii.gz: the flair is on another grid" in line(refused)
    result = run(
        *arguments, "--to", "t1ce", "-o", out, "--bundle", several_bundle, "--register", "rigid"
    )
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in out.iterdir())
    assert names == ["t1.json", "t1_qc.png", "t1_t1ce.nii.gz", "t1_t2.nii.gz"]
    made, given = nib.load(out / "t1_t2.nii.gz"), nib.load(patient / "t1.nii.gz")
    assert made.shape == given.shape
    np.testing.assert_array_equal(made.affine, given.affine)
    record = json.loads((out / "t1.json").read_text())
    schema = json.loads((ROOT / "pipelines" / "manifest.schema.json").read_text())
    jsonschema.validate(record, schema)
    (other,) = record["OtherInputs"]
    assert record["Input"]["Modality"] == "t1" and other["Modality"] == "flair"
    assert other["File"] == "b.nii.gz" and len(other["SHA256"]) == 64
    assert other["Registered"]["ShiftMM"] == pytest.approx(7, abs=1.5)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--t1", "t1", "--t2", "t1"], 9, "given as t2, it is the image given as t1"),
        (["--t1", "t1", "--to", "t1"], 2, "nothing is missing: t1 given"),
        (["--t1", "t1", "--to", "swi"], 2, "unknown modality 'swi'"),
        (["--pd", "t1"], 2, "modality 'pd' is not one this model has"),
        (["--t1", "absent"], 9, "absent"),
        (["t1", "--flair", "flair"], 2, "INPUT together with contrasts by name"),
        ([], 2, "no scan"),
        (["t1", "--register", "rigid"], 2, "give one INPUT, or each contrast"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    patient: Path,
    several_bundle: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    names = ("t1", "flair", "absent")
    before = ["", *arguments]
    words = [
        patient / f"{word}.nii.gz" if word in names and last not in ("--to", "--register") else word
        for last, word in zip(before, arguments, strict=False)
    ]
    result = run(*words, "-o", tmp_path / "out", "--bundle", several_bundle)
    assert result.exit_code == code, result.output
    assert message in line(result) and not (tmp_path / "out").exists()


def test_a_given_target_is_noted_and_the_rest_is_made(
    patient: Path, several_bundle: Path, tmp_path: Path
) -> None:
    arguments = ("--t1", patient / "t1.nii.gz", "--to", "t1", "--to", "t2")
    result = run(*arguments, "-o", tmp_path, "--bundle", several_bundle)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "t1.json").read_text())
    assert "W_GIVEN: t1 is given, so it is not made" in record["Warnings"]
    assert list(record["Outputs"]) == ["t2"]


def test_the_default_bundle_says_that_it_takes_one(patient: Path, tmp_path: Path) -> None:
    files = ("--t1", patient / "t1.nii.gz", "--flair", patient / "flair.nii.gz")
    result = run(*files, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "one contrast at a time, got t1, flair" in line(result)


def test_every_known_contrast_is_an_option() -> None:
    shown = CliRunner().invoke(app, ["translate", "--help"], env={"COLUMNS": "200"}).output
    assert all(f"--{name} " in shown for name in ALIASES)
