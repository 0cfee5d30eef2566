"""Wavelet split and merge by any discrete filter bank, in 1 to 3 dimensions and at any size."""

import pywt
import torch
from torch import Tensor, nn

from .blocks import crop_like, pad_to_multiple
from .filter_bank import bank_merge, bank_split
from .haar import haar_merge, haar_split


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

    Haar goes by reshape and add, any other filter bank by matrix products or sums of taps. There is
    nothing to learn and nothing in the state dict.

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
        return bank_split(self.analysis, x)

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
        return crop_like(bank_merge(self.synthesis, bands, self.spatial_dims), like)
