"""A target's real scan, and where in it a translation is measured."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from .intensity_scale import LinearMap, reference_map

MARGIN_MM = 5.0  #: around a lesion, neither lesion nor healthy brain
AIR_HU = -1024.0
CT = "ct"


@dataclass(frozen=True)
class Truth:
    """The real scan of a target, in its own unit, and its masks, all on one grid.

    Attributes:
        target: Its modality.
        volume: Intensities.
        brain: Where it counts: the case's mask, or the scan's foreground; not empty.
        head: What is not a cleared background; of a scan with noise around it, everything.
        background: The value of the cleared background; None where there is none.
        affine: Voxel indices to mm; axes are right, anterior, superior.
        lesion: What an expert drew; None where nobody did.
    """

    target: str
    volume: Float[Tensor, "x y z"]
    brain: Bool[Tensor, "x y z"]
    head: Bool[Tensor, "x y z"]
    background: float | None
    affine: npt.NDArray[np.float64]
    lesion: Bool[Tensor, "x y z"] | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @cached_property
    def scale(self) -> LinearMap:
        """Takes the 0.5th and 99.5th percentile in the brain to 0 and 1.

        Raises:
            ValueError: The scan is constant in the brain.
        """
        return reference_map(self.volume, self.brain)

    @cached_property
    def scaled(self) -> Float[Tensor, "x y z"]:
        """The scan on that scale, its cleared background 0."""
        return self.to_scale(self.volume)

    def to_scale(self, volume: Float[Tensor, "x y z"]) -> Float[Tensor, "x y z"]:
        """A volume in the scan's unit on the [0, 1] scale; what is cleared as the scan is, is 0."""
        mapped = self.scale(volume)
        if self.background is None:
            return mapped
        return mapped.masked_fill(~self.head & (volume == self.background), 0)

    def from_scale(self, volume: Float[Tensor, "x y z"]) -> Float[Tensor, "x y z"]:
        """The inverse of ``to_scale``: 0 outside the head is a cleared background."""
        undone = self.scale.undo(volume)
        if self.background is None:
            return undone
        return undone.masked_fill(~self.head & (volume == 0), self.background)

    def empty(self) -> Float[Tensor, "x y z"]:
        """What stands in for a translation that is missing: background everywhere."""
        value = AIR_HU if self.target == CT else (self.background or 0.0)
        return torch.full_like(self.volume, value)

    @cached_property
    def regions(self) -> dict[str, Bool[Tensor, "x y z"] | None]:
        """Masks by name, those that are not empty; None is the whole box."""
        regions: dict[str, Tensor | None] = {"brain": self.brain, "box": None}
        if self.lesion is None:
            return regions
        near = grown(self.lesion.numpy(), MARGIN_MM, self.spacing)
        found = {
            "lesion": self.lesion,
            "healthy": self.brain & ~torch.from_numpy(near),
            "outside": ~self.lesion,
        }
        return regions | {name: mask for name, mask in found.items() if bool(mask.any())}


def grown(
    mask: npt.NDArray[np.bool_], margin: float, spacing: tuple[float, float, float]
) -> npt.NDArray[np.bool_]:
    """What lies within a distance of the mask, mm; the mask included."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return mask.copy()
    reach = [int(np.ceil(margin / size)) for size in spacing]
    box = tuple(
        slice(max(part.start - n, 0), part.stop + n)
        for part, n in zip(found[0], reach, strict=True)
    )
    near = np.zeros_like(mask)
    near[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing) <= margin
    return near
