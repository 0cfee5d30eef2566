"""The top of an evaluation's report: the main numbers, each on one line, and what they rest on."""

from collections.abc import Mapping, Sequence
from typing import Any

from .evaluation_row import TRANSLATION
from .evaluation_summary import GAIN, Statistic
from .report_page import Page

DECIMALS = {"psnr": 2, "hd95": 1}
FEW = 15  #: patients, below which bootstrap intervals are too narrow
COLUMNS = {  #: region, metric and answer of each column
    "PSNR, dB": ("brain", "psnr", TRANSLATION),
    "over the matched copy, dB": ("brain", "psnr", GAIN),
    "SSIM": ("brain", "ssim", TRANSLATION),
    "MAE": ("brain", "mae", TRANSLATION),
    "sharpness": ("brain", "sharpness", TRANSLATION),
    "PSNR in lesion, dB": ("lesion", "psnr", TRANSLATION),
    "SSIM in lesion": ("lesion", "ssim", TRANSLATION),
}


def overview(page: Page, statistics: Sequence[Statistic], facts: Mapping[str, Any]) -> None:
    """Say how much was measured, and show the main numbers of every run and direction."""
    cells = {
        (s.run, s.given, s.target, s.region, s.metric, s.answer): s
        for s in statistics
        if s.metric_set == "default"
    }
    main = [s for s in cells.values() if (s.region, s.metric, s.answer) == COLUMNS["PSNR, dB"]]
    expected, absent = sum(s.expected for s in main), sum(s.absent for s in main)
    page.text(
        f"{expected - absent} of {expected} expected predictions measured; {absent} missing or "
        f"unusable, {len(facts['failures'])} failure(s)."
    )
    header, rows = ["run", "given", "target", "n"], []
    shown = [
        name
        for name, where in COLUMNS.items()
        if any((s.run, s.given, s.target, *where) in cells for s in main)
    ]
    for s in main:
        found = (cells.get((s.run, s.given, s.target, *COLUMNS[name])) for name in shown)
        measured = [s.run, s.given or "?", s.target, f"{s.cases} of {s.expected}"]
        rows.append([*measured, *("-" if cell is None else interval(cell) for cell in found)])
    page.table([*header, *shown], rows)
    patients = max((s.subjects for s in main), default=0)
    if patients == 1:
        page.text("One patient: no interval can be given, and nothing be said of others.")
    elif patients < FEW:
        page.text(f"{patients} patients: the intervals are narrower than they should be.")
    page.text(
        "In the brain unless another region is named, by the metric set `default`: mean over cases "
        "[95 % interval of the mean, bias-corrected accelerated bootstrap over patients]; n: cases "
        "measured of those expected. The matched copy is a given contrast, or its negative, with "
        "the real scan's own histogram, which a prediction does not know; sharpness is best at 1. "
        "In the tables below: mean ± SD [interval]; median [quartiles]; the fixed mean is over all "
        "expected cases: in place of an absent prediction an empty volume was measured. Whether a "
        "case was kept back from training is for the reader to know, and for `--training` to check."
    )


def number(s: Statistic, value: float | None) -> str:
    """A value with the digits of its metric; a difference with its sign."""
    if value is None:
        return "-"
    return f"{value:{'+' if s.answer == GAIN else ''}.{DECIMALS.get(s.metric, 3)}f}"


def interval(s: Statistic, *, spread: bool = False) -> str:
    """Mean, if wanted its standard deviation, and the interval if there is one."""
    mean = number(s, s.mean)
    if spread and s.sd is not None:
        mean += f" ± {s.sd:.{DECIMALS.get(s.metric, 3)}f}"
    return mean if s.low is None else f"{mean} [{number(s, s.low)}, {number(s, s.high)}]"
