"""A case of a batch from disk to disk: finished means recorded and verified, and nothing else."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from voxlate.pipelines import Translator
from voxlate.pipelines.case_list import CaseJob, list_jobs, wanted_of
from voxlate.pipelines.case_steps import Made
from voxlate.pipelines.checkpoint import sha256_of
from voxlate.pipelines.failures import StopBatch, find_failures
from voxlate.pipelines.run_case import CaseOptions, CaseRunner, _staging_name

MODALITIES = ("t1", "t1ce", "t2", "flair")
Run = Callable[..., list[tuple[str, str]]]


@pytest.fixture(scope="module")
def translator(tiny_bundle: Path) -> Translator:
    return Translator.from_bundle(tiny_bundle, device="cpu")


@pytest.fixture
def scans(tmp_path: Path, head_file: Path) -> Path:
    for name in ("a/t1.nii.gz", "b/t1.nii.gz"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        shutil.copy(head_file, tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def jobs(scans: Path, *targets: str) -> list[CaseJob]:
    wanted = wanted_of(MODALITIES, ["t1"], targets or ["t2"], picture=False)
    return list_jobs(scans, scans.parent / "out", MODALITIES, wanted).jobs


@pytest.fixture
def run(translator: Translator, scans: Path, out: Path) -> Run:
    """Run all cases; give (status, code or first warning) of each."""

    def run(*targets: str, translator: Translator = translator, **options: object) -> list:
        runner = CaseRunner(translator, out, CaseOptions(**options))  # type: ignore[arg-type]
        ended = [runner.run_case(job) for job in jobs(scans, *targets)]
        return [(o.status, o.code or next(filter(_of_the_run, o.warnings), "")) for o in ended]

    return run


def _of_the_run(warning: str) -> bool:
    """Neither that the tests' head is smaller than any brain, nor scores of random weights."""
    return not warning.startswith(("W_COVERAGE", "W_EDGES", "W_PROFILE", "W_FLAT", "W_CLIPPED"))


def content(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): sha256_of(p) for p in sorted(out.rglob("*.nii.gz"))}


def test_second_run_verifies_and_writes_nothing(run: Run, out: Path) -> None:
    assert [status for status, _ in run()] == ["written"] * 2
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    assert [status for status, _ in run()] == ["verified"] * 2
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("kind", ["deleted", "truncated", "one bit", "swapped"])
def test_damaged_result_is_made_again_and_only_that(kind: str, run: Run, out: Path) -> None:
    run("t2", "flair")
    whole = content(out)
    path = out / "a" / "t1_t2.nii.gz"
    data = path.read_bytes()
    if kind == "deleted":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(data[:-1])
    elif kind == "one bit":
        path.write_bytes(data[:99] + bytes([data[99] ^ 1]) + data[100:])
    else:
        path.write_bytes((out / "a" / "t1_flair.nii.gz").read_bytes())
    (first, why), (second, _) = run("t2", "flair")
    assert (first, second) == ("written", "verified") and why.startswith("W_REDONE: ")
    assert content(out) == whole


def test_new_target_joins_the_record_of_the_old_one(run: Run, out: Path) -> None:
    run("t2")
    before = content(out)
    assert run("flair")[0][1].startswith("W_REDONE: flair was not asked for")
    record = json.loads((out / "a" / "t1.json").read_text())
    assert set(record["Outputs"]) == {"t2", "flair"}
    assert content(out).items() >= before.items()
    assert [status for status, _ in run("t2")] == ["verified"] * 2


def test_other_options_are_refused_unless_overwritten(run: Run, out: Path) -> None:
    run()
    before = content(out)
    assert run(seed=1) == [("failed", "E_OPTIONS")] * 2
    assert content(out) == before
    assert [status for status, _ in run(seed=1, overwrite=True)] == ["written"] * 2
    assert content(out) != before
    assert [status for status, _ in run(seed=1, overwrite=True)] == ["verified"] * 2


def test_file_of_somebody_else_is_never_replaced(run: Run, out: Path) -> None:
    (out / "a").mkdir()
    (out / "a" / "t1_t2.nii.gz").write_text("mine")
    assert run()[0] == ("failed", "E_EXISTS")
    assert (out / "a" / "t1_t2.nii.gz").read_text() == "mine"
    assert run(overwrite=True)[0][0] == "written"


def test_what_a_killed_run_left_is_replaced(run: Run, out: Path, scans: Path) -> None:
    run()
    whole = content(out)
    (out / "a" / "t1.json").unlink()  # killed between the volume's name and the record's
    assert run()[0] == ("failed", "E_EXISTS")
    (out / "a" / _staging_name(jobs(scans)[0])).mkdir()
    assert run()[0][0] == "written"
    assert content(out) == whole and not list((out / "a").glob(".voxlate*"))


def test_changed_scan_is_translated_again(run: Run, out: Path, scans: Path) -> None:
    run()
    image = nib.load(scans / "a" / "t1.nii.gz")
    data = np.asarray(image.dataobj)[::-1]
    nib.Nifti1Image(data, image.affine).to_filename(scans / "a" / "t1.nii.gz")
    assert run()[0] == ("written", "W_REDONE: the scan is another than before")


def test_failure_is_saved_and_forgotten_when_the_case_is_finished(
    run: Run, out: Path, scans: Path
) -> None:
    good = (scans / "a" / "t1.nii.gz").read_bytes()
    (scans / "a" / "t1.nii.gz").write_bytes(good[:-900])
    assert [status for status, _ in run()] == ["failed", "written"]
    (failure,) = find_failures(out)
    assert failure["id"] == "a/t1" and failure["code"] == "E_TRUNCATED"
    assert not (out / "a").exists()
    (scans / "a" / "t1.nii.gz").write_bytes(good)
    assert [status for status, _ in run()] == ["written", "verified"]
    assert list(find_failures(out)) == []


def test_same_file_as_two_contrasts_is_refused(run: Run, scans: Path) -> None:
    shutil.copy(scans / "a" / "t1.nii.gz", scans / "a" / "flair.nii.gz")
    assert run()[0] == ("failed", "E_SAME_INPUT")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), "E_MEMORY"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "E_MEMORY"),
        (KeyError("oops"), "E_BUG"),
    ],
)
def test_error_in_the_network_fails_its_case_alone(
    error: Exception, code: str, run: Run, translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = translator.compute

    def once(*arguments: object) -> Made:
        monkeypatch.setattr(translator, "compute", compute)
        raise error

    monkeypatch.setattr(translator, "compute", once)
    assert run() == [("failed", code), ("written", "")]


@pytest.mark.parametrize(
    ("value", "code"), [(np.nan, "E_OUTPUT_NONFINITE"), (0.5, "E_OUTPUT_CONSTANT")]
)
def test_what_is_no_image_is_not_written(
    value: float,
    code: str,
    run: Run,
    out: Path,
    translator: Translator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compute = translator.compute

    def spoiled(*arguments: object) -> Made:
        made = compute(*arguments)  # type: ignore[arg-type]
        return dataclasses.replace(made, volumes=torch.full_like(made.volumes, value))

    monkeypatch.setattr(translator, "compute", spoiled)
    assert run()[0] == ("failed", code)
    assert content(out) == {}


def test_vanished_output_folder_stops_the_run_and_is_not_made_again(
    translator: Translator, scans: Path, out: Path
) -> None:
    runner = CaseRunner(translator, out, CaseOptions())
    first, second = jobs(scans)
    assert runner.run_case(first).status == "written"
    shutil.rmtree(out)
    with pytest.raises(StopBatch, match="gone"):
        runner.run_case(second)
    assert not out.exists()


def test_full_disk_stops_the_run_and_leaves_nothing_half(
    translator: Translator, scans: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CaseRunner(translator, out, CaseOptions())

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voxlate.pipelines.outputs.write_scan", full)
    with pytest.raises(StopBatch, match="No space"):
        runner.run_case(jobs(scans)[0])
    assert not (out / "a").exists()


def test_noise_does_not_depend_on_order_or_company(
    translator: Translator, scans: Path, out: Path, tmp_path: Path
) -> None:
    forward = jobs(scans)
    for folder, order in (("one", forward), ("two", forward[::-1]), ("three", forward[1:])):
        (tmp_path / folder).mkdir()
        runner = CaseRunner(translator, tmp_path / folder, CaseOptions())
        assert all(runner.run_case(job).status == "written" for job in order)
    one, two, three = (content(tmp_path / folder) for folder in ("one", "two", "three"))
    assert one == two
    assert three["b/t1_t2.nii.gz"] == one["b/t1_t2.nii.gz"] != one["a/t1_t2.nii.gz"]
