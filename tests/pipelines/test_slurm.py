"""The supplied script as real Slurm arrays on one host; every case once, whatever happens."""

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "pipelines" / "cluster" / "batch_array.sbatch"
CASES = 6


def _slurm_host() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slurm_host", HERE / "slurm_host.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


slurm_host = _slurm_host()
missing = slurm_host.missing_programs()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(
        bool(missing), reason=f"not installed (slurm-wlm, munge): {', '.join(missing)}"
    ),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with slurm_host.running(tmp_path_factory.mktemp("slurm")) as host:
        yield host


@pytest.fixture(scope="module")
def scans(bench: Any) -> Path:
    """A small folder, and what a single process makes of it."""
    folder = bench.folder / "few"
    folder.mkdir()
    for case in sorted(bench.scans.iterdir())[:CASES]:
        shutil.copytree(case, folder / case.name)
    status, _ = bench.work(bench.order(bench.folder / "single", scans=folder))
    assert status == 0
    return folder


@pytest.fixture
def submit(slurm: Any, bench: Any, scans: Path) -> Callable[..., str]:
    """``submit(output, *options of sbatch, script=...)`` of the batch; the job's number."""
    command = slurm.folder / "voxlate"
    command.write_text(f'#!/bin/bash\nexec {sys.executable} -m voxlate.pipelines.cli "$@"\n')
    command.chmod(0o755)

    def submit(output: Path, *options: str, script: Path = SCRIPT, seconds: str = "0.05") -> str:
        return slurm.submit(
            *options,
            str(script),
            *bench.batch(output, scans=scans)[1:],
            more={**bench.environment, "VOXLATE": str(command), "VOXLATE_STUB_SECONDS": seconds},
        )

    return submit


def told(output: Path, word: str) -> list[list[str]]:
    """The cases that each run told to be ``written`` or ``verified``."""
    logs = sorted((output / "logs").glob("*.log"))
    return [re.findall(rf"\] {word} (\S+)", log.read_text()) for log in logs]


def test_array_of_two_tasks_does_every_case_exactly_once(
    submit: Callable[..., str], slurm: Any, bench: Any, faults: Any
) -> None:
    output = bench.folder / "array"
    tasks = slurm.wait(submit(output, "--array=1-2"))
    assert [task["ExitCode"] for task in tasks] == ["0:0", "0:0"], slurm.logs()
    parts = told(output, "written")
    assert [len(part) for part in parts] == [CASES // 2] * 2
    assert len(set(sum(parts, []))) == CASES
    assert told(output, "verified") == [[], []]
    assert faults.bench.volumes(output) == faults.bench.volumes(bench.folder / "single")
    assert faults.bench.leftovers(output) == []
    shards = [re.findall(r"shard: (.*?),", log.read_text()) for log in (output / "logs").iterdir()]
    assert sorted(sum(shards, [])) == ["1/2 (Slurm's array)", "2/2 (Slurm's array)"]


def test_tasks_of_a_step_split_the_part_of_their_array_task(
    submit: Callable[..., str], slurm: Any, bench: Any, faults: Any
) -> None:
    output = bench.folder / "steps"
    script = slurm.folder / "step.sbatch"
    script.write_text('#!/bin/bash\nexec srun "$VOXLATE" batch "$@"\n')
    tasks = slurm.wait(submit(output, "--array=0-2:2", "--ntasks=2", script=script))
    assert [task["ExitCode"] for task in tasks] == ["0:0", "0:0"], slurm.logs()
    parts = told(output, "written")
    assert sorted(len(part) for part in parts) == [1, 1, 2, 2]
    assert len(set(sum(parts, []))) == CASES
    assert faults.bench.volumes(output) == faults.bench.volumes(bench.folder / "single")


def test_task_whose_time_is_nearly_up_ends_cleanly_and_the_same_line_goes_on(
    submit: Callable[..., str], slurm: Any, bench: Any, faults: Any
) -> None:
    output = bench.folder / "signalled"
    job = submit(output, "--array=1-2", seconds="2")
    until_written(output, slurm)
    slurm.call("scancel", "--batch", "--signal=TERM", job)  # as --signal=B:TERM@60 does
    assert {task["ExitCode"] for task in slurm.wait(job)} == {"143:0"}, slurm.logs()
    some = sum(map(len, told(output, "written")))
    assert 0 < some < CASES and faults.bench.leftovers(output) == []
    tasks = slurm.wait(submit(output, "--array=1-2"))
    assert [task["ExitCode"] for task in tasks] == ["0:0", "0:0"], slurm.logs()
    assert sum(map(len, told(output, "verified"))) == some
    assert sum(map(len, told(output, "written"))) == CASES
    assert faults.bench.volumes(output) == faults.bench.volumes(bench.folder / "single")


def test_task_that_is_queued_again_goes_on(
    submit: Callable[..., str], slurm: Any, bench: Any, faults: Any
) -> None:
    output = bench.folder / "requeued"
    job = submit(output, "--array=1-2", seconds="1")
    until_written(output, slurm)
    slurm.call("scontrol", "requeue", f"{job}_1")
    tasks = slurm.wait(job)
    assert [task["ExitCode"] for task in tasks] == ["0:0", "0:0"], slurm.logs()
    assert sorted(task["Restarts"] for task in tasks) == ["0", "1"]
    assert faults.bench.volumes(output) == faults.bench.volumes(bench.folder / "single")
    assert faults.bench.leftovers(output) == []


def test_script_that_is_submitted_without_an_array_says_so(
    submit: Callable[..., str], slurm: Any, bench: Any
) -> None:
    alone = slurm.folder / "alone.sbatch"
    alone.write_text(re.sub(r"#SBATCH --array.*\n", "", SCRIPT.read_text()))
    (task,) = slurm.wait(submit(bench.folder / "alone", script=alone))
    assert task["ExitCode"] == "2:0"


def until_written(output: Path, slurm: Any) -> None:
    """Wait until both tasks of an array have written a case."""
    slurm_host.until(lambda: sum(map(bool, told(output, "written"))) == 2, slurm, 900)


def test_directives_of_the_script_are_understood(slurm: Any) -> None:
    done = subprocess.run(
        ["sbatch", "--test-only", str(SCRIPT), "x"],
        env=slurm.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
