"""A worker on a Ray cluster: a process that holds the network and is told cases."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from voxlate.data_prep import OutputError, VoxlateError

from .batch_worker import job_from, ready_fields, refusal_fields, runner_for
from .failures import StopBatch
from .overlap import Stopped


class CaseWorker:
    """Holds the network and runs one case after another; an actor of Ray's.

    Args:
        order: What every engine tells its workers: bundle, device, output, options, fingerprint.
    """

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.order = order
        self._stop = threading.Event()

    def load(self) -> dict[str, Any]:
        """Load the network: where it is, or the refusal."""
        try:
            if not Path(self.order["output"]).is_dir():
                raise OutputError(
                    f"is not there on {platform.node()}",
                    "give a folder that all machines of the cluster see under one name",
                    code="E_OUTPUT",
                    file=self.order["output"],
                )
            self.runner = runner_for(self.order)
        except VoxlateError as error:
            return {"refused": refusal_fields(error)}
        return {**ready_fields(self.runner), "host": platform.node(), "process": os.getpid()}

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Run a case: its outcome, the refusal of all further ones, or nothing when stopped."""
        try:
            return {"outcome": asdict(self.runner.run_case(job_from(job), self._go_on))}
        except Stopped:
            return {}
        except StopBatch as stop:
            return {"refused": refusal_fields(stop.error)}

    def stop(self) -> None:
        """Drop the case that is in the network; called while another thread runs it."""
        self._stop.set()

    def _go_on(self, stage: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Stopped
