"""Before the prior: teach the structure encoder what a case's contrasts share (MSG-LDM)."""

from collections.abc import Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn import functional as F

from voxlate.networks.disentanglement import Disentangled, Disentanglement
from voxlate.networks.frequency_loss import StructureAwareLoss
from voxlate.networks.structure_losses import SegmentationLoss, StyleConsistencyLoss, kl_loss
from voxlate.networks.translation import TranslationNetwork

from .ranks import over_ranks
from .training import StageTrainer


class StructureLosses(nn.Module):
    """The structure stage's networks and losses, as one module: all that is trained.

    loss = ``reconstruction_weight`` * L_sa, summed over the contrasts + ``segmentation_weight`` *
    (BCE + Dice) + ``kl_weight`` * KL of the styles' scale and shift from (1, 0) + ``style_weight``
    * L_sc. Contrasts that a case has not are in none of them.

    Args:
        model: The networks.
        reconstruction: L_sa, ``StructureAwareLoss`` with its options.
        segmentation: Where the model has a segmentation decoder.
        temperature: Of L_sc, at the start; it is learned.
        reconstruction_weight: 1 in the published code, as the next three are.
        segmentation_weight: Of labelled cases' loss.
        kl_weight: Of the divergence.
        style_weight: Of L_sc; 0 leaves it out (the ablation).
    """

    def __init__(
        self,
        model: Disentanglement,
        *,
        reconstruction: StructureAwareLoss | None = None,
        segmentation: SegmentationLoss | None = None,
        temperature: float = 0.07,
        reconstruction_weight: float = 1.0,
        segmentation_weight: float = 2.0,
        kl_weight: float = 0.05,
        style_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.model = model
        self.reconstruction = reconstruction or StructureAwareLoss()
        self.segmentation = segmentation or SegmentationLoss()
        self.style_consistency = StyleConsistencyLoss(temperature)
        self.weights = {
            "reconstruction": reconstruction_weight,
            "segmentation": segmentation_weight,
            "kl": kl_weight,
            "style": style_weight,
        }

    def forward(
        self,
        volumes: Tensor,
        present: Tensor,
        available: Tensor,
        seen: Tensor,
        labels: Tensor | None = None,
        labelled: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The loss and its terms, unweighted.

        Args:
            volumes: (b, m, *size) in [-1, 1].
            present: Which contrasts there are, (b, m) bool.
            available: Which of them the structure sees.
            seen: Which of them show their style.
            labels: (b, k, *size) of 0 and 1.
            labelled: Whose labels count, (b,) bool.
        """
        found = self.model(volumes, available, seen, present)
        terms = self.reconstruct(found, volumes, present)
        terms["style"] = self.style_consistency(found.styles.float(), seen)
        if found.logits is not None and labels is not None and labelled is not None:
            terms["segmentation"] = found.logits.sum() * 0.0
            if bool(labelled.any()):
                terms["segmentation"] = self.segmentation(
                    found.logits[labelled].float(), labels[labelled]
                )
        total = [self.weights[name] * value for name, value in terms.items()]
        return {Keys.LOSS: torch.stack(total).sum(), **terms}

    def reconstruct(
        self, found: Disentangled, volumes: Tensor, present: Tensor
    ) -> dict[str, Tensor]:
        """L_sa (the mean over what there is, times the number of contrasts) and the divergence."""
        some = [(slot, made) for slot, made in enumerate(found.made) if made is not None]
        wanted = torch.cat([volumes[present[:, slot], slot] for slot, _ in some]).unsqueeze(1)
        made = torch.cat([one.volume for _, one in some]).float()
        shift = torch.cat([one.shift for _, one in some]).float()
        scale = torch.cat([one.scale for _, one in some]).float()
        loss = self.reconstruction(made, wanted) * volumes.shape[1]
        return {"reconstruction": loss, "kl": kl_loss(shift, scale)}


class StructureTrainer(StageTrainer):
    """Train ``network.prior.structure`` by taking cases apart and putting them together again.

    In each sample some of the contrasts that the case has are given; all that it has are made.
    Of those not given, a share is made without its own style, from a learned one: what happens
    when the contrast is missing. The networks around the structure are kept in the run's
    checkpoint, not in the weights.

    Args:
        network: The whole network, with a prior that has a ``structure``.
        stage_losses: The networks around that very structure, and their losses.
        hide_share: Share of the contrasts not given whose style is not seen either.
        stage: See ``StageTrainer``, as all other arguments.

    Raises:
        ValueError: The losses are about another structure.
    """

    stage = "structure"

    def __init__(
        self,
        network: TranslationNetwork,
        *,
        stage_losses: StructureLosses,
        hide_share: float = 0.5,
        **stage: Any,
    ) -> None:
        if getattr(network.prior, "structure", None) is not stage_losses.model.structure:
            raise ValueError("stage_losses must be about the structure of the network's prior")
        super().__init__(network, stage_losses, **stage)
        stage_losses.to(self.state.device)
        self.hide_share = hide_share
        self.stage_losses = over_ranks(stage_losses, self.state.device)

    def losses(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """The loss and its terms."""
        present, available = batch["present"], batch["available"]
        hidden = torch.rand(present.shape, generator=generator) < self.hide_share
        seen = present & (available | ~hidden.to(present.device))
        return self.inferer(
            batch["volumes"],
            self.stage_losses,
            present,
            available,
            seen,
            labels=batch.get("labels"),
            labelled=batch.get("labelled"),
        )

    def extra_state(self) -> dict[str, Any]:
        """What surrounds the structure; the structure itself is in the network."""
        state = self.trained.state_dict()
        return {name: v for name, v in state.items() if not name.startswith("model.structure.")}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back ``extra_state``."""
        self.trained.load_state_dict(state, strict=False)


class ReconstructFromStructure(Inferer):
    """The target made from what is given, as if it did not exist: the stage's validation.

    Args:
        model: The networks around the structure.
    """

    def __init__(self, model: Disentanglement) -> None:
        self.model = model

    def __call__(
        self, inputs: Mapping[str, Any], network: TranslationNetwork, *args: Any, **kwargs: Any
    ) -> Any:
        """Rows of a picture, ``source``, ``prediction`` and ``target``, each (b, 1, *size).

        Sizes that are no multiple of the structure's are padded and cropped.
        """
        volumes, available = inputs["volumes"], inputs["available"]
        slots = torch.arange(available.shape[1], device=available.device)
        wanted = inputs["target_index"].to(slots.device).unsqueeze(1) == slots
        size = volumes.shape[2:]
        pads: list[int] = []
        for length in size:
            pads = [0, -length % self.model.structure.multiple, *pads]
        padded = F.pad(volumes, pads, value=self.model.structure.background)
        training = self.model.training
        self.model.eval()
        found = self.model(padded, available, available, wanted)
        self.model.train(training)
        prediction = torch.zeros_like(padded[:, :1])
        for slot, made in enumerate(found.made):
            if made is not None:
                prediction[wanted[:, slot]] = made.volume.to(prediction.dtype)
        for axis, length in enumerate(size, start=2):
            prediction = prediction.narrow(axis, 0, length)
        return {"source": inputs["source"], "prediction": prediction, "target": inputs["target"]}
