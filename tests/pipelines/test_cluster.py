"""The supplied job files: they call the command that is tested, and say what it needs."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from voxlate.pipelines.shards import COUNT_VARIABLE, Shard, choose_shard

CLUSTER = Path(__file__).parents[2] / "pipelines" / "cluster"
SCRIPT = CLUSTER / "batch_array.sbatch"
TASK = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_CPUS_PER_TASK": "3"}


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A stand-in for ``voxlate`` that tells its arguments and ends as it is told."""
    (tmp_path / "voxlate").write_text(
        "#!/bin/bash\n"
        f'echo "$OMP_NUM_THREADS $@" > {tmp_path}/called\n'
        "trap 'exit 143' TERM\n"
        'if [ "$1 $2" = "batch sleep" ]; then while :; do sleep 0.05; done; fi\n'
        'exit "${STATUS:-0}"\n'
    )
    (tmp_path / "voxlate").chmod(0o755)
    return tmp_path


def environment(bin_folder: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{bin_folder}:{os.environ['PATH']}", **more}


def test_task_runs_the_batch_with_its_arguments_and_status(bin_folder: Path) -> None:
    done = subprocess.run(
        ["bash", SCRIPT, "my scans", "--output", "out"],
        env=environment(bin_folder, **TASK, STATUS="8"),
        check=False,
    )
    assert done.returncode == 8
    assert (bin_folder / "called").read_text() == "3 batch my scans --output out\n"


def test_signal_before_the_time_is_up_reaches_the_batch(bin_folder: Path) -> None:
    process = subprocess.Popen(["bash", SCRIPT, "sleep"], env=environment(bin_folder, **TASK))
    while not (bin_folder / "called").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143


def test_script_outside_an_array_is_refused(bin_folder: Path) -> None:
    done = subprocess.run(
        ["bash", SCRIPT, "x"], env=environment(bin_folder), capture_output=True, check=False
    )
    assert done.returncode == 2 and b"--array" in done.stderr


def test_array_of_the_script_is_read_as_shards() -> None:
    (line,) = [
        text for text in SCRIPT.read_text().splitlines() if text.startswith("#SBATCH --array")
    ]
    first, last = map(int, line.partition("=")[2].split("-"))
    env = {"SLURM_ARRAY_TASK_MIN": str(first), "SLURM_ARRAY_TASK_COUNT": str(last - first + 1)}
    shards = [
        choose_shard(None, {**env, "SLURM_ARRAY_TASK_ID": str(i)})[0]
        for i in range(first, last + 1)
    ]
    assert shards == [Shard(i, last) for i in range(1, last + 1)]


def test_indexed_job_tells_each_pod_its_part() -> None:
    job = yaml.safe_load((CLUSTER / "batch_job.yaml").read_text())
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    (variable,) = container["env"]
    assert spec["completionMode"] == "Indexed" and container["command"][:2] == ["voxlate", "batch"]
    assert variable["name"] == COUNT_VARIABLE
    assert int(variable["value"]) == spec["completions"]
    codes = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert {8, 9} <= set(codes) and not {130, 137, 143} & set(codes)
