"""Workers as processes: started, listened to, replaced when they die, stopped when asked."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from voxlate.data_prep import DeviceError, VoxlateError

from .batch_progress import BatchProgress
from .batch_worker import outcome_from, refusal_from
from .case_list import CaseJob
from .failures import Outcome, failed, save_failure
from .interruption import STOP_SECONDS, Interrupted, Wish, signals_noted

POLL_SECONDS = 0.2
FALSE_STARTS = 2  #: after which a worker that dies before its first case is not started again


@dataclass
class _Worker:
    """One process and what it has in hand."""

    device: str
    left: dict[str, CaseJob]
    process: subprocess.Popen[bytes] | None = None
    in_hand: dict[str, str] = field(default_factory=dict)  # case to stage
    false_starts: int = 0
    refusal: VoxlateError | None = None


class Supervisor:
    """Runs cases in worker processes.

    A worker that dies (the system kills what takes too much memory; a driver may crash) is
    replaced. The cases it had in hand are run again one by one; a case during which a worker died
    alone, after it had been in hand before, has failed. So every case ends, whatever it does to its
    worker.

    Args:
        order: What a worker is told, but for its cases and device.
        devices: One for each worker.
        log: File that takes the workers' standard error.
        progress: Is told of stages and ends.
        stop_on_first_error: End when a case has failed.
    """

    def __init__(
        self,
        order: Mapping[str, Any],
        devices: Sequence[str],
        log: Path,
        progress: BatchProgress,
        *,
        stop_on_first_error: bool = False,
    ) -> None:
        self.order, self.devices, self.log, self.progress = dict(order), devices, log, progress
        self.stop_on_first_error = stop_on_first_error
        self.outcomes: list[Outcome] = []
        self._events: queue.Queue[tuple[_Worker, dict[str, Any] | None]] = queue.Queue()
        self._died: Counter[str] = Counter()
        self._wish = Wish()

    def run(self, jobs: Sequence[CaseJob]) -> None:
        """Run all jobs.

        Raises:
            Interrupted: A signal came.
            VoxlateError: The bundle, the device or the output cannot be used.
        """
        count = len(self.devices)
        workers = [
            _Worker(device, {job.id: job for job in jobs[index::count]})
            for index, device in enumerate(self.devices)
        ]
        workers = [worker for worker in workers if worker.left]
        with signals_noted() as self._wish:
            try:
                for worker in workers:
                    self._start(worker, alone=())
                self._listen(workers)
            finally:
                self._stop(workers)
        if self._wish.number:
            raise Interrupted(self._wish.number)

    def _listen(self, workers: Sequence[_Worker]) -> None:
        while any(worker.process is not None for worker in workers):
            if self._wish.number:
                return
            try:
                worker, event = self._events.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            if event is not None:
                self._take(worker, event)
                if self.stop_on_first_error and any(o.status == "failed" for o in self.outcomes):
                    return
                continue
            status = worker.process.wait() if worker.process is not None else 0
            worker.process = None
            if worker.refusal is not None:
                raise worker.refusal
            if worker.left:
                self._replace(worker, status)

    def _take(self, worker: _Worker, event: dict[str, Any]) -> None:
        """Note one event of a worker."""
        kind = event["event"]
        if kind == "finished":
            self._end(worker, outcome_from(event["outcome"]))
        elif kind == "refused":
            worker.refusal = refusal_from(event)
        elif kind == "ready":
            worker.false_starts = 0
            self.progress.work_begins()
            self.progress.event("worker_ready", {k: event[k] for k in ("device", "dtype")})
            self.progress.log_line(f"worker on {event['device']}, {event['dtype']}")
        elif kind == "stage":
            self.progress.stage(event["case"], event["stage"], f"{event['done']}/{event['total']}")
        else:
            worker.in_hand[event["case"]] = kind
            self.progress.event(kind, {"case": event["case"]})
            if kind == "translating":
                self.progress.stage(event["case"], kind)

    def _end(self, worker: _Worker, outcome: Outcome) -> None:
        worker.left.pop(outcome.id, None)
        worker.in_hand.pop(outcome.id, None)
        self.outcomes.append(outcome)
        self.progress.finished(outcome)

    def _replace(self, worker: _Worker, status: int) -> None:
        """Start a new process after one died; the cases that may have killed it go first, alone.

        Raises:
            DeviceError: It dies before it begins, again and again.
        """
        how = f"signal {-status}" if status < 0 else f"status {status}"
        suspects = [worker.left[case] for case in worker.in_hand if case in worker.left]
        worker.in_hand.clear()
        if not suspects:
            worker.false_starts += 1
            if worker.false_starts >= FALSE_STARTS:
                raise DeviceError(
                    f"the worker on {worker.device} ended ({how}) before its first case",
                    "see the log; is there enough memory to load the networks?",
                    code="E_WORKER_DIED",
                    file=self.log,
                )
        if len(suspects) == 1 and self._died[suspects[0].id]:
            self._end(worker, died_twice(suspects.pop(), Path(self.order["output"]), how))
        for job in suspects:
            self._died[job.id] += 1
        names = ", ".join(job.id for job in suspects) or "none"
        self.progress.event("worker_died", {"how": how, "cases": [job.id for job in suspects]})
        self.progress.say(f"a worker died ({how}); cases in hand, to be run alone: {names}")
        if worker.left:
            self._start(worker, alone=suspects)

    def _start(self, worker: _Worker, alone: Sequence[CaseJob]) -> None:
        """Start a process and tell it its cases."""
        first = {job.id for job in alone}
        order = {
            **self.order,
            "device": worker.device,
            "alone": [asdict(job) for job in alone],
            "jobs": [asdict(job) for id_, job in worker.left.items() if id_ not in first],
        }
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "voxlate.pipelines.batch_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        worker.process = process
        threading.Thread(target=self._follow, args=(worker, process), daemon=True).start()
        threading.Thread(target=_tell, args=(process, order), daemon=True).start()

    def _follow(self, worker: _Worker, process: subprocess.Popen[bytes]) -> None:
        """Hand on a process's events; at its end, None."""
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):  # the last line of one that was killed
                self._events.put((worker, json.loads(line)))
        self._events.put((worker, None))

    def _stop(self, workers: Sequence[_Worker]) -> None:
        """Ask the processes to end, insist after a while, and note what they still finished."""
        running = [worker for worker in workers if worker.process is not None]
        for worker in running:
            with contextlib.suppress(OSError):
                worker.process.terminate()  # type: ignore[union-attr]
        until = time.monotonic() + STOP_SECONDS
        insisted = False
        first_signal = self._wish.count
        while running:
            try:
                worker, event = self._events.get(timeout=POLL_SECONDS)
                if event is None:
                    worker.process.wait()  # type: ignore[union-attr]
                    running = [other for other in running if other is not worker]
                elif event["event"] == "finished":
                    self._take(worker, event)
            except queue.Empty:
                pass
            late = time.monotonic() > until or self._wish.count > max(first_signal, 1)
            if late and not insisted:
                insisted = True
                for worker in running:
                    with contextlib.suppress(OSError):
                        worker.process.kill()  # type: ignore[union-attr]


def died_twice(job: CaseJob, output: Path, how: str) -> Outcome:
    """The failure, saved, of a case that its workers do not survive."""
    error = VoxlateError(
        f"its worker died twice while it was at work ({how})",
        "is there enough memory? try it alone, or on another machine",
        code="E_WORKER_DIED",
        file=job.scan,
    )
    outcome = failed(job, error)
    save_failure(output, outcome)
    return outcome


def _tell(process: subprocess.Popen[bytes], order: Mapping[str, Any]) -> None:
    """Write the order; standard input stays open, for the worker ends with it."""
    pipe: IO[bytes] | None = process.stdin
    assert pipe is not None
    with contextlib.suppress(OSError):
        pipe.write((json.dumps(order) + "\n").encode())
        pipe.flush()
