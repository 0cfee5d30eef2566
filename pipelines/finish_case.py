"""What the networks made becomes a translation: on the scan's own grid, on its scale, scored."""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from voxlate.data_prep import Preprocessing, Record, Scan, ScanError, assess, foreground

from .case_steps import Clock, FloatArray, Made, ReadyCase, Request, Translation
from .one_to_many import BACKGROUND
from .quality_scores import score
from .samples import mean_and_deviation


def finish_case(
    ready: ReadyCase, made: Made, request: Request, preprocessing: Preprocessing
) -> Translation:
    """Take what the networks made back to the scan's own grid, and compare it with the scan.

    Raises:
        ScanError: The networks made something that is no image.
    """
    clock = Clock()
    with clock("restore"):
        scan = ready.scan
        head = foreground(scan.data, scan.spacing)
        stripped, inside = _cleared(scan, head)
        volumes, lines, scores, deviations = {}, {}, {}, {}
        made_volumes = made.volumes.cpu()
        for index, target in enumerate(request.targets):
            unit, deviation = mean_and_deviation(
                restore(volume, ready.prepared.record, preprocessing, scan, inside)
                for volume in made_volumes[index :: len(request.targets)]
            )
            scaled = request.scale(target, unit, inside if stripped else head)
            volumes[target] = scaled.values
            lines[target] = request.scale.describe(target, scaled)
            scores[target] = score(target, unit, scan.data, head, scan.spacing, stripped=stripped)
            if deviation is not None:
                deviations[target] = deviation * np.float32(scaled.slope)
                mean_sd = float(deviation[head].mean())
                scores[target] = scores[target]._replace(deviation=mean_sd)
        suitability = assess(scan, request.source, head)
    return Translation(
        scan=ready.scan,
        source=request.source,
        volumes=volumes,
        case_id=request.case_id,
        seed=request.seed,
        steps=request.steps,
        device=made.device,
        dtype=made.dtype,
        skull_stripped=stripped,
        origin=made.origin,
        seconds={**ready.seconds, **made.seconds, **clock.seconds},
        warnings=(
            *ready.warnings,
            *suitability.warnings,
            *(doubt for found in scores.values() for doubt in found.warnings),
        ),
        scale=request.scale,
        lines=lines,
        stored_as=request.stored_as,
        suitability=suitability,
        scores=scores,
        others=ready.others,
        moves={} if ready.inputs is None else ready.inputs.moves,
        further=request.further,
        seeds=request.seeds if deviations else (),
        deviations=deviations,
    )


def cleared_background(scan: Scan) -> tuple[bool, npt.NDArray[np.bool_]]:
    """Whether everything around the head has one value (skull stripped), and where the head is.

    Holes inside the head belong to it.
    """
    return _cleared(scan, foreground(scan.data, scan.spacing))


def _cleared(scan: Scan, head: npt.NDArray[np.bool_]) -> tuple[bool, npt.NDArray[np.bool_]]:
    outside = scan.data[~head]
    stripped = outside.size > 0 and bool((outside == outside[0]).all())
    if not stripped:
        return False, np.ones(scan.shape, dtype=bool)
    return True, np.asarray(ndimage.binary_fill_holes(head), dtype=bool)


def restore(
    volume: Float[Tensor, "1 x y z"],
    record: Record,
    preprocessing: Preprocessing,
    scan: Scan,
    inside: npt.NDArray[np.bool_],
) -> FloatArray:
    """From [-1, 1] on the network's grid to [0, 1] on the scan's own, 0 outside the mask.

    Raises:
        ScanError: The networks made something that is no image.
    """
    if not bool(torch.isfinite(volume).all()):
        raise ScanError(
            "the networks made NaN or infinite values of it",
            "check the scan, or try --device cpu",
            code="E_OUTPUT_NONFINITE",
            file=scan.path,
        )
    own = preprocessing.restore(volume, record, background=BACKGROUND)
    values = np.where(inside, (own + 1) / 2, 0).clip(0, 1).astype(np.float32)
    least = values[inside].min()
    if bool(volume.min() == volume.max()) or least == values[inside].max():
        raise ScanError(
            f"the networks made the same value ({least:g}) everywhere",
            "check the scan, or try --device cpu",
            code="E_OUTPUT_CONSTANT",
            file=scan.path,
        )
    return values
