"""An evaluation as files: values by case, a summary for programs, and pages for people."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from voxlate.data_prep import write_atomically

from .evaluation_checks import Offset, offsets_json
from .evaluation_comparison import Comparison, comparisons_json
from .evaluation_overview import interval, number, overview
from .evaluation_pictures import CUTS_FOLDER, Choice, draw, picture_name
from .evaluation_row import TRANSLATION, Row
from .evaluation_summary import (
    GAIN,
    LOWER_IS_BETTER,
    TRIVIAL,
    Statistic,
    as_json,
)
from .metric_sets import METRIC_SETS
from .paper_tables import TABLES, table_rows
from .report_page import Page
from .sidecar import STATEMENT

CASES_FILE, JSON_FILE, MARKDOWN_FILE = "cases.csv", "summary.json", "summary.md"
HTML_FILE, PICTURES = "summary.html", "pictures"
TITLES = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "slice_ssim": "SSIM of axial slices",
    "ms_ssim": "MS-SSIM",
    "ssim_official": "SSIM, the challenge's own (see the definition)",
    "nmse": "NMSE",
    "mse": "MSE",
    "rmse": "RMSE",
    "mae": "MAE",
    "sharpness": "Sharpness, gradient energy over the reference's (best at 1)",
    "dice": "Dice of the segmenter's lesion against the drawn one",
    "hd95": "HD95 of the segmenter's lesion, mm",
    "volume_ratio": "Volume of the segmenter's lesion over the drawn one's (best at 1)",
}
DOWNSTREAM = (
    "A segmenter finds the lesion in the real set (the ceiling), in the set whose target is the "
    "prediction, and in the set whose target is zero-filled (the floor). Dice is 1 where neither "
    "has a lesion and 0 where one has; HD95 is then 0, or the box's diagonal."
)


def write_cases(rows: Iterable[Row], folder: Path) -> Path:
    """Write ``cases.csv``: one line for each run, case, direction, answer, region and metric."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(Row._fields)
    for row in rows:
        value = f"{row.value:.9g}" if math.isfinite(row.value) else ""
        table.writerow(row._replace(value=value))  # type: ignore[arg-type]
    return _write(folder / CASES_FILE, text.getvalue())


def write_summary(
    folder: Path,
    *,
    statistics: Sequence[Statistic],
    comparisons: Sequence[Comparison],
    offsets: Sequence[Offset],
    choices: Sequence[Choice],
    modalities: Sequence[str],
    metric_sets: Sequence[str],
    tables: Sequence[str] | None,
    facts: Mapping[str, Any],
) -> list[Path]:
    """Write ``summary.json``, ``summary.md``, ``summary.html`` and the pictures.

    Args:
        folder: Where to; cuts that were kept lie below it.
        statistics: Of every cell.
        comparisons: Between runs.
        offsets: Of predictions and inputs.
        choices: Which predictions to show.
        modalities: In the order of tables.
        metric_sets: That were measured.
        tables: Names in ``TABLES``; by default all that have a cell.
        facts: ``failures``, ``unmatched``, ``leaks``, ``downstream``, ``provenance``.
    """
    definitions = {name: METRIC_SETS[name].definition for name in metric_sets}
    record = {
        "statement": STATEMENT,
        **facts,
        "definitions": definitions,
        "statistics": as_json(statistics),
        "comparisons": comparisons_json(comparisons),
        "offsets": offsets_json(offsets),
    }
    page = Page("Evaluation")
    page.notice(STATEMENT)
    overview(page, statistics, facts)
    _warnings(page, offsets, facts)
    _comparisons(page, comparisons)
    _papers(page, statistics, tables)
    written = _pictures(page, folder, choices)
    for name in metric_sets:
        page.heading(f"Metric set `{name}`")
        page.text(definitions[name])
        _measures(page, [s for s in statistics if s.metric_set == name], modalities)
    if facts.get("downstream"):
        page.heading("Downstream segmentation")
        page.text(DOWNSTREAM)
        _measures(page, [s for s in statistics if s.metric_set == "downstream"], modalities)
    page.heading("Provenance")
    page.code(json.dumps(facts["provenance"], indent=2, ensure_ascii=False))
    text = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return [
        *written,
        _write(folder / JSON_FILE, text),
        _write(folder / MARKDOWN_FILE, page.markdown()),
        _write(folder / HTML_FILE, page.html()),
    ]


def _warnings(page: Page, offsets: Sequence[Offset], facts: Mapping[str, Any]) -> None:
    if facts["failures"]:
        page.heading("Failures")
        header = list(facts["failures"][0])
        page.table(header, [[str(f[name]) for name in header] for f in facts["failures"]])
    if facts["unmatched"]:
        page.heading("Predictions of no reference case")
        page.text("Not measured: " + ", ".join(f"`{name}`" for name in facts["unmatched"]))
    if facts["leaks"]:
        page.heading("Leaks")
        page.table(["what"], [[line] for line in facts["leaks"]])
    page.heading("Alignment")
    flagged = [offset for offset in offsets if offset.flagged]
    page.text(
        f"{len(offsets)} offsets measured (translation between gradient magnitudes around the "
        f"brain, up to 8 voxels), {len(flagged)} of more than one voxel. Misaligned pairs make "
        "every metric worse than the images are."
    )
    page.table(
        ["run", "case", "given", "target", "what", "right, anterior, superior", "voxels"],
        [
            [
                o.run or "input",
                o.case,
                o.given,
                o.target,
                o.what,
                ", ".join(f"{v:+.1f}" for v in o.voxels),
                f"{o.distance:.1f}",
            ]
            for o in flagged
        ],
    )


def _measures(page: Page, statistics: Sequence[Statistic], modalities: Sequence[str]) -> None:
    """A table for each metric and region: a row for each run, direction and answer."""
    order = {name: place for place, name in enumerate(modalities)}
    for metric in dict.fromkeys(s.metric for s in statistics):
        for region in dict.fromkeys(s.region for s in statistics if s.metric == metric):
            cells = [s for s in statistics if (s.metric, s.region) == (metric, region)]
            cells.sort(key=lambda s: (order.get(s.target, 99), s.given.count("+"), s.given))
            better = "lower is better" if metric in LOWER_IS_BETTER else "higher is better"
            title = TITLES.get(metric, metric)
            page.heading(f"{title} in {region}" + ("" if "best at" in title else f" ({better})"), 3)
            page.table(
                [
                    *("target", "given", "run", "answer", "mean ± SD [95 % interval]"),
                    *("median [quartiles]", "worst", "fixed mean", "n", "remarks"),
                ],
                [_cells(s) for s in cells],
            )


def _cells(s: Statistic) -> list[str]:
    remarks = [
        f"{s.absent} absent" if s.absent else "",
        f"{s.undefined} undefined" if s.undefined else "",
        f"{s.capped} at 100 dB" if s.capped else "",
        f"{s.subjects} patients" if s.subjects != s.cases else "",
    ]
    answer = "**prediction**" if s.answer == TRANSLATION else s.named
    if s.answer == TRIVIAL:
        answer = f"{s.named} (histogram)"
    if s.answer == GAIN:
        answer = s.named.replace(TRANSLATION, "prediction")
    return [
        s.target,
        s.given or "?",
        s.run if s.answer in (TRANSLATION, GAIN) else "",
        answer,
        interval(s, spread=True),
        f"{number(s, s.median)} [{number(s, s.q1)}, {number(s, s.q3)}]" if s.cases > 1 else "-",
        number(s, s.worst) if s.cases > 1 else "-",
        number(s, s.mean_fixed),
        f"{s.cases} of {s.expected}",
        ", ".join(r for r in remarks if r),
    ]


def _comparisons(page: Page, comparisons: Sequence[Comparison]) -> None:
    if not comparisons:
        return
    page.heading("Runs compared")
    page.text(
        "Over patients, absent predictions as empty volumes: mean of first - second [95 % "
        "interval], matched-pairs rank-biserial correlation (above 0: the first is better), "
        "two-sided Wilcoxon signed-rank test, corrected by Holm over all rows of this table."
    )
    rows = []
    for c in comparisons:
        interval = "" if c.low is None else f" [{c.low:+.3f}, {c.high:+.3f}]"
        rows.append(
            [
                *(c.first, c.second, c.target, c.given or "?", f"{c.metric} in {c.region}"),
                *(f"{c.difference:+.3f}{interval}", f"{c.effect:+.2f}", str(c.pairs)),
                "equal" if c.p is None else f"{c.p:.3g}",
                "equal" if c.p_holm is None else f"{c.p_holm:.3g}",
            ]
        )
    page.table(
        ["first", "second", "target", "given", "metric", "difference", "effect", "n", "p", "Holm"],
        rows,
    )


def _papers(page: Page, statistics: Sequence[Statistic], tables: Sequence[str] | None) -> None:
    shown = False
    for name in TABLES if tables is None else tables:
        table = TABLES[name]
        header, rows = table_rows(table, statistics)
        if not rows and tables is None:
            continue
        if not shown:
            page.heading("The papers' tables")
            page.text(
                "Published numbers are of the papers' own data and splits, and of definitions "
                "that they mostly do not state; a dash is a number that is not known here."
            )
            shown = True
        page.heading(f"{table.title} (`{name}`)", 3)
        cells = "" if table.kind == "methods" else f" Cells: {' / '.join(table.metrics)}."
        page.text(f"Metric set `{table.metric_set}`.{cells} {table.remark}".rstrip())
        page.table(header, rows or [["nothing measured for it", *[""] * (len(header) - 1)]])


def _pictures(page: Page, folder: Path, choices: Sequence[Choice]) -> list[Path]:
    """Draw what was chosen; a picture of an earlier report in the folder goes."""
    place = folder / PICTURES
    for old in place.glob("*.png"):
        old.unlink()
    written = []
    if choices:
        page.heading("Pictures")
        page.text(
            "Cuts where the lesion is largest, or the brain; the difference is blue where "
            "the prediction is too dark, red where it is too bright, full at half the brain's "
            "range; a drawn lesion is outlined. Left is the patient's left."
        )
    for choice in choices:
        png = draw(folder / CUTS_FOLDER, choice)
        if png is None:
            continue
        place.mkdir(exist_ok=True)
        file = place / f"{picture_name(choice)}.png"
        with write_atomically(file) as stream:
            stream.write(png)
        written.append(file)
        key = choice.key
        made = f"{key.given} to {key.target}" if key.given else key.target
        caption = f"{choice.why}: {key.case}, {made}, run {key.run}, PSNR {choice.psnr:.2f} dB"
        page.picture(png, f"{PICTURES}/{file.name}", f"{caption}. Synthetic, research use only.")
    return written


def _write(path: Path, text: str) -> Path:
    with write_atomically(path) as file:
        file.write(text.encode())
    return path
