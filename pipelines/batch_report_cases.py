"""What a report tells of a batch: its cases, the worst first."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from voxlate.data_prep import NoInputError

from .case_table import unescape
from .failures import find_failures
from .manifest import difference, find_manifests
from .quality_scores import severity

Status = Literal["failed", "damaged", "doubtful", "finished"]
STATUSES: tuple[Status, ...] = ("failed", "damaged", "doubtful", "finished")


@dataclass(frozen=True)
class ReportCase:
    """One case, as its record or its failure has it.

    Attributes:
        id: As the batch names it.
        place: Its record below the output folder, or the id where there is none.
        status: ``failed``, ``damaged`` (a file is not as recorded), ``doubtful`` (with warnings),
            or ``finished``.
        path: Its record; None where there is none.
        record: What that holds.
        failure: ``code``, ``file``, ``what`` and ``todo``, where it failed.
        damage: What is not as recorded.
    """

    id: str
    place: str
    status: Status
    path: Path | None = None
    record: dict[str, Any] = field(default_factory=dict)
    failure: dict[str, str] = field(default_factory=dict)
    damage: str = ""

    @property
    def key(self) -> str:
        """Name of its page: safe in any file system and URL, another for every case."""
        readable = re.sub(r"[^A-Za-z0-9-]+", "_", self.place)[-40:].strip("_")
        digest = hashlib.sha256(self.place.encode("utf-8", "surrogateescape")).hexdigest()
        return f"{readable}-{digest[:10]}"

    @property
    def source(self) -> str:
        """Modality of its scan."""
        return str(self.record.get("Input", {}).get("Modality", self.failure.get("modality", "")))

    @property
    def inputs(self) -> list[str]:
        """Every modality that it was made from."""
        others = [str(entry.get("Modality", "")) for entry in self.record.get("OtherInputs") or []]
        return [name for name in (self.source, *others) if name]

    @property
    def targets(self) -> list[str]:
        """Modalities that were made."""
        return list(self.record.get("Outputs", {}))

    @property
    def warnings(self) -> list[str]:
        """Each ``W_CODE: text``."""
        return [str(text) for text in self.record.get("Warnings", [])]

    @property
    def scores(self) -> dict[str, dict[str, float | None]]:
        """By target and name; empty for records without."""
        return self.record.get("Scores") or {}

    @property
    def edges(self) -> float | None:
        """Edge agreement of the target where it is lowest."""
        found = [values.get("EdgeAgreement") for values in self.scores.values()]
        return min((value for value in found if value is not None), default=None)

    @property
    def seconds(self) -> dict[str, float]:
        """By stage."""
        return self.record.get("Seconds") or {}

    @property
    def severity(self) -> float:
        """How near the worst score is to its limit, or how far beyond: 1 is there."""
        return severity(self.scores)


def find_report_cases(output: Path) -> list[ReportCase]:
    """Every case of an output folder, the worst first.

    Failed before damaged before doubtful before finished; then those whose scores are nearer to a
    limit, or further beyond it; then those with more warnings.

    Raises:
        NoInputError: There is no record of a case, and no failure.
    """
    failures = {str(failure["id"]): failure for failure in _failures(output)}
    cases = []
    for path, record in find_manifests(output):
        place = path.relative_to(output).as_posix()
        try:
            case_id = str(record["Options"]["CaseID"])
            damage = difference(record, path.parent, full=False) or ""
            doubts = [str(text) for text in record["Warnings"]]
        except (KeyError, TypeError, AttributeError):  # by another program, or by hand
            case = ReportCase(place, place, "damaged", damage=f"{path.name} is no whole record")
            cases.append(case)
            continue
        status: Status = "damaged" if damage else "doubtful" if doubts else "finished"
        failure = failures.pop(case_id, {})
        if failure:  # it was begun again since, in vain
            status = "failed"
        cases.append(ReportCase(case_id, place, status, path, record, failure, damage))
    for name, failure in failures.items():
        cases.append(ReportCase(name, name, "failed", failure=failure))
    if not cases:
        raise NoInputError(
            "no record of a case is below this folder, and no failure",
            "name the output folder of 'voxlate batch' or 'voxlate translate'",
            code="E_NO_INPUT",
            file=output,
        )
    return sorted(cases, key=_badness)


def _badness(case: ReportCase) -> tuple[int, float, int, str]:
    return STATUSES.index(case.status), -case.severity, -len(case.warnings), case.id


def _failures(output: Path) -> Iterator[dict[str, str]]:
    """From what the batch saved; where that is gone, from the lists it left."""
    known = set()
    for saved in find_failures(output):
        known.add(saved.get("id"))
        yield {key: _text(value) for key, value in saved.items()}
    for path in sorted([*output.glob("failed.csv"), *output.glob("failed-*-of-*.csv")]):
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file):
                found = {key: unescape(value or "") for key, value in row.items() if key}
                if found.get("id") and found["id"] not in known:
                    known.add(found["id"])
                    yield found


def _text(value: object) -> str:
    return "" if value is None else str(value)
