"""What became of a case, and the list of those that failed."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from voxlate.data_prep import DEFAULT_MODALITIES, OutputError, VoxlateError, write_atomically

from .case_list import CaseJob
from .case_table import escape
from .manifest import STATE_FOLDER

FAILURE_SCHEMA = "voxlate-failure/1"
STOPPING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
Status = Literal["written", "verified", "failed"]


@dataclass(frozen=True)
class Outcome:
    """One case of a batch, done.

    Attributes:
        id: Of the case.
        status: ``written`` now, ``verified`` from an earlier run, or ``failed``.
        seconds: From reading to the last file's name.
        input_sha256: Of the scan; empty where it was not read to its end.
        warnings: As in the record.
        code: Of the failure, such as ``E_TRUNCATED``.
        file: What the failure is about.
        what: What is wrong.
        todo: What to do about it.
        modality: The source, for the list of failures.
        scan: Its file, likewise.
        others: Further inputs, likewise: modality to file.
    """

    id: str
    status: Status
    seconds: float = 0.0
    input_sha256: str = ""
    warnings: tuple[str, ...] = ()
    code: str = ""
    file: str = ""
    what: str = ""
    todo: str = ""
    modality: str = ""
    scan: str = ""
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """Of a failure: ``FAILED <case> <file>: <CODE> <what> - <what to do>``."""
        return f"FAILED {self.id} {self.file}: {self.code} {self.what} - {self.todo}"


class StopBatch(Exception):
    """The output cannot take any further case.

    Args:
        error: Why.
    """

    def __init__(self, error: OutputError) -> None:
        super().__init__(str(error))
        self.error = error


def failed(job: CaseJob, error: Exception) -> Outcome:
    """The outcome of a case that an error ended.

    Args:
        job: The case.
        error: A refusal; or lack of memory; or anything else, which is then our bug.
    """
    refusal = _refusal(error, job)
    return Outcome(
        id=job.id,
        status="failed",
        code=refusal.code,
        file=refusal.file or job.scan,
        what=refusal.what,
        todo=refusal.todo,
        modality=job.source,
        scan=job.scan,
        others={name: job.given[name] for name in job.others},
    )


def stops_everything(error: BaseException) -> bool:
    """Whether a refusal to write comes from a full or read-only disk, not from one name."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in STOPPING


def _refusal(error: Exception, job: CaseJob) -> VoxlateError:
    if isinstance(error, VoxlateError):
        return error
    text = " ".join(str(error).split())[:300]
    if isinstance(error, MemoryError) or "memory" in text.lower():
        return VoxlateError(
            f"there was not enough memory for it ({type(error).__name__})",
            "free memory, take a larger machine, or resample the scan to 1 mm",
            code="E_MEMORY",
            file=job.scan,
        )
    return VoxlateError(
        f"an error in voxlate: {type(error).__name__}: {text}",
        "report it with the traceback in the log",
        code="E_BUG",
        file=job.scan,
    )


def save_failure(output: Path, outcome: Outcome) -> None:
    """Leave the failure where ``status`` and the report find it, whichever shard it was in."""
    content = {
        "Schema": FAILURE_SCHEMA,
        **{key: value for key, value in asdict(outcome).items() if key != "warnings"},
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    path = _path(output, outcome.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def forget_failure(output: Path, case_id: str) -> None:
    """Take it off the list, since the case is finished."""
    _path(output, case_id).unlink(missing_ok=True)


def find_failures(output: Path) -> Iterator[dict[str, Any]]:
    """Every failure that was saved and not forgotten, in a fixed order."""
    for path in sorted((output / STATE_FOLDER / "failed").glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content.get("Schema") == FAILURE_SCHEMA:
            yield content


def write_failed_csv(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write the failures as a list that ``voxlate batch`` reads; without any, delete the old one.

    Raises:
        OutputError: It cannot be written.
    """
    outcomes = list(outcomes)
    if not outcomes:
        path.unlink(missing_ok=True)
        return
    inputs = [{**outcome.others, outcome.modality: outcome.scan} for outcome in outcomes]
    used = {name for files in inputs for name in files}
    modalities = [name for name in DEFAULT_MODALITIES if name in used]
    modalities += sorted(used - {*modalities, ""})
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", *modalities, "code", "file", "what", "todo"])
    for outcome, files in zip(outcomes, inputs, strict=True):
        scans = [os.path.abspath(files[name]) if name in files else "" for name in modalities]
        cells = [outcome.id, *scans, outcome.code, outcome.file, outcome.what, outcome.todo]
        rows.writerow([escape(cell) for cell in cells])
    with write_atomically(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))


def _path(output: Path, case_id: str) -> Path:
    digest = hashlib.sha256(case_id.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", case_id).lstrip(".")[-60:]
    return output / STATE_FOLDER / "failed" / f"{readable}-{digest}.json"
