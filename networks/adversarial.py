"""Adversarial losses on a patch discriminator's logits, and how strongly they act.

MONAI's PatchAdversarialLoss squashes logits by tanh before its hinge; these do not, as in ALDM.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def hinge_discriminator_loss(
    logits_real: Float[Tensor, "b ..."], logits_fake: Float[Tensor, "b ..."]
) -> Float[Tensor, ""]:
    """Half of mean(max(0, 1 - real)) + mean(max(0, 1 + fake)): zero beyond the margins."""
    return 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())


def hinge_generator_loss(logits_fake: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Minus the mean logit: the generator wants to be judged real."""
    return -logits_fake.mean()


def modality_discriminator_loss(
    logits_real: Float[Tensor, "b k ..."],
    logits_fake: Float[Tensor, "b k ..."],
    target: Int[Tensor, " b"],
    *,
    fake_class: int,
) -> Float[Tensor, ""]:
    """Half of the cross-entropies of "real, and this modality" and of "fake".

    Logits are averaged over the patches first. With modalities 0..m - 1 the discriminator has
    m + 1 classes and the fake one is m. (ALDM's code uses 0, which is also its first modality.)

    Args:
        logits_real: Of true latents or volumes, k classes.
        logits_fake: Of generated ones.
        target: Modality of each.
        fake_class: In 0..k - 1.
    """
    fake = torch.full_like(target, fake_class)
    real_loss = F.cross_entropy(_patch_mean(logits_real), target)
    return 0.5 * (real_loss + F.cross_entropy(_patch_mean(logits_fake), fake))


def modality_generator_loss(
    logits_fake: Float[Tensor, "b k ..."], target: Int[Tensor, " b"]
) -> Float[Tensor, ""]:
    """Cross-entropy of "this modality": the generator wants to be judged real and of its kind."""
    return F.cross_entropy(_patch_mean(logits_fake), target)


def adaptive_weight(
    nll: Float[Tensor, ""],
    generator_loss: Float[Tensor, ""],
    last_layer_weight: Float[Tensor, "..."],
    *,
    disc_weight: float = 0.8,
) -> Float[Tensor, ""]:
    """Weight that lets both losses pull equally hard on the decoder's last layer.

    disc_weight * clamp(|grad nll| / (|grad generator_loss| + 1e-4), 0, 1e4), gradients with
    respect to the last layer's weight (Esser et al. 2021). It is a constant in the loss
    that it scales, and the graph of both losses is kept.

    Args:
        nll: Reconstruction (and perceptual) loss.
        generator_loss: Adversarial loss of the generator.
        last_layer_weight: Parameter both were computed through.
        disc_weight: Share of the adversarial loss; 0.8 in ALDM.
    """
    (nll_grad,) = torch.autograd.grad(nll, last_layer_weight, retain_graph=True)
    (generator_grad,) = torch.autograd.grad(generator_loss, last_layer_weight, retain_graph=True)
    ratio = nll_grad.float().norm() / (generator_grad.float().norm() + 1e-4)
    return disc_weight * ratio.clamp(0, 1e4).detach()


def _patch_mean(logits: Float[Tensor, "b k ..."]) -> Float[Tensor, "b k"]:
    return logits.flatten(2).mean(2)
