"""Whether one run is better than another: paired tests over patients, corrected for many."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata, wilcoxon

from .evaluation_row import TRANSLATION, Row
from .evaluation_summary import LOWER_IS_BETTER
from .patient_bootstrap import patient_interval

METRICS = ("psnr", "ssim", "nmse", "mae", "dice")
REGIONS = ("brain", "lesion")


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same patients.

    Attributes:
        first: One run.
        second: The other.
        pairs: Patients with both values.
        difference: Mean of first - second over patients.
        low: Lower end of its 95 % interval; None for fewer than two patients.
        high: Upper end.
        effect: Matched-pairs rank-biserial correlation, -1 to 1; above 0 the first is better.
        p: Of the two-sided Wilcoxon signed-rank test; None where every difference is 0.
        p_holm: Corrected (Holm) for all comparisons of the report.
    """

    first: str
    second: str
    given: str
    target: str
    region: str
    metric: str
    pairs: int
    difference: float
    low: float | None
    high: float | None
    effect: float
    p: float | None
    p_holm: float | None


def compare(rows: Iterable[Row], *, seed: int = 0) -> list[Comparison]:
    """Every two runs in every direction that both have, by the main metrics of the default set.

    Cases of a patient are averaged first. An absent prediction counts as the empty volume that was
    measured in its place, so that a run gains nothing by leaving out what is hard.

    Args:
        rows: Of at least two runs; of one, there is nothing to compare.
        seed: Of the intervals.
    """
    cells: dict[tuple[str, str, str, str], dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        wanted = row.metric_set in ("default", "downstream") and row.answer == TRANSLATION
        if not wanted or row.metric not in METRICS or row.region not in REGIONS:
            continue
        if not row.run or not math.isfinite(row.value):
            continue
        key = row.given, row.target, row.region, row.metric
        runs = cells.setdefault(key, {})
        runs.setdefault(row.run, {}).setdefault(row.subject, []).append(row.value)
    found = [
        _compared(key, names, (runs[names[0]], runs[names[1]]), seed)
        for key, runs in cells.items()
        for names in itertools.combinations(runs, 2)
        if set(runs[names[0]]) & set(runs[names[1]])
    ]
    corrected = iter(holm([c.p for c in found if c.p is not None]))
    return [
        c if c.p is None else Comparison(**{**asdict(c), "p_holm": next(corrected)}) for c in found
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p values, in the given order."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def comparisons_json(comparisons: Iterable[Comparison]) -> list[dict[str, Any]]:
    """Comparisons as plain dictionaries."""
    return [asdict(comparison) for comparison in comparisons]


def _compared(
    key: tuple[str, str, str, str],
    names: tuple[str, ...],
    values: tuple[dict[str, list[float]], dict[str, list[float]]],
    seed: int,
) -> Comparison:
    given, target, region, metric = key
    patients = sorted(set(values[0]) & set(values[1]))
    differences = np.array([np.mean(values[0][p]) - np.mean(values[1][p]) for p in patients])
    interval = patient_interval(differences.tolist(), patients, seed=seed)
    moved = differences[differences != 0]
    ranks = rankdata(np.abs(moved))
    signed = float((ranks * np.sign(moved)).sum() / ranks.sum()) if moved.size else 0.0
    return Comparison(
        first=names[0],
        second=names[1],
        given=given,
        target=target,
        region=region,
        metric=metric,
        pairs=len(patients),
        difference=float(differences.mean()),
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        effect=-signed if metric in LOWER_IS_BETTER else signed,
        p=float(wilcoxon(differences).pvalue) if moved.size else None,
        p_holm=None,
    )
