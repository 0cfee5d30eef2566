"""One translation against the target's real scan, beside answers that need no network."""

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from voxlate.data_prep import Scan, ScanError, foreground, read_mask, read_scan
from voxlate.data_prep.cases import Case

from .case_steps import Translation, cleared_background
from .evaluation_baselines import trivial_answers
from .evaluation_summary import TRANSLATION, Row
from .metrics import METRIC_SETS, measure, reference_map

BRAIN_MASK = "brainmask"  #: among a case's masks


class Truth(NamedTuple):
    """A target's real scan on its own [0, 1] scale, the brain where it counts, and the head.

    Outside the head the background was cleared, and is 0; of a scan with noise around it, the head
    is everything.
    """

    volume: Tensor
    brain: Tensor
    head: Tensor


def measure_pair(case: Case, made: Translation, target: str) -> list[Row]:
    """Every metric of the translation, and of the answers that need no network.

    Raises:
        ScanError: The target's real scan cannot be used, or lies on another grid.
    """
    truth = read_truth(case, target, like=made.scan)
    answers = {TRANSLATION: torch.from_numpy(made[target])}
    try:
        source = torch.from_numpy(made.scan.data)
        trivial = trivial_answers(source, truth.volume, truth.brain)
        answers |= {name: volume * truth.head for name, volume in trivial.items()}
    except ValueError as error:
        raise ScanError(
            f"no answer to compare with: {error}",
            "leave the case out",
            code="E_BASELINE",
            file=made.scan.path,
        ) from None
    return [
        Row(case.id, case.subject, made.source, target, answer, name, chosen.region, metric, value)
        for answer, volume in answers.items()
        for name, chosen in METRIC_SETS.items()
        for metric, value in measure(volume, truth.volume, truth.brain, metric_set=name).items()
    ]


def read_truth(case: Case, target: str, *, like: Scan) -> Truth:
    """Read the real scan of a target, which must lie on the grid of the source.

    The brain is the case's ``brainmask`` or, without one, the foreground of the real scan with its
    holes filled: never anything of the prediction.

    Raises:
        ScanError: The scan or the mask cannot be used, or lies on another grid.
    """
    scan = read_scan(case.files[target])
    if scan.shape != like.shape or not np.allclose(scan.affine, like.affine, atol=1e-3):
        raise ScanError(
            f"its grid {scan.shape} is not that of the source {like.path.name} {like.shape}",
            "register and resample the scans of a case to one grid first",
            code="E_GRID",
            file=scan.path,
        )
    if BRAIN_MASK in case.masks:
        inside = read_mask(case.masks[BRAIN_MASK], like=scan)
    else:
        inside = ndimage.binary_fill_holes(foreground(scan.data, scan.spacing))
    brain, volume = torch.from_numpy(np.asarray(inside, dtype=bool)), torch.from_numpy(scan.data)
    head = torch.from_numpy(cleared_background(scan)[1])
    try:
        return Truth(reference_map(volume, brain)(volume) * head, brain, head)
    except ValueError as error:
        raise ScanError(str(error), "leave it out", code="E_CONSTANT", file=scan.path) from None
