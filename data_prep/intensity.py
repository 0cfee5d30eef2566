"""What the numbers mean: head against background, and percentiles of the head mapped to [-1, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

BACKGROUND = -1.0
MIN_STRIPPED = 0.15  #: share of voxels at one value above which it may be a cleared background
MIN_SOLID = 0.5  #: share of those whose six neighbours have that value too
MIN_PART = 0.02  #: of the largest part of a head mask; smaller ones are noise
COARSE_MM = 3.0  #: voxel size at which a head mask is found


@dataclass(frozen=True)
class IntensityMap:
    """The linear map that takes ``low`` to -1 and ``high`` to 1, and clips beyond."""

    low: float
    high: float

    def apply(self, values: FloatArray) -> FloatArray:
        """Map scanner units to [-1, 1]."""
        scaled = (values - np.float32(self.low)) * np.float32(2 / (self.high - self.low)) - 1
        return np.clip(scaled, -1, 1, dtype=np.float32)

    def undo(self, values: FloatArray) -> FloatArray:
        """Map [-1, 1] back to scanner units; what was clipped stays at the limits."""
        return (values + 1) * np.float32((self.high - self.low) / 2) + np.float32(self.low)


def percentile_map(
    volume: FloatArray, mask: BoolArray, percentiles: tuple[float, float]
) -> IntensityMap:
    """Find the map whose limits are two percentiles of the intensities inside ``mask``.

    Voxels inside that were cleared to the one value of everything outside do not count.
    """
    values, outside = volume[mask], volume[~mask]
    if outside.size and outside.min() == outside.max():
        kept = values[values != outside[0]]
        values = kept if kept.size else values
    low, high = np.percentile(values, percentiles)
    if not high > low:  # more than 99 % of the head at one value: use what there is
        low, high = float(values.min()), float(values.max())
    return IntensityMap(float(low), float(high) if high > low else float(low) + 1.0)


def foreground(
    volume: FloatArray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> BoolArray:
    """Tell the head from the air around it.

    Where the background was cleared (one exact value fills a solid part of the volume, as after
    skull stripping) the foreground is every voxel above that value, or unlike it where intensities
    lie on both sides, and the holes enclosed by them. Otherwise it is a generous head mask: Otsu's
    threshold on the square roots of block means without specks, closed, filled and dilated.

    Args:
        volume: Intensities (X, Y, Z) in any unit.
        spacing: Voxel size in mm.

    Returns:
        True inside; at least one voxel is.
    """
    value = cleared_value(volume)
    if value is None:
        return _head_mask(volume, spacing)
    below = np.count_nonzero(volume < value)
    above = np.count_nonzero(volume > value)
    mask = volume != value if below > 0.1 * above else volume > value
    return np.asarray(ndimage.binary_fill_holes(mask))


def cleared_value(volume: FloatArray) -> np.float32 | None:
    """Return the one value that fills the space around the head, or None where it is noise."""
    faces = [volume[0], volume[-1], volume[:, 0], volume[:, -1], volume[:, :, 0], volume[:, :, -1]]
    values, counts = np.unique(np.concatenate([f.ravel() for f in faces]), return_counts=True)
    value: np.float32 = values[counts.argmax()]
    flat = volume == value
    share = np.count_nonzero(flat)
    if share == volume.size or share < MIN_STRIPPED * volume.size:
        return None
    inner = flat[1:-1, 1:-1, 1:-1]
    solid = inner & flat[:-2, 1:-1, 1:-1] & flat[2:, 1:-1, 1:-1]
    solid &= flat[1:-1, :-2, 1:-1] & flat[1:-1, 2:, 1:-1]
    solid &= flat[1:-1, 1:-1, :-2] & flat[1:-1, 1:-1, 2:]
    return value if np.count_nonzero(solid) >= MIN_SOLID * np.count_nonzero(inner) else None


def _head_mask(volume: FloatArray, spacing: tuple[float, float, float]) -> BoolArray:
    """Find the head in a volume with a noisy background, at a coarse spacing."""
    blocks = coarse_blocks(spacing)
    coarse = block_means(volume, blocks)
    low, high = np.percentile(coarse, (2, 98))
    if not high > low:
        return np.ones(volume.shape, dtype=bool)
    scaled = np.sqrt(((coarse - low) / (high - low)).clip(0, 1))
    mask = scaled > _otsu(scaled)
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    mask = (sizes > MIN_PART * sizes.max())[parts]  # brain and scalp stay, specks of noise go
    padded = np.pad(mask, 4)
    closed = ndimage.binary_closing(padded, iterations=3)
    filled = ndimage.binary_fill_holes(closed)
    grown = ndimage.binary_dilation(filled, iterations=2)[4:-4, 4:-4, 4:-4]
    if not grown.any():
        return np.ones(volume.shape, dtype=bool)
    for axis, block in enumerate(blocks):
        grown = grown.repeat(block, axis)
    x, y, z = volume.shape
    return grown[:x, :y, :z]


def coarse_blocks(spacing: tuple[float, float, float]) -> list[int]:
    """Voxels along each axis that come nearest to ``COARSE_MM``."""
    return [max(1, round(COARSE_MM / s)) for s in spacing]


def block_means(volume: FloatArray, blocks: list[int]) -> FloatArray:
    """Average blocks of voxels; the last of an axis is completed by its own edge."""
    short = [(0, -n % b) for n, b in zip(volume.shape, blocks, strict=True)]
    padded = np.pad(volume, short, mode="edge")
    split = [length for n, b in zip(padded.shape, blocks, strict=True) for length in (n // b, b)]
    return padded.reshape(split).mean(axis=(1, 3, 5), dtype=np.float64).astype(np.float32)


def _otsu(values: FloatArray, bins: int = 128) -> float:
    """Threshold in [0, 1] that best parts the values in two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=bins, range=(0, 1))
    centres = (edges[1:] + edges[:-1]) / 2
    weight = counts.cumsum() / counts.sum()
    moment = (counts * centres).cumsum() / counts.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (moment[-1] * weight - moment) ** 2 / (weight * (1 - weight))
    return float(centres[np.nanargmax(between)])
