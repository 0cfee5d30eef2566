"""An evaluation as files: values by case, a summary for programs, and tables for people."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxlate.data_prep import write_atomically

from .evaluation_baselines import COPY
from .evaluation_summary import GAIN, TRANSLATION, TRIVIAL, Row, Statistic, as_json
from .metrics import METRIC_SETS

CASES_FILE, JSON_FILE, MARKDOWN_FILE = "cases.csv", "summary.json", "summary.md"
TITLES = {
    "psnr": "PSNR in dB (higher is better)",
    "ssim": "SSIM (higher is better)",
    "nmse": "NMSE (lower is better)",
    "rmse": "RMSE (lower is better)",
    "mae": "MAE (lower is better)",
    "sharpness": "Sharpness, gradient energy over the reference's (best at 1)",
}
DECIMALS = {"psnr": 2}
ANSWERS = {
    TRANSLATION: "**translation**",
    COPY: "copy of the source",
    TRIVIAL: "histogram-matched copy",
    GAIN: "translation - matched copy",
}


def write_cases(rows: Iterable[Row], folder: Path) -> Path:
    """Write ``cases.csv``: one line for each case, pair, answer and metric."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(Row._fields)
    table.writerows((*row[:-1], f"{row.value:.9g}") for row in rows)
    return _write(folder / CASES_FILE, text.getvalue())


def write_summary(
    statistics: Sequence[Statistic],
    folder: Path,
    *,
    modalities: Sequence[str],
    run: Mapping[str, Any],
) -> list[Path]:
    """Write ``summary.json`` and ``summary.md``.

    Args:
        statistics: Of every cell.
        folder: Where to.
        modalities: In the order of rows and columns.
        run: What was run on what: ``pairs_expected``, ``pairs_measured``, ``failures``, provenance.
    """
    sets = {name: METRIC_SETS[name].definition for name in {s.metric_set for s in statistics}}
    record = {**run, "definitions": dict(sorted(sets.items())), "statistics": as_json(statistics)}
    return [
        _write(folder / JSON_FILE, json.dumps(record, indent=2, allow_nan=False) + "\n"),
        _write(folder / MARKDOWN_FILE, markdown(statistics, modalities, run)),
    ]


def markdown(
    statistics: Sequence[Statistic], modalities: Sequence[str], run: Mapping[str, Any]
) -> str:
    """The summary as a page: what was run, what failed, one source x target table a metric."""
    expected, measured = run["pairs_expected"], run["pairs_measured"]
    parts = [
        "# Evaluation",
        "Research use only. Synthetic contrasts may lose or invent lesions, which none of these "
        "numbers shows.",
        f"{measured} of {expected} (case, source, target) pairs measured, "
        f"{len(run['failures'])} failed. Mean ± SD over cases [95 % interval of the mean over "
        "patients, bootstrap], n cases. Whether a case was kept back from training is for the "
        "reader to know.",
        _failures(run["failures"]),
    ]
    for metric_set, chosen in METRIC_SETS.items():
        mine = [s for s in statistics if s.metric_set == metric_set]
        if not mine:
            continue
        parts.append(f"## Metric set `{metric_set}`\n\n{chosen.definition}")
        for metric in chosen.metrics:
            parts.append(f"### {TITLES[metric]}")
            parts.append(matrix([s for s in mine if s.metric == metric], modalities))
    parts.append("## Provenance\n\n```json\n" + json.dumps(run["provenance"], indent=2) + "\n```")
    return "\n\n".join(part for part in parts if part) + "\n"


def matrix(statistics: Sequence[Statistic], modalities: Sequence[str]) -> str:
    """One metric as a table: a block of answers for each source, a column for each target."""
    cells = {(s.source, s.target, s.answer): s for s in statistics}
    targets = [name for name in modalities if any(s.target == name for s in statistics)]
    lines = [
        f"| source | answer | {' | '.join(targets)} |",
        "|---" * (len(targets) + 2) + "|",
    ]
    for source in (name for name in modalities if any(s.source == name for s in statistics)):
        for answer, title in ANSWERS.items():
            found = [_cell(cells.get((source, target, answer))) for target in targets]
            lines.append(f"| {source} | {title} | {' | '.join(found)} |")
    return "\n".join(lines)


def _cell(statistic: Statistic | None) -> str:
    if statistic is None:
        return "-"
    decimals = DECIMALS.get(statistic.metric, 3)

    def show(value: float) -> str:
        return f"{value:{'+' if statistic.answer == GAIN else ''}.{decimals}f}"

    text = show(statistic.mean)
    if statistic.sd is not None:
        text += f" ± {statistic.sd:.{decimals}f}"
    if statistic.low is not None and statistic.high is not None:
        text += f" [{show(statistic.low)}, {show(statistic.high)}]"
    text += f" n={statistic.cases}"
    if statistic.answer == TRIVIAL:
        text += f" ({statistic.named.removeprefix('matched ')})"
    if statistic.capped:
        text += f" ({statistic.capped} at the cap)"
    return text


def _failures(failures: Sequence[Mapping[str, str]]) -> str:
    if not failures:
        return ""
    lines = ["## Failures", "", "| case | source | target | code | what |", "|---|---|---|---|---|"]
    for failure in failures:
        cells = [str(failure[key]).replace("|", "\\|") for key in failure]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _write(path: Path, text: str) -> Path:
    with write_atomically(path) as file:
        file.write(text.encode())
    return path
