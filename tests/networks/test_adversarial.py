"""Adversarial losses: the reference's numbers, their margins, and the adaptive weight."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses import PatchAdversarialLoss
from torch import Tensor
from torch.nn import functional as F

from voxlate.networks.adversarial import (
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
    modality_discriminator_loss,
    modality_generator_loss,
)


@pytest.fixture(scope="module")
def vector(vectors_dir: Path) -> dict[str, Tensor]:
    arrays = np.load(vectors_dir / "aldm_patchgan_and_losses.npz")
    return {key: torch.from_numpy(arrays[key]) for key in arrays}


def test_hinge_losses_are_the_reference_ones(vector: dict[str, Tensor]) -> None:
    real, fake = vector["out/logits_real"], vector["out/logits_fake"]
    generator = hinge_generator_loss(fake)
    torch.testing.assert_close(hinge_discriminator_loss(real, fake), vector["out/hinge"])
    torch.testing.assert_close(generator, vector["out/g_loss_hinge"])
    torch.testing.assert_close(hinge_discriminator_loss(real, fake), vector["out/d_loss_nolabel"])
    reconstruction = F.l1_loss(vector["in/fake"], vector["in/real"])
    total = reconstruction + generator + vector["in/codebook_loss"]
    torch.testing.assert_close(total, vector["out/ae_total_nolabel"])


def test_modality_losses_are_the_reference_ones(vector: dict[str, Tensor]) -> None:
    real, fake = vector["out/logits_real"], vector["out/logits_fake"]
    label = vector["in/label"]
    torch.testing.assert_close(modality_generator_loss(fake, label), vector["out/g_loss_label"])
    torch.testing.assert_close(
        modality_discriminator_loss(real, fake, label, fake_class=0), vector["out/d_loss_label"]
    )


def test_monai_hinge_is_another_loss_but_its_bce_is_the_vanilla_one(
    vector: dict[str, Tensor],
) -> None:
    real, fake = vector["out/logits_real"], vector["out/logits_fake"]

    def monai(criterion: str) -> Tensor:
        loss = PatchAdversarialLoss(criterion=criterion)
        on_real = loss(real, target_is_real=True, for_discriminator=True)
        return 0.5 * (on_real + loss(fake, target_is_real=False, for_discriminator=True))

    assert (monai("hinge") - vector["out/hinge"]).abs() > 1e-3
    torch.testing.assert_close(monai("bce"), vector["out/vanilla"])


def test_hinge_pushes_only_logits_within_the_margin() -> None:
    real = torch.tensor([[0.5, 1.5]], requires_grad=True)
    fake = torch.tensor([[-0.5, -1.5]], requires_grad=True)
    loss = hinge_discriminator_loss(real, fake)
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert real.grad is not None and fake.grad is not None
    assert real.grad.tolist() == [[-0.25, 0.0]] and fake.grad.tolist() == [[0.25, 0.0]]


def test_a_sure_modality_discriminator_has_no_loss() -> None:
    target = torch.tensor([1, 0])
    real = 100 * F.one_hot(target, 3).float()[:, :, None, None].repeat(1, 1, 2, 2)
    fake = 100 * F.one_hot(torch.tensor([2, 2]), 3).float()[:, :, None, None].repeat(1, 1, 2, 2)
    assert modality_discriminator_loss(real, fake, target, fake_class=2) == 0
    assert modality_generator_loss(real, target) == 0
    assert modality_generator_loss(fake, target) == pytest.approx(100)


def test_adaptive_weight_is_the_reference_one(vectors_dir: Path) -> None:
    arrays = np.load(vectors_dir / "taming_adaptive_weight.npz")
    last, h, x, judge = (torch.from_numpy(arrays[k]) for k in ("w/last", "in/h", "in/x", "in/dw"))
    last.requires_grad_()
    reconstruction = F.conv3d(h, last, padding=1)
    nll = F.l1_loss(reconstruction, x)
    generator = hinge_generator_loss(F.conv3d(reconstruction, judge, padding=1))
    np.testing.assert_allclose(nll.detach(), arrays["out/nll"], rtol=1e-5)
    np.testing.assert_allclose(generator.detach(), arrays["out/g"], rtol=1e-4, atol=1e-6)
    weight = adaptive_weight(nll, generator, last, disc_weight=0.8)
    np.testing.assert_allclose(weight, arrays["out/d_weight"], rtol=1e-4)
    assert not weight.requires_grad
    (nll + weight * generator).backward()  # the graph is still there


def test_adaptive_weight_makes_both_pull_equally_and_is_bounded() -> None:
    last = torch.tensor([3.0, 4.0], requires_grad=True)
    nll, generator = 10 * last.square().sum(), last.square().sum()
    assert adaptive_weight(nll, generator, last, disc_weight=1.0) == pytest.approx(10, rel=1e-4)
    still = (last * 0).sum()
    assert adaptive_weight(1e6 * nll, still, last, disc_weight=0.5) == pytest.approx(5000)
