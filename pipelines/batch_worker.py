"""One worker of a batch, a process of its own: ``python -m voxlate.pipelines.batch_worker``.

The first line of standard input is what to do, as JSON; standard output is a line of JSON for each
event. The worker ends when standard input does: it does not outlive who started it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from voxlate.data_prep import Overrides, VoxlateError, WeightsError, errors

from .case_list import CaseJob, Refusal
from .failures import Outcome, StopBatch
from .layouts import CaseFiles
from .overlap import AHEAD, Stopped, run_cases
from .run_case import CaseOptions, CaseRunner

TERMINATED = 143


def main() -> int:
    """Run the cases that standard input names.

    Returns:
        Exit status: 0 also where cases failed, for that is told by events.
    """
    events = _Events()
    order = json.loads(sys.stdin.buffer.readline() or b"null")
    if order is None:
        return TERMINATED
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("voxlate").setLevel(logging.INFO)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this one decides
    signal.signal(signal.SIGTERM, _stop)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    try:
        run_order(order, events)
    except StopBatch as stop:
        events("refused", refusal_fields(stop.error))
    except VoxlateError as error:
        events("refused", refusal_fields(error))
    except Stopped:
        return TERMINATED
    return 0


def run_order(order: Mapping[str, Any], emit: Any) -> None:
    """Load the network once, then run the cases: first those that must run alone.

    Raises:
        VoxlateError: The bundle, its weights or the device cannot be used.
        StopBatch: The output can take no further case.
    """
    runner = runner_for(order)
    emit("ready", ready_fields(runner))

    def plain(event: str, fields: dict[str, Any]) -> None:
        outcome = fields.get("outcome")
        emit(event, {"outcome": asdict(outcome)} if isinstance(outcome, Outcome) else fields)

    run_cases([job_from(j) for j in order["alone"]], runner, plain, ahead=0)
    run_cases([job_from(j) for j in order["jobs"]], runner, plain, ahead=AHEAD)


def runner_for(order: Mapping[str, Any]) -> CaseRunner:
    """Load the network, and see that it is the one that this run began with.

    Raises:
        VoxlateError: The bundle, its weights or the device cannot be used.
    """
    from .translator import Translator  # after the signals are in place: it takes seconds

    translator = Translator.from_bundle(order["bundle"], device=order["device"])
    runner = CaseRunner(translator, Path(order["output"]), _options(order["options"]))
    if runner.fingerprint != order["fingerprint"]:
        raise WeightsError(
            "the bundle changed since this run began",
            "start the same command again",
            code="E_WEIGHTS_CHANGED",
            file=order["bundle"],
        )
    return runner


def ready_fields(runner: CaseRunner) -> dict[str, Any]:
    """Where and in what the network computes."""
    translator = runner.translator
    return {"device": str(translator.device), "dtype": str(translator.dtype)}


def _options(fields: Mapping[str, Any]) -> CaseOptions:
    overrides = Overrides(**fields["overrides"])
    return CaseOptions(**{**fields, "targets": tuple(fields["targets"]), "overrides": overrides})


def job_from(fields: Mapping[str, Any]) -> CaseJob:
    """A case as ``dataclasses.asdict`` and JSON left it."""
    refusal = fields["refusal"]
    return CaseJob(
        **{
            **fields,
            "targets": tuple(fields["targets"]),
            "notes": tuple(fields["notes"]),
            "others": tuple(fields["others"]),
            "files": CaseFiles(**fields["files"]),
            "refusal": None if refusal is None else Refusal(*refusal),
        }
    )


def outcome_from(fields: Mapping[str, Any]) -> Outcome:
    """An outcome, likewise."""
    return Outcome(**{**fields, "warnings": tuple(fields["warnings"])})


class _Events:
    """Lines on what was standard output; whatever else is printed goes to standard error."""

    def __init__(self) -> None:
        self._handle = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def __call__(self, event: str, fields: Mapping[str, Any]) -> None:
        line = (json.dumps({"event": event, **fields}) + "\n").encode()
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._handle, line) :]
        except BrokenPipeError:
            os._exit(TERMINATED)


def refusal_fields(error: VoxlateError) -> dict[str, Any]:
    """A refusal for JSON."""
    return {
        "kind": type(error).__name__,
        "what": error.what,
        "todo": error.todo,
        "code": error.code,
        "file": error.file,
    }


def refusal_from(fields: Mapping[str, Any]) -> VoxlateError:
    """The refusal that ``refusal_fields`` was given."""
    error_class = getattr(errors, fields["kind"], VoxlateError)
    return error_class(fields["what"], fields["todo"], code=fields["code"], file=fields["file"])


def _stop(number: int, frame: FrameType | None) -> None:
    """Leave through the cleaning up; the second time, at once."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))
    raise Stopped


def _end_with_standard_input() -> None:
    while sys.stdin.buffer.read(1 << 12):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # threads that wait for a disk do not hold it up
