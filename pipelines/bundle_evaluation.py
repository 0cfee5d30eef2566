"""Evaluation of a folder as a MONAI bundle runs it: each translation beside the case's real scans.

A configuration that translates a folder (see ``bundle_inference``) becomes one that measures it:
``list_pairs`` in place of ``list_scans``, ``ReadTruth`` after ``PrepareScan``, ``RestorePair`` as
postprocessing, ``InBrain`` metrics for MONAI's tables and ``WriteReport`` for the report. All
numbers are those of ``voxlate evaluate``.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from jaxtyping import Float
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from voxlate.data_prep import Case, NoInputError, Preprocessing, ScanError, find_cases

from .bundle_inference import FAILURE, list_scans
from .checkpoint import sha256_of
from .evaluation_pairs import measure_translation, read_truth, to_ras
from .evaluation_pictures import Key
from .evaluation_recorder import DEFAULT_SETS, Recorder, masks_used
from .evaluation_row import Row
from .evaluation_truth import Truth
from .finish_case import cleared_background, restore
from .metric_sets import METRIC_SETS
from .one_to_many import resolve_targets
from .ranks import ranks

logger = logging.getLogger(__name__)

IN_BRAIN = [
    name for name, measure in METRIC_SETS["default"].measures.items() if "brain" in measure.regions
]
Measured = tuple[Truth, Tensor, list[Row]]


def list_pairs(
    dataset_dir: str | os.PathLike[str],
    modalities: Sequence[str],
    *,
    source: str,
    targets: Sequence[str] | None,
    output_dir: str | os.PathLike[str],
) -> list[dict[str, Any]]:
    """Find the scans of one contrast whose case has the real scan of a target too.

    Args:
        dataset_dir: Folder to search.
        modalities: Those of the network.
        source: The contrast to translate.
        targets: Wanted contrasts; by default every other one.
        output_dir: Where reports will go; may lie below ``dataset_dir``.

    Returns:
        The items of ``list_scans``, with ``case``.

    Raises:
        NoInputError: There is no such case.
        UsageError: As ``list_scans``, or a contrast is unknown.
    """
    source, wanted = resolve_targets(modalities, source, targets)
    cases = {
        str(case.files[source]): case
        for case in find_cases(Path(dataset_dir), modalities, source=source)
        if source in case.files and set(wanted) & set(case.files)
    }
    items = list_scans(dataset_dir, modalities, source=source, output_dir=output_dir)
    found = [{**item, "case": cases[item["image"]]} for item in items if item["image"] in cases]
    if not found:
        raise NoInputError(
            f"no case has {source} and one of {', '.join(wanted)}",
            "put the real scans of a case beside each other",
            code="E_NO_PAIR",
            file=dataset_dir,
        )
    return found


class ReadTruth:
    """Transform of a data set: add the targets' real scans, or why they cannot be used.

    Args:
        modalities: Those of the network.
        source: The contrast to translate.
        targets: Wanted contrasts; by default every other one.
    """

    def __init__(
        self, modalities: Sequence[str], source: str, targets: Sequence[str] | None = None
    ) -> None:
        self.targets = resolve_targets(modalities, source, targets)[1]

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Add ``truth``, a ``Truth`` or None for each target; or ``failure``."""
        if FAILURE in item:
            logger.error("%s is not measured: %s", item["case_id"], item[FAILURE])
            return item
        scan, case = item["ready"].scan, item["case"]
        try:
            truths = [
                read_truth(case, target, like=scan) if target in case.files else None
                for target in self.targets
            ]
        except ScanError as error:
            logger.error("%s is not measured: %s", item["case_id"], error)
            return {**item, FAILURE: error}
        return {**item, "truth": truths}


class RestorePair:
    """Postprocessing: translations back on the scan's own grid, and measured there.

    Args:
        preprocessing: That of the data set.
        metric_sets: Beside the default one.
    """

    def __init__(self, preprocessing: Preprocessing, metric_sets: Sequence[str] = ()) -> None:
        self.preprocessing, self.metric_sets = preprocessing, (*DEFAULT_SETS, *metric_sets)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Add ``measured``: for each target its truth, the translation in its unit, and the rows.

        None stands for a target that the case has not.
        """
        scan = item["ready"].scan
        inside = cleared_background(scan)[1]
        measured: list[Measured | None] = []
        for volume, truth in zip(item["pred"][0].cpu(), item["truth"], strict=True):
            if truth is None:
                measured.append(None)
                continue
            own = restore(
                volume[None], item["ready"].prepared.record, self.preprocessing, scan, inside
            )
            made = truth.from_scale(to_ras(own, scan.affine)[0])
            rows = measure_translation(
                made, truth, run="", case=item["case"], given="", metric_sets=self.metric_sets
            )
            measured.append((truth, made, rows))
        return {"measured": measured}


def measured_pair(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The default set's values in the brain, (1, targets, metrics), as metrics take them: twice.

    Of a case that failed one target, of which nothing is a number.
    """
    measured = output.get("measured", [None])
    values = torch.full((1, len(measured), len(IN_BRAIN)), torch.nan)
    for place, found in zip(values[0], measured, strict=True):
        for row in [] if found is None else found[2]:
            if (row.metric_set, row.region) == ("default", "brain"):
                place[IN_BRAIN.index(row.metric)] = row.value
    return values, values


class InBrain(CumulativeIterationMetric):
    """A metric of the default set in the brain, for each case (row) and target (column).

    Use it through MONAI's ``IgniteMetricHandler``, after ``measured_pair``.

    Args:
        metric: Its name.
        targets: Number of targets.

    Raises:
        ValueError: No such metric.
    """

    def __init__(self, metric: str, *, targets: int) -> None:
        super().__init__()
        if metric not in IN_BRAIN:
            raise ValueError(f"no metric {metric!r}; there are {', '.join(IN_BRAIN)}")
        self.column, self.targets = IN_BRAIN.index(metric), targets

    def _compute_tensor(
        self, y_pred: Float[Tensor, "b t m"], y: Tensor | None = None, **_: Any
    ) -> Float[Tensor, "b t"]:
        return y_pred[..., self.column].expand(len(y_pred), self.targets)

    def aggregate(self) -> Float[Tensor, ""]:
        """Mean over cases and targets, those that could not be measured left out."""
        buffer = self.get_buffer()
        return torch.tensor(torch.nan) if buffer is None else buffer.nanmean()


class WriteReport:
    """Handler that writes the report of ``voxlate evaluate`` beside MONAI's tables.

    Args:
        output_dir: Made if absent.
        run: Name of the run, such as the bundle's.
        modalities: Those of the network.
        source: The contrast that is translated.
        targets: Wanted contrasts; by default every other one.
        metric_sets: Beside the default one; those of ``RestorePair``.
        seed: Of intervals and of the cases that are shown.
        weights: File that the network's weights came from, for the record.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        *,
        run: str,
        modalities: Sequence[str],
        source: str,
        targets: Sequence[str] | None = None,
        metric_sets: Sequence[str] = (),
        seed: int = 0,
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        self.source, self.targets = resolve_targets(modalities, source, targets)
        self.run, self.modalities, self.weights = run, modalities, weights
        self.folder, self.metric_sets, self.seed = Path(output_dir), metric_sets, seed
        self.recorder = Recorder(self.folder, metric_sets, seed)
        self.cases: list[Case] = []

    def attach(self, engine: Engine) -> None:
        """Collect after each case, write at the end."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget an earlier run."""
        self.recorder = Recorder(self.folder, self.metric_sets, self.seed)
        self.recorder.open()
        self.cases = []

    def collect(self, engine: Any) -> None:
        """Take one case's values, and measure what needs no network."""
        batch, output = engine.state.batch, engine.state.output
        case: Case = batch["case"]
        self.cases.append(case)
        keys = {t: Key(self.run, case.id, self.source, t) for t in self.targets if t in case.files}
        if FAILURE in output:
            for key in keys.values():
                self.recorder.unmade(key, case, output[FAILURE])
            return
        scan = batch["ready"].scan
        given = to_ras(scan.data, scan.affine)[0]
        for target, found in zip(self.targets, output["measured"], strict=True):
            if found is None:
                continue
            truth, made, rows = found
            named = [row._replace(run=self.run, given=self.source) for row in rows]
            self.recorder.measured(keys[target], case, truth, made, named)
            try:
                self.recorder.compared(case, truth, self.source, {self.source: given})
            except ScanError as error:
                self.recorder.failed(Key("", case.id, self.source, target), error)

    def finish(self, engine: Engine) -> None:
        """Bring together what all ranks have, and let the first one write."""
        mine = self.recorder
        parts = gathered((mine.rows, mine.failures, mine.offsets, self.cases))
        if ranks()[0] > 0:
            return
        rows, failures, offsets, cases = (
            [entry for part in parts for entry in part[index]] for index in range(4)
        )
        mine.rows = sorted(rows, key=lambda row: row.case)  # however many ranks there are
        mine.failures = sorted(failures, key=lambda failure: failure.case)
        mine.offsets = sorted(offsets, key=lambda offset: offset.case)
        cases.sort(key=lambda case: case.id)
        mine.finish(
            modalities=self.modalities,
            provenance={
                "bundle": self.run,
                "weights_sha256": None if self.weights is None else sha256_of(self.weights),
                "cases": [case.id for case in cases],
                "masks": masks_used(cases),
            },
        )


def gathered(own: Any) -> list[Any]:
    """What every rank has, in the order of ranks; alone, one's own."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    return parts
