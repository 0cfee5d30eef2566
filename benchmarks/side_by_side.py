"""Contenders one process after another on the same input: their time and memory, side by side.

The script that asks (the parent) stays small and imports no torch: what a child's peak memory
counts includes what its parent had when it was started.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

MARK = "RESULT "
GIB = 2**30
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Outcome(NamedTuple):
    """What a contender did.

    ``seconds`` are of the work, ``wall`` of the whole process; ``peak`` is the process's most
    memory, ``extra`` what the work needed above its input and weights (both GiB); ``notes`` is what
    else the contender reported. ``failed`` says why there is nothing of this.
    """

    name: str
    seconds: float = 0.0
    wall: float = 0.0
    peak: float = 0.0
    extra: float = 0.0
    notes: dict[str, Any] = {}  # noqa: RUF012
    failed: str = ""


def run(script: str, name: str, arguments: Sequence[str], *, needs_gib: float = 0.0) -> Outcome:
    """Run ``python script --contender name *arguments`` and read what it reports.

    Args:
        script: Path of a script that calls ``report`` when it is given ``--contender``.
        name: The contender.
        arguments: Further ones.
        needs_gib: Memory without which it is not tried.
    """
    if needs_gib > available_gib():
        return Outcome(
            name, failed=f"skipped: needs {needs_gib:.1f} GiB, {available_gib():.1f} are free"
        )
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, script, "--contender", name, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = process.communicate()
    wall = time.perf_counter() - start
    found = [line for line in output.splitlines() if line.startswith(MARK)]
    if process.returncode or not found:
        last = (errors.strip().splitlines() or ["no result"])[-1]
        return Outcome(name, failed=f"failed ({process.returncode}): {last}")
    return Outcome(name, wall=wall, **json.loads(found[-1].removeprefix(MARK)))


def report(work: Callable[[], dict[str, Any]], *, repeats: int = 1) -> None:
    """In the child: do the work, and print the shortest time, the memory and the work's notes.

    Memory is that of the first time.
    """
    building = peak_of_process()
    before = reset_peak()
    seconds, notes, extra = [], {}, 0.0
    for repeat in range(repeats):
        start = time.perf_counter()
        notes = work()
        seconds.append(time.perf_counter() - start)
        if repeat == 0:
            extra = peak_since_reset() - before
    result = {
        "seconds": notes.pop("seconds", min(seconds)),
        "peak": max(building, peak_of_process()),
        "extra": extra,
        "notes": notes,
    }
    print(MARK + json.dumps(result), flush=True)


def peak_of_process() -> float:
    """Most resident memory so far, GiB (Linux counts it in KiB, macOS in bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def reset_peak() -> float:
    """Forget the peak of before, where Linux lets us; return the memory in use, GiB."""
    try:
        CLEAR.write_text("5")
        return _status("VmRSS")
    except OSError:
        return peak_of_process()


def peak_since_reset() -> float:
    """Most memory since ``reset_peak``, GiB."""
    return _status("VmHWM") if STATUS.is_file() else peak_of_process()


def available_gib() -> float:
    """Memory that can be had without swapping, GiB."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(x.split()[1]) for x in lines if x.startswith("MemAvailable")) * 1024 / GIB
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def table(
    title: str, outcomes: Sequence[Outcome], notes: Sequence[str] = (), *, timed: bool = True
) -> str:
    """A Markdown table; times are multiples of the first contender's.

    Args:
        title: What was done.
        outcomes: Ours first.
        notes: Which notes to show.
        timed: Show times and memory.
    """
    columns = ["time", "extra memory", "peak memory"] if timed else []
    lines = [f"### {title}", "", f"| | {' | '.join([*columns, *notes])} |"]
    lines.append("|---" * (1 + len(columns) + len(notes)) + "|")
    first = outcomes[0]
    for outcome in outcomes:
        cells = [f"{outcome.notes.get(note, '')}" for note in notes]
        if outcome.failed:
            cells = [outcome.failed] + [""] * (len(columns) + len(notes) - 1)
        elif timed:
            ratio = outcome.seconds / first.seconds if first.seconds else float("nan")
            cells = [
                f"{ratio:.2f} x" if not first.failed else "?",
                f"{outcome.extra * 1024:.0f} MiB",
                f"{outcome.peak:.2f} GiB",
                *cells,
            ]
        lines.append(f"| {outcome.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def numbers(text: str) -> tuple[int, ...]:
    """Read ``192,192,144`` or ``192x192x144``."""
    return tuple(int(part) for part in text.replace("x", ",").split(","))


def _status(key: str) -> float:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024 / GIB
    return peak_of_process()
