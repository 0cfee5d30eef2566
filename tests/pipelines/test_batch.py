"""A batch from its options to its exit status, with the worker in this process."""

import csv
import gzip
import json
import os
import shutil
import signal
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from voxlate.data_prep import DeviceError, OutputError
from voxlate.pipelines import batch as batch_module
from voxlate.pipelines import estimates
from voxlate.pipelines.case_list import CaseJob
from voxlate.pipelines.cli import app
from voxlate.pipelines.interruption import Interrupted
from voxlate.pipelines.manifest import find_manifests
from voxlate.pipelines.supervisor import Supervisor

SCHEMA = Path(__file__).parents[2] / "pipelines" / "manifest.schema.json"
Batch = Callable[..., Any]


@pytest.fixture
def scans(tmp_path: Path, head_file: Path) -> Path:
    for name in ("a/t1.nii.gz", "b/t1.nii.gz"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        shutil.copy(head_file, tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.fixture
def run(scans: Path, tmp_path: Path, tiny_bundle: Path, inline: type[Supervisor]) -> Batch:
    """``voxlate <command>`` on the scans; the result."""

    def run(command: str = "batch", *more: str) -> Any:
        arguments = [command, str(tmp_path / "out")]
        if command in ("batch", "plan"):
            arguments = [command, str(scans), "--output", str(tmp_path / "out"), "--to", "t2"]
            arguments += ["--bundle", str(tiny_bundle)]
        if command == "batch":
            arguments += ["--device", "cpu", "--no-picture"]
        return CliRunner().invoke(app, [*arguments, *more])

    return run


def broken(scans: Path) -> None:
    (scans / "c").mkdir()
    (scans / "c" / "t1.nii.gz").write_bytes((scans / "a" / "t1.nii.gz").read_bytes()[:-900])


def test_batch_writes_records_that_fit_the_schema_and_ends_with_0(
    run: Batch, tmp_path: Path
) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    assert result.stdout == "2 written, 0 verified, 0 failed\n"
    records = [record for _, record in find_manifests(tmp_path / "out")]
    assert len(records) == 2
    for record in records:
        jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    assert not (tmp_path / "out" / "failed.csv").exists()
    assert "W_DUPLICATE" in result.stderr  # both scans are one file
    (log,) = (tmp_path / "out" / "logs").iterdir()
    assert "[2/2] written b/t1" in log.read_text()


def test_bad_case_is_one_line_one_row_and_8_and_can_be_retried(
    run: Batch, scans: Path, tmp_path: Path
) -> None:
    broken(scans)
    result = run()
    assert result.exit_code == 8
    (line,) = [text for text in result.stderr.splitlines() if text.startswith("FAILED")]
    assert (
        line.startswith(f"FAILED c/t1 {scans / 'c' / 't1.nii.gz'}: E_TRUNCATED ") and " - " in line
    )
    with (tmp_path / "out" / "failed.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["id"] == "c/t1" and row["code"] == "E_TRUNCATED"
    assert row["t1"] == str(scans / "c" / "t1.nii.gz")
    assert run("status", "--json").exit_code == 0
    found = json.loads(run("status", "--json").stdout)
    assert (found["listed"], found["finished"], found["failed"]) == (3, 2, {"E_TRUNCATED": 1})
    shutil.copy(scans / "a" / "t1.nii.gz", scans / "c" / "t1.nii.gz")
    again = run("retry", "--device", "cpu")
    assert again.exit_code == 0 and "1 written, 0 verified, 0 failed" in again.stdout
    assert not (tmp_path / "out" / "failed.csv").exists()
    assert run("retry", "--device", "cpu").exit_code == 3


def test_list_of_failures_is_a_list_of_cases(run: Batch, scans: Path, tmp_path: Path) -> None:
    broken(scans)
    run()
    shutil.copy(scans / "a" / "t1.nii.gz", scans / "c" / "t1.nii.gz")
    table = tmp_path / "failed.csv"
    shutil.copy(tmp_path / "out" / "failed.csv", table)
    result = CliRunner().invoke(
        app, ["plan", str(table), "--output", str(tmp_path / "out"), "--to", "t2", "--json"]
    )
    assert json.loads(result.stdout)["needs"]["cases"] == 1


@pytest.mark.parametrize(("fail_on", "code"), [("any", 9), ("all", 9), ("none", 0)])
def test_all_failed_is_9_unless_told_otherwise(
    fail_on: str, code: int, run: Batch, scans: Path
) -> None:
    for path in scans.rglob("*.nii.gz"):
        path.write_bytes(path.read_bytes()[:-900])
    assert run("batch", "--fail-on", fail_on).exit_code == code


def test_other_options_in_one_folder_are_refused_unless_overwritten(run: Batch) -> None:
    assert run().exit_code == 0
    for change in (("--seed", "1"), ("--intensity", "percentile"), ("--dtype", "scan")):
        result = run("batch", *change)
        assert result.exit_code == 4 and "other options or weights" in result.stderr
    assert "2 written" in run("batch", "--seed", "1", "--overwrite").stdout
    assert "2 verified" in run("batch", "--seed", "1").stdout


def test_shards_make_what_one_run_makes(run: Batch, tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        assert "1 written" in run("batch", "--shard", shard).stdout
    assert run().stdout == "0 written, 2 verified, 0 failed\n"


def test_events_are_lines_of_json(run: Batch, tmp_path: Path) -> None:
    run("batch", "--log-json", str(tmp_path / "events"))
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "run_started" and kinds[-1] == "run_finished"
    assert kinds.count("written") == 2 and all("time" in event for event in events)
    assert events[-1]["written"] == 2 and events[-1]["status"] == 0


def test_bids_in_gives_derivatives(run: Batch, scans: Path, tmp_path: Path) -> None:
    (scans / "dataset_description.json").write_text("{}")
    (scans / "sub-1" / "anat").mkdir(parents=True)
    shutil.move(scans / "a" / "t1.nii.gz", scans / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    assert run().exit_code == 0
    out = tmp_path / "out"
    made = out / "sub-1" / "anat" / "sub-1_desc-synth_T2w"
    assert made.with_suffix(".nii.gz").exists()
    sidecar = json.loads(made.with_suffix(".json").read_text())
    assert sidecar["Synthetic"] is True
    assert 0 < sidecar["Scores"]["EdgeAgreement"] < 1
    assert sidecar["Sources"] == ["bids:raw:sub-1/anat/sub-1_T1w.nii.gz"]
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    assert "1 verified" in run().stdout


def test_plan_needs_no_weights_and_writes_nothing(
    run: Batch, scans: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    bundle = tmp_path / "weightless"
    shutil.copytree(tiny_bundle / "configs", bundle / "configs")
    (scans / "d").mkdir()
    (scans / "d" / "t2.nii.gz").write_bytes(b"")
    result = run("plan", "--bundle", str(bundle), "--source", "t1", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["needs"]["cases"] == 2 and found["needs"]["disk"] > 0 and found["listed"] == 3
    assert len(found["refused"]) == 1 and "E_MISSING" in found["refused"][0]
    assert not (tmp_path / "out").exists()
    refused = run("batch", "--bundle", str(bundle))
    assert refused.exit_code == 5 and not (tmp_path / "out").exists()


def test_disk_that_is_too_small_is_refused_with_the_figures(
    run: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "free_disk", lambda folder: 1000)
    result = run()
    assert result.exit_code == OutputError.exit_code and "1.0 kB free" in result.stderr
    assert not (tmp_path / "out").exists()
    assert run("batch", "--force").exit_code == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_headers_that_promise_too_much_hold_up_only_themselves(
    run: Batch, scans: Path, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    monkeypatch.setattr(estimates, "default_bundle", lambda: tiny_bundle)
    (scans / "pipe").mkdir()
    os.mkfifo(scans / "pipe" / "t1.nii.gz")
    head = bytearray(gzip.decompress((scans / "a" / "t1.nii.gz").read_bytes()))
    head[42:48] = struct.pack("<3h", 32000, 32000, 32000)
    (scans / "huge").mkdir()
    (scans / "huge" / "t1.nii.gz").write_bytes(gzip.compress(head))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(60)  # who waits for the pipe's other end waits for ever
    try:
        assert json.loads(run("plan", "--json").stdout)["needs"]["cases"] == 4
        result = run()
    finally:
        signal.alarm(0)
    assert result.exit_code == 8 and "2 written, 0 verified, 2 failed" in result.stdout
    assert "FAILED pipe/t1" in result.stderr and "FAILED huge/t1" in result.stderr


def test_memory_that_is_too_small_is_refused(
    run: Batch, monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path
) -> None:
    monkeypatch.setattr(estimates, "default_bundle", lambda: tiny_bundle)
    monkeypatch.setattr(estimates, "available_memory", lambda: 10**6)
    result = run()
    assert result.exit_code == DeviceError.exit_code and "1.0 MB of memory" in result.stderr


def test_interrupted_run_says_what_it_finished(
    run: Batch, inline: type[Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stops(inline):  # type: ignore[misc, valid-type]
        def run(self, jobs: Sequence[CaseJob]) -> None:
            super().run(jobs[:1])
            raise Interrupted(15)

    monkeypatch.setattr(batch_module, "Supervisor", Stops)
    result = run()
    assert result.exit_code == 143 and "1 written, 0 verified, 0 failed, 1 open" in result.stdout
    monkeypatch.setattr(batch_module, "Supervisor", inline)
    assert run().stdout == "1 written, 1 verified, 0 failed\n"


def test_status_of_a_folder_without_a_batch_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert result.exit_code == 2 and "no batch" in result.stderr


def test_status_names_the_cases_whose_scores_are_worst(run: Batch) -> None:
    run()
    found = json.loads(run("status", "--json").stdout)
    assert set(found["worst"]) == {"a/t1", "b/t1"}
    near, less = found["worst"].values()
    assert near >= less > 1 and found["warnings"]["W_EDGES"] == 2  # the weights are random
    assert f"worst:    {near:.0%} of a limit: " in run("status").stdout


def test_status_finds_damage_when_asked(run: Batch, tmp_path: Path) -> None:
    run()
    (tmp_path / "out" / "a" / "t1_t2.nii.gz").write_bytes(b"x")
    assert json.loads(run("status", "--json").stdout)["damaged"] == []
    (damage,) = json.loads(run("status", "--json", "--verify").stdout)["damaged"]
    assert "t1_t2.nii.gz has 1 bytes" in damage
