"""Evaluation of a folder as a MONAI bundle runs it: each translation beside the case's real scans.

A configuration that translates a folder (see ``bundle_inference``) becomes one that measures it:
``list_pairs`` in place of ``list_scans``, ``ReadTruth`` after ``PrepareScan``, ``RestorePair`` as
postprocessing and ``InBrain`` metrics, which are those of ``measure_pair``.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from voxlate.data_prep import NoInputError, Preprocessing, ScanError, find_cases

from .bundle_inference import FAILURE, list_scans
from .case_steps import cleared_background, restore
from .evaluation_pairs import read_truth
from .metrics import METRICS
from .one_to_many import resolve_targets

logger = logging.getLogger(__name__)


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
        """Add ``truth`` (t, 2, x, y, z) on the scan's own grid; or ``failure``.

        It holds intensities, where 0 and 1 are the 0.5th and 99.5th percentile in the brain, and
        the brain; not-a-number where the case lacks a target.
        """
        if FAILURE in item:
            logger.error("%s is not measured: %s", item["case_id"], item[FAILURE])
            return item
        scan, case = item["ready"].scan, item["case"]
        truth = torch.full((len(self.targets), 2, *scan.shape), torch.nan)
        try:
            for place, target in zip(truth, self.targets, strict=True):
                if target in case.files:
                    real = read_truth(case, target, like=scan)
                    place[0], place[1] = real.volume, real.brain
        except ScanError as error:
            logger.error("%s is not measured: %s", item["case_id"], error)
            return {**item, FAILURE: error}
        return {**item, "truth": truth}


class RestorePair:
    """Postprocessing: translations back on the scan's own grid, and the truth beside them.

    Args:
        preprocessing: That of the data set.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """``pred`` (1, t, x, y, z) in [0, 1] and ``label`` (1, t, 2, x, y, z)."""
        scan = item["ready"].scan
        inside = cleared_background(scan)[1]
        volumes = [
            restore(volume[None], item["ready"].prepared.record, self.preprocessing, scan, inside)
            for volume in item["pred"][0].cpu()
        ]
        made = torch.stack([torch.from_numpy(volume) for volume in volumes])
        return {"pred": made[None], "label": item["truth"][None]}


def measured_pair(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Prediction and truth of an iteration; of a case that failed, one voxel of no number each."""
    if FAILURE in output:
        return torch.full((1, 1), torch.nan), torch.full((1, 1, 2), torch.nan)
    return output["pred"], output["label"]


class InBrain(CumulativeIterationMetric):
    """A metric of ``METRICS`` in the brain, for each case (row) and target (column).

    Use it through MONAI's ``IgniteMetricHandler``.

    Args:
        metric: Its name.
        targets: Number of targets.

    Raises:
        ValueError: No such metric.
    """

    def __init__(self, metric: str, *, targets: int) -> None:
        super().__init__()
        if metric not in METRICS:
            raise ValueError(f"no metric {metric!r}; there are {', '.join(METRICS)}")
        self.metric, self.targets = METRICS[metric], targets

    def _compute_tensor(
        self, y_pred: Float[Tensor, "b t *size"], y: Tensor | None = None, **_: Any
    ) -> Float[Tensor, "b t"]:
        assert y is not None
        values = torch.full((len(y), self.targets), torch.nan)
        for row, (predictions, truths) in enumerate(zip(y_pred, y, strict=True)):
            for column, (made, (real, brain)) in enumerate(zip(predictions, truths, strict=True)):
                if not bool(brain.isnan().any()):
                    values[row, column] = self.metric(made, real, mask=brain > 0)
        return values

    def aggregate(self) -> Float[Tensor, ""]:
        """Mean over cases and targets, those that could not be measured left out."""
        buffer = self.get_buffer()
        return torch.tensor(torch.nan) if buffer is None else buffer.nanmean()
