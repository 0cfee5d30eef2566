"""Bundles run over a folder: properties, tree, bad files, metrics."""

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import run as run_bundle

from voxlate.data_prep import NoInputError, WeightsError, find_cases
from voxlate.pipelines import Translator
from voxlate.pipelines.bundle_evaluation import InBrain, list_pairs
from voxlate.pipelines.evaluation import evaluate

NAMES = ("aldm_brats", "brain_mri_completion", "brain_mri_translation", "dfbk_brats", "msg_brats")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("files", [("inference",), ("inference", "evaluate")])
@pytest.mark.parametrize("data", ["there", "absent"])
def test_properties_are_there_without_weights_and_even_without_data(
    name: str,
    files: tuple[str, ...],
    data: str,
    copied: Callable[..., Any],
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # paths are the bundle's, wherever one stands
    bundle = copied(name)
    override = {"dataset_dir": str(phantoms)} if data == "there" else {}
    workflow = bundle.workflow(*files, kind="infer", **override)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert len(workflow.dataset) == (3 if data == "there" else 0)


def test_folder_is_translated_and_a_broken_file_stops_nothing(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = copied("brain_mri_translation")
    bundle.random_weights()
    scans = tmp_path / "scans"
    for place in ("site_a/pat", "site_b/pat"):
        shutil.copytree(phantoms / "patient01", scans / place)
    data = (scans / "site_a/pat/t1.nii.gz").read_bytes()
    (scans / "site_b/late_t1.nii.gz").write_bytes(data[:-400])
    with pytest.raises(SystemExit) as ended:
        run_bundle(
            config_file=bundle.files("inference", "tiny"),
            bundle_root=str(bundle.root),
            dataset_dir=str(scans),
            output_dir=str(tmp_path / "out"),
            source="t1",
            targets=["t2", "flair"],
            steps=1,
        )
    assert ended.value.code == 8  # some failed
    ends = ("_flair.nii.gz", "_t2.nii.gz", "_qc.png", ".json")
    expected = {f"site_{site}/pat/t1{end}" for site in "ab" for end in ends} | {"failed.csv"}
    made = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert made == expected
    assert "late_t1" in (tmp_path / "out" / "failed.csv").read_text()
    source = nib.load(scans / "site_a/pat/t1.nii.gz")
    result = nib.load(tmp_path / "out/site_a/pat/t1_t2.nii.gz")
    assert result.shape == source.shape
    np.testing.assert_array_equal(result.affine, source.affine)
    record = json.loads((tmp_path / "out/site_a/pat/t1.json").read_text())
    assert record["Bundle"]["Name"] == "brain_mri_translation"
    metadata = json.loads((bundle.root / "configs/metadata.json").read_text())
    assert record["Bundle"]["Version"] == metadata["version"]


def test_seed_is_an_option_and_decides_the_result(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("brain_mri_translation")
    bundle.random_weights()
    volumes = []
    for place, seed in enumerate((0, 0, 1)):
        output = tmp_path / str(place)
        bundle.run(
            "inference",
            kind="infer",
            dataset_dir=str(phantoms),
            output_dir=str(output),
            targets=["t2"],
            steps=1,
            seed=seed,
            scans=[
                {
                    "image": str(phantoms / "patient01/t1.nii.gz"),
                    "case_id": "patient01/t1",
                }
            ],
        )
        volumes.append(nib.load(output / "patient01" / "t1_t2.nii.gz").get_fdata())
    np.testing.assert_array_equal(volumes[0], volumes[1])
    assert np.abs(volumes[0] - volumes[2]).max() > 1e-3


def test_run_without_weights_or_scans_says_what_is_missing(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("brain_mri_translation")
    with pytest.raises(RuntimeError) as refused:
        bundle.run("inference", kind="infer", dataset_dir=str(phantoms))
    assert isinstance(refused.value.__cause__, WeightsError)
    bundle.random_weights()
    with pytest.raises(RuntimeError) as refused:
        bundle.run("inference", kind="infer", dataset_dir=str(tmp_path / "none"))
    assert isinstance(refused.value.__cause__, NoInputError)


def test_evaluation_writes_a_line_for_each_case(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("brain_mri_translation")
    bundle.random_weights()
    cases = tmp_path / "cases"
    shutil.copytree(phantoms, cases)
    (cases / "patient02/flair.nii.gz").unlink()
    damaged = (cases / "patient03/t1.nii.gz").read_bytes()[:-400]
    (cases / "patient03/t1.nii.gz").write_bytes(damaged)
    output = tmp_path / "report"
    bundle.run(
        "inference",
        "evaluate",
        kind="infer",
        dataset_dir=str(cases),
        output_dir=str(output),
        targets=["t2", "flair"],
        steps=0,
    )
    for metric in ("psnr", "ssim", "mae"):
        with (output / f"{metric}_raw.csv").open() as file:
            rows = {row["filename"]: row for row in csv.DictReader(file)}
        assert list(rows) == [f"patient0{number}/t1" for number in (1, 2, 3)]
        values = [[float(row[f"class{n}"]) for n in (0, 1)] for row in rows.values()]
        assert np.isnan(values).tolist() == [[False, False], [False, True], [True, True]]
        with (output / "metrics.csv").open() as file:
            means = {name: float(value) for name, value in csv.reader(file)}
        assert means[metric] == pytest.approx(np.nanmean(values), rel=1e-5)


def test_metrics_are_those_of_the_evaluation_command(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("brain_mri_translation")
    weights = bundle.random_weights()
    output = tmp_path / "report"
    workflow = bundle.run(
        "inference",
        "evaluate",
        kind="infer",
        dataset_dir=str(phantoms),
        output_dir=str(output),
        targets=["t2"],
        steps=0,
    )
    parts = workflow.parser.get_parsed_content("parts")
    assert weights.is_file()
    translator = Translator(
        parts.network,
        preprocessing=parts.preprocessing,
        scheduler=parts.scheduler,
        steps=0,
        device="cpu",
    )
    cases = find_cases(phantoms, ["t1", "t1ce", "t2", "flair"])
    rows = evaluate(translator, cases, tmp_path / "command", sources=["t1"], targets=["t2"]).rows
    expected = {
        (r.case, r.answer, r.region, r.metric): r.value for r in rows if not math.isnan(r.value)
    }
    with (output / "cases.csv").open() as file:
        table = list(csv.DictReader(file))
    found = {
        (r["case"], r["answer"], r["region"], r["metric"]): float(r["value"])
        for r in table
        if r["value"]
    }
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert {r["run"] for r in table} == {"", "brain_mri_translation"}
    with (output / "psnr_raw.csv").open() as file:
        raw = {row["filename"]: float(row["class0"]) for row in csv.DictReader(file)}
    assert raw["patient01/t1"] == pytest.approx(
        expected["patient01", "translation", "brain", "psnr"], abs=1e-3
    )
    summary = json.loads((output / "summary.json").read_text())
    assert summary["provenance"]["bundle"] == "brain_mri_translation"
    assert "data:image/png;base64," in (output / "summary.html").read_text()


def test_cases_without_a_pair_and_unknown_metrics_are_refused(
    phantoms: Path, tmp_path: Path
) -> None:
    (tmp_path / "case").mkdir()
    shutil.copy(phantoms / "patient01/t1.nii.gz", tmp_path / "case")
    with pytest.raises(NoInputError, match="no case has t1 and one of t2"):
        list_pairs(
            tmp_path, ["t1", "t2"], source="t1", targets=None, output_dir=tmp_path / "report"
        )
    with pytest.raises(ValueError, match="no metric 'fid'"):
        InBrain("fid", targets=1)


@pytest.mark.slow
def test_two_processes_report_what_one_does(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path, importable: dict[str, str]
) -> None:
    bundle = copied("brain_mri_translation")
    bundle.random_weights()
    options = {"targets": ["t2"], "steps": 0, "dataset_dir": str(phantoms)}
    bundle.run("inference", "evaluate", kind="infer", output_dir=str(tmp_path / "one"), **options)
    files = bundle.files("inference", "evaluate", "multi_gpu_evaluate", "tiny")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launch, "-m", "monai.bundle", "run", "--config_file", str(files)]
    command += ["--bundle_root", str(bundle.root), "--output_dir", str(tmp_path / "two")]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    subprocess.run(command, env=importable, check=True, timeout=300, cwd=tmp_path)
    for report in ("psnr_summary.csv", "ssim_summary.csv", "mae_summary.csv", "cases.csv"):
        assert (tmp_path / "one" / report).read_text() == (tmp_path / "two" / report).read_text()
