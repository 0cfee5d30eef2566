"""Fusion: the reference's numbers, the paper's sum, gates that close, missing slots that cannot."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from voxlate.networks.fusion import ConcatFusion, GatedFusion, MeanFusion

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def vectors(folder: Path, name: str) -> dict[str, Tensor]:
    with np.load(folder / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def features(dims: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, *[5, 6, 4][:dims], generator=generator, dtype=torch.float64)


def test_concat_form_is_the_references(vectors_dir: Path) -> None:
    arrays = vectors(vectors_dir, "msg_mmsf")
    fusion = ConcatFusion(3, 5, spatial_dims=2)
    for part, theirs in ((fusion.gate, "w_attm"), (fusion.unit, "w_fusion")):
        part.conv.weight.data = arrays[f"{theirs}/unit.0.weight"]
        part.conv.bias.data = arrays[f"{theirs}/unit.0.bias"]
    available = arrays["in/avail"].bool()
    masked = arrays["in/s"] * arrays["in/avail"][:, :, None, None, None]
    torch.testing.assert_close(fusion.gates(masked), arrays["out/w"], **TOLERANCE)
    torch.testing.assert_close(fusion(arrays["in/s"], available), arrays["out/f"], **TOLERANCE)
    summed = (arrays["out/w"].unsqueeze(2) * masked).sum(1)
    torch.testing.assert_close(summed, arrays["out/paper_sum"], **TOLERANCE)


@pytest.mark.parametrize("dims", [2, 3])
def test_gated_form_is_the_papers_sum(dims: int) -> None:
    """F = LeakyReLU(IN(conv1x1(sum of a_j w_j S_j))), written with torch's own functions."""
    fusion = GatedFusion(3, 4, spatial_dims=dims).double()
    s = features(dims)
    available = torch.tensor([[True, False, True], [True, True, True]])
    a = available.double().reshape(2, 3, 1, *[1] * dims)
    convolve = F.conv3d if dims == 3 else F.conv2d
    logits = convolve((a * s).flatten(1, 2), fusion.gate.weight, fusion.gate.bias, padding=1)
    total = (a * logits.sigmoid().unsqueeze(2) * s).sum(1)
    h = convolve(total, fusion.unit.conv.weight, fusion.unit.conv.bias)
    expected = F.leaky_relu(F.instance_norm(h), 0.01)
    torch.testing.assert_close(fusion(s, available), expected, rtol=1e-10, atol=1e-10)


def test_a_gate_can_close_and_open() -> None:
    """A closed gate takes its contrast out as if it were not there; an open one lets all pass."""
    fusion = GatedFusion(3, 4, spatial_dims=2).double()
    s, everything = features(), torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        fusion.gate.weight.zero_()
        fusion.gate.bias.copy_(torch.tensor([800.0, -800.0, 0.0]))
    weights = fusion.gates(s, everything)
    assert (weights[:, 0] == 1).all() and (weights[:, 1] == 0).all()
    without = everything.clone()
    without[:, 1] = False
    torch.testing.assert_close(fusion(s, everything), fusion(s, without), rtol=0, atol=0)


def test_training_closes_the_gate_of_a_contrast_that_is_noise() -> None:
    """Contrast 0 is what is wanted, contrast 1 is noise anew at each step."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    fusion = GatedFusion(2, 2, spatial_dims=2)
    optimizer = torch.optim.Adam(fusion.parameters(), 0.02)
    available = torch.ones(4, 2, dtype=torch.bool)
    for _ in range(150):
        s = torch.randn(4, 2, 2, 6, 6, generator=generator)
        s[:, 0] += 1
        loss = (fusion(s, available) - F.leaky_relu(F.instance_norm(s[:, 0]), 0.01)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights = fusion.gates(s, available)
    assert weights[:, 0].mean() > 3 * weights[:, 1].mean()


@pytest.mark.parametrize(
    "fusion", [GatedFusion(3, 4, spatial_dims=2), ConcatFusion(3, 4, spatial_dims=2), MeanFusion()]
)
def test_a_missing_contrast_influences_neither_output_nor_gradient(
    fusion: torch.nn.Module,
) -> None:
    available = torch.tensor([[True, False, True], [False, True, True]])
    s = features().float().requires_grad_()
    with torch.no_grad():
        damaged = s.clone()
        damaged[~available] = float("nan")
    damaged.requires_grad_()
    out = fusion(s, available)
    assert torch.equal(out, fusion(damaged, available))
    weights = list(fusion.parameters())
    clean = torch.autograd.grad(out.square().sum(), [s, *weights])
    found = torch.autograd.grad(fusion(damaged, available).square().sum(), [damaged, *weights])
    for ours, theirs in zip(found, clean, strict=True):
        assert torch.equal(ours, theirs)


def test_mean_is_over_what_is_given() -> None:
    s = features()
    available = torch.tensor([[True, False, True], [False, True, False]])
    out = MeanFusion()(s, available)
    torch.testing.assert_close(out[0], (s[0, 0] + s[0, 2]) / 2)
    torch.testing.assert_close(out[1], s[1, 1])
