"""What a person and a program see of a batch: a bar or plain lines, a log file, JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .failures import Outcome


class BatchProgress:
    """Tells how far a batch is.

    On a terminal a bar with the cases done, the time left, and what is at work; elsewhere a plain
    line for each case. Failures are always told. All of it also goes to the log file. A reader that
    has gone away (``voxlate batch | head``) is no reason to stop.

    Args:
        log: The run's log file.
        quiet: Tell failures alone.
        events: File for JSON lines, ``-`` for standard output; None for none.
    """

    def __init__(self, log: Path, *, quiet: bool = False, events: str | None = None) -> None:
        self.quiet = quiet
        self._stack = ExitStack()
        self.log = self._stack.enter_context(open_log(log))
        self._events: TextIO | None = None
        if events == "-":
            self._events = sys.stdout
        elif events is not None:
            self._events = self._stack.enter_context(
                open(events, "a", encoding="utf-8")  # noqa: SIM115, the stack closes it
            )
        self._bar: Progress | None = None
        self._total = self._done = self._written = 0
        self._began = time.monotonic()

    def __enter__(self) -> BatchProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._stack.close()

    def begin(self, total: int, note: Mapping[str, Any]) -> None:
        """Say what is about to be done."""
        self._total = total
        self.event("run_started", {"cases": total, **note})
        self.log_line(f"{total} cases; " + ", ".join(f"{k}: {v}" for k, v in note.items()))
        console = Console(stderr=True) if sys.stderr is not None else None
        if console is not None and console.is_terminal and not self.quiet:
            self._bar = Progress(
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.description}", markup=False),
                console=console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("loading the networks", total=total, left="")

    def work_begins(self) -> None:
        """A worker has loaded the networks: the time left is told from here."""
        if not self._done:
            self._began = time.monotonic()

    def stage(self, case: str, stage: str, part: str = "") -> None:
        """A case is at a stage."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{case}: {stage} {part}", left=self._left())

    def finished(self, outcome: Outcome) -> None:
        """A case has ended."""
        self._done += 1
        self._written += outcome.status == "written"
        self.event(
            outcome.status,
            {
                "case": outcome.id,
                "seconds": round(outcome.seconds, 3),
                "warnings": list(outcome.warnings),
                **(
                    {k: getattr(outcome, k) for k in ("code", "file", "what", "todo")}
                    if outcome.status == "failed"
                    else {}
                ),
            },
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, left=self._left())
        if outcome.status == "failed":
            self.say(outcome.line, always=True)
            return
        for warning in outcome.warnings:
            self.log_line(f"{outcome.id}: {warning}")
        line = f"[{self._done}/{self._total}] {outcome.status} {outcome.id}"
        if outcome.status == "written":
            line += f" ({outcome.seconds:.1f} s)"
        if outcome.warnings:
            line += " " + " ".join(dict.fromkeys(text.split(":")[0] for text in outcome.warnings))
        left = self._left()
        self.log_line(line)
        if self._bar is None and not self.quiet:
            _print(line + (f", {left}" if left else ""))

    def say(self, line: str, *, always: bool = False) -> None:
        """Tell a line to the person and to the log."""
        self.log_line(line)
        if self.quiet and not always:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            _print(line)

    def result(self, line: str) -> None:
        """Print the line that sums up; that nobody reads it is no failure."""
        self.log_line(line)
        if self._events is sys.stdout:
            _print(line)  # standard output is for programs
            return
        try:
            print(line, flush=True)
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115, until the process ends

    def log_line(self, line: str) -> None:
        """A line for the log alone."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with contextlib.suppress(OSError):  # a full disk stops the run elsewhere
            self.log.write(f"{now} {line}\n")
            self.log.flush()

    def event(self, event: str, fields: Mapping[str, Any]) -> None:
        """A line of JSON, for programs."""
        if self._events is None:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        try:
            print(
                json.dumps({"time": now, "event": event, **fields}), file=self._events, flush=True
            )
        except (OSError, ValueError):
            self._events = None

    def _left(self) -> str:
        """From the pace of the cases that were computed; those verified take no time."""
        if not self._written or self._done == self._total:
            return ""
        pace = (time.monotonic() - self._began) / self._written
        return f"about {duration(pace * (self._total - self._done))} left"


def duration(seconds: float) -> str:
    """Such as ``40 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def open_log(path: Path) -> TextIO:
    """Open for appending: the workers write their own lines into the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return open(path, "a", encoding="utf-8", errors="backslashreplace")


def _print(line: str) -> None:
    if sys.stderr is None:
        return
    try:
        print(line.encode("utf-8", "backslashreplace").decode(), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115, likewise
