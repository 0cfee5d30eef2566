"""Wavelet split and merge by any discrete filter bank, in 1 to 3 dimensions and at any size."""

import pywt
import torch
from torch import Tensor, nn

from .blocks import crop_like, pad_to_multiple
from .haar import haar_merge, haar_split

WINDOW = 32
"""Steps (of two samples) that one product makes along an axis too long for a single matrix."""


def band_names(spatial_dims: int) -> list[str]:
    """Names of the sub-bands in the order in which they are stacked.

    Binary counting over the axes, the first axis first, L = low before H = high: ["LL", "LH", "HL",
    "HH"] in 2D, LLL, LLH, ..., HHH in 3D. "LH" is low along the first axis and high along the last
    (PyWavelets' "ad"; others call that one HL).
    """
    names = [""]
    for _ in range(spatial_dims):
        names = [name + letter for name in names for letter in "LH"]
    return names


class Wavelet(nn.Module):
    """One level of a discrete wavelet transform and its inverse, as PyWavelets' "periodization".

    Along each axis low_k = sum_j lo_j x_(2k + L/2 - j) and likewise high, the axis taken as a
    circle and L the length of the filter: half as many samples a band and, for orthogonal wavelets
    (haar, db, sym, coif), an orthonormal transform. Of an axis of odd length the last sample is
    repeated first, and what it adds is cropped after the merge: ``merge(split(x), like=x)`` is x
    (only to a percent for dmey, whose filters are no exact pair in PyWavelets either).

    Haar goes by reshape and add. Any other filter bank is written as a matrix along each axis (long
    axes in windows, each the same matrix), since convolutions with few taps and stride 2 move more
    than they compute. There is nothing to learn and nothing in the state dict.

    Args:
        name: PyWavelets' name of a discrete wavelet: "haar", "db2", "sym4", "bior2.2", ...
        spatial_dims: 1, 2 or 3.

    Raises:
        ValueError: There is no such discrete wavelet, or another number of dimensions.
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, name: str = "haar", *, spatial_dims: int = 3) -> None:
        super().__init__()
        if spatial_dims not in (1, 2, 3):
            raise ValueError(f"spatial_dims must be 1, 2 or 3, got {spatial_dims}")
        if name not in pywt.wavelist(kind="discrete"):
            raise ValueError(f"no discrete wavelet {name!r}; pywt.wavelist() names them")
        filters = pywt.Wavelet(name)
        self.spatial_dims, self.bands = spatial_dims, 1 << spatial_dims
        self.haar = name in ("haar", "db1")
        # float64, so that a float64 transform is exact; the matrices take the features' dtype
        analysis = torch.tensor([filters.dec_lo, filters.dec_hi], dtype=torch.float64)
        synthesis = torch.tensor([filters.rec_lo, filters.rec_hi], dtype=torch.float64)
        self.register_buffer("analysis", analysis.flip(1), persistent=False)
        self.register_buffer("synthesis", synthesis, persistent=False)

    def split(self, x: Tensor) -> Tensor:
        """Split features into sub-bands.

        Args:
            x: Features (b, c, *size), any size.

        Returns:
            Sub-bands (b, 2**d * c, *ceil(size / 2)), band-major, in the order of ``band_names``.

        Raises:
            ValueError: Not ``spatial_dims`` spatial axes.
        """
        if x.dim() - 2 != self.spatial_dims:
            raise ValueError(f"expected {self.spatial_dims} spatial axes, got shape {x.shape}")
        x = pad_to_multiple(x, 2)
        if self.haar:
            return haar_split(x, self.spatial_dims)
        for axis in range(self.spatial_dims):  # b c (band half) ... (band half)
            x = analyse(self.analysis, x, 2 + axis)
        for axis in range(self.spatial_dims):  # b band ... band c half ... half
            place = 2 + 2 * axis
            x = x.unflatten(place, [2, x.shape[place] // 2]).movedim(place, 1 + axis)
        return x.flatten(1, 1 + self.spatial_dims)

    def merge(self, bands: Tensor, like: Tensor) -> Tensor:
        """Merge sub-bands into features of the spatial size of ``like``; the inverse of ``split``.

        Args:
            bands: Sub-bands (b, 2**d * c, *ceil(size / 2)), band-major.
            like: (any, any, *size), whose size the features get.

        Returns:
            Features (b, c, *size).

        Raises:
            ValueError: The number of channels is not a multiple of ``2**d``, or the size is not
                half of ``like``'s.
        """
        if bands.shape[1] % self.bands != 0:
            raise ValueError(f"channels must be a multiple of {self.bands}, got {bands.shape[1]}")
        for axis in range(2, 2 + self.spatial_dims):
            if bands.shape[axis] != (like.shape[axis] + 1) // 2:
                raise ValueError(f"bands of shape {bands.shape} are not half of {like.shape}")
        if self.haar:
            return crop_like(haar_merge(bands, self.spatial_dims), like)
        x = bands.unflatten(1, [2] * self.spatial_dims + [bands.shape[1] // self.bands])
        for step in range(self.spatial_dims):
            axis = self.spatial_dims - 1 - step  # the band of the last axis stands before c
            x = x.movedim(1 + axis, 2 + 2 * axis).flatten(2 + 2 * axis, 3 + 2 * axis)
        for axis in range(self.spatial_dims):
            x = synthesise(self.synthesis, x, 2 + axis)
        return crop_like(x, like)


def analyse(filters: Tensor, x: Tensor, axis: int, window: int = WINDOW) -> Tensor:
    """Both bands along one axis of even length: its first half low, its second half high."""
    length, reach = x.shape[axis], filters.shape[1] // 2 - 1
    if length <= 2 * window + 4 * reach:
        return along(circle(filters, length).to(x), x, axis)
    line = circle(filters, 2 * window + 4 * reach).to(x)  # from its middle: one window's matrix
    line = line.unflatten(0, [2, line.shape[0] // 2])[:, reach : reach + window]
    line = line[:, :, reach : reach + 2 * window + 2 * reach]
    x = torch.cat([x.narrow(axis, length - reach, reach), x, x.narrow(axis, 0, reach)], dim=axis)
    low: list[Tensor] = []
    high: list[Tensor] = []
    for first in range(0, length // 2, window):
        steps = min(window, length // 2 - first)
        seen = x.narrow(axis, 2 * first, 2 * (steps + reach))
        matrix = line[:, :steps, : 2 * (steps + reach)].flatten(0, 1)
        made = along(matrix, seen, axis)
        low.append(made.narrow(axis, 0, steps))
        high.append(made.narrow(axis, steps, steps))
    return torch.cat(low + high, dim=axis)


def synthesise(filters: Tensor, x: Tensor, axis: int, window: int = WINDOW) -> Tensor:
    """The axis that both bands (first half low, second half high) were made of."""
    length, reach = x.shape[axis], filters.shape[1] // 2 - 1
    if length <= 2 * window + 4 * reach:
        return along(circle(filters, length).t().to(x), x, axis)
    line = circle(filters, 2 * window + 4 * reach).t().to(x)
    line = line[2 * reach : 2 * reach + 2 * window].unflatten(1, [2, window + 2 * reach])
    bands = x.chunk(2, dim=axis)
    around = [
        torch.cat([b.narrow(axis, length // 2 - reach, reach), b, b.narrow(axis, 0, reach)], axis)
        for b in bands
    ]
    made: list[Tensor] = []
    for first in range(0, length // 2, window):
        steps = min(window, length // 2 - first)
        seen = [band.narrow(axis, first, steps + 2 * reach) for band in around]
        matrix = line[: 2 * steps, :, : steps + 2 * reach].flatten(1, 2)
        made.append(along(matrix, torch.cat(seen, dim=axis), axis))
    return torch.cat(made, dim=axis)


def circle(filters: Tensor, length: int) -> Tensor:
    """The matrix (length, length) that moves two filters (2, L) in steps of two around a circle.

    The rows are all steps of the first filter, then all of the second; tap i of step k stands at
    2k + 1 - L/2 + i.
    """
    taps = filters.shape[1]
    steps = torch.arange(length // 2, device=filters.device)
    offsets = torch.arange(taps, device=filters.device) + (1 - taps // 2)
    columns = (2 * steps.unsqueeze(1) + offsets) % length  # a filter may go round more than once
    rows = filters.unsqueeze(1).expand(2, length // 2, taps)
    matrix = torch.zeros(2, length // 2, length, dtype=filters.dtype, device=filters.device)
    return matrix.scatter_add(2, columns.expand(2, -1, -1), rows).flatten(0, 1)


def along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """The product of a matrix (n, m) with one axis of x, m long."""
    if axis == x.dim() - 1:
        return x @ matrix.t()
    tail = x.shape[axis + 1 :]
    return (matrix @ x.flatten(axis + 1)).unflatten(axis + 1, tail)
