"""Ray as an engine: as good as processes, through deaths and signals; and what it is asked for."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from voxlate.data_prep import DeviceError, OutputError
from voxlate.pipelines.batch_worker import refusal_from
from voxlate.pipelines.cli import app
from voxlate.pipelines.ray_cluster import Places, choose_places
from voxlate.pipelines.ray_worker import CaseWorker

CASES = 6
WAIT_SECONDS = 1200  # Ray takes minutes to start where memory is short


def cluster(*machines: dict[str, float]) -> Any:
    """What ``choose_places`` asks of Ray."""
    total: dict[str, float] = {}
    for machine in machines:
        for name, amount in machine.items():
            total[name] = total.get(name, 0) + amount
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    dead = {"Alive": False, "Resources": {"CPU": 1}}
    return SimpleNamespace(cluster_resources=lambda: total, nodes=lambda: [*nodes, dead])


@pytest.mark.parametrize(
    ("machines", "device", "workers", "expected"),
    [
        ([{"CPU": 16}], "auto", None, Places("cpu", 1, 16, 0)),
        ([{"CPU": 16}, {"CPU": 8}], "auto", None, Places("cpu", 2, 8, 0)),
        ([{"CPU": 16}, {"CPU": 16}], "cpu", 8, Places("cpu", 8, 4, 0)),
        ([{"CPU": 2}], "cpu", 5, Places("cpu", 5, 1, 0)),
        ([{}, {"CPU": 4}], "auto", None, Places("cpu", 1, 4, 0)),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 1}], "auto", None, Places("cuda", 3, 1, 1)),
        ([{"CPU": 8, "GPU": 2}], "cuda", 7, Places("cuda", 7, 1, 1)),
        ([{"CPU": 8, "GPU": 2}], "cpu", None, Places("cpu", 1, 8, 0)),
    ],
)
def test_cluster_is_shared_out(
    machines: list[dict[str, float]], device: str, workers: int | None, expected: Places
) -> None:
    assert choose_places(cluster(*machines), device, workers) == expected


@pytest.mark.parametrize(("device", "says"), [("cuda", "no GPU"), ("cuda:1", "Ray does that")])
def test_devices_that_ray_cannot_give_are_refused(device: str, says: str) -> None:
    with pytest.raises(DeviceError, match=says):
        choose_places(cluster({"CPU": 4}), device, None)


def test_machine_that_does_not_see_the_output_is_refused(tmp_path: Path) -> None:
    answer = CaseWorker({"output": str(tmp_path / "absent")}).load()
    error = refusal_from(answer["refused"])
    assert isinstance(error, OutputError) and "all machines" in str(error)


def test_ray_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, head_file: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = CliRunner().invoke(
        app,
        ["batch", str(head_file.parent), "--output", str(tmp_path / "out"), "--to", "t2",
         "--engine", "ray", "--bundle", str(tiny_bundle)],
    )  # fmt: skip
    assert result.exit_code == 2
    assert "pip install 'voxlate[ray]'" in result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def few(bench: Any) -> Path:
    """A small folder, and what a worker without Ray makes of it."""
    pytest.importorskip("ray", reason="no ray")
    folder = bench.folder / "few"
    for case in sorted(bench.scans.iterdir())[:CASES]:
        shutil.copytree(case, folder / case.name)
    status, _ = bench.work(bench.order(bench.folder / "single", scans=folder))
    assert status == 0
    return folder


class Run:
    """``voxlate batch --engine ray --workers 2`` at work."""

    def __init__(self, bench: Any, scans: Path, name: str, **environment: str) -> None:
        self.output = bench.folder / name
        self.process = subprocess.Popen(
            [sys.executable, "-m", "voxlate.pipelines.cli",
             *bench.batch(self.output, "--engine", "ray", "--workers", "2", scans=scans)],
            env={**bench.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    @property
    def log(self) -> str:
        """What the run has logged."""
        return "".join(path.read_text() for path in (self.output / "logs").glob("*.log"))

    def wait_for(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until the log has so many lines of a kind; their first groups."""
        until = time.monotonic() + WAIT_SECONDS
        while len(found := re.findall(pattern, self.log)) < count:
            assert self.process.poll() is None and time.monotonic() < until, self.log
            time.sleep(0.1)
        return found

    def end(self) -> tuple[int, str]:
        """Its status and what it said on standard error."""
        _, said = self.process.communicate(timeout=WAIT_SECONDS)
        return self.process.returncode, said


@pytest.fixture
def start(bench: Any) -> Iterator[Callable[..., Run]]:
    """Starts runs; none of them outlives the test."""
    runs: list[Run] = []

    def start(scans: Path, name: str, **environment: str) -> Run:
        runs.append(Run(bench, scans, name, **environment))
        return runs[-1]

    yield start
    for run in runs:
        run.process.kill()
        run.process.wait()


@pytest.mark.slow
def test_killed_worker_is_replaced_and_its_case_run_again(
    start: Callable[..., Run], bench: Any, few: Path, faults: Any
) -> None:
    run = start(few, "killed", VOXLATE_STUB_SECONDS="2")
    victim = run.wait_for(r"worker on cpu, torch\.\w+, process (\d+) of", 2)[0]
    run.wait_for(r"(written)")
    os.kill(int(victim), signal.SIGKILL)
    status, said = run.end()
    assert status == 0, said
    assert run.log.count("a worker died") == 1
    assert len(re.findall(r"\] written (\S+)", run.log)) == CASES
    assert faults.bench.volumes(run.output) == faults.bench.volumes(bench.folder / "single")
    assert faults.bench.leftovers(run.output) == []
    state = json.loads(bench.cli("status", str(run.output), "--verify", "--json").stdout)
    assert (state["finished"], state["damaged"], state["failed"]) == (CASES, [], {})


@pytest.mark.slow
def test_case_that_kills_its_workers_fails_alone(
    start: Callable[..., Run], bench: Any, few: Path, faults: Any
) -> None:
    scans = bench.folder / "deadly"
    faults.bench.fault_stub.write_scans(scans, 4)
    bright = scans / "case_002" / "t1.nii.gz"
    bright.unlink()
    faults.bench.fault_stub.write_bright(bright)
    stub = faults.bench.fault_stub
    run = start(scans, "deaths", **{stub.KILLER: str(stub.BRIGHT)})
    status, said = run.end()
    assert status == 8, said
    (line,) = [line for line in said.splitlines() if line.startswith("FAILED")]
    assert "case_002/t1" in line and "E_WORKER_DIED" in line
    assert len(faults.bench.volumes(run.output)) == 9


@pytest.mark.slow
def test_signal_drops_what_is_in_the_network_and_leaves_nothing_half_done(
    start: Callable[..., Run], bench: Any, few: Path, faults: Any
) -> None:
    run = start(few, "signalled", VOXLATE_STUB_SECONDS="3")
    run.wait_for(r"(written)")
    began = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    status, said = run.end()
    assert status == 143, said
    assert time.monotonic() - began < 40
    whole = faults.bench.volumes(bench.folder / "single")
    assert 0 < len(faults.bench.volumes(run.output)) < len(whole)
    assert faults.bench.partial(run.output, whole) == []
    assert faults.bench.leftovers(run.output) == []
