"""Faults tried for real with a stub network; ``python -m benchmarks.faults`` tries more of them."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process groups, limits, /proc")


@pytest.fixture(scope="module")
def undisturbed(bench: Any) -> Any:
    status, _ = bench.work(bench.order(bench.folder / "undisturbed"))
    assert status == 0
    return bench


def hold(*rows: Any) -> None:
    for row in rows:
        assert row.held, row


def test_kills_leave_nothing_partial_and_a_restart_completes(bench: Any, faults: Any) -> None:
    shutil.rmtree(bench.folder / "undisturbed", ignore_errors=True)
    hold(faults.trials.kills(bench, 10))


def test_full_disk_stops_with_one_line(undisturbed: Any, faults: Any) -> None:
    hold(faults.trials.full_disk(undisturbed, 3))


def others_may_run_this_python() -> bool:
    """Whether the trial's unprivileged user reaches the environment that the tests run in."""
    prefix = Path(sys.prefix)
    return all(folder.stat().st_mode & 0o001 for folder in (prefix, *prefix.parents))


@pytest.mark.skipif(
    hasattr(os, "getuid") and os.getuid() == 0 and not others_may_run_this_python(),
    reason="root ignores permissions, and other users cannot reach this environment",
)
def test_folders_that_are_read_only_or_vanish(undisturbed: Any, faults: Any) -> None:
    hold(*faults.trials.folders(undisturbed))


def test_damaged_outputs_are_found_and_only_they_are_made_again(bench: Any, faults: Any) -> None:
    hold(faults.trials.damaged_outputs(bench))


def test_bad_weights_are_refused_and_nothing_is_executed(bench: Any, faults: Any) -> None:
    hold(*faults.trials.weights(bench))


def test_ids_lead_nowhere_else(bench: Any, faults: Any) -> None:
    hold(faults.trials.paths(bench))


def test_command_without_output_home_and_network(bench: Any, faults: Any) -> None:
    hold(faults.everyday.bare(bench))


@pytest.mark.slow
def test_two_hundred_kills(bench: Any, faults: Any) -> None:
    shutil.rmtree(bench.folder / "undisturbed", ignore_errors=True)
    hold(faults.trials.kills(bench, 200, seed=1))


@pytest.mark.slow
def test_two_thousand_cases_in_one_process(bench: Any, faults: Any) -> None:
    hold(faults.trials.soak(bench, 2000))


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["terminated", "dying_worker", "two_runs"])
def test_command_is_stopped_loses_workers_and_runs_once(
    trial: str, undisturbed: Any, faults: Any
) -> None:
    hold(getattr(faults.everyday, trial)(undisturbed))
