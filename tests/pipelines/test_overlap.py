"""Three threads: they overlap, they stop, and no case is lost or done twice."""

import threading
import time
from typing import Any

import pytest

from voxlate.data_prep import OutputError
from voxlate.pipelines.case_list import CaseJob
from voxlate.pipelines.failures import Outcome, StopBatch
from voxlate.pipelines.layouts import tree_files
from voxlate.pipelines.overlap import Stopped, run_cases

JOBS = [CaseJob(f"c{i}", "t1", "x", ("t2",), tree_files(f"c{i}", ["t2"])) for i in range(8)]


class Read:
    def __init__(self, job: CaseJob) -> None:
        self.job = job


class Fake:
    """Steps that take ``seconds`` each; what they do at a case may be replaced."""

    def __init__(self, seconds: float = 0.0, **special: Any) -> None:
        self.seconds, self.special = seconds, special
        self.log: list[tuple[str, str, float]] = []

    def _do(self, step: str, job: CaseJob) -> Any:
        time.sleep(self.seconds)
        self.log.append((step, job.id, time.monotonic()))
        action = self.special.get(f"{step}_{job.id}")
        return action() if callable(action) else action

    def read(self, job: CaseJob) -> Any:
        return self._do("read", job) or Read(job)

    def translate(self, read: Any, progress: Any = None) -> Any:
        return self._do("translate", read.job) or "made"

    def write(self, read: Any, made: Any) -> Any:
        return self._do("write", read.job) or Outcome(read.job.id, "written")


def run(fake: Fake, **options: int) -> list[Outcome]:
    ended: list[Outcome] = []
    lock = threading.Lock()

    def emit(event: str, fields: dict[str, Any]) -> None:
        with lock:
            if event == "finished":
                ended.append(fields["outcome"])

    fake.ended = ended  # type: ignore[attr-defined]
    run_cases(JOBS, fake, emit, **options)  # type: ignore[arg-type]
    return ended


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_every_case_ends_once_in_order(ahead: int) -> None:
    assert [outcome.id for outcome in run(Fake(), ahead=ahead)] == [job.id for job in JOBS]


def test_steps_of_different_cases_overlap() -> None:
    began = time.monotonic()
    run(Fake(0.1))
    overlapped = time.monotonic() - began
    assert overlapped < 0.75 * 3 * 0.1 * len(JOBS)


def test_cases_that_end_early_do_not_hold_up_the_others() -> None:
    early = Outcome("c3", "verified")
    late = Outcome("c5", "failed")
    ended = run(Fake(read_c3=early, translate_c5=late))
    assert len(ended) == len(JOBS) and {o.status for o in ended} == {
        "written",
        "verified",
        "failed",
    }


@pytest.mark.parametrize("step", ["read", "write"])
def test_full_disk_stops_everything(step: str) -> None:
    def full() -> None:
        raise StopBatch(OutputError("full", "make room", code="E_DISK_FULL"))

    fake = Fake(**{f"{step}_c2": full})
    with pytest.raises(StopBatch):
        run(fake)
    assert not [entry for entry in fake.log if entry[1] == "c7"]


def test_stop_drops_the_case_in_the_network_and_finishes_the_one_being_written() -> None:
    def stop() -> None:
        raise Stopped

    def slow() -> None:
        time.sleep(0.3)

    fake = Fake(0.01, translate_c3=stop, write_c2=slow)
    with pytest.raises(Stopped):
        run(fake)
    written = [outcome.id for outcome in fake.ended]  # type: ignore[attr-defined]
    assert written == ["c0", "c1", "c2"]


def test_bug_in_a_step_is_not_swallowed() -> None:
    def bug() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run(Fake(write_c1=bug))
