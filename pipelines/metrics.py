"""Errors of a volume against its reference: pure functions of two volumes and a mask.

Volumes are (x, y, z) or (x, y) without batch axes. Sums are taken in float64. Structural similarity
has a file of its own (``ssim``), and so has what a measurement is made of (``metric_sets``).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from .ssim import Mask, Volume, checked_mask

MAX_PSNR = 100.0  #: what equal volumes get, in dB, so that means stay finite


def mae(prediction: Volume, reference: Volume, *, mask: Mask | None = None) -> Float[Tensor, ""]:
    """Mean of |p - r| in the mask (None: everywhere), float64."""
    p, r = _inside(prediction, reference, mask)
    return (p - r).abs().mean()


def mse(prediction: Volume, reference: Volume, *, mask: Mask | None = None) -> Float[Tensor, ""]:
    """Mean of (p - r)^2 in the mask (None: everywhere), float64."""
    p, r = _inside(prediction, reference, mask)
    return (p - r).square().mean()


def rmse(prediction: Volume, reference: Volume, *, mask: Mask | None = None) -> Float[Tensor, ""]:
    """Square root of the mean of (p - r)^2 in the mask (None: everywhere), float64."""
    return mse(prediction, reference, mask=mask).sqrt()


def nmse(prediction: Volume, reference: Volume, *, mask: Mask | None = None) -> Float[Tensor, ""]:
    """Sum of (p - r)^2 over the sum of r^2 in the mask (None: everywhere), float64.

    It depends on where zero is: a volume in [-1, 1] and the same in [0, 1] have different values.
    """
    p, r = _inside(prediction, reference, mask)
    return (p - r).square().sum() / r.square().sum()


def psnr(
    prediction: Volume, reference: Volume, *, mask: Mask | None = None, data_range: float = 1.0
) -> Float[Tensor, ""]:
    """10 log10(data_range^2 / mean (p - r)^2) in the mask (None: everywhere), float64.

    At most 100 dB.
    """
    error = mse(prediction, reference, mask=mask)
    return (10 * torch.log10(data_range**2 / error)).clamp(max=MAX_PSNR)


def slice_rmse(
    prediction: Float[Tensor, "x y z"], reference: Float[Tensor, "x y z"]
) -> Float[Tensor, ""]:
    """Mean over (x, y) slices of the RMSE of each, float64."""
    return _slice_mse(prediction, reference).sqrt().mean()


def slice_psnr(
    prediction: Float[Tensor, "x y z"],
    reference: Float[Tensor, "x y z"],
    *,
    data_range: float = 1.0,
) -> Float[Tensor, ""]:
    """Mean over (x, y) slices of the PSNR of each, at most 100 dB, float64."""
    error = _slice_mse(prediction, reference)
    return (10 * torch.log10(data_range**2 / error)).clamp(max=MAX_PSNR).mean()


def sharpness_ratio(
    prediction: Volume, reference: Volume, *, mask: Mask | None = None
) -> Float[Tensor, ""]:
    """Gradient energy of the prediction over the reference's, float64: below 1 is blurred.

    Gradient energy is the sum of squared differences between neighbours along every axis, both of
    them in the mask: the edge of the brain against a cleared background, the same in every volume,
    does not count. Noise raises it too.
    """
    inside = torch.ones_like(reference, dtype=torch.bool) if mask is None else mask
    box = _around(checked_mask(inside, reference))
    p, r, inside = prediction[box], reference[box], inside[box]
    return _gradient_energy(p, inside) / _gradient_energy(r, inside)


def _inside(prediction: Tensor, reference: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    if mask is None:
        return prediction.double(), reference.double()
    return prediction[checked_mask(mask, reference)].double(), reference[mask].double()


def _slice_mse(prediction: Tensor, reference: Tensor) -> Float[Tensor, " z"]:
    p, r = _inside(prediction, reference, None)
    return (p - r).square().mean(dim=(0, 1))


def _gradient_energy(volume: Tensor, inside: Tensor) -> Tensor:
    total = volume.new_zeros((), dtype=torch.float64)
    for axis in range(volume.ndim):
        last = volume.shape[axis] - 1
        both = inside.narrow(axis, 0, last) & inside.narrow(axis, 1, last)
        difference = volume.diff(dim=axis).mul_(both)  # indexing by a mask takes five times as long
        total = total + difference.square_().sum(dtype=torch.float64)
    return total


def _around(mask: Tensor) -> tuple[slice, ...]:
    """The smallest box around a mask."""
    box = []
    for axis in range(mask.ndim):
        other = [a for a in range(mask.ndim) if a != axis]
        where = mask.sum(dim=other).nonzero()
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(box)
