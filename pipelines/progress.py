"""How far a case is: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)


class CaseProgress:
    """Shows a case's stages on standard error; called with (stage, done, in all).

    On a terminal: case, stage, bar, count and time left. Elsewhere: one line when a stage begins,
    and for stages of many steps one more at every tenth part.

    Args:
        case: Name shown.
        quiet: Show nothing.
    """

    def __init__(self, case: str, *, quiet: bool = False) -> None:
        self.case, self.quiet = case, quiet
        console = Console(stderr=True)
        self._bar = (
            Progress(
                SpinnerColumn(),
                TextColumn("{task.fields[case]}: {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            if console.is_terminal and not quiet
            else None
        )
        self._stage = ""
        self._began = time.monotonic()
        self._tenth = 0

    def __enter__(self) -> "CaseProgress":
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("start", case=self.case, total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that ``done`` of ``total`` parts of ``stage`` are done."""
        if self.quiet:
            return
        new = stage != self._stage
        if self._bar is not None:
            if new:
                self._bar.reset(self._task, description=stage, total=total, completed=done)
            else:
                self._bar.update(self._task, completed=done, total=total)
        elif new or 10 * done // total > self._tenth:
            print(self._line(stage, done, total, new), file=sys.stderr, flush=True)
        if new:
            self._began = time.monotonic()
        self._stage, self._tenth = stage, 10 * done // total

    def _line(self, stage: str, done: int, total: int, new: bool) -> str:
        if new or total == 1:
            return f"{self.case}: {stage}" + (f" {done}/{total}" if total > 1 or done else "")
        left = (time.monotonic() - self._began) / done * (total - done)
        return f"{self.case}: {stage} {done}/{total}, about {left:.0f} s left"
