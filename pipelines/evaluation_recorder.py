"""Collects what an evaluation finds, case by case, and writes the report."""

import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

import voxlate
from voxlate.data_prep import OutputError, VoxlateError
from voxlate.data_prep.cases import Case

from .evaluation_baselines import MeanImage
from .evaluation_checks import Offset, measure_offset
from .evaluation_comparison import Comparison, compare
from .evaluation_pairs import (
    BRAIN_MASK,
    LESION_MASK,
    Known,
    measure_baselines,
    measure_translation,
    read_truth,
)
from .evaluation_pictures import CUTS_FOLDER, Key, choose, keep_cuts
from .evaluation_report import write_cases, write_summary
from .evaluation_row import FAILED, MISSING, Row
from .evaluation_summary import Statistic, summarize
from .evaluation_truth import Truth

DEFAULT_SETS = ("default",)


class Failure(NamedTuple):
    """A prediction that could not be measured, and why."""

    run: str
    case: str
    given: str
    target: str
    code: str
    what: str


@dataclass(frozen=True)
class Evaluation:
    """What was measured: values by case, what they say together, and what failed."""

    rows: list[Row]
    statistics: list[Statistic]
    comparisons: list[Comparison]
    failures: list[Failure]


@dataclass
class Recorder:
    """An evaluation in the making.

    Args:
        folder: For the report; made if absent, a report in it is replaced.
        metric_sets: Names; the default set comes first whether named or not.
        seed: Of intervals and of the cases that are shown.
        with_offsets: Whether to look for misalignment (half a second for each prediction).
    """

    folder: Path
    metric_sets: Sequence[str] = DEFAULT_SETS
    seed: int = 0
    with_offsets: bool = True
    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    offsets: list[Offset] = field(default_factory=list)
    known: Known = field(default_factory=dict)
    lies: dict[tuple[str, str, str], Offset] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metric_sets = tuple(dict.fromkeys((*DEFAULT_SETS, *self.metric_sets)))

    def open(self) -> None:
        """Make the folder.

        Raises:
            OutputError: It cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot be made ({error.strerror or error})",
                "name another folder",
                code="E_OUTPUT",
                file=self.folder,
            ) from None

    def measured(
        self,
        key: Key,
        case: Case,
        truth: Truth,
        prediction: Float[Tensor, "x y z"],
        rows: Sequence[Row] | None = None,
    ) -> None:
        """Measure a prediction in the unit of the truth, and keep its cuts.

        Args:
            key: Which prediction.
            case: That it is of.
            truth: Its real scan.
            prediction: On the grid of the truth.
            rows: Its values, where it was measured already.
        """
        self.rows += rows or measure_translation(
            prediction,
            truth,
            run=key.run,
            case=case,
            given=key.given,
            metric_sets=self.metric_sets,
        )
        keep_cuts(self.folder / CUTS_FOLDER, key, prediction, truth)
        if self.with_offsets:
            named = {"run": key.run, "case": case.id, "given": key.given}
            self.offsets.append(measure_offset(prediction, truth, **named, what="prediction"))

    def absent(self, key: Key, case: Case, truth: Truth, error: VoxlateError | None = None) -> None:
        """Measure an empty volume in place of a prediction that is missing or cannot be used."""
        if error is not None:
            self.failed(key, error)
        self.rows += measure_translation(
            truth.empty(),
            truth,
            run=key.run,
            case=case,
            given=key.given,
            metric_sets=self.metric_sets,
            note=MISSING if error is None else f"{FAILED}: {error.code}",
        )

    def unmade(self, key: Key, case: Case, error: VoxlateError) -> None:
        """Count a prediction that could not be made, against the truth if there is one."""
        try:
            truth = read_truth(case, key.target)
        except VoxlateError:
            self.failed(key, error)
        else:
            self.absent(key, case, truth, error)

    def failed(self, key: Key, error: VoxlateError) -> None:
        """Note a prediction for which there is not even a truth to measure."""
        self.failures.append(Failure(*key, error.code, str(error)))

    def compared(
        self,
        case: Case,
        truth: Truth,
        given: str,
        sources: Mapping[str, Float[Tensor, "x y z"]],
        mean_image: MeanImage | None = None,
    ) -> None:
        """Measure the answers that need no network; see how the given scans lie.

        Raises:
            ScanError: A source is constant in the brain.
        """
        self.rows += measure_baselines(
            sources, truth, case=case, given=given, known=self.known, mean_image=mean_image
        )
        for modality, source in sources.items() if self.with_offsets else ():
            place = (case.id, truth.target, modality)
            if place not in self.lies:
                self.lies[place] = measure_offset(
                    source, truth, run="", case=case.id, given=given, what=modality
                )
            self.offsets.append(replace(self.lies[place], given=given))

    def checkpoint(self) -> None:
        """Write ``cases.csv`` as far as it is."""
        write_cases(self.rows, self.folder)

    def finish(
        self,
        *,
        modalities: Sequence[str],
        provenance: Mapping[str, Any],
        leaks: Sequence[str] = (),
        unmatched: Sequence[str] = (),
        tables: Sequence[str] | None = None,
        downstream: Mapping[str, Any] | None = None,
    ) -> Evaluation:
        """Sum up, and write every file of the report.

        Args:
            modalities: In the order of tables.
            provenance: What was run on what.
            leaks: See ``evaluation_checks.leaks``.
            unmatched: Files that belong to no case.
            tables: Names in ``paper_tables.TABLES``; by default all that have a cell.
            downstream: Facts about the segmenter, where there was one.
        """
        statistics = summarize(self.rows, seed=self.seed)
        comparisons = compare(self.rows, seed=self.seed)
        write_cases(self.rows, self.folder)
        write_summary(
            self.folder,
            statistics=statistics,
            comparisons=comparisons,
            offsets=self.offsets,
            choices=choose(self.rows, seed=self.seed),
            modalities=modalities,
            metric_sets=self.metric_sets,
            tables=tables,
            facts={
                "failures": [failure._asdict() for failure in self.failures],
                "unmatched": list(unmatched),
                "leaks": list(leaks),
                "downstream": downstream,
                "provenance": {**provenance, "seed": self.seed, **software()},
            },
        )
        shutil.rmtree(self.folder / CUTS_FOLDER, ignore_errors=True)
        return Evaluation(self.rows, statistics, comparisons, self.failures)


def masks_used(cases: Sequence[Case]) -> dict[str, dict[str, str]]:
    """Where each case's brain and lesion came from."""
    return {
        case.id: {
            "brain": case.masks[BRAIN_MASK].name if BRAIN_MASK in case.masks else "foreground",
            "lesion": case.masks[LESION_MASK].name if LESION_MASK in case.masks else "none",
        }
        for case in cases
    }


def software() -> dict[str, str]:
    """Versions of what computed the numbers."""
    names = ("torch", "monai", "numpy", "scipy", "nibabel")
    return {
        "voxlate": voxlate.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }
