"""Image metrics of a translation against its reference: pure functions of two volumes and a mask.

Volumes are (x, y, z) or (x, y) without batch axes. Everything is computed in float32 at least and
outside autocast, whatever the caller is in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Volume = Float[Tensor, "*size"]
Mask = Bool[Tensor, "*size"]

MAX_PSNR = 100.0  #: what equal volumes get, in dB, so that means stay finite
WINDOW, SIGMA = 11, 1.5  #: SSIM's Gaussian window (Wang et al. 2004)
K1, K2 = 0.01, 0.03
PERCENTILES = (0.5, 99.5)


def mae(prediction: Volume, reference: Volume, *, mask: Mask | None = None) -> Float[Tensor, ""]:
    """Mean of |p - r| in the mask (None: everywhere), float64."""
    p, r = _inside(prediction, reference, mask)
    return (p - r).abs().mean()


def rmse(prediction: Volume, reference: Volume, *, mask: Mask | None = None) -> Float[Tensor, ""]:
    """Square root of the mean of (p - r)^2 in the mask (None: everywhere), float64."""
    p, r = _inside(prediction, reference, mask)
    return (p - r).square().mean().sqrt()


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
    p, r = _inside(prediction, reference, mask)
    error = (p - r).square().mean()
    return (10 * torch.log10(data_range**2 / error)).clamp(max=MAX_PSNR)


def ssim(
    prediction: Volume, reference: Volume, *, mask: Mask | None = None, data_range: float = 1.0
) -> Float[Tensor, ""]:
    """Mean of ``ssim_map`` in the mask, float64.

    Without a mask it is the mean over all windows that lie wholly inside the box: the number that
    MONAI, pytorch_msssim and scikit-image (``gaussian_weights=True,
    use_sample_covariance=False``) give.
    """
    every = ssim_map(prediction, reference, data_range=data_range)
    if mask is not None:
        return every[_checked(mask, every)].double().mean()
    border = WINDOW // 2
    return every[(slice(border, -border),) * every.ndim].double().mean()


def ssim_map(prediction: Volume, reference: Volume, *, data_range: float = 1.0) -> Volume:
    """Structural similarity around every voxel (Wang et al. 2004, eq. 13).

    Gaussian window of 11 voxels and sigma 1.5 along every axis, K1 0.01, K2 0.03, population
    covariance. Beyond the border the volumes are mirrored, edge voxels included (as scikit-image's
    full map). The window is a product of one-dimensional ones, and each of those a banded matrix:
    the whole is three matrix products.

    Raises:
        ValueError: The volumes differ in shape, or an axis is shorter than the window.
    """
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    if min(reference.shape) < WINDOW:
        raise ValueError(
            f"SSIM needs {WINDOW} voxels along every axis, got {tuple(reference.shape)}"
        )
    dtype = torch.promote_types(reference.dtype, torch.float32)
    p, r = prediction.to(dtype), reference.to(dtype)
    with torch.autocast(p.device.type, enabled=False):
        mean_p, mean_r, square, product = _blur(torch.stack([p, r, p * p + r * r, p * r]))
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    means, mean_squares = mean_p * mean_r, mean_p**2 + mean_r**2
    luminance = (2 * means + c1) / (mean_squares + c1)
    return luminance * (2 * (product - means) + c2) / (square - mean_squares + c2)


def sharpness_ratio(
    prediction: Volume, reference: Volume, *, mask: Mask | None = None
) -> Float[Tensor, ""]:
    """Gradient energy of the prediction over the reference's, float64: below 1 is blurred.

    Gradient energy is the sum of squared differences between neighbours along every axis, both of
    them in the mask: the edge of the brain against a cleared background, the same in every volume,
    does not count. Noise raises it too.
    """
    inside = torch.ones_like(reference, dtype=torch.bool) if mask is None else mask
    inside = _checked(inside, reference)
    return _gradient_energy(prediction, inside) / _gradient_energy(reference, inside)


class LinearMap(NamedTuple):
    """The linear map that takes ``low`` to 0 and ``high`` to 1, without clipping."""

    low: float
    high: float

    def __call__(self, volume: Volume) -> Volume:
        """Map a volume, float32."""
        return ((volume.double() - self.low) / (self.high - self.low)).float()


def reference_map(
    reference: Volume, mask: Mask, percentiles: tuple[float, float] = PERCENTILES
) -> LinearMap:
    """The map whose limits are percentiles of the reference inside the mask.

    One for a case, never one an image: each by its own range hides errors of brightness.

    Raises:
        ValueError: The percentiles are equal: the reference is constant.
    """
    values = reference[_checked(mask, reference)].double().sort().values
    low, high = (_percentile(values, percent) for percent in percentiles)
    if not high > low:
        raise ValueError(f"the reference is {low:g} almost everywhere in the mask")
    return LinearMap(low, high)


@dataclass(frozen=True)
class MetricSet:
    """Which metrics, where, and on what scale.

    Attributes:
        region: ``brain`` (the mask) or ``box`` (everywhere, background 0 outside the mask).
        metrics: Names in ``METRICS``.
        clip: Clip reference and prediction to [0, 1] first.
        definition: In words, for the report.
    """

    region: str
    metrics: tuple[str, ...]
    clip: bool
    definition: str


METRICS: dict[str, Callable[..., Tensor]] = {
    "mae": mae,
    "rmse": rmse,
    "nmse": nmse,
    "psnr": psnr,
    "ssim": ssim,
    "sharpness": sharpness_ratio,
}

METRIC_SETS = {
    "default": MetricSet(
        region="brain",
        metrics=("psnr", "ssim", "nmse", "rmse", "mae", "sharpness"),
        clip=False,
        definition="In the brain mask, on the scale where 0 and 1 are the reference's 0.5 and 99.5 "
        "percentiles in it, nothing clipped; data range 1; SSIM's map from the unmasked pair, "
        "averaged in the mask.",
    ),
    "clipped": MetricSet(
        region="brain",
        metrics=("psnr", "ssim"),
        clip=True,
        definition="As `default`, both volumes clipped to [0, 1].",
    ),
    "aldm": MetricSet(
        region="box",
        metrics=("psnr", "nmse", "ssim"),
        clip=True,
        definition="As ALDM's tables: whole box on [0, 1], background 0 included; data range 1; "
        "NMSE sum d^2 / sum gt^2; 3D SSIM. Comparable only between boxes cropped alike.",
    ),
}


def measure(
    prediction: Volume, reference: Volume, mask: Mask, *, metric_set: str = "default"
) -> dict[str, float]:
    """All metrics of a set, by name, of a pair on the reference's [0, 1] scale.

    Args:
        prediction: On that scale, see ``reference_map``.
        reference: Likewise.
        mask: The brain, not empty; from the reference or the inputs, never from the prediction.
        metric_set: Name in ``METRIC_SETS``.

    Raises:
        ValueError: No such set, or the mask is empty or of another shape.
    """
    if metric_set not in METRIC_SETS:
        raise ValueError(f"no metric set {metric_set!r}; there are {', '.join(METRIC_SETS)}")
    chosen = METRIC_SETS[metric_set]
    if chosen.clip:
        prediction, reference = prediction.clamp(0, 1), reference.clamp(0, 1)
    where: Tensor | None = _checked(mask, reference)
    if chosen.region == "box":
        prediction, reference = prediction * mask, reference * mask
        where = None
    return {
        name: float(METRICS[name](prediction, reference, mask=where)) for name in chosen.metrics
    }


def _checked(mask: Tensor, like: Tensor) -> Tensor:
    if mask.shape != like.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool of shape {tuple(like.shape)}, "
            f"got {mask.dtype} of {tuple(mask.shape)}"
        )
    if not bool(mask.any()):
        raise ValueError("the mask is empty")
    return mask


def _inside(prediction: Tensor, reference: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    if mask is None:
        return prediction.double(), reference.double()
    return prediction[_checked(mask, reference)].double(), reference[mask].double()


def _blur(volumes: Float[Tensor, "n *size"]) -> Float[Tensor, "n *size"]:
    """Gaussian window along every axis but the first, one banded matrix each."""
    for axis in range(1, volumes.ndim):
        matrix = window_matrix(volumes.shape[axis], dtype=volumes.dtype, device=volumes.device)
        if axis == volumes.ndim - 1:
            volumes = volumes @ matrix.T
        else:
            rows = volumes.flatten(axis + 1).flatten(0, axis - 1)
            volumes = (matrix @ rows).reshape(volumes.shape)
    return volumes


def window_matrix(
    length: int, *, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "length length"]:
    """SSIM's window as a matrix: row i averages around voxel i, mirrored at the ends."""
    reach = WINDOW // 2
    offsets = torch.arange(-reach, reach + 1)
    taps = torch.exp(-0.5 * (offsets.double() / SIGMA).square())
    around = torch.arange(length)[:, None] + offsets
    around = torch.where(around < 0, -1 - around, around)
    around = torch.where(around >= length, 2 * length - 1 - around, around)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    matrix.scatter_add_(1, around, (taps / taps.sum()).expand(length, -1).contiguous())
    return matrix.to(device, dtype)


def _gradient_energy(volume: Tensor, inside: Tensor) -> Tensor:
    total = volume.new_zeros((), dtype=torch.float64)
    for axis in range(volume.ndim):
        last = volume.shape[axis] - 1
        both = inside.narrow(axis, 0, last) & inside.narrow(axis, 1, last)
        difference = volume.narrow(axis, 1, last)[both] - volume.narrow(axis, 0, last)[both]
        total = total + difference.double().square().sum()
    return total


def _percentile(ordered: Tensor, percent: float) -> float:
    """Interpolate between order statistics, as NumPy does (torch.quantile has a size limit)."""
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    return low + (high - low) * (position - below)
