"""One prediction against the target's real scan, beside answers that need no network."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from voxlate.data_prep import Scan, ScanError, foreground, read_mask, read_scan
from voxlate.data_prep.cases import Case

from .evaluation_baselines import MEAN, MeanImage, trivial_answers
from .evaluation_row import TRANSLATION, Row
from .evaluation_truth import Truth
from .finish_case import cleared_background
from .metric_sets import CT_ONLY, METRIC_SETS, Value

BRAIN_MASK, LESION_MASK = "brainmask", "lesion"  #: among a case's masks
BASELINE_METRICS = ("psnr", "ssim", "nmse", "rmse", "mae", "sharpness")
BASELINE_REGIONS = ("brain", "lesion")
MAX_RATIO = 8.0  #: between the upper ends of prediction and reference; beyond it is another unit
UNIT_REACH = 4.0  #: no volume on a scale of percentiles reaches so high
MADE_HERE = b"by voxlate"  #: in the header's description of what this project writes

Known = dict[tuple[str, str, str], dict[str, list[Value]]]
"""Case, target and source ("" for none) to answer to values."""
Scale = Literal["auto", "unit", "symmetric", "reference"]


def to_ras(
    data: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]
) -> tuple[Tensor, npt.NDArray[np.float64]]:
    """Flip and permute to right, anterior, superior axes; no voxel changes."""
    axes = nib.io_orientation(affine)
    turned = nib.orientations.apply_orientation(data, axes)
    matrix = affine @ nib.orientations.inv_ornt_aff(axes, data.shape)
    return torch.from_numpy(np.ascontiguousarray(turned)), matrix


def read_truth(case: Case, target: str, *, like: Scan | None = None) -> Truth:
    """Read the real scan of a target and its masks.

    The brain is the case's ``brainmask`` or, without one, the foreground of the real scan with its
    holes filled: never anything of the prediction.

    Args:
        case: With a file for the target.
        target: Modality.
        like: A scan that it must share the grid with.

    Raises:
        ScanError: The scan or a mask cannot be used, or lies on another grid.
    """
    scan = read_scan(case.files[target])
    if like is not None:
        grid, matrix = to_ras(like.data, like.affine)
        require_grid(scan, matrix, grid.shape, like.path)
    if BRAIN_MASK in case.masks:
        inside = read_mask(case.masks[BRAIN_MASK], like=scan)
    else:
        inside = ndimage.binary_fill_holes(foreground(scan.data, scan.spacing))
    if not inside.any():
        raise ScanError(
            "the brain mask is empty",
            "draw it again, or take it away",
            code="E_MASK",
            file=case.masks[BRAIN_MASK],
        )
    lesion = None
    if LESION_MASK in case.masks:
        lesion = to_ras(read_mask(case.masks[LESION_MASK], like=scan), scan.affine)[0]
    stripped, head = cleared_background(scan)
    volume, affine = to_ras(scan.data, scan.affine)
    truth = Truth(
        target,
        volume,
        to_ras(np.asarray(inside, dtype=bool), scan.affine)[0],
        to_ras(head, scan.affine)[0],
        float(scan.data[~head][0]) if stripped else None,
        affine,
        lesion,
    )
    try:
        assert truth.scale
    except ValueError as error:
        raise ScanError(str(error), "leave it out", code="E_CONSTANT", file=scan.path) from None
    return truth


def require_grid(
    scan: Scan, affine: npt.NDArray[np.float64], shape: Sequence[int], other: os.PathLike[str]
) -> None:
    """Refuse a scan whose grid, up to the order and direction of its axes, is not a RAS grid.

    Raises:
        ScanError: It is another.
    """
    data, own = to_ras(scan.data, scan.affine)
    if data.shape != tuple(shape) or not np.allclose(own, affine, atol=1e-3):
        raise ScanError(
            f"its grid {scan.shape} is not that of {Path(other).name} {tuple(shape)}",
            "register and resample the scans of a case to one grid first",
            code="E_GRID",
            file=scan.path,
        )


def read_prediction(
    path: str | os.PathLike[str], truth: Truth, reference: os.PathLike[str], scale: Scale = "auto"
) -> Float[Tensor, "x y z"]:
    """Read a prediction and bring it into the unit of the real scan.

    Args:
        path: NIfTI file on the grid of the truth, in any order of its axes.
        truth: The real scan.
        reference: Its file, for messages.
        scale: ``unit``: 0 and 1 are the 0.5th and 99.5th percentile of the brain. ``symmetric``:
            -1 and 1 are. ``reference``: the unit of the real scan. ``auto``: ``unit`` for files
            that this project wrote and that reach no higher than its scale does, else
            ``reference``.

    Raises:
        ScanError: It cannot be read, or lies on another grid, or is in another unit.
    """
    scan = read_scan(path)
    require_grid(scan, truth.affine, truth.volume.shape, reference)
    volume = to_ras(scan.data, scan.affine)[0]
    if scale == "auto":
        ours = MADE_HERE in scan.header["descrip"].tobytes()
        scale = "unit" if ours and float(volume.max()) < UNIT_REACH else "reference"
    if scale == "symmetric":
        return truth.from_scale((volume + 1) / 2 * truth.head)
    if scale == "unit":
        return truth.from_scale(volume)
    low, high = truth.scale
    reach = float(np.percentile(truth.scale(volume[truth.brain]).numpy(), 99.5))
    if not 1 / MAX_RATIO < reach < MAX_RATIO:
        top = low + reach * (high - low)
        raise ScanError(
            f"its intensities reach {top:.3g} in the brain, those of the real scan {high:.3g}",
            "say what its 0 and 1 are by --prediction-scale unit, symmetric or reference",
            code="E_SCALE",
            file=path,
        )
    return volume


def measure_translation(
    prediction: Float[Tensor, "x y z"],
    truth: Truth,
    *,
    run: str,
    case: Case,
    given: str,
    metric_sets: Sequence[str],
    note: str = "",
) -> list[Row]:
    """Every value of every set, of a prediction in the reference's unit."""
    return [
        _row(run, case, given, truth, TRANSLATION, name, value, note)
        for name in fitting_sets(metric_sets, truth.target)
        for value in METRIC_SETS[name].measure(prediction, truth)
    ]


def measure_baselines(
    sources: Mapping[str, Float[Tensor, "x y z"]],
    truth: Truth,
    *,
    case: Case,
    given: str,
    known: Known,
    mean_image: MeanImage | None = None,
) -> list[Row]:
    """The default set's main values of the answers that need no network.

    Of several sources each is tried (``copy of t1``, ...); ``known`` remembers what was measured
    of this case, so that a source that is given in many subsets is measured once.

    Raises:
        ScanError: A source is constant in the brain.
    """

    def measured(volume: Tensor) -> list[Value]:
        return METRIC_SETS["default"].measure(
            volume, truth, metrics=BASELINE_METRICS, regions=BASELINE_REGIONS
        )

    rows = []
    for modality, source in sources.items():
        place = (case.id, truth.target, modality)
        if place not in known:
            try:
                answers = trivial_answers(source, truth)
                known[place] = {name: measured(volume) for name, volume in answers}
            except ValueError as error:
                raise ScanError(
                    f"no answer to compare with: {error}",
                    "leave the case out",
                    code="E_BASELINE",
                    file=case.files[modality],
                ) from None
        suffix = f" of {modality}" if len(sources) > 1 else ""
        for name, found in known[place].items():
            rows += [_row("", case, given, truth, name + suffix, "default", v, "") for v in found]
    place = (case.id, truth.target, "")
    if place not in known:
        mean = None if mean_image is None else mean_image.without(case.subject, truth)
        known[place] = {} if mean is None else {MEAN: measured(mean)}
    for name, found in known[place].items():
        rows += [_row("", case, given, truth, name, "default", v, "") for v in found]
    return rows


def fitting_sets(names: Sequence[str], target: str) -> list[str]:
    """The sets that make sense for a target: those of CT challenges for CT alone."""
    return [name for name in names if (target == "ct") or name not in CT_ONLY]


def _row(
    run: str,
    case: Case,
    given: str,
    truth: Truth,
    answer: str,
    metric_set: str,
    value: Value,
    note: str,
) -> Row:
    return Row(
        run,
        case.id,
        case.subject,
        given,
        truth.target,
        answer,
        metric_set,
        value.region,
        value.metric,
        value.value,
        value.voxels,
        note or value.note,
    )
