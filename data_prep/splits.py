"""Training and validation, by patient, from a seed, whatever order the files came in."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .cases import Case
from .errors import UsageError
from .writing import write_atomically

SIDES = ("training", "validation")


def split_by_seed(cases: Iterable[Case], share: float, *, seed: int = 0) -> dict[str, str]:
    """Put a share of the patients into validation, with all their sessions.

    Patients are ranked by a hash of seed and name: neither the order of the cases nor the way a
    folder is listed has any part in it.

    Args:
        cases: What to split.
        share: Of the patients for validation, 0 to 1; one at least where it is above 0.
        seed: Of the split.

    Returns:
        Case id to ``training`` or ``validation``.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be in [0, 1), got {share}")
    cases = list(cases)
    patients = sorted({case.subject for case in cases}, key=lambda name: _rank(seed, name))
    count = round(share * len(patients))
    if share > 0 and len(patients) > 1:
        count = min(max(count, 1), len(patients) - 1)
    held = set(patients[:count])
    return {case.id: SIDES[case.subject in held] for case in cases}


def read_split(path: str | os.PathLike[str], cases: Sequence[Case]) -> dict[str, str]:
    """Read a split of the same cases from a CSV file with the columns id and split.

    ALDM's words are understood: train is training, val and test are validation.

    Raises:
        UsageError: The file is no split, lacks a case, or parts a patient.
    """
    path = Path(path)
    words = {"train": "training", "val": "validation", "test": "validation"}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise _wrong(path, f"cannot be read ({reason})", "give a CSV file") from None
    sides = {}
    for row in rows:
        side = words.get(row.get("split") or "", row.get("split") or "")
        if not row.get("id") or side not in SIDES:
            raise _wrong(path, f"a row is {row}", "write id,split with training or validation")
        sides[str(row["id"])] = side
    if lacking := [case.id for case in cases if case.id not in sides]:
        what = f"lacks {len(lacking)} cases, such as {lacking[0]}"
        raise _wrong(path, what, "give every case a side")
    chosen = {case.id: sides[case.id] for case in cases}
    check_split(chosen, cases, path)
    return chosen


def check_split(
    sides: Mapping[str, str], cases: Iterable[Case], path: str | os.PathLike[str] | None = None
) -> None:
    """Refuse a split that has sessions of one patient on both sides.

    Raises:
        UsageError: There is such a patient.
    """
    of: dict[str, set[str]] = {}
    for case in cases:
        of.setdefault(case.subject, set()).add(sides[case.id])
    if both := sorted(patient for patient, found in of.items() if len(found) > 1):
        raise UsageError(
            f"patient {', '.join(both)} is in training and in validation",
            "keep all sessions of a patient on one side",
            code="E_LEAK",
            file=path,
        )


def save_split(
    path: str | os.PathLike[str], cases: Iterable[Case], sides: Mapping[str, str]
) -> None:
    """Write the split as ``read_split`` reads it, with the patients."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "patient", "split"])
    writer.writerows([case.id, case.subject, sides[case.id]] for case in cases)
    with write_atomically(Path(path)) as file:
        file.write(text.getvalue().encode())


def _rank(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()


def _wrong(path: Path, what: str, todo: str) -> UsageError:
    return UsageError(what, todo, code="E_SPLIT", file=path)
