"""From a scan to what the networks see, and from what they make back to the scan's own grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from . import geometry
from .errors import ScanError
from .geometry import GridPlan
from .intensity import BACKGROUND, IntensityMap, foreground, percentile_map
from .reading import Scan

ROUNDS = 4  #: of fitting a resampled volume into its limits
EDGE = 0.25  #: share of the head in a resampled voxel from which on it is not background


@dataclass(frozen=True)
class Record:
    """All that is needed to go back: the grids, and what -1 and 1 stood for."""

    plan: GridPlan
    intensity: IntensityMap


@dataclass(frozen=True)
class Prepared:
    """A scan as the networks see it.

    Attributes:
        volume: Intensities in [-1, 1], RAS, background -1.
        foreground: Where the head is.
        record: The way back.
    """

    volume: Float[Tensor, "1 x y z"]
    foreground: Bool[Tensor, "1 x y z"]
    record: Record


@dataclass(frozen=True)
class Preprocessing:
    """Canonical axes, one spacing, a crop around the head, percentiles of the head to [-1, 1].

    Attributes:
        spacing: Voxel size of the model's grid, mm; scans within 0.001 mm of it are copied.
        size: Fewest voxels of the model's grid along right, anterior, superior.
        percentiles: Of the foreground, mapped to -1 and 1 with clipping.
        multiple_of: Where the head does not fit, the grid grows to a multiple of this.
    """

    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    size: tuple[int, int, int] = (192, 192, 144)
    percentiles: tuple[float, float] = (0.5, 99.5)
    multiple_of: int = 8

    def __post_init__(self) -> None:
        """Accept the lists of a configuration file, refuse what cannot be a grid."""
        for name in ("spacing", "size", "percentiles"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.spacing) != 3 or min(self.spacing) <= 0:
            raise ValueError(f"spacing must be 3 positive numbers in mm, got {self.spacing}")
        if len(self.size) != 3 or min(self.size) < 1:
            raise ValueError(f"size must be 3 positive whole numbers, got {self.size}")
        if self.multiple_of < 1:
            raise ValueError(f"multiple_of must be at least 1, got {self.multiple_of}")
        if len(self.percentiles) != 2 or not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles must rise within 0 to 100, got {self.percentiles}")

    def plan(self, scan: Scan, *others: Scan) -> GridPlan:
        """Decide the model's grid for one case, around the heads of all its scans together.

        Raises:
            ScanError: The scans are on different grids.
        """
        inside = foreground(scan.data, scan.spacing)
        for other in others:
            _refuse_other_grid(other, scan.shape, scan.affine)
            inside |= foreground(other.data, other.spacing)
        return self._plan(scan, inside)

    def apply(self, scan: Scan, plan: GridPlan | None = None) -> Prepared:
        """Prepare one scan, on the grid of its case where ``plan`` is given.

        Raises:
            ScanError: The plan was made for another grid.
        """
        inside = foreground(scan.data, scan.spacing)
        if plan is None:
            plan = self._plan(scan, inside)
        elif not plan.fits(scan.shape, scan.affine):
            _refuse_other_grid(scan, plan.scan_shape, plan.scan_affine)
        intensity = percentile_map(scan.data, inside, self.percentiles)
        values = np.where(inside, intensity.apply(scan.data), np.float32(BACKGROUND))
        mask = geometry.to_model_grid(inside.astype(np.float32), plan, background=0.0) > EDGE
        volume = _resample_within_limits(values, mask, plan)
        return Prepared(
            volume=torch.from_numpy(volume)[None],
            foreground=torch.from_numpy(mask)[None],
            record=Record(plan, intensity),
        )

    def apply_mask(self, mask: npt.NDArray[np.bool_], plan: GridPlan) -> Bool[Tensor, "1 x y z"]:
        """Take a mask on the scan's grid to the model's."""
        values = geometry.to_model_grid(mask.astype(np.float32), plan, background=0.0)
        return torch.from_numpy(values > 0.5)[None]

    def restore(
        self,
        volume: Float[Tensor, "*channel x y z"] | npt.NDArray[np.float32],
        record: Record,
        *,
        background: float,
    ) -> npt.NDArray[np.float32]:
        """Take a volume on the model's grid back to the scan's; intensities are left as they are.

        Args:
            volume: (X, Y, Z) or (1, X, Y, Z), in any unit.
            record: Of the scan it was made from.
            background: Value outside the model's grid, in the unit of ``volume``.

        Returns:
            Voxels on the scan's own grid, in the order of its file.
        """
        values = (
            volume.detach().to("cpu", torch.float32).numpy()
            if isinstance(volume, Tensor)
            else np.asarray(volume, dtype=np.float32)
        )
        values = values.reshape(values.shape[-3:])
        if values.shape != record.plan.shape:
            raise ValueError(f"volume must have shape {record.plan.shape}, got {values.shape}")
        restored = geometry.to_scan_grid(values, record.plan, background=background)
        if record.plan.resampled:  # splines overshoot at edges; the range of the values is kept
            low, high = float(values.min()), float(values.max())
            restored = restored.clip(min(low, background), max(high, background))
        return restored

    def _plan(self, scan: Scan, inside: npt.NDArray[np.bool_]) -> GridPlan:
        return geometry.plan_grid(
            scan.shape,
            scan.affine,
            _bounding_box(inside),
            spacing=self.spacing,
            size=self.size,
            multiple_of=self.multiple_of,
        )


def _resample_within_limits(
    values: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], plan: GridPlan
) -> npt.NDArray[np.float32]:
    """Take intensities to the model's grid, within [-1, 1] and -1 outside the mask.

    A spline overshoots at edges. What clipping the overshoot would take from the way back is added
    again inside the limits, a few times over: 6 to 10 dB on the way back where slices are thick.
    """
    volume = geometry.to_model_grid(values, plan, background=BACKGROUND)
    for remaining in reversed(range(ROUNDS if plan.resampled else 1)):
        volume = np.where(mask, volume.clip(-1, 1), np.float32(BACKGROUND))
        if remaining:
            lost = values - geometry.to_scan_grid(volume, plan, background=BACKGROUND)
            volume += geometry.to_model_grid(lost, plan, background=0.0)
    return volume


def _bounding_box(mask: npt.NDArray[np.bool_]) -> geometry.Box:
    """First and one-past-last true voxel along each axis."""
    ranges = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(mask.any(axis=others))
        ranges.append((int(found[0]), int(found[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]


def _refuse_other_grid(
    scan: Scan, shape: tuple[int, int, int], affine: npt.NDArray[np.float64]
) -> None:
    if scan.shape == shape and np.allclose(scan.affine, affine, atol=1e-3):
        return
    raise ScanError(
        f"its grid {scan.shape} is not that of the case's first scan {shape}"
        if scan.shape != shape
        else "it lies elsewhere in space than the case's first scan",
        "register the scans of a case to one grid first",
        code="E_GRID",
        file=scan.path,
    )
