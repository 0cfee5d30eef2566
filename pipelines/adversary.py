"""The discriminator's side of stage 1: how hard it pulls, and how it learns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from voxlate.networks.adversarial import (
    adaptive_weight,
    hinge_discriminator_loss,
    hinge_generator_loss,
)

from .ranks import over_ranks


class Adversary:
    """A patch discriminator, its optimizer, and when and how strongly the two act.

    Args:
        discriminator: Gives a list of features, the logits last; see ``patch_discriminator``.
        optimizer: Of its parameters.
        weight: Of the adversarial loss, before the adaptive factor (0.8 in taming-transformers).
        start: Step from which both sides begin.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        optimizer: Optimizer,
        *,
        weight: float = 0.8,
        start: int = 10_000,
    ) -> None:
        self.discriminator, self.optimizer = discriminator, optimizer
        self.weight, self.start = weight, start
        self.judge = discriminator

    def to(self, device: torch.device) -> None:
        """Move to where the trainer computes; average gradients over the ranks there are."""
        self.discriminator.to(device).train()
        self.judge = over_ranks(self.discriminator, device)

    def pull(self, image_loss: Tensor, decoded: Tensor, last_layer: Tensor) -> dict[str, Tensor]:
        """The generator's adversarial loss on a reconstruction, and its adaptive weight.

        Args:
            image_loss: What it is balanced against.
            decoded: Reconstruction (b, 1, *size), with its graph.
            last_layer: Weight of the decoder's last layer.
        """
        self.discriminator.requires_grad_(False)
        loss = hinge_generator_loss(self.discriminator(decoded)[-1].float())
        factor = adaptive_weight(image_loss, loss, last_layer, disc_weight=self.weight)
        return {"adversarial": loss, "adaptive_weight": factor}

    def judgement(self, volume: Tensor, decoded: Tensor) -> dict[str, Tensor]:
        """The discriminator's loss on a volume and its reconstruction, and its mean logits."""
        self.discriminator.requires_grad_(True)
        # one pass for both, so that ranks average one gradient
        real, fake = self.judge(torch.cat([volume, decoded]))[-1].float().chunk(2)
        loss = hinge_discriminator_loss(real, fake)
        return {"discriminator": loss, "real": real.mean(), "fake": fake.mean()}

    def learn(self, loss: Tensor, descend: Callable[[Optimizer, Any], None], scaler: Any) -> None:
        """Take a step of the discriminator's optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        descend(self.optimizer, self.discriminator.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Discriminator and optimizer."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back ``state_dict``."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
