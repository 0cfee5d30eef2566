"""What can be said of intensities while they stream by, none of them held."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

MAX_LABELS = 64  #: a volume with no more distinct values than this, all whole, is a label map
HOUNSFIELD = -200.0  #: intensities below it are air, fat and lung of a CT
SPAN = 2**16  #: whole numbers within this range are counted, not sorted


class Census:
    """Counts over the voxels added so far.

    Attributes:
        total: Voxels.
        nonfinite: Those that are NaN or infinite.
        negative: Those below ``HOUNSFIELD``.
        low: Least finite intensity.
        high: Greatest finite intensity.
        labels: The distinct values while they are few and whole, else None.
    """

    def __init__(self) -> None:
        self.total = self.nonfinite = self.negative = 0
        self.low, self.high = np.inf, -np.inf
        self.labels: set[float] | None = set()

    def add(self, values: FloatArray) -> None:
        """Count a block (n,) and set what is not finite in it to 0."""
        self.total += values.size
        finite = values
        good = np.isfinite(values)
        if not good.all():
            finite = values[good]
            self.nonfinite += values.size - finite.size
            values[~good] = 0
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        if low < HOUNSFIELD:
            self.negative += int(np.count_nonzero(finite < HOUNSFIELD))
        if self.labels is not None:
            found = _whole_values(finite, low, high)
            self.labels = None if found is None else self.labels | found
            if self.labels is not None and len(self.labels) > MAX_LABELS:
                self.labels = None


def _whole_values(values: FloatArray, low: float, high: float) -> set[float] | None:
    """The distinct values, or None where one is not whole or they are too many to care."""
    if low == high:
        return {low} if low.is_integer() else None
    probe = values[:: max(1, values.size // 256)]
    if not np.array_equal(probe, np.rint(probe)) or not np.array_equal(values, np.rint(values)):
        return None
    if high - low < SPAN:
        found = np.flatnonzero(np.bincount((values - low).astype(np.int64))) + low
    else:
        found = np.unique(values)
    return None if len(found) > MAX_LABELS else {float(value) for value in found}
