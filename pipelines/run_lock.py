"""One run at a time for each shard of an output folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from voxlate.data_prep import UsageError

from .manifest import STATE_FOLDER
from .shards import Shard


@contextmanager
def run_lock(output: Path, shard: Shard) -> Iterator[str | None]:
    """Hold the lock of a shard; the system lets go of it when the process dies, however it dies.

    Runs with another number of shards are refused too, for their parts overlap.

    Args:
        output: The output folder, which is there.
        shard: The part of the list that this run works on.

    Yields:
        What is said of the last run where that died without letting go; else None.

    Raises:
        UsageError: Another run is at work here.
    """
    folder = output / STATE_FOLDER / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{shard.index}-of-{shard.count}.lock"
    with ExitStack() as stack:
        _take(own, stack, output)
        for other in sorted(folder.glob("*-of-*.lock")):
            if not other.stem.endswith(f"-of-{shard.count}"):
                with ExitStack() as probe:
                    _take(other, probe, output)
        note = own.with_suffix(".json")
        died = note.read_text(encoding="utf-8", errors="replace") if note.exists() else None
        note.write_text(
            json.dumps(
                {
                    "host": platform.node(),
                    "process": os.getpid(),
                    "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                }
            ),
            encoding="utf-8",
        )
        try:
            yield died
        finally:
            note.unlink(missing_ok=True)


def running(output: Path) -> list[str]:
    """The shards, as ``i-of-n``, that some run holds the lock of."""
    held = []
    for path in sorted((output / STATE_FOLDER / "locks").glob("*-of-*.lock")):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            held.append(path.stem)
        except (OSError, NotImplementedError):
            continue
        else:
            lock.release()
    return held


def _take(path: Path, stack: ExitStack, output: Path) -> None:
    try:
        stack.enter_context(FileLock(path, mode=0o666).acquire(timeout=0))
    except NotImplementedError:
        return  # a file system without locks: the manifests still keep results whole
    except Timeout:
        raise UsageError(
            f"another run is at work here ({_holder(path)})",
            "wait for it, stop it, or name another output folder",
            code="E_LOCKED",
            file=output,
        ) from None


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.with_suffix(".json").read_bytes())
        return (
            f"shard {path.stem}, process {note['process']} on {note['host']} since {note['began']}"
        )
    except (OSError, ValueError, KeyError):
        return f"shard {path.stem}"
