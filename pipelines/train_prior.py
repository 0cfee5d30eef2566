"""Stage 2: teach the prior to turn a source's latent into the target's."""

from collections.abc import Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn import functional as F

from voxlate.networks.prior import PriorOutput
from voxlate.networks.translation import TranslationNetwork

from .ranks import over_ranks
from .training import StageTrainer


def source_slots(latent: Tensor, available: Tensor) -> Tensor:
    """Put each source latent (b, c, *size) into its slot of (b, m, c, *size), zeros elsewhere."""
    mask = available.reshape(*available.shape, *[1] * (latent.dim() - 1))
    return latent.unsqueeze(1) * mask.to(latent.dtype)


def case_volumes(batch: Mapping[str, Any]) -> Tensor:
    """A batch's given volumes, one or several a sample, in their slots: (b, m, *size)."""
    if "volumes" in batch:
        return batch["volumes"]
    return source_slots(batch["source"], batch["available"]).squeeze(2)


class AskPrior(nn.Module):
    """Whatever a prior has to compute for a case, and its answer, as one module for all ranks."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(
        self, latents: Tensor, volumes: Tensor, available: Tensor, target: Tensor
    ) -> PriorOutput:
        """Latents (b, m, c, *), volumes (b, m, *), available (b, m) and target (b,)."""
        prior: Any = self.prior
        if hasattr(prior, "encode_case"):
            return prior(latents, available, target, prior.encode_case(volumes, available))
        return prior(latents, available, target)


class PriorTrainer(StageTrainer):
    """Train ``network.prior`` with the autoencoder frozen.

    loss = L1(prior(source latent, target).start, target latent), on scaled latents (quantised or
    not, as the network diffuses them), + ``image_weight`` * L1 of its decoding to the target
    volume.

    Args:
        network: The whole network, its autoencoder trained and its scale measured.
        image_weight: Weight of the loss in image space; 0 skips the decoding.
        latent_weight: Weight of the loss on latents.
        stage: See ``StageTrainer``, as all other arguments.
    """

    stage = "prior"

    def __init__(
        self,
        network: TranslationNetwork,
        *,
        image_weight: float = 0.0,
        latent_weight: float = 1.0,
        **stage: Any,
    ) -> None:
        super().__init__(network, network.prior, **stage)
        self.image_weight, self.latent_weight = image_weight, latent_weight
        self.ask = over_ranks(AskPrior(network.prior), self.state.device)

    def losses(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """L1 on latents and, if weighted, on volumes."""
        volumes, available = case_volumes(batch), batch["available"]
        with torch.no_grad():
            latents = self.network.encode_given(volumes, available)
            target = self.network.encode(batch["target"])
        answer = self.inferer(latents, self.ask, volumes, available, batch["target_index"])
        start = answer.start
        terms = {"latent_l1": F.l1_loss(start.float(), target.float())}
        loss = self.latent_weight * terms["latent_l1"]
        if self.image_weight > 0:
            terms["image_l1"] = F.l1_loss(self.network.decode(start).float(), batch["target"])
            loss = loss + self.image_weight * terms["image_l1"]
        return {Keys.LOSS: loss, **terms}


class TranslateByPrior(Inferer):
    """The prior's own answer, decoded: what stage 2 is validated on."""

    def __call__(
        self, inputs: Mapping[str, Any], network: TranslationNetwork, *args: Any, **kwargs: Any
    ) -> Any:
        """Rows of a picture, ``source``, ``prediction`` and ``target``, each (b, 1, *size)."""
        case = network.encode_case(case_volumes(inputs), inputs["available"])
        start = network.ask_prior(case, inputs["target_index"]).start
        return {
            "source": inputs["source"],
            "prediction": network.decode(start),
            "target": inputs["target"],
        }
