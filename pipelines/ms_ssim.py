"""Structural similarity at several scales, in a box or in a mask."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from .ssim import (
    GAUSSIAN,
    Similarity,
    Window,
    checked_mask,
    similarity,
    uniform_window,
    whole_windows,
)

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  #: of the scales (Wang et al. 2003, section 3.2)
SMALLEST = 97  #: voxels along an axis to which SynthRAD pads


def ms_ssim(
    prediction: Float[Tensor, "x y z"],
    reference: Float[Tensor, "x y z"],
    *,
    mask: Bool[Tensor, "x y z"] | None = None,
    data_range: float = 1.0,
    window: Window = GAUSSIAN,
    weights: Sequence[float] = WEIGHTS,
    finest: Similarity | None = None,
) -> Float[Tensor, ""]:
    """Multi-scale SSIM (Wang et al. 2003, eq. 7), float64.

    The product over scales of mean(contrast x structure)^weight, and at the last scale of
    mean(SSIM)^weight; negative means count as 0. From scale to scale, blocks of 2 x 2 x 2 are
    averaged. Without a mask each mean is over the windows wholly inside the box, as MONAI and
    pytorch_msssim have it; in a mask it is over the mask, of which a coarser scale keeps the blocks
    that lie in it by half or more.

    Args:
        prediction: In the unit of the reference.
        reference: Same shape.
        mask: Where it counts; None is everywhere.
        data_range: What SSIM's constants are relative to.
        window: Averaged around every voxel.
        weights: Of the scales, the finest first.
        finest: SSIM's factors at full resolution where they are known already.

    Raises:
        ValueError: The volume is too small for so many scales (in a box 11 voxels are needed at the
            coarsest, in a mask 6), or the mask is empty at one.
    """
    p, r, inside = prediction, reference, mask
    value = torch.ones((), dtype=torch.float64)
    for scale, weight in enumerate(weights):
        if scale > 0:
            p, r = (F.avg_pool3d(v[None], 2)[0] for v in (p, r))
            if inside is not None:
                inside = F.avg_pool3d(inside.float()[None], 2)[0] >= 0.5
        known = finest if scale == 0 else None
        luminance, structure = known or similarity(p, r, data_range=data_range, window=window)
        every = luminance * structure if scale == len(weights) - 1 else structure
        if inside is None:
            every = whole_windows(every, window)
        else:
            every = every[checked_mask(inside, every)]
        value = value * every.double().mean().clamp(min=0) ** weight
    return value


def synthrad_ms_ssim(
    prediction: Float[Tensor, "x y z"],
    reference: Float[Tensor, "x y z"],
    *,
    mask: Bool[Tensor, "x y z"],
    data_range: float,
) -> Float[Tensor, ""]:
    """MS-SSIM in a mask as the SynthRAD 2025 challenge computes it, float64.

    It differs from ``ms_ssim``: uniform windows of 7 with the sample covariance; every scale counts
    its luminance too; the map is raised to the scale's weight before the mean, not after; pairs of
    voxels (2i - 1, 2i), zeros before the first, are averaged from scale to scale, and the mask
    keeps every other voxel; axes shorter than 97 are padded by their edges; voxels within 3 of the
    box's border do not count.

    Args:
        prediction: From 0 up, 0 outside the mask.
        reference: Likewise.
        mask: Where it counts.
        data_range: Of the values.

    Raises:
        ValueError: The mask is empty at a scale.
    """
    window = uniform_window(7)
    p, r, inside = (_padded(v.double()) for v in (prediction, reference, mask))
    value = torch.ones((), dtype=torch.float64)
    for weight in WEIGHTS:
        luminance, structure = similarity(p, r, data_range=data_range, window=window)
        every = (luminance.clamp(min=0) * structure.clamp(min=0)) ** weight
        counted = checked_mask(whole_windows(inside, window) > 0, whole_windows(every, window))
        value = value * whole_windows(every, window)[counted].mean().clamp(0, 1)
        p, r = _pairs(p), _pairs(r)
        inside = inside[::2, ::2, ::2]
    return value


def _padded(volume: Float[Tensor, "x y z"]) -> Float[Tensor, "u v w"]:
    """Repeat the edges of axes shorter than ``SMALLEST``, as evenly as can be."""
    pad: list[int] = []
    for length in reversed(volume.shape):
        short = max(SMALLEST - length, 0)
        pad += [short // 2, short - short // 2]
    return F.pad(volume[None, None], pad, mode="replicate")[0, 0]


def _pairs(volume: Float[Tensor, "x y z"]) -> Float[Tensor, "u v w"]:
    """Average voxels 2i - 1 and 2i along every axis, where voxel -1 is 0."""
    for axis in range(volume.ndim):
        even = volume.index_select(axis, torch.arange(0, volume.shape[axis], 2))
        odd = volume.index_select(axis, torch.arange(1, volume.shape[axis], 2))
        before = torch.cat([torch.zeros_like(even.narrow(axis, 0, 1)), odd], dim=axis)
        volume = (even + before.narrow(axis, 0, even.shape[axis])) / 2
    return volume
