"""The stopwatch and the scales of the benchmarks."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SCRIPT = """
import sys, time
sys.path.insert(0, {folder!r})
from side_by_side import report

def work():
    if "boom" in sys.argv:
        raise RuntimeError("no luck")
    held = bytearray(200 * 2**20)
    held[:: 4096] = b"1" * len(held[:: 4096])
    time.sleep(0.05)
    return {{"answer": sys.argv[-1]}}

ballast = bytearray(100 * 2**20)
ballast[:: 4096] = b"1" * len(ballast[:: 4096])
report(work, repeats=2)
"""


@pytest.fixture
def side_by_side() -> ModuleType:
    spec = importlib.util.spec_from_file_location("side_by_side", BENCHMARKS / "side_by_side.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "script.py").write_text(SCRIPT.format(folder=str(BENCHMARKS)))
    return str(tmp_path / "script.py")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_and_time_are_those_of_the_work(side_by_side: ModuleType, script: str) -> None:
    outcome = side_by_side.run(script, "any", ["--size", "7"])
    assert outcome.failed == ""
    assert outcome.notes == {"answer": "7"}
    assert 0.05 <= outcome.seconds < outcome.wall
    assert outcome.extra * 1024 == pytest.approx(200, abs=15)
    assert outcome.peak * 1024 > 300


def test_failing_and_too_big_contenders_are_lines_of_the_table(
    side_by_side: ModuleType, script: str
) -> None:
    good = side_by_side.Outcome("ours", seconds=2.0, extra=0.5, peak=1.25, notes={"n": 3})
    slow = good._replace(name="theirs", seconds=5.0)
    failed = side_by_side.run(script, "boom", [])
    big = side_by_side.run(script, "big", [], needs_gib=1e6)
    lines = side_by_side.table("T", [good, slow, failed, big], ("n",)).splitlines()
    assert lines[4:6] == [
        "| ours | 1.00 x | 512 MiB | 1.25 GiB | 3 |",
        "| theirs | 2.50 x | 512 MiB | 1.25 GiB | 3 |",
    ]
    assert lines[6].startswith("| boom | failed (1): RuntimeError: no luck |")
    assert lines[7].startswith("| big | skipped: needs 1000000.0 GiB")
    assert {line.count("|") for line in lines[2:]} == {6}


def test_sizes_are_read_both_ways(side_by_side: ModuleType) -> None:
    assert side_by_side.numbers("192,192,144") == side_by_side.numbers("192x192x144")


@pytest.mark.slow
def test_pipeline_runs_in_small(importable: dict[str, str]) -> None:
    words = ["--size", "64,64,48", "--targets", "t2", "--timed-steps", "3", "--random-weights"]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "pipeline.py"), *words],
        env=importable,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stdout
    assert "| voxlate | 1.00 x |" in done.stdout and "| ALDM's way |" in done.stdout
