"""The patch discriminator: the reference's logits, its initial weights, its patch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.discriminator import patch_discriminator


def parts(network: nn.Module) -> list[nn.Module]:
    """Convolutions and norms in order, as the reference's flat list has them."""
    kinds = (nn.Conv2d, nn.Conv3d, nn.GroupNorm)
    return [module for module in network.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("which", ["real", "fake"])
def test_logits_are_the_reference_ones(vectors_dir: Path, which: str) -> None:
    vector = np.load(vectors_dir / "aldm_patchgan_and_losses.npz")
    network = patch_discriminator(3, 2, channels=16, num_layers=2, out_channels=4)
    weights = {key: torch.from_numpy(vector[key]) for key in vector if key.startswith("w/main.")}
    for module, index in zip(parts(network), (0, 2, 3, 5, 6, 8), strict=True):
        state = {name: weights.pop(f"w/main.{index}.{name}") for name in module.state_dict()}
        module.load_state_dict(state)
    assert not weights
    with torch.no_grad():
        logits = network(torch.from_numpy(vector[f"in/{which}"]))[-1]
    np.testing.assert_allclose(logits, vector[f"out/logits_{which}"], rtol=1e-4, atol=1e-5)


def receptive_field(network: nn.Module, x: Tensor) -> list[int]:
    x.requires_grad_()
    logits = network(x)[-1]
    centre = tuple(size // 2 for size in logits.shape[2:])
    (gradient,) = torch.autograd.grad(logits[(0, 0, *centre)], x)
    touched = gradient[0, 0].nonzero()
    return (touched.max(0).values - touched.min(0).values + 1).tolist()


def test_a_patch_spans_seventy_pixels() -> None:
    network = patch_discriminator(2, 1, channels=16)
    for module in parts(network):  # group norm sees all: without it the patch shows
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign]
    assert receptive_field(network, torch.randn(1, 1, 160, 160)) == [70, 70]


def test_weights_begin_as_in_the_reference() -> None:
    torch.manual_seed(0)
    network = patch_discriminator(3, 1)
    convolutions = [module for module in parts(network) if isinstance(module, nn.Conv3d)]
    norms = [module for module in parts(network) if isinstance(module, nn.GroupNorm)]
    assert [conv.out_channels for conv in convolutions] == [32, 64, 128, 256, 1]
    assert [conv.stride[0] for conv in convolutions] == [2, 2, 2, 1, 1]
    assert [conv.bias is not None for conv in convolutions] == [True, False, False, False, True]
    assert [(norm.num_groups, norm.affine) for norm in norms] == [(32, True)] * 3
    for conv in convolutions:
        assert conv.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (32, 48)), (3, (32, 32, 24))])
def test_every_patch_gets_a_logit(spatial_dims: int, size: tuple[int, ...]) -> None:
    logits = patch_discriminator(spatial_dims, 1, channels=16)(torch.randn(2, 1, *size))[-1]
    assert logits.shape == (2, 1, *[edge // 8 - 2 for edge in size])


def test_a_width_that_the_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16, got 24"):
        patch_discriminator(3, 1, channels=24)
