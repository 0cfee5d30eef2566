"""Where voxels lie: from a scan's own grid to the model's and back, each the inverse of the other.

The model's grid is the scan's own, turned to the nearest right-anterior-superior axes by flips and
permutations (an oblique scan stays oblique), resampled along each axis to the model's spacing where
that differs, and cropped or padded. Flips, crops and padding copy voxels. Between a coarse and a
fine spacing, the way to the finer grid is cubic spline interpolation and the way to the coarser
grid is the least-squares fit of that same spline. So fine -> coarse -> fine is the best that the
coarse grid can hold, and coarse -> fine -> coarse changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .errors import ScanError

Affine = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

SAME_SPACING = 1e-3  #: mm; closer spacings are one, and voxels are copied
DAMPING = 1e-3  #: share of its power below which a detail, hidden between samples, is damped


@dataclass(frozen=True)
class GridPlan:
    """The way from a scan's grid to the model's, decided once for all modalities of a case.

    Attributes:
        scan_shape: Voxels of the scan.
        scan_affine: Voxel indices of the scan to mm.
        order: For each axis of the model, the scan's axis.
        flipped: For each axis of the model, whether the scan's axis runs the other way.
        spacing: Voxel size of the model's grid in mm.
        start: First voxel of the crop on the resampled grid; negative where it is padded.
        shape: Voxels of the model's grid.
    """

    scan_shape: tuple[int, int, int]
    scan_affine: Affine
    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def turned_shape(self) -> tuple[int, int, int]:
        """The scan's voxels along the model's axes."""
        x, y, z = (self.scan_shape[axis] for axis in self.order)
        return x, y, z

    @property
    def turned_spacing(self) -> tuple[float, float, float]:
        """The scan's voxel sizes along the model's axes, mm; the model's own where they agree."""
        sizes = np.linalg.norm(self.scan_affine[:3, :3], axis=0)[list(self.order)]
        x, y, z = (
            t if abs(s - t) < SAME_SPACING else float(s)
            for s, t in zip(sizes, self.spacing, strict=True)
        )
        return x, y, z

    @property
    def full_shape(self) -> tuple[int, int, int]:
        """Voxels of the whole field of view at the model's spacing, before the crop."""
        x, y, z = (
            _resampled_size(n, s, t)
            for n, s, t in zip(self.turned_shape, self.turned_spacing, self.spacing, strict=True)
        )
        return x, y, z

    @property
    def resampled(self) -> bool:
        """Whether any axis is interpolated rather than copied."""
        return self.turned_spacing != self.spacing

    @property
    def affine(self) -> Affine:
        """Voxel indices of the model's grid to mm."""
        step = np.zeros((4, 4))
        step[3, 3] = 1
        for axis, (source, flip) in enumerate(zip(self.order, self.flipped, strict=True)):
            n, s, t = self.turned_shape[axis], self.turned_spacing[axis], self.spacing[axis]
            first, scale = _first_sample(n, s, t) + self.start[axis] * t / s, t / s
            step[source, axis] = -scale if flip else scale
            step[source, 3] = n - 1 - first if flip else first
        return self.scan_affine @ step

    def fits(self, shape: Sequence[int], affine: Affine) -> bool:
        """Tell whether a scan lies on the grid that this plan was made for."""
        return tuple(shape) == self.scan_shape and np.allclose(affine, self.scan_affine, atol=1e-3)


def plan_grid(
    shape: Sequence[int],
    affine: Affine,
    box: Box,
    *,
    spacing: Sequence[float],
    size: Sequence[int],
    multiple_of: int,
) -> GridPlan:
    """Plan a grid of at least ``size`` around ``box``, grown where the box does not fit.

    Args:
        shape: Voxels of the scan.
        affine: Voxel indices of the scan to mm.
        box: First and one-past-last voxel of the head along each axis of the scan.
        spacing: Voxel size of the model's grid, mm, along right, anterior, superior.
        size: Fewest voxels of the model's grid.
        multiple_of: What a grown axis is a multiple of.
    """
    orientation = nib.io_orientation(affine)
    if np.isnan(orientation).any():
        raise ScanError("the affine has no axes", "repair the header", code="E_AFFINE")
    order = [0, 0, 0]
    flipped = [False, False, False]
    for source, (target, direction) in enumerate(orientation):
        order[int(target)], flipped[int(target)] = source, direction < 0
    x, y, z = (int(n) for n in shape)
    a, b, c = (float(s) for s in spacing)
    plan = GridPlan(
        scan_shape=(x, y, z),
        scan_affine=np.array(affine, dtype=np.float64),
        order=(order[0], order[1], order[2]),
        flipped=(flipped[0], flipped[1], flipped[2]),
        spacing=(a, b, c),
        start=(0, 0, 0),
        shape=(x, y, z),
    )
    starts, sizes = [], []
    for axis in range(3):
        low, high = box[order[axis]]
        n, s, t = plan.turned_shape[axis], plan.turned_spacing[axis], plan.spacing[axis]
        if flipped[axis]:
            low, high = n - high, n - low
        first = _first_sample(n, s, t)
        low = math.ceil((low - 0.5 - first) * s / t - 1e-6)  # samples between the voxels' faces
        high = math.floor((high - 0.5 - first) * s / t + 1e-6) + 1
        length = max(int(size[axis]), high - low)
        if length > size[axis]:
            length = math.ceil(length / multiple_of) * multiple_of
        starts.append(low - (length - (high - low)) // 2)
        sizes.append(length)
    return GridPlan(
        scan_shape=plan.scan_shape,
        scan_affine=plan.scan_affine,
        order=plan.order,
        flipped=plan.flipped,
        spacing=plan.spacing,
        start=(starts[0], starts[1], starts[2]),
        shape=(sizes[0], sizes[1], sizes[2]),
    )


def to_model_grid(data: FloatArray, plan: GridPlan, *, background: float) -> FloatArray:
    """Turn, resample and crop a scan's voxels; ``background`` fills what lies outside the scan."""
    turned = _flip(data.transpose(plan.order), plan)
    full = _resample(turned, plan.turned_spacing, plan.spacing, plan.full_shape)
    volume = np.full(plan.shape, background, dtype=np.float32)
    inside, outside = _overlap(plan)
    volume[inside] = full[outside]
    return volume


def to_scan_grid(volume: FloatArray, plan: GridPlan, *, background: float) -> FloatArray:
    """Undo ``to_model_grid``; ``background`` fills what the crop left out."""
    full = np.full(plan.full_shape, background, dtype=np.float32)
    inside, outside = _overlap(plan)
    full[outside] = volume[inside]
    turned = _resample(full, plan.spacing, plan.turned_spacing, plan.turned_shape)
    back = np.argsort(plan.order)
    return np.ascontiguousarray(_flip(turned, plan).transpose(back), dtype=np.float32)


def _flip(turned: FloatArray, plan: GridPlan) -> FloatArray:
    x, y, z = (slice(None, None, -1 if flip else 1) for flip in plan.flipped)
    return turned[x, y, z]


def _overlap(plan: GridPlan) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the model's grid and of the uncropped grid that are the same voxels."""
    inside, outside = [], []
    for start, length, n in zip(plan.start, plan.shape, plan.full_shape, strict=True):
        low, high = max(start, 0), max(min(start + length, n), max(start, 0))
        inside.append(slice(low - start, high - start))
        outside.append(slice(low, high))
    return tuple(inside), tuple(outside)


def _resampled_size(n: int, spacing: float, target: float) -> int:
    return n if spacing == target else max(1, round(n * spacing / target))


def _first_sample(n: int, spacing: float, target: float) -> float:
    """Index on the old grid of the new grid's first sample; both share their centre."""
    count = _resampled_size(n, spacing, target)
    return ((n - 1) - (count - 1) * target / spacing) / 2


def _resample(
    data: FloatArray,
    spacing: Sequence[float],
    target: Sequence[float],
    shape: Sequence[int],
) -> FloatArray:
    """Resample along each axis whose spacing differs, the axes that shrink first."""
    axes = [a for a in range(3) if spacing[a] != target[a]]
    for axis in sorted(axes, key=lambda a: shape[a] / data.shape[a]):
        n, m, s, t = data.shape[axis], shape[axis], spacing[axis], target[axis]
        matrix = _spline_matrix(n, m, s, t) if t < s else _fit_matrix(m, n, t, s)
        moved = np.moveaxis(data, axis, 0)
        flat = np.ascontiguousarray(moved, dtype=np.float32).reshape(n, -1)
        data = np.moveaxis((matrix @ flat).reshape(m, *moved.shape[1:]), 0, axis)
    return data


@lru_cache(maxsize=16)
def _spline_matrix(coarse: int, fine: int, spacing: float, target: float) -> FloatArray:
    """Cubic spline interpolation (fine, coarse) between two grids that share their centre."""
    ratio = target / spacing
    first = ((coarse - 1) - (fine - 1) * ratio) / 2
    at = first + ratio * np.arange(fine)
    coordinates = np.meshgrid(at, np.arange(coarse), indexing="ij")
    matrix = ndimage.map_coordinates(np.eye(coarse), coordinates, order=3, mode="mirror")
    return np.asarray(matrix, dtype=np.float32)


@lru_cache(maxsize=16)
def _fit_matrix(coarse: int, fine: int, spacing: float, target: float) -> FloatArray:
    """Least-squares fit (coarse, fine) of the spline that ``_spline_matrix`` evaluates."""
    spline = _spline_matrix(coarse, fine, spacing, target).astype(np.float64)
    left, values, right = np.linalg.svd(spline, full_matrices=False)
    power = fine / coarse  # about that of a detail which is sampled well
    gain = values / np.maximum(values**2, DAMPING * power)
    return np.asarray((right.T * gain) @ left.T, dtype=np.float32)
