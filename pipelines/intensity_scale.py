"""The linear map onto which intensities are put before they are compared."""

from typing import NamedTuple

import numpy as np

from .ssim import Mask, Volume, checked_mask

PERCENTILES = (0.5, 99.5)


class LinearMap(NamedTuple):
    """The linear map that takes ``low`` to 0 and ``high`` to 1, without clipping."""

    low: float
    high: float

    def __call__(self, volume: Volume) -> Volume:
        """Map a volume, float32."""
        return ((volume.double() - self.low) / (self.high - self.low)).float()

    def undo(self, volume: Volume) -> Volume:
        """Map a volume back, float32."""
        return (volume.double() * (self.high - self.low) + self.low).float()


def reference_map(
    reference: Volume, mask: Mask, percentiles: tuple[float, float] = PERCENTILES
) -> LinearMap:
    """The map whose limits are percentiles of the reference inside the mask.

    One for a case, never one an image: each by its own range hides errors of brightness.

    Raises:
        ValueError: The percentiles are equal: the reference is constant.
    """
    low, high = limits(reference[checked_mask(mask, reference)], percentiles)
    if not high > low:
        raise ValueError(f"the reference is {low:g} almost everywhere in the mask")
    return LinearMap(low, high)


def limits(values: Volume, percentiles: tuple[float, float] = PERCENTILES) -> tuple[float, float]:
    """Two percentiles of all values, linearly between order statistics."""
    low, high = np.percentile(values.double().cpu().numpy(), percentiles)
    return float(low), float(high)
