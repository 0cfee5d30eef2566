"""Stage 1: teach the autoencoder to reconstruct, by up to five losses (ALDM section 3.1)."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn import functional as F

from voxlate.networks.translation import TranslationNetwork

from .adversary import Adversary
from .ranks import over_ranks, ranks
from .train_prior import source_slots
from .training import StageTrainer, autocast

RECONSTRUCTION = {"l1": F.l1_loss, "mse": F.mse_loss}


class Reconstruction(nn.Module):
    """What stage 1 differentiates: reconstruction, quantisation, and the way there and back.

    Args:
        network: The whole network.
        quantize: Whether the quantiser takes part at all.
    """

    def __init__(self, network: TranslationNetwork, *, quantize: bool) -> None:
        super().__init__()
        self.network, self.quantize = network, quantize

    def forward(
        self, volume: Tensor, continuous: bool, modality: Tensor, other: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Reconstruct a batch.

        Args:
            volume: (b, 1, *size).
            continuous: Decode the latent as it is, else quantised.
            modality: Of the volumes, (b,).
            other: Modalities of the cycle, (b,); None for no cycle.

        Returns:
            Reconstruction, loss of the quantiser, its indices, and the volumes after the cycle;
            None for what there is not.
        """
        autoencoder: Any = self.network.autoencoder
        loss, indices, cycled = None, None, None
        if self.quantize:
            encoding = autoencoder.encode(volume)
            latent = encoding.continuous if continuous else encoding.quantized
            loss, indices = encoding.loss, encoding.indices
        else:
            latent = autoencoder.encode_continuous(volume)
        decoded = autoencoder.decode(latent)
        if other is not None:
            cycled = self.translate(self.translate(volume, modality, other), other, modality)
        return decoded, loss, indices, cycled

    def translate(self, volume: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Encode, go through the prior, decode."""
        every = torch.arange(len(self.network.modalities), device=source.device)
        available = source[:, None] == every
        slots = source_slots(self.network.encode(volume), available)
        return self.network.decode(self.network.prior(slots, available, target).start)


class AutoencoderTrainer(StageTrainer):
    """Train ``network.autoencoder`` (with a cycle, the prior too).

    loss = reconstruction + ``quantizer_weight`` * quantisation + ``perceptual_weight`` * perceptual
    + adaptive weight * adversarial + ``cycle_weight`` * cycle.

    The codebook begins as latents of the first batch; every ``revive_every`` steps codes that have
    fallen out of use move onto latents of the batch.

    Args:
        network: The whole network.
        reconstruction: ``l1`` (ALDM) or ``mse``.
        continuous_share: Share of steps that decode the latent without quantising it; 0 is the
            paper's way. With 1 and ``quantizer_weight`` 0 the quantiser is left out, and its search
            with it.
        quantizer_weight: Of the quantiser's loss.
        adversary: None for no adversarial loss.
        perceptual: Called as ``perceptual(reconstruction, volume)``; None for none.
        perceptual_weight: Of the perceptual loss.
        cycle_weight: Of L1 after source - target - source through the prior; 0 for none (it takes
            three times the memory).
        revive_every: Steps between revivals; 0 for none after the first.
        stage: See ``StageTrainer``, as all other arguments.

    Raises:
        ValueError: An unknown reconstruction loss.
    """

    stage = "autoencoder"

    def __init__(
        self,
        network: TranslationNetwork,
        *,
        reconstruction: str = "l1",
        continuous_share: float = 0.0,
        quantizer_weight: float = 1.0,
        adversary: Adversary | None = None,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        cycle_weight: float = 0.0,
        revive_every: int = 500,
        **stage: Any,
    ) -> None:
        if reconstruction not in RECONSTRUCTION:
            raise ValueError(
                f"reconstruction must be one of {list(RECONSTRUCTION)}, got {reconstruction!r}"
            )
        learns = [network.autoencoder] + ([network.prior] if cycle_weight > 0 else [])
        super().__init__(network, nn.ModuleList(learns), **stage)
        device = self.state.device
        self.reconstruction_loss = RECONSTRUCTION[reconstruction]
        self.continuous_share, self.quantizer_weight = continuous_share, quantizer_weight
        self.adversary = adversary
        self.perceptual = None if perceptual is None else perceptual.to(device).eval()
        self.perceptual_weight, self.cycle_weight = perceptual_weight, cycle_weight
        self.revive_every = revive_every
        quantize = continuous_share < 1 or quantizer_weight > 0
        quantizer: Any = getattr(network.autoencoder, "quantizer", None)
        self.quantizer = quantizer if quantize else None
        if quantizer is not None and not quantize:
            quantizer.requires_grad_(False)
        self.reconstruct = over_ranks(Reconstruction(network, quantize=quantize), device)
        if adversary is not None:
            adversary.to(device)
        self.decoded: Tensor | None = None

    def active_adversary(self) -> Adversary | None:
        """The adversary, if this step has one."""
        if self.adversary is None or self.state.iteration <= self.adversary.start:
            return None
        return self.adversary

    def losses(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of a batch."""
        volume, modality = batch["image"], batch["modality"]
        self.tend_codebook(volume, generator)
        continuous = bool(torch.rand((), generator=generator) < self.continuous_share)
        other = None
        if self.cycle_weight > 0:
            count = len(self.network.modalities)
            shift = torch.randint(1, count, modality.shape, generator=generator).to(modality.device)
            other = (modality + shift) % count
        decoded, quantizer_loss, indices, cycled = self.inferer(
            volume, self.reconstruct, continuous, modality, other
        )
        decoded = decoded.float()
        if self.quantizer is not None:
            self.quantizer.record_usage(indices)
        terms = {"reconstruction": self.reconstruction_loss(decoded, volume)}
        image_loss = terms["reconstruction"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(decoded, volume)
            image_loss = image_loss + self.perceptual_weight * terms["perceptual"]
        loss = image_loss
        if quantizer_loss is not None:
            terms["quantizer"] = quantizer_loss
            loss = loss + self.quantizer_weight * quantizer_loss
        if cycled is not None:
            terms["cycle"] = F.l1_loss(cycled.float(), volume)
            loss = loss + self.cycle_weight * terms["cycle"]
        adversary = self.active_adversary()
        if adversary is not None:
            last_layer = self.network.autoencoder.last_layer_weight
            terms.update(adversary.pull(image_loss, decoded, cast(Tensor, last_layer)))
            loss = loss + terms["adaptive_weight"] * terms["adversarial"]
        self.decoded = decoded.detach()
        return {Keys.LOSS: loss, **terms}

    @torch.no_grad()
    def tend_codebook(self, volume: Tensor, generator: torch.Generator) -> None:
        """Move unused codes onto this batch's latents when that is due."""
        step = self.state.iteration - 1
        due = step == 0 or (self.revive_every > 0 and step % self.revive_every == 0)
        if self.quantizer is None or not due:
            return
        codebook = self.quantizer.codebook
        before = codebook.detach().clone()
        autoencoder: Any = self.network.autoencoder
        latent = autoencoder.encode_continuous(volume)
        self.quantizer.revive_dead_codes(latent, generator=generator)
        if ranks()[1] > 1:
            dist.broadcast(codebook.data, 0)
            dist.broadcast(self.quantizer.usage, 0)
        if self.ema is not None:  # an average between an old place and a new one is neither
            moved = (codebook != before).any(1)
            for name, parameter in self.ema.module.named_parameters():
                if parameter is codebook:
                    self.ema.average[name][moved] = codebook[moved].float()

    def after_step(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Train the discriminator on volume and reconstruction; report the codebook's use."""
        terms: dict[str, Tensor] = {}
        if self.quantizer is not None:
            terms = {
                name: torch.tensor(value) for name, value in self.quantizer.usage_report().items()
            }
        adversary = self.active_adversary()
        if adversary is not None and self.decoded is not None:
            with autocast(self.state.device, self.dtype):
                found = adversary.judgement(batch["image"], self.decoded)
            adversary.learn(found["discriminator"], self.descend, self.grad_scaler)
            terms.update(found)
        return terms

    def extra_state(self) -> dict[str, Any]:
        """Codebook counts (not part of the weights) and the adversary."""
        state: dict[str, Any] = {}
        if self.quantizer is not None:
            state["usage"] = self.quantizer.usage
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict()
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back ``extra_state``."""
        if self.quantizer is not None:
            self.quantizer.usage.copy_(state["usage"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])


class Reconstruct(Inferer):
    """Encode and decode the latent that the network diffuses: what stage 1 is validated on."""

    def __call__(
        self, inputs: Mapping[str, Any], network: TranslationNetwork, *args: Any, **kwargs: Any
    ) -> Any:
        """Rows of a picture, ``target`` and ``prediction``, each (b, 1, *size)."""
        volume = inputs["image"]
        return {"target": volume, "prediction": network.decode(network.encode(volume))}
