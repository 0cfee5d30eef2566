"""Structural similarity: the map around every voxel, and its means over a box, a mask or slices.

Volumes are (x, y, z) or (x, y) without batch axes. A window is a product of one-dimensional ones,
and each of those a banded matrix: a blur is a matrix product along every axis. Everything is
computed in float32 at least and outside autocast, whatever the caller is in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Volume = Float[Tensor, "*size"]
Mask = Bool[Tensor, "*size"]

K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class Window:
    """What is averaged around a voxel.

    Attributes:
        taps: Weights along one axis, an odd number of them, of sum 1.
        sample: Divide covariances by n - 1 voxels rather than n.
        mirror_edge: Beyond the border the volume is mirrored, edge voxels included (True) or not.
    """

    taps: tuple[float, ...]
    sample: bool = False
    mirror_edge: bool = True

    @property
    def reach(self) -> int:
        """Voxels on either side of the middle."""
        return len(self.taps) // 2

    @property
    def size(self) -> int:
        """Voxels along an axis."""
        return len(self.taps)


def gaussian_window(size: int = 11, sigma: float = 1.5, *, mirror_edge: bool = True) -> Window:
    """Gaussian weights (Wang et al. 2004: 11 voxels, sigma 1.5)."""
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    taps = torch.exp(-0.5 * (offsets / sigma).square())
    return Window(tuple((taps / taps.sum()).tolist()), mirror_edge=mirror_edge)


def uniform_window(size: int = 7) -> Window:
    """Equal weights and the sample covariance, as scikit-image by default."""
    return Window((1 / size,) * size, sample=True)


GAUSSIAN = gaussian_window()


class Similarity(NamedTuple):
    """The two factors of SSIM around every voxel (Wang et al. 2004, eq. 6, and 9 with 10)."""

    luminance: Volume
    structure: Volume


def ssim(
    prediction: Volume,
    reference: Volume,
    *,
    mask: Mask | None = None,
    data_range: float = 1.0,
    window: Window = GAUSSIAN,
) -> Float[Tensor, ""]:
    """Mean of ``ssim_map`` in the mask, float64.

    Without a mask it is the mean over all windows that lie wholly inside the box: the number that
    MONAI, pytorch_msssim and scikit-image (``gaussian_weights=True,
    use_sample_covariance=False``) give.
    """
    every = ssim_map(prediction, reference, data_range=data_range, window=window)
    if mask is not None:
        return every[checked_mask(mask, every)].double().mean()
    return whole_windows(every, window).double().mean()


def slice_ssim(
    prediction: Float[Tensor, "x y z"],
    reference: Float[Tensor, "x y z"],
    *,
    mask: Bool[Tensor, "x y z"] | None = None,
    data_range: float = 1.0,
    window: Window = GAUSSIAN,
) -> Float[Tensor, ""]:
    """Mean over slices of the two-dimensional SSIM of each (x, y) slice, float64.

    In the mask it is the mean of the two-dimensional maps there; without one, of each slice's
    windows that lie wholly inside it.
    """
    every = ssim_map(prediction, reference, data_range=data_range, window=window, axes=(0, 1))
    if mask is not None:
        return every[checked_mask(mask, every)].double().mean()
    return whole_windows(every, window, axes=(0, 1)).double().mean()


def ssim_map(
    prediction: Volume,
    reference: Volume,
    *,
    data_range: float = 1.0,
    window: Window = GAUSSIAN,
    axes: Sequence[int] | None = None,
) -> Volume:
    """Structural similarity around every voxel (Wang et al. 2004, eq. 13).

    Args:
        prediction: In the unit of the reference.
        reference: Same shape.
        data_range: What the constants are relative to: (0.01 data_range)^2, (0.03 data_range)^2.
        window: Averaged around every voxel.
        axes: Along which the window extends; by default all.

    Raises:
        ValueError: The volumes differ in shape, or an axis is too short to be mirrored.
    """
    luminance, structure = similarity(
        prediction, reference, data_range=data_range, window=window, axes=axes
    )
    return luminance * structure


def similarity(
    prediction: Volume,
    reference: Volume,
    *,
    data_range: float = 1.0,
    window: Window = GAUSSIAN,
    axes: Sequence[int] | None = None,
) -> Similarity:
    """The factors of ``ssim_map``, whose arguments and refusals these are."""
    if prediction.shape != reference.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and reference {tuple(reference.shape)} differ"
        )
    along = range(reference.ndim) if axes is None else axes
    _check_size(reference, window.reach + 1, along)
    dtype = torch.promote_types(reference.dtype, torch.float32)
    p, r = prediction.to(dtype), reference.to(dtype)
    with torch.autocast(p.device.type, enabled=False):
        stack = torch.stack([p, r, p * p + r * r, p * r])
        mean_p, mean_r, square, product = blur(stack, window, along)
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    means, mean_squares = mean_p * mean_r, mean_p**2 + mean_r**2
    voxels = window.size ** len(along)
    scale = voxels / (voxels - 1) if window.sample else 1.0
    luminance = (2 * means + c1) / (mean_squares + c1)
    structure = (2 * scale * (product - means) + c2) / (scale * (square - mean_squares) + c2)
    return Similarity(luminance, structure)


def whole_windows(every: Volume, window: Window, axes: Sequence[int] | None = None) -> Volume:
    """The part of a map whose windows lie wholly inside the box.

    Raises:
        ValueError: An axis is shorter than the window.
    """
    along = range(every.ndim) if axes is None else axes
    _check_size(every, window.size, along)
    inner = [slice(window.reach, -window.reach)] * every.ndim
    return every[tuple(inner[i] if i in along else slice(None) for i in range(every.ndim))]


def blur(
    volumes: Float[Tensor, "n *size"], window: Window, axes: Sequence[int]
) -> Float[Tensor, "n *size"]:
    """Average in the window along axes of the volumes (0 is the first after n)."""
    for axis in (a + 1 for a in axes):
        length = volumes.shape[axis]
        matrix = window_matrix(length, window, dtype=volumes.dtype, device=volumes.device)
        if axis == volumes.ndim - 1:
            volumes = volumes @ matrix.T
        else:
            rows = volumes.flatten(axis + 1).flatten(0, axis - 1)
            volumes = (matrix @ rows).reshape(volumes.shape)
    return volumes


def window_matrix(
    length: int, window: Window, *, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "length length"]:
    """A window as a matrix: row i averages around voxel i, mirrored at the ends."""
    edge = 1 if window.mirror_edge else 0
    around = torch.arange(length)[:, None] + torch.arange(-window.reach, window.reach + 1)
    around = torch.where(around < 0, -edge - around, around)
    around = torch.where(around >= length, 2 * length - 2 + edge - around, around)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    taps = torch.tensor(window.taps, dtype=torch.float64)
    matrix.scatter_add_(1, around, taps.expand(length, -1).contiguous())
    return matrix.to(device, dtype)


def checked_mask(mask: Tensor, like: Tensor) -> Tensor:
    """Return the mask, which must be bool, not empty, and of the shape of ``like``.

    Raises:
        ValueError: It is not.
    """
    if mask.shape != like.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be bool of shape {tuple(like.shape)}, "
            f"got {mask.dtype} of {tuple(mask.shape)}"
        )
    if not bool(mask.any()):
        raise ValueError("the mask is empty")
    return mask


def _check_size(volume: Tensor, least: int, axes: Sequence[int]) -> None:
    if min(volume.shape[axis] for axis in axes) < least:
        raise ValueError(f"SSIM needs {least} voxels along every axis, got {tuple(volume.shape)}")
