"""The Haar split against PyWavelets, reference numbers and its own inverse."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from voxlate.networks import haar, haar_merge, haar_split, slices


def pywt_bands(volume: Tensor, dims: int) -> Tensor:
    """PyWavelets' sub-bands, band-major, low before high, first axis first."""
    bands = pywt.dwtn(volume.numpy(), "haar", axes=tuple(range(-dims, 0)))
    keys = ["".join(letters) for letters in product("ad", repeat=dims)]
    return torch.from_numpy(np.concatenate([bands[key] for key in keys], axis=1))


@pytest.mark.parametrize("size", [(8,), (4, 6), (4, 6, 2)])
def test_bands_equal_pywavelets_in_float64(size: tuple[int, ...]) -> None:
    volume = torch.randn(2, 3, *size, dtype=torch.float64)
    bands = haar_split(volume, len(size))
    assert bands.dtype == torch.float64
    torch.testing.assert_close(bands, pywt_bands(volume, len(size)), rtol=0, atol=1e-14)


def test_bands_equal_the_reference_vectors(vectors_dir: Path) -> None:
    arrays = {
        key: torch.from_numpy(v) for key, v in np.load(vectors_dir / "haar_dwt_3d.npz").items()
    }
    bands = haar_split(arrays["in/x"]).unflatten(1, (8, -1))
    torch.testing.assert_close(bands, arrays["out/coeffs"], rtol=1e-6, atol=1e-6)
    merged = haar_merge(arrays["out/coeffs"].flatten(1, 2))
    torch.testing.assert_close(merged, arrays["out/rec"], rtol=1e-6, atol=1e-6)
    flat = {key: torch.from_numpy(v) for key, v in np.load(vectors_dir / "haar_dwt_2d.npz").items()}
    bands = haar_split(flat["in/x"], 2).unflatten(1, (4, -1))
    torch.testing.assert_close(bands, flat["out/LL_ad_da_dd"], rtol=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    dims=st.integers(1, 3),
    half=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    channels=st.integers(1, 3),
)
def test_merge_undoes_split_and_energy_is_kept(dims: int, half: list[int], channels: int) -> None:
    volume = torch.randn(2, channels, *[2 * h for h in half[:dims]], dtype=torch.float64)
    bands = haar_split(volume, dims)
    assert bands.shape == (2, channels * 2**dims, *half[:dims])
    torch.testing.assert_close(haar_merge(bands, dims), volume, rtol=0, atol=1e-14)
    torch.testing.assert_close(bands.square().sum(), volume.square().sum())


def test_constant_volume_is_in_the_low_band_alone() -> None:
    bands = haar_split(torch.full((1, 2, 4, 4, 4), 3.0))
    torch.testing.assert_close(bands[:, :2], torch.full((1, 2, 2, 2, 2), 3.0 * 8**0.5))
    assert not bands[:, 2:].any()


def test_split_is_its_own_gradient() -> None:
    volume = torch.randn(1, 1, 2, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(haar_split, volume)
    upstream = torch.randn(1, 8, 1, 2, 1, dtype=torch.float64)
    haar_split(volume).backward(upstream)
    torch.testing.assert_close(volume.grad, haar_merge(upstream))  # orthonormal


def test_gradients_have_gradients() -> None:
    volume = torch.randn(1, 1, 2, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: haar_split(x) ** 2, volume)
    bands = torch.randn(1, 8, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: haar_merge(x) ** 2, bands)


@pytest.mark.parametrize("most", [800, 200, 50, 1])
def test_slices_join_without_a_seam(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    volume = torch.randn(2, 3, 10, 6, 4)
    bands = haar_split(volume)
    merged = haar_merge(bands)
    monkeypatch.setattr(slices, "SLICE", most)
    assert torch.equal(haar_split(volume), bands)
    last = volume.to(memory_format=torch.channels_last_3d)
    assert torch.equal(haar_split(last), bands)
    assert torch.equal(haar_merge(bands), merged)


@pytest.mark.parametrize("size", [(8,), (6, 4), (4, 6, 10)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slices_are_the_plain_sums_to_the_bit(size: tuple[int, ...], dtype: torch.dtype) -> None:
    volume, dims = torch.randn(2, 3, *size).to(dtype), len(size)
    bands = torch.cat(haar.corner_sums(volume), dim=1) * 2.0 ** (-0.5 * dims)
    assert torch.equal(haar_split(volume, dims), bands)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(haar, "recording", lambda: True)
        plain = haar_merge(bands, dims)
    assert torch.equal(haar_merge(bands, dims), plain)


@pytest.mark.parametrize(("size", "dims"), [((4, 5, 4), 3), ((3, 4), 2)])
def test_odd_size_is_refused(size: tuple[int, ...], dims: int) -> None:
    with pytest.raises(ValueError, match="even"):
        haar_split(torch.zeros(1, 1, *size), dims)


def test_wrong_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 spatial axes"):
        haar_split(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="multiple of 8"):
        haar_merge(torch.zeros(1, 12, 2, 2, 2))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("dims", [2, 3])
def test_script_equals_eager(dims: int) -> None:
    volume = torch.randn(1, 2, *[4] * dims)
    bands = torch.jit.script(haar_split)(volume, dims)
    assert torch.equal(bands, haar_split(volume, dims))
    assert torch.equal(torch.jit.script(haar_merge)(bands, dims), haar_merge(bands, dims))
