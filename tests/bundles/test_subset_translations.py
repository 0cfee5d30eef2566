"""Every subset of a case's contrasts translated, and its tables filled, as a user would."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from voxlate.data_prep import find_cases
from voxlate.pipelines.evaluation_run import evaluate_runs
from voxlate.pipelines.prediction_files import find_run
from voxlate.pipelines.subset_translations import main, subsets

MODALITIES = ("t1", "t1ce", "t2", "flair")


def run(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_four_contrasts_have_fourteen_subsets_that_lack_something() -> None:
    found = subsets(MODALITIES)
    assert len(found) == len(set(found)) == 14
    assert [len(given) for given in found] == [1] * 4 + [2] * 6 + [3] * 4
    assert subsets(["t1"]) == []


@pytest.mark.slow
def test_subsets_fill_the_papers_table_and_are_kept(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("msg_brats")
    bundle.shrink()
    bundle.random_weights()
    data, out = tmp_path / "data", tmp_path / "out"
    for patient in ("patient01", "patient02"):
        shutil.copytree(phantoms / patient, data / patient)
    (data / "patient02" / "t1ce.nii.gz").unlink()
    (data / "patient02" / "t2.nii.gz").unlink()
    command = ("--dataset-dir", data, "--output-dir", out, "--bundle", bundle.root)
    command = (*command, "--steps", 1, "--device", "cpu", "--quiet")
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert len(list(out.rglob("*.nii.gz"))) == 4 * 3 + 6 * 2 + 4 + 2
    record = json.loads((out / "t1+flair" / "patient01.json").read_text())
    assert set(record["Outputs"]) == {"t1ce", "t2"}

    cases = find_cases(data, MODALITIES)
    found = find_run("msg", out, cases, MODALITIES)
    assert len(found.predictions) == 30 and not found.unmatched
    assert len(found.directions) == 28
    for path in out.rglob("patient0*.json"):
        path.rename(path.with_suffix(".away"))  # names and folders alone say the same
    by_name = find_run("msg", out, cases, MODALITIES)
    assert by_name.predictions.keys() == found.predictions.keys()
    for path in out.rglob("patient0*.away"):
        path.rename(path.with_suffix(".json"))
    report = tmp_path / "report"
    measured = evaluate_runs([found], cases, report, targets=["flair"], tables=["msg1"])
    assert not measured.failures
    text = (report / "summary.md").read_text()
    assert "MSG-LDM, Table 1" in text and "t1+t1ce+t2" in text

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    (out / "t1" / "patient01_t2.nii.gz").unlink()
    assert run(*command).exit_code == 0
    again = {path for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert again == {out / "t1" / f"patient01_{name}.nii.gz" for name in MODALITIES[1:]}
    other = run(*command, "--seed", 1)
    assert other.exit_code != 0 and "made with other options or weights" in other.output


def test_what_cannot_be_done_is_refused(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    one = copied("dfbk_brats", slices=False)
    one.shrink()
    one.random_weights()
    common = ("--output-dir", tmp_path / "out", "--device", "cpu")
    refused = run("--dataset-dir", phantoms, "--bundle", one.root, *common)
    assert refused.exit_code != 0
    assert "translates one contrast at a time" in refused.output
    several = copied("msg_brats")
    several.shrink()
    several.random_weights()
    data = tmp_path / "single"
    data.mkdir()
    shutil.copy(phantoms / "patient01" / "t1.nii.gz", data)
    refused = run("--dataset-dir", data, "--bundle", several.root, *common)
    assert refused.exit_code != 0 and "none of 1 case(s) has two of" in refused.output
    assert not (tmp_path / "out").exists()
