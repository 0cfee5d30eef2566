"""High-frequency injection: the reference's numbers, SciPy's Gaussian, and adaptation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from voxlate.networks.high_frequency_injection import (
    HighFrequencyInjection,
    OneSigmaInjection,
    gaussian_blur,
)

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def vectors(folder: Path, name: str) -> dict[str, Tensor]:
    with np.load(folder / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def test_one_sigma_form_is_the_references(vectors_dir: Path) -> None:
    arrays = vectors(vectors_dir, "msg_hfib")
    block = OneSigmaInjection(2, 4)
    block.sigma.data = arrays["w/edge_extractor.gaussian.sigma"]
    block.conv.weight.data, block.conv.bias.data = arrays["w/conv.weight"], arrays["w/conv.bias"]
    out = block(arrays["in/x"])
    torch.testing.assert_close(out, arrays["out/as_coded"], **TOLERANCE)
    out.square().sum().backward()
    torch.testing.assert_close(block.sigma.grad, arrays["grad/sigma"], rtol=1e-3, atol=1e-4)


def test_references_kernel_is_the_blur_of_a_point(vectors_dir: Path) -> None:
    arrays = vectors(vectors_dir, "msg_hfib")
    point = torch.zeros(1, 1, 5, 5)
    point[..., 2, 2] = 1
    sigma = arrays["w/edge_extractor.gaussian.sigma"].reshape(1, 1)
    torch.testing.assert_close(
        gaussian_blur(point, sigma)[0, 0, 1:4, 1:4], arrays["out/kernel"], rtol=1e-6, atol=1e-7
    )
    high = arrays["in/x"] - gaussian_blur(arrays["in/x"], sigma, padding_mode="constant")
    torch.testing.assert_close(high, arrays["out/high"], **TOLERANCE)
    torch.testing.assert_close(arrays["in/x"] + high, arrays["out/paper_eq2"], **TOLERANCE)


@pytest.mark.parametrize(("kernel_size", "size"), [(3, (6, 5)), (5, (4, 6, 7)), (3, (5, 4, 3))])
def test_blur_is_scipys_per_sample_and_channel(kernel_size: int, size: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    sigma = torch.rand(2, 3, generator=generator, dtype=torch.float64) + 0.3
    blurred = gaussian_blur(x, sigma, kernel_size=kernel_size)
    for b in range(2):
        for c in range(3):
            expected = gaussian_filter(
                x[b, c].numpy(), float(sigma[b, c]), mode="nearest", radius=kernel_size // 2
            )
            np.testing.assert_allclose(blurred[b, c].numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_constant_has_no_high_frequency_at_the_border_either(dims: int) -> None:
    x = torch.full([1, 2, *[5] * dims], 3.0, dtype=torch.float64)
    torch.testing.assert_close(HighFrequencyInjection(2).double()(x), x, rtol=1e-12, atol=1e-12)


def test_sigma_starts_at_one_and_then_follows_the_input() -> None:
    block = HighFrequencyInjection(2).double()
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(block.sigma(x), torch.ones(2, 2, dtype=torch.float64))
    with torch.no_grad():
        block.width.weight.fill_(1.0)
    expected = 1e-3 + torch.log1p(torch.exp(x.mean((2, 3)).sum(1, keepdim=True) + block.width.bias))
    torch.testing.assert_close(block.sigma(x), expected)
    assert not torch.allclose(block.sigma(x)[0], block.sigma(x)[1])


def test_gradients_reach_the_width() -> None:
    block = HighFrequencyInjection(2)
    x = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(2)) + 1
    block(x).square().sum().backward()
    assert block.width.weight.grad is not None and block.width.weight.grad.abs().min() > 0
