"""``voxlate check``: can this folder be trained on? Every scan, every pair, and the split."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from voxlate.data_prep import NoInputError, UsageError, find_cases
from voxlate.data_prep.cases import Case
from voxlate.data_prep.layouts import MASKS
from voxlate.data_prep.modalities import ALIASES

from .check_scans import CaseFacts, Finding, check_case
from .processes import outcomes
from .progress import CaseProgress

NEAR = 0.995  #: correlation of two thumbnails of one contrast that are one scan


@dataclass(frozen=True)
class Report:
    """What was looked at and what was found, errors first."""

    cases: list[CaseFacts]
    sides: Mapping[str, str]
    findings: list[Finding]

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.level == "error" for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Findings, and for each case what was measured."""
        return {
            "errors": self.errors,
            "warnings": len(self.findings) - self.errors,
            "findings": [asdict(finding) for finding in self.findings],
            "cases": [
                {
                    "id": facts.case,
                    "patient": facts.patient,
                    "side": self.sides.get(facts.case),
                    "modalities": list(facts.hashes),
                    "shape": facts.shape,
                    "spacing_mm": facts.spacing,
                    "offsets_mm": facts.offsets_mm,
                }
                for facts in self.cases
            ],
        }


def check(
    folder: str | os.PathLike[str],
    *,
    datalist: str | os.PathLike[str] | None = None,
    workers: int = 1,
    quiet: bool = False,
) -> Report:
    """Check the cases of a folder, and its split where there is a data list.

    Args:
        folder: Output of ``prepare``, or cases in any layout that ``find_cases`` knows.
        datalist: MONAI data list with the split; None for the one in the folder, if there is one.
        workers: Processes.
        quiet: Show no progress.

    Raises:
        NoInputError: There is no case.
        UsageError: There are several data lists, or the one named is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NoInputError("no such folder", "check the path", code="E_PATH", file=folder)
    cases, sides, findings = _cases(folder, datalist)
    results: dict[int, CaseFacts] = {}
    with CaseProgress(folder.name, quiet=quiet) as progress:
        for index, facts in outcomes(check_case, cases, workers):
            results[index] = facts
            progress("checking cases", len(results), len(cases))
    checked = [results[index] for index in range(len(cases))]
    for facts in checked:
        findings += facts.findings
    findings += _outliers(checked) + _duplicates(checked, sides) + _leaks(checked, sides)
    findings.sort(key=lambda f: (f.level != "error", f.check, f.case, f.text))
    return Report(checked, sides, findings)


def _cases(
    folder: Path, datalist: str | os.PathLike[str] | None
) -> tuple[list[Case], dict[str, str], list[Finding]]:
    path = Path(datalist) if datalist is not None else _only_list(folder)
    if path is None:
        return find_cases(folder, list(ALIASES)), {}, []
    content = _content(path)
    if content is None:
        raise UsageError(
            "not a data list", 'give {"training": [...]}', code="E_DATALIST", file=path
        )
    cases, findings = [], []
    sides: dict[str, str] = {}
    for side, entries in content.items():
        for entry in entries:
            case_id = str(entry["id"])
            paths = {
                name: path.parent / value
                for name, value in entry.items()
                if name not in ("id", "patient") and isinstance(value, str)
            }
            for name, file in paths.items():
                if not file.is_file():
                    text = f"{name}: no such file {file}"
                    findings.append(Finding("error", "read", case_id, text))
            there = {name: file for name, file in paths.items() if file.is_file()}
            images = {name: file for name, file in there.items() if name not in MASKS}
            masks = {name: file for name, file in there.items() if name in MASKS}
            if case_id in sides:
                text = f"is there twice, in {sides[case_id]} and in {side}"
                findings.append(Finding("error", "leakage", case_id, text))
                continue
            sides[case_id] = side
            cases.append(Case(case_id, images, masks, str(entry.get("patient", ""))))
    if not cases:
        raise NoInputError("lists no case", "prepare some", code="E_NO_INPUT", file=path)
    return cases, sides, findings


def _only_list(folder: Path) -> Path | None:
    lists = [path for path in sorted(folder.glob("*.json")) if _content(path) is not None]
    if len(lists) > 1:
        raise UsageError(
            f"holds several data lists: {', '.join(path.name for path in lists)}",
            "name one with --datalist",
            code="E_DATALIST",
            file=folder,
        )
    return lists[0] if lists else None


def _content(path: Path) -> dict[str, list[dict[str, Any]]] | None:
    """Side to entries, if the file is a data list."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("training"), list):
        return None
    sides = {side: content.get(side, []) for side in ("training", "validation", "test")}
    good = all(
        isinstance(entry, dict) and "id" in entry for entries in sides.values() for entry in entries
    )
    return sides if good else None


def _outliers(checked: Sequence[CaseFacts]) -> list[Finding]:
    """Cases whose voxels are of another size than those of most."""
    sizes = [facts.spacing for facts in checked if facts.spacing]
    if len(sizes) < 3:
        return []
    usual = np.median(np.array(sizes), axis=0)
    return [
        Finding(
            "warning",
            "geometry",
            facts.case,
            f"voxels of {' x '.join(f'{s:g}' for s in facts.spacing)} mm, most have "
            f"{' x '.join(f'{s:g}' for s in usual)}",
        )
        for facts in checked
        if facts.spacing and not np.allclose(facts.spacing, usual, rtol=0.05)
    ]


def _duplicates(checked: Sequence[CaseFacts], sides: Mapping[str, str]) -> list[Finding]:
    """Scans that are there twice, voxel by voxel or nearly so, in different cases."""
    findings = []
    for one, other in combinations(checked, 2):
        apart = sides.get(one.case) != sides.get(other.case)
        where = " in training and validation" if apart else ""
        same = [
            f"{a} of {one.case} and {b} of {other.case}"
            for a, first in one.hashes.items()
            for b, second in other.hashes.items()
            if first == second
        ]
        if same:
            text = f"the same voxels{where}: {', '.join(same)}"
            both = f"{one.case}, {other.case}"
            findings.append(Finding("error", "leakage" if apart else "duplicate", both, text))
            continue
        if one.patient == other.patient:
            continue  # two sessions of a head are alike
        shared = [name for name in one.thumbnails if name in other.thumbnails]
        alike = {
            name: float(np.vdot(one.thumbnails[name], other.thumbnails[name])) for name in shared
        }
        near = [f"{name} ({r:.4f})" for name, r in alike.items() if r > NEAR]
        if near:
            text = f"nearly the same{where}: {', '.join(near)}"
            both = f"{one.case}, {other.case}"
            level = "error" if apart else "warning"
            findings.append(Finding(level, "leakage" if apart else "duplicate", both, text))
    return findings


def _leaks(checked: Sequence[CaseFacts], sides: Mapping[str, str]) -> list[Finding]:
    """Patients with sessions on several sides."""
    where: dict[str, set[str]] = {}
    for facts in checked:
        if facts.case in sides:
            where.setdefault(facts.patient, set()).add(sides[facts.case])
    return [
        Finding("error", "leakage", patient, f"the patient is in {' and in '.join(sorted(found))}")
        for patient, found in sorted(where.items())
        if len(found) > 1
    ]
