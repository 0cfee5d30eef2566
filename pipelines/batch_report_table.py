"""The cases of a report as a table for other programs: a row each, the worst first."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from .batch_report_cases import ReportCase
from .case_table import escape

NAME = "cases.csv"


def cases_csv(cases: Sequence[ReportCase]) -> bytes:
    """Write one row for each case; the columns are explained in docs/batch.md.

    No field is one that a spreadsheet takes for a formula, and ids are as ``failed.csv`` has them.

    Args:
        cases: In the order of the rows.
    """
    scores = _names(f"{t} {n}" for case in cases for t, found in case.scores.items() for n in found)
    stages = _names(stage for case in cases for stage in case.seconds)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(
        ["id", "status", "code", "what", "inputs", "targets", "of_limit", *scores, "warnings"]
        + ["seconds", *(f"{stage}_seconds" for stage in stages), "written", "record", "page"]
    )
    for case in cases:
        found = {f"{t} {n}": v for t, values in case.scores.items() for n, v in values.items()}
        cells = [
            case.id,
            case.status,
            case.failure.get("code", ""),
            case.failure.get("what", "") or case.damage,
            " ".join(case.inputs),
            " ".join(case.targets),
            f"{case.severity:.3f}" if case.scores else "",
            *(_cell(found.get(name)) for name in scores),
            "; ".join(case.warnings),
            f"{sum(case.seconds.values()):.3f}" if case.seconds else "",
            *(_cell(case.seconds.get(stage)) for stage in stages),
            str(case.record.get("Written", "")),
            case.place if case.path is not None else "",
            f"cases/{case.key}.html",
        ]
        rows.writerow([escape(cell) for cell in cells])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _names(found: Iterable[str]) -> list[str]:
    return sorted(set(found))


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
