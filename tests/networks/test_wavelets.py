"""The wavelet transform against PyWavelets, reference numbers and its own inverse."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from torch import Tensor

from voxlate.networks import axis_product, slices
from voxlate.networks.haar import haar_split
from voxlate.networks.wavelets import Wavelet, band_names

ORTHOGONAL = ("haar", "db2", "sym4", "coif1")


def pywt_bands(x: Tensor, name: str) -> Tensor:
    """PyWavelets' sub-bands, band-major, low before high, first axis first."""
    dims = x.dim() - 2
    bands = pywt.dwtn(x.numpy(), name, mode="periodization", axes=tuple(range(-dims, 0)))
    keys = ["".join(letters) for letters in product("ad", repeat=dims)]
    return torch.from_numpy(np.concatenate([bands[key] for key in keys], axis=1))


@pytest.mark.parametrize("name", [*ORTHOGONAL, "db4", "bior2.2", "rbio3.1", "dmey"])
@pytest.mark.parametrize("size", [(8,), (5,), (6, 4), (7, 5), (4, 6, 2), (5, 3, 1)])
def test_bands_equal_pywavelets_in_float64(name: str, size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    bands = Wavelet(name, spatial_dims=len(size)).split(x)
    torch.testing.assert_close(bands, pywt_bands(x, name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [*ORTHOGONAL, "db8", "bior4.4", "rbio2.8"])
@pytest.mark.parametrize("size", [(7,), (9, 6), (5, 8, 9), (1, 3, 1), (48, 47, 36)])
def test_merge_undoes_split_in_float32_at_any_size(name: str, size: tuple[int, ...]) -> None:
    wavelet, x = Wavelet(name, spatial_dims=len(size)), torch.rand(1, 2, *size) * 2 - 1
    bands = wavelet.split(x)
    assert bands.shape == (1, 2 * 2 ** len(size), *[(n + 1) // 2 for n in size])
    torch.testing.assert_close(wavelet.merge(bands, like=x), x, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(7,), (9, 6), (5, 8, 9), (48, 47, 36)])
def test_haar_is_undone_to_a_millionth_in_float32(size: tuple[int, ...]) -> None:
    wavelet, x = Wavelet(spatial_dims=len(size)), torch.rand(1, 2, *size) * 2 - 1
    torch.testing.assert_close(wavelet.merge(wavelet.split(x), like=x), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_merge_is_the_adjoint_of_split_and_energy_is_kept(name: str) -> None:
    wavelet = Wavelet(name)
    x = torch.randn(1, 2, 4, 6, 8, dtype=torch.float64, requires_grad=True)
    bands = wavelet.split(x)
    torch.testing.assert_close(bands.square().sum(), x.square().sum())
    upstream = torch.randn_like(bands)
    bands.backward(upstream)
    torch.testing.assert_close(x.grad, wavelet.merge(upstream, like=x))


@pytest.mark.parametrize("name", ["haar", "db2", "bior2.2"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    wavelet = Wavelet(name, spatial_dims=2)
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(wavelet.split, x)
    bands = torch.randn(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: wavelet.merge(b, like=x), bands)


def test_bands_equal_the_reference_vectors_at_even_and_odd_sizes(vectors_dir: Path) -> None:
    arrays = {k: torch.from_numpy(v) for k, v in np.load(vectors_dir / "haar_dwt_2d.npz").items()}
    wavelet = Wavelet(spatial_dims=2)
    bands = wavelet.split(arrays["in/x"]).unflatten(1, (4, -1))
    torch.testing.assert_close(bands, arrays["out/LL_ad_da_dd"], rtol=1e-6, atol=1e-6)
    odd = wavelet.split(arrays["in/x_odd"]).unflatten(1, (4, -1))
    low, high = arrays["out/odd_periodization_LL"], arrays["out/odd_periodization_yh"]
    expected = torch.stack([low, high[:, :, 1], high[:, :, 0], high[:, :, 2]], dim=1)
    torch.testing.assert_close(odd, expected, rtol=1e-6, atol=1e-6)
    arrays = {k: torch.from_numpy(v) for k, v in np.load(vectors_dir / "haar_dwt_3d.npz").items()}
    merged = Wavelet().merge(arrays["out/coeffs"].flatten(1, 2), like=arrays["in/x"])
    torch.testing.assert_close(merged, arrays["out/rec"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["db2", "coif5", "db38", "bior2.2"])
@pytest.mark.parametrize("length", [130, 301, 1026])
def test_long_axes_and_filters_that_go_around_equal_pywavelets(name: str, length: int) -> None:
    wavelet, x = Wavelet(name, spatial_dims=2), torch.randn(1, 2, length, 3, dtype=torch.float64)
    bands = wavelet.split(x)
    torch.testing.assert_close(bands, pywt_bands(x, name), rtol=0, atol=1e-11)
    torch.testing.assert_close(wavelet.merge(bands, like=x), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("most", [1, 60, 500])
@pytest.mark.parametrize("size", [(130,), (70, 3), (3, 4, 6)])
def test_slices_of_any_size_give_the_same_bands(
    monkeypatch: pytest.MonkeyPatch, most: int, size: tuple[int, ...]
) -> None:
    wavelet, x = Wavelet("db2", spatial_dims=len(size)), torch.randn(3, 2, *size)
    bands = wavelet.split(x)
    merged = wavelet.merge(bands, like=x)
    monkeypatch.setattr(slices, "SLICE", most)
    torch.testing.assert_close(wavelet.split(x), bands, rtol=0, atol=1e-6)
    torch.testing.assert_close(wavelet.merge(bands, like=x), merged, rtol=0, atol=1e-6)
    other = x.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(wavelet.split(other), bands, rtol=0, atol=1e-6)


def test_band_names_count_in_binary_and_name_what_is_in_the_band() -> None:
    assert band_names(2) == ["LL", "LH", "HL", "HH"]
    assert band_names(3) == ["LLL", "LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH"]
    stripes = torch.tensor([1.0, -1.0]).repeat(4)  # high along an axis
    for axis, name in enumerate(["HLL", "LHL", "LLH"]):
        x = stripes.view([-1 if a == axis else 1 for a in range(3)]).expand(1, 1, 8, 8, 8)
        energy = Wavelet("db2").split(x)[0].square().sum((1, 2, 3))
        assert energy[band_names(3).index(name)] > 0.999 * energy.sum()


def test_constant_volume_of_odd_size_is_in_the_low_band_alone() -> None:
    for name in ("haar", "db4"):
        bands = Wavelet(name).split(torch.full((1, 1, 5, 7, 9), 3.0))
        torch.testing.assert_close(bands[:, :1], torch.full((1, 1, 3, 4, 5), 3.0 * 8**0.5))
        torch.testing.assert_close(bands[:, 1:], torch.zeros_like(bands[:, 1:]), rtol=0, atol=1e-5)


def test_haar_takes_the_fast_path_and_nothing_is_saved() -> None:
    x = torch.randn(1, 2, 4, 4, 4)
    assert torch.equal(Wavelet("haar").split(x), haar_split(x))
    assert not Wavelet("db2").state_dict() and not list(Wavelet("db2").parameters())


@pytest.mark.parametrize("name", ["haar", "db3"])
def test_channels_last_and_bfloat16_give_the_same_bands(name: str) -> None:
    wavelet, x = Wavelet(name), torch.randn(2, 3, 4, 6, 8)
    bands = wavelet.split(x)
    last = wavelet.split(x.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, bands, rtol=0, atol=1e-6)
    half = wavelet.split(x.bfloat16())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), bands, rtol=2e-2, atol=5e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(34,), (6, 11), (5, 4, 7)])
def test_products_and_taps_agree(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, ...], dtype: torch.dtype
) -> None:
    wavelet, x = Wavelet("bior2.2", spatial_dims=len(size)), torch.randn(2, 3, *size, dtype=dtype)
    close = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.1}[dtype]
    found = []
    for short in (0, 1000):
        monkeypatch.setattr(axis_product, "SHORT", short)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            bands = wavelet.split(x)
            back = wavelet.merge(bands, like=x)
        torch.testing.assert_close(back, x, rtol=0, atol=close, check_dtype=False)
        found.append(bands)
    torch.testing.assert_close(*found, rtol=0, atol=close)


class RoundTrip(torch.nn.Module):
    """What TorchScript and export see of a network that splits and merges."""

    def __init__(self, wavelet: Wavelet) -> None:
        super().__init__()
        self.wavelet = wavelet

    def forward(self, x: Tensor) -> Tensor:
        bands = self.wavelet.split(x)
        return self.wavelet.merge(bands.clamp(min=0), like=x)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("name", "size"), [("haar", (5, 4, 3)), ("db2", (5, 4)), ("db2", (4, 3, 5))]
)
def test_script_and_export_equal_eager(name: str, size: tuple[int, ...]) -> None:
    module, x = RoundTrip(Wavelet(name, spatial_dims=len(size))), torch.randn(1, 2, *size)
    expected = module(x)
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.jit.script(module)(x), expected)


@pytest.mark.parametrize("name", ["mexh", "no such", ""])
def test_what_is_no_discrete_wavelet_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no discrete wavelet"):
        Wavelet(name)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="1, 2 or 3, got 4"):
        Wavelet(spatial_dims=4)
    with pytest.raises(ValueError, match="3 spatial axes"):
        Wavelet().split(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="multiple of 8, got 12"):
        Wavelet().merge(torch.zeros(1, 12, 2, 2, 2), like=torch.zeros(1, 1, 4, 4, 4))
    with pytest.raises(ValueError, match="not half of"):
        Wavelet("db2").merge(torch.zeros(1, 8, 2, 2, 2), like=torch.zeros(1, 1, 4, 5, 4))
