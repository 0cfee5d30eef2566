"""From values by case to what they say together: means, spread, and intervals over patients."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from .evaluation_baselines import COPY, INVERTED, MATCHED
from .metrics import MAX_PSNR

TRANSLATION, TRIVIAL, GAIN = "translation", "trivial", "gain"
RESAMPLES = 10_000


class Row(NamedTuple):
    """One value: a line of ``cases.csv``."""

    case: str
    subject: str
    source: str
    target: str
    answer: str
    metric_set: str
    region: str
    metric: str
    value: float


@dataclass(frozen=True)
class Statistic:
    """A metric of one answer in one cell of the matrix.

    Attributes:
        answer: ``translation``, ``copy``, ``trivial`` (the better of the two histogram matches) or
            ``gain`` (translation minus trivial, case by case).
        named: Which match ``trivial`` is.
        mean: Over cases.
        sd: Sample standard deviation; None for one case.
        low: Lower end of the 95 % interval of the mean over patients; None for one patient.
        high: Upper end.
        cases: How many.
        subjects: How many patients they are of.
        capped: How many values are the cap of 100 dB.
    """

    source: str
    target: str
    answer: str
    named: str
    metric_set: str
    metric: str
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    cases: int
    subjects: int
    capped: int


def summarize(rows: Iterable[Row], *, seed: int = 0) -> list[Statistic]:
    """Statistics of every cell, answer and metric, in the order of the rows.

    The better histogram match of a cell is the one of higher mean in-brain PSNR, for all metrics.

    Args:
        rows: Values of every answer for every pair.
        seed: Of the bootstrap.
    """
    cells: dict[tuple[str, str, str, str], dict[str, dict[str, tuple[str, float]]]] = {}
    for row in rows:
        key = row.source, row.target, row.metric_set, row.metric
        answers = cells.setdefault(key, {})
        answers.setdefault(row.answer, {})[row.case] = row.subject, row.value
    statistics = []
    for key, answers in cells.items():
        named = better_match(cells[(*key[:2], "default", "psnr")])
        shown = {
            TRANSLATION: answers[TRANSLATION],
            COPY: answers[COPY],
            TRIVIAL: answers[named],
            GAIN: {
                case: (subject, value - answers[named][case][1])
                for case, (subject, value) in answers[TRANSLATION].items()
            },
        }
        statistics += [
            _statistic(key, name, named if name == TRIVIAL else name, values, seed)
            for name, values in shown.items()
        ]
    return statistics


def better_match(psnr: dict[str, dict[str, tuple[str, float]]]) -> str:
    """Which of the two histogram matches has the higher mean, by answer and case."""
    means = {
        name: np.mean([value for _, value in psnr[name].values()]) for name in (MATCHED, INVERTED)
    }
    return max(means, key=lambda name: float(means[name]))


def patient_interval(
    values: Sequence[float], subjects: Sequence[str], *, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the mean by resampling patients, all cases of a patient together.

    Percentile bootstrap, 10,000 resamples. None for fewer than two patients. With few patients
    (under about 15) such intervals are too narrow.
    """
    names = sorted(set(subjects))
    if len(names) < 2:
        return None
    index = np.array([names.index(subject) for subject in subjects])
    sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64))
    counts = np.bincount(index)
    picks = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def as_json(statistics: Sequence[Statistic]) -> list[dict[str, Any]]:
    """Statistics as plain dictionaries."""
    return [asdict(statistic) for statistic in statistics]


def _statistic(
    key: tuple[str, str, str, str],
    answer: str,
    named: str,
    values: dict[str, tuple[str, float]],
    seed: int,
) -> Statistic:
    source, target, metric_set, metric = key
    subjects = [subject for subject, _ in values.values()]
    numbers = [value for _, value in values.values()]
    interval = patient_interval(numbers, subjects, seed=seed)
    capped = sum(n >= MAX_PSNR for n in numbers) if metric == "psnr" else 0
    return Statistic(
        source=source,
        target=target,
        answer=answer,
        named=named,
        metric_set=metric_set,
        metric=metric,
        mean=float(np.mean(numbers)),
        sd=float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None,
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        cases=len(numbers),
        subjects=len(set(subjects)),
        capped=capped,
    )
