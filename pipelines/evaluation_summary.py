"""From values by case to what they say together: means, spread, and intervals over patients."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from .evaluation_baselines import COPY, INVERTED, MATCHED, MEAN
from .evaluation_row import TRANSLATION, Row
from .metrics import MAX_PSNR
from .patient_bootstrap import patient_interval

TRIVIAL, GAIN = "trivial", "gain"
CEILING, FLOOR = "real set (ceiling)", "zero-filled set (floor)"  #: of a downstream segmenter


class Cell(NamedTuple):
    """A metric of one run, one direction and one region."""

    run: str
    given: str
    target: str
    metric_set: str
    region: str
    metric: str


@dataclass(frozen=True)
class Statistic:
    """A metric of one answer in one cell.

    Attributes:
        answer: ``translation``, ``copy`` and ``trivial`` (the better of the histogram matches),
            ``mean image``, ``gain`` (translation minus trivial, case by case), or the real and the
            zero-filled set of a downstream segmenter.
        named: Which copy or match it is.
        expected: Cases that should have been predicted: the denominator.
        cases: Cases with a number.
        absent: Of the expected, those without a prediction that can be used.
        undefined: Of the expected, those whose value cannot be said (see the notes of the rows).
        subjects: Patients behind ``cases``.
        mean: Over ``cases``; None where there are none.
        mean_fixed: Over all expected, an empty volume in place of an absent prediction.
        sd: Sample standard deviation; None for fewer than two.
        low: Lower end of the 95 % interval of ``mean`` over patients; None for fewer than two.
        high: Upper end.
        median: Over ``cases``.
        q1: Lower quartile.
        q3: Upper quartile.
        worst: The smallest value (largest, where lower is better).
        capped: How many values are the cap of 100 dB.
    """

    run: str
    given: str
    target: str
    metric_set: str
    region: str
    metric: str
    answer: str
    named: str
    expected: int
    cases: int
    absent: int
    undefined: int
    subjects: int
    mean: float | None
    mean_fixed: float | None
    sd: float | None
    low: float | None
    high: float | None
    median: float | None
    q1: float | None
    q3: float | None
    worst: float | None
    capped: int


LOWER_IS_BETTER = ("nmse", "mse", "rmse", "mae", "hd95")
Answers = dict[str, dict[str, Row]]


def summarize(rows: Iterable[Row], *, seed: int = 0) -> list[Statistic]:
    """Statistics of every cell and answer, in the order of the rows.

    Answers that need no network stand beside every run that made the same direction. The better
    histogram match of a direction is the one of higher mean in-brain PSNR, for all metrics; so is
    the better copy.

    Args:
        rows: Values of every answer for every pair.
        seed: Of the bootstrap.
    """
    cells: dict[Cell, Answers] = {}
    for row in rows:
        key = Cell(row.run, row.given, row.target, row.metric_set, row.region, row.metric)
        cells.setdefault(key, {}).setdefault(row.answer, {})[row.case] = row
    statistics = []
    for key, answers in cells.items():
        if key.run == "" and any(other.run and other[1:] == key[1:] for other in cells):
            continue  # shown beside the runs
        shared = cells.get(key._replace(run=""), {})
        chosen = cells.get(
            key._replace(run="", metric_set="default", region="brain", metric="psnr"), {}
        )
        for answer, name, found in _shown({**shared, **answers}, chosen):
            statistics.append(_statistic(key, answer, name, found, seed))
    return statistics


def _shown(answers: Answers, psnr: Answers) -> Iterator[tuple[str, str, dict[str, Row]]]:
    """The answers of a cell as they are reported: (answer, its name, rows by case)."""
    made = answers.get(TRANSLATION, {})
    if made:
        yield TRANSLATION, TRANSLATION, made
    for answer, names in ((COPY, (COPY,)), (TRIVIAL, (MATCHED, INVERTED))):
        name = best_answer(psnr, names)
        if name is None or name not in answers:
            continue
        yield answer, name, answers[name]
        if answer == TRIVIAL and made:
            both = (case for case, row in made.items() if case in answers[name] and not row.absent)
            gained = {
                case: made[case]._replace(value=made[case].value - answers[name][case].value)
                for case in both
            }
            if gained:
                yield GAIN, f"translation - {name}", gained
    for name in (MEAN, CEILING, FLOOR):
        if name in answers:
            yield name, name, answers[name]


def best_answer(psnr: Answers, names: Sequence[str]) -> str | None:
    """The answer of the highest mean among those whose names begin so; None without any."""
    found = {
        answer: np.mean([row.value for row in rows.values()])
        for answer, rows in psnr.items()
        if answer.startswith(tuple(names))
    }
    return max(found, key=lambda answer: float(found[answer])) if found else None


def as_json(statistics: Iterable[Statistic]) -> list[dict[str, Any]]:
    """Statistics as plain dictionaries."""
    return [asdict(statistic) for statistic in statistics]


def _statistic(key: Cell, answer: str, named: str, rows: dict[str, Row], seed: int) -> Statistic:
    usable = [row for row in rows.values() if not row.absent and math.isfinite(row.value)]
    values = np.array([row.value for row in usable], dtype=np.float64)
    everyone = [row.value for row in rows.values() if math.isfinite(row.value)]
    subjects = [row.subject for row in usable]
    interval = patient_interval(values.tolist(), subjects, seed=seed) if usable else None
    quartiles = np.percentile(values, (25, 50, 75)).tolist() if usable else (None,) * 3
    worst = (values.max if key.metric in LOWER_IS_BETTER else values.min)() if usable else None
    return Statistic(
        **key._asdict(),
        answer=answer,
        named=named,
        expected=len(rows),
        cases=len(usable),
        absent=sum(row.absent for row in rows.values()),
        undefined=sum(not row.absent and not math.isfinite(row.value) for row in rows.values()),
        subjects=len(set(subjects)),
        mean=float(values.mean()) if usable else None,
        mean_fixed=float(np.mean(everyone)) if everyone and answer != GAIN else None,
        sd=float(values.std(ddof=1)) if len(usable) > 1 else None,
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        median=quartiles[1],
        q1=quartiles[0],
        q3=quartiles[2],
        worst=None if worst is None else float(worst),
        capped=int((values >= MAX_PSNR).sum()) if key.metric == "psnr" and answer != GAIN else 0,
    )
