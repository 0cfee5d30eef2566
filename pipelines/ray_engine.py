"""Cases on a Ray cluster, or on a Ray of this machine's own: ``voxlate batch --engine ray``.

Ray places and starts the workers, moves what they are told, and notices when one dies. Workers that
find no place yet wait for one, so a cluster that grows takes up more cases.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from voxlate.data_prep import DeviceError

from .batch_progress import BatchProgress
from .batch_worker import outcome_from, refusal_from
from .case_list import CaseJob
from .failures import Outcome
from .interruption import STOP_SECONDS, Interrupted, Wish, signals_noted
from .ray_cluster import Places, choose_places, ray_connected
from .ray_worker import CaseWorker
from .supervisor import FALSE_STARTS, POLL_SECONDS, died_twice

PATIENCE_SECONDS = 60.0  #: without any worker, after which that is said


class RayEngine:
    """Runs cases in Ray actors; ``Supervisor`` does the same with processes of this machine.

    An actor that dies is replaced, the case it had in hand is run again, and fails when a worker
    dies of it for the second time.

    Args:
        order: What a worker is told, but for its device.
        device: ``auto`` (every GPU of the cluster, else its CPUs), ``cuda`` or ``cpu``.
        workers: How many at most; by default one for each GPU, or for each machine without.
        progress: Is told of stages and ends.
        stop_on_first_error: End when a case has failed.
    """

    def __init__(
        self,
        order: Mapping[str, Any],
        device: str,
        workers: int | None,
        progress: BatchProgress,
        *,
        stop_on_first_error: bool = False,
    ) -> None:
        self.order, self.device, self.workers, self.progress = order, device, workers, progress
        self.stop_on_first_error = stop_on_first_error
        self.outcomes: list[Outcome] = []
        self._died: Counter[str] = Counter()
        self._calls: dict[Any, tuple[Any, CaseJob | None]] = {}  # a result to come: whose, of what
        self._workers: list[Any] = []
        self._ready = self._false_starts = 0

    def run(self, jobs: Sequence[CaseJob]) -> None:
        """Run all jobs.

        Raises:
            Interrupted: A signal came.
            UsageError: Ray is not installed, or not there.
            VoxlateError: The bundle, the device or the output cannot be used.
        """
        with ray_connected() as ray, signals_noted() as wish:  # Ray takes SIGTERM for itself
            places = choose_places(ray, self.device, self.workers)
            self.progress.log_line(f"Ray {ray.__version__}: {places}")
            try:
                self._loop(ray, places, deque(jobs), wish)
            finally:
                self._stop(ray, wish)
        if wish.number:
            raise Interrupted(wish.number)

    def _loop(self, ray: Any, places: Places, waiting: deque[CaseJob], wish: Wish) -> None:
        """Give every worker that is ready a case, until all have ended."""
        self._remote = ray.remote(CaseWorker).options(
            num_cpus=places.cpus, num_gpus=places.gpus, max_concurrency=2, max_restarts=0
        )
        open_cases = len(waiting)
        wanted = min(places.workers, open_cases)
        began, told = time.monotonic(), False
        for _ in range(wanted):
            self._start(places)
        idle: list[Any] = []
        while len(self.outcomes) < open_cases and not wish.number:
            if not told and not self._ready and time.monotonic() - began > PATIENCE_SECONDS:
                told = True
                self.progress.say(
                    f"no worker yet: each waits for {places.gpus} GPU(s) and {places.cpus} CPU(s) "
                    "of one machine of the cluster"
                )
            done, _ = ray.wait(list(self._calls), num_returns=1, timeout=POLL_SECONDS)
            for call in done:
                worker, job = self._calls.pop(call)
                try:
                    answer = ray.get(call)
                except ray.exceptions.RayActorError as error:
                    self._bury(job, waiting, error)
                    if len(self._calls) + len(idle) < min(wanted, open_cases - len(self.outcomes)):
                        self._start(places)
                    continue
                self._take(answer, job)
                idle.append(worker)
            if self.stop_on_first_error and any(o.status == "failed" for o in self.outcomes):
                break
            while idle and waiting:
                self._give(idle.pop(), waiting.popleft())

    def _start(self, places: Places) -> None:
        worker = self._remote.remote({**self.order, "device": places.device})
        self._workers.append(worker)
        self._calls[worker.load.remote()] = worker, None

    def _give(self, worker: Any, job: CaseJob) -> None:
        self.progress.event("reading", {"case": job.id})
        self.progress.stage(job.id, "at work")
        self._calls[worker.run.remote(asdict(job))] = worker, job

    def _take(self, answer: Mapping[str, Any], job: CaseJob | None) -> None:
        """Note what a call to a worker came back with.

        Raises:
            VoxlateError: It cannot work.
        """
        if "refused" in answer:
            raise refusal_from(answer["refused"])
        if "outcome" in answer:
            outcome = outcome_from(answer["outcome"])
            self.outcomes.append(outcome)
            self.progress.finished(outcome)
        elif job is None:
            self._ready += 1
            self._false_starts = 0
            self.progress.work_begins()
            self.progress.event("worker_ready", answer)
            self.progress.log_line(
                "worker on {device}, {dtype}, process {process} of {host}".format(**answer)
            )

    def _bury(self, job: CaseJob | None, waiting: deque[CaseJob], error: Exception) -> None:
        """A worker is dead: its case is run again, or has failed.

        Raises:
            DeviceError: Workers die before they begin, again and again.
        """
        how = str(error).strip().splitlines()[0]
        if job is None:
            self._false_starts += 1
            if self._false_starts >= FALSE_STARTS:
                raise DeviceError(
                    f"Ray's workers end before their first case ({how})",
                    "is voxlate installed on all machines, and is there enough memory?",
                    code="E_WORKER_DIED",
                )
            return
        self._died[job.id] += 1
        self.progress.event("worker_died", {"how": how, "cases": [job.id]})
        if self._died[job.id] > 1:
            outcome = died_twice(job, Path(self.order["output"]), how)
            self.outcomes.append(outcome)
            self.progress.finished(outcome)
            return
        self.progress.say(f"a worker died ({how}); to be run again: {job.id}")
        waiting.appendleft(job)

    def _stop(self, ray: Any, wish: Wish) -> None:
        """Let cases that are being written end, drop the others, end the workers."""
        at_work = {call: worker for call, (worker, job) in self._calls.items() if job is not None}
        for worker in at_work.values():
            worker.stop.remote()
        until, signals = time.monotonic() + STOP_SECONDS, wish.count
        while at_work and time.monotonic() < until and wish.count <= max(signals, 1):
            done, _ = ray.wait(list(at_work), timeout=POLL_SECONDS)
            for call in done:
                del at_work[call]
                with contextlib.suppress(ray.exceptions.RayActorError):
                    answer = ray.get(call)
                    if "outcome" in answer:
                        self._take(answer, None)
        for worker in self._workers:
            ray.kill(worker)
