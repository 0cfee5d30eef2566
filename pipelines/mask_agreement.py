"""How well two masks agree: Dice and the 95th percentile of the surface distance."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

BoolArray = npt.NDArray[np.bool_]


def dice(prediction: BoolArray, reference: BoolArray) -> float:
    """2 |P and R| / (|P| + |R|): 1 where both are empty, 0 where one is."""
    _check(prediction, reference)
    both = int(prediction.sum()) + int(reference.sum())
    return 2 * int((prediction & reference).sum()) / both if both else 1.0


def hd95(
    prediction: BoolArray, reference: BoolArray, spacing: Sequence[float] = (1.0, 1.0, 1.0)
) -> float:
    """95th percentile Hausdorff distance between surfaces, mm.

    The larger of the two directed 95th percentiles, as MONAI has it (medpy pools the distances of
    both directions). A surface is the mask's voxels that an erosion by their six neighbours takes
    away; what lies beyond the box is outside the mask. 0 where both masks are empty; the box's
    diagonal, not a missing value and not 0, where one is.

    Args:
        prediction: Mask.
        reference: Mask on the same grid.
        spacing: Voxel size, mm.
    """
    _check(prediction, reference)
    if not prediction.any() or not reference.any():
        if prediction.any() == reference.any():
            return 0.0
        return float(np.linalg.norm(np.multiply(reference.shape, spacing)))
    box = ndimage.find_objects((prediction | reference).astype(np.uint8))[0]
    p, r = (np.pad(mask[box], 1) for mask in (prediction, reference))
    p, r = (mask & ~ndimage.binary_erosion(mask) for mask in (p, r))
    directed = [
        np.percentile(ndimage.distance_transform_edt(~b, sampling=spacing)[a], 95)
        for a, b in ((p, r), (r, p))
    ]
    return float(max(directed))


def _check(prediction: BoolArray, reference: BoolArray) -> None:
    kinds = {prediction.dtype, reference.dtype}
    if prediction.shape != reference.shape or kinds != {np.dtype(bool)}:
        raise ValueError(
            f"masks must be bool and alike in shape, got {prediction.dtype} {prediction.shape} and "
            f"{reference.dtype} {reference.shape}"
        )
