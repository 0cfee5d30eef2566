"""Stage 3: teach the denoiser to sample the target's latent, given what the prior says."""

from collections.abc import Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor
from torch.nn import functional as F

from voxlate.networks.noise_scheduler import NoiseScheduler
from voxlate.networks.translation import TranslationNetwork

from .ranks import over_ranks
from .sampler import sample
from .seeds import case_noise
from .train_prior import source_slots
from .training import StageTrainer


class DenoiserTrainer(StageTrainer):
    """Train ``network.denoiser`` with the autoencoder and the prior frozen.

    x_t = add_noise(target latent, noise, t) with t uniform over those that sampling may visit; loss
    = mean squared error to the scheduler's prediction type (ALDM eq. 2 for epsilon).

    Args:
        network: The whole network, its autoencoder and prior trained.
        scheduler: A ``NoiseScheduler``: its noise levels and what it has the denoiser predict.
        stage: See ``StageTrainer``, as all other arguments.
    """

    stage = "denoiser"

    def __init__(
        self, network: TranslationNetwork, *, scheduler: NoiseScheduler, **stage: Any
    ) -> None:
        super().__init__(network, network.denoiser, **stage)
        self.scheduler = scheduler
        self.denoiser = over_ranks(network.denoiser, self.state.device)

    def losses(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction."""
        with torch.no_grad():
            volumes = torch.cat([batch["source"], batch["target"]])
            source, clean = self.network.encode(volumes).float().chunk(2)
            slots = source_slots(source, batch["available"])
            concat = self.network.prior(slots, batch["available"], batch["target_index"]).concat
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        steps = self.scheduler.num_used_timesteps
        timesteps = torch.randint(steps, clean.shape[:1], generator=generator).to(clean.device)
        x_t = self.scheduler.add_noise(original_samples=clean, noise=noise, timesteps=timesteps)
        wanted = self.scheduler.training_target(clean, noise, timesteps)
        prediction = self.inferer(
            x_t,
            self.denoiser,
            timesteps,
            concat=concat.float() if concat.shape[1] else None,
            modality=batch["target_index"],
            **self.network.text_of(batch["target_index"]),
        )
        return {Keys.LOSS: F.mse_loss(prediction.float(), wanted.float())}


class TranslateBySampling(Inferer):
    """A few-step sample, decoded: what stage 3 is validated on.

    Args:
        scheduler: A solver with ``set_timesteps``, ``timesteps`` and ``step``.
        steps: Network evaluations.
        seed: Of the noise, together with the case and the target's index.
    """

    def __init__(self, scheduler: NoiseScheduler, *, steps: int = 10, seed: int = 0) -> None:
        self.scheduler, self.steps, self.seed = scheduler, steps, seed

    def __call__(
        self, inputs: Mapping[str, Any], network: TranslationNetwork, *args: Any, **kwargs: Any
    ) -> Any:
        """Rows of a picture: ``source``, ``target_like``, ``prediction``, ``target``."""
        latent = network.encode(inputs["source"])
        target = inputs["target_index"]
        prior = network.prior(
            source_slots(latent, inputs["available"]), inputs["available"], target
        )
        noise = torch.cat(
            [
                case_noise(self.seed, case, [network.modalities[index]], latent.shape[1:])
                for case, index in zip(inputs["case"], target.tolist(), strict=True)
            ]
        )
        self.scheduler.set_timesteps(self.steps)
        found = sample(
            network.denoiser,
            self.scheduler,
            concat=prior.concat,
            modality=target,
            noise=noise.to(latent.device),
            **network.text_of(target),
            start=None if self.scheduler.start_timestep is None else prior.start,
        )
        return {
            "source": inputs["source"],
            "target_like": network.decode(prior.start),
            "prediction": network.decode(found),
            "target": inputs["target"],
        }
