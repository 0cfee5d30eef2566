"""Reading, network and writing side by side: three threads with short queues between them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from .case_list import CaseJob
from .case_steps import Made
from .failures import Outcome
from .one_to_many import Progress
from .run_case import ReadJob

AHEAD = 2  #: cases read before the network wants them
LAST_WRITE_SECONDS = 15.0  #: for which an interrupted run waits for the case that is being written
POLL_SECONDS = 0.1

Emit = Callable[[str, dict[str, Any]], None]


class Steps(Protocol):
    """The steps of ``CaseRunner``."""

    def read(self, job: CaseJob) -> ReadJob | Outcome:
        """First."""

    def translate(self, read: ReadJob, progress: Progress | None = None) -> Made | Outcome:
        """Second, on the calling thread."""

    def write(self, read: ReadJob, made: Made) -> Outcome:
        """Third."""


class Stopped(BaseException):
    """Raised in the main thread by a signal: the case in the network is dropped."""


class _End(NamedTuple):
    """What a thread puts last: nothing more comes, because of this."""

    error: BaseException | None = None


class _Abandoned(Exception):
    """The other side of a queue is gone."""


def run_cases(jobs: Iterable[CaseJob], runner: Steps, emit: Emit, *, ahead: int = AHEAD) -> None:
    """Run cases; at most ``ahead`` wait read, one is in the network, one is being written.

    So a killed run has lost the work on two cases at most: the network takes up a case when the one
    before it is given to the writing thread, and waits with its answer until that has ended.

    What a case becomes does not depend on the others or on the order: its noise is its own. An
    interruption drops the case in the network and what was only read, and lets the case that is
    being written end.

    Args:
        jobs: In the order in which they are taken up.
        runner: The steps.
        emit: Called from all threads with a stage of a case (``reading``, ``translating``,
            ``writing``, with ``case``) or its end (``finished``, with ``outcome``).
        ahead: Cases to read ahead; 0 runs each case alone, from its first step to its last.

    Raises:
        StopBatch: The output can take no further case.
    """
    if ahead == 0:
        for job in jobs:
            _alone(job, runner, emit)
        return
    read = _Channel(ahead)
    made = _Channel(1)
    threads = [
        threading.Thread(target=_reading, args=(jobs, runner, emit, read), daemon=True),
        threading.Thread(target=_writing, args=(runner, emit, made), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        while not isinstance(item := read.get(), _End):
            read.free()
            answer = _translated(item, runner, emit)
            if answer is not None:
                made.put((item, answer))
        if item.error is not None:
            raise item.error
        made.put(_End())
        threads[1].join()
    except _Abandoned:
        pass  # the writing thread has ended with an error
    finally:
        read.close()
        if threads[1].is_alive():
            made.close()
            threads[1].join(LAST_WRITE_SECONDS)
    if made.error is not None:
        raise made.error


def _alone(job: CaseJob, runner: Steps, emit: Emit) -> None:
    emit("reading", {"case": job.id})
    item = runner.read(job)
    if isinstance(item, Outcome):
        emit("finished", {"outcome": item})
    elif (answer := _translated(item, runner, emit)) is not None:
        emit("writing", {"case": job.id})
        emit("finished", {"outcome": runner.write(item, answer)})


def _translated(item: ReadJob | Outcome, runner: Steps, emit: Emit) -> Made | None:
    """The network's answer; None where the case has ended already."""
    if isinstance(item, Outcome):
        emit("finished", {"outcome": item})
        return None

    def progress(stage: str, done: int, total: int) -> None:
        emit("stage", {"case": item.job.id, "stage": stage, "done": done, "total": total})

    emit("translating", {"case": item.job.id})
    answer = runner.translate(item, progress)
    if isinstance(answer, Outcome):
        emit("finished", {"outcome": answer})
        return None
    return answer


def _reading(jobs: Iterable[CaseJob], runner: Steps, emit: Emit, read: _Channel) -> None:
    try:
        for job in jobs:
            emit("reading", {"case": job.id})
            read.put(runner.read(job))
        read.put(_End())
    except _Abandoned:
        return
    except BaseException as error:
        read.end(error)


def _writing(runner: Steps, emit: Emit, made: _Channel) -> None:
    try:
        while not isinstance(item := made.get(), _End):
            emit("writing", {"case": item[0].job.id})
            emit("finished", {"outcome": runner.write(*item)})
            made.free()
    except BaseException as error:
        made.error = error
    finally:
        made.close()


class _Channel:
    """A short queue that either side can give up, so that the other never waits for ever.

    Args:
        size: Items that were put and whose place was not freed.
    """

    def __init__(self, size: int) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        self._places = threading.Semaphore(size)
        self._closed = threading.Event()
        self.error: BaseException | None = None

    def put(self, item: object) -> None:
        while not self._closed.is_set():
            if self._places.acquire(timeout=POLL_SECONDS):
                self._queue.put(item)
                return
        raise _Abandoned

    def free(self) -> None:
        """Let another item take the place of one that was got."""
        self._places.release()

    def get(self) -> Any:
        """The next item; ``_End`` where the channel was closed and is empty."""
        while True:
            try:
                return self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if self._closed.is_set():
                    return _End(self.error)

    def end(self, error: BaseException) -> None:
        """Close because of an error, which the other side will get."""
        self.error = error
        self.close()

    def close(self) -> None:
        self._closed.set()
