"""Boxes, slices and scales that papers and challenges bring volumes to before they measure."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from .intensity_scale import PERCENTILES, LinearMap, limits

MSG_BOX, MSG_SLICES = (192, 192, 155), slice(18, 138)


def volume_scale(
    prediction: Float[Tensor, "x y z"],
    reference: Float[Tensor, "x y z"],
    percentiles: tuple[float, float] = PERCENTILES,
) -> tuple[Float[Tensor, "x y z"], Float[Tensor, "x y z"]]:
    """Both on [0, 1] by percentiles of the reference over all its voxels, clipped.

    Raises:
        ValueError: The percentiles are equal.
    """
    low, high = limits(reference, percentiles)
    if not high > low:
        raise ValueError(f"the reference is {low:g} almost everywhere in the box")
    scale = LinearMap(low, high)
    return scale(prediction).clamp(0, 1), scale(reference).clamp(0, 1)


def own_scale(volume: Float[Tensor, "x y z"]) -> Float[Tensor, "x y z"]:
    """A volume on [0, 1] by its own percentiles over all voxels, the lower at least 0, clipped.

    A volume that is constant between them (an empty one) is 0 everywhere.
    """
    low, high = limits(volume)
    low = max(low, 0.0)
    if not high > low:
        return torch.zeros_like(volume, dtype=torch.float64)
    return (volume.double().clamp(low, high) - low) / (high - low)


def hounsfield(
    volume: Float[Tensor, "x y z"], limits_hu: tuple[float, float]
) -> Float[Tensor, "x y z"]:
    """HU clipped to a range and counted from its lower end, float64."""
    low, high = limits_hu
    return volume.double().clamp(low, high) - low


def head_box(
    volumes: Float[Tensor, "n x y z"], head: Bool[Tensor, "x y z"], size: tuple[int, int, int]
) -> Float[Tensor, "n u v w"]:
    """A box of fixed size around the centre of the head: cropped, or padded by each one's lowest.

    Args:
        volumes: On one grid.
        head: What is to be in the middle.
        size: Of the box, voxels.
    """
    for axis, length in enumerate(size):
        others = tuple(a for a in range(3) if a != axis)
        where = head.any(dim=others[1]).any(dim=others[0]).nonzero().flatten()
        first, last = int(where[0]), int(where[-1])
        start = (first + last + 1 - length) // 2
        volumes = _window(volumes, axis + 1, start, length)
    return volumes


def dfbk_slices(
    prediction: Float[Tensor, "x y z"], reference: Float[Tensor, "x y z"], size: int, slices: int
) -> tuple[Float[Tensor, "size size s"], Float[Tensor, "size size s"]]:
    """The middle axial slices, cropped or padded to a square around the middle."""
    volumes = torch.stack([prediction, reference])
    number = min(slices, volumes.shape[-1])
    for axis, length in ((1, size), (2, size), (3, number)):
        volumes = _window(volumes, axis, (volumes.shape[axis] - length) // 2, length)
    p, r = volumes
    return p, r


def msg_slices(
    prediction: Float[Tensor, "x y z"], reference: Float[Tensor, "x y z"], head: Tensor
) -> tuple[Tensor, Tensor]:
    """Axial slices 18 to 137 of the box of 192 x 192 x 155, those with head in them, on [0, 1].

    Raises:
        ValueError: The reference is constant.
    """
    p, r = volume_scale(prediction, reference, (0, 100))
    volumes = torch.stack([p, r, head.to(p.dtype)])
    p, r, inside = head_box(volumes, head, MSG_BOX)[..., MSG_SLICES]
    kept = inside.flatten(0, 1).any(dim=0)
    return p[..., kept], r[..., kept]


def _window(volumes: Tensor, axis: int, start: int, length: int) -> Tensor:
    """Voxels ``start`` to ``start + length`` of an axis; beyond the volume its lowest value."""
    before = max(-start, 0)
    after = max(start + length - volumes.shape[axis], 0)
    if before or after:
        pad = [0, 0] * (volumes.ndim - 1 - axis) + [before, after]
        padded = [F.pad(v, pad, value=float(v.min())) for v in volumes]
        volumes = torch.stack(padded)
    return volumes.narrow(axis, start + before, length)
