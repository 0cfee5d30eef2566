"""Stage 3: teach the denoiser to sample the target's latent, given what the prior says."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from voxlate.networks.latent_scheduler import LatentScheduler, refuse_difference
from voxlate.networks.translation import TranslationNetwork

from .encoded_pairs import encode_pair
from .one_to_many import check_steps
from .ranks import over_ranks
from .sampler import sample
from .seeds import case_noise
from .train_prior import case_volumes
from .training import StageTrainer


class DenoiserTrainer(StageTrainer):
    """Train ``network.denoiser`` with the autoencoder and the prior frozen.

    x_t = add_noise(target latent, noise, t, start = the prior's latent) with t uniform over those
    that sampling may visit; loss = mean squared error to the scheduler's training target (ALDM
    eq. 2 for epsilon).

    Args:
        network: The whole network, its autoencoder and prior trained.
        scheduler: Its forward process, and what it has the denoiser predict.
        loss_weights: Weight of a sample's error by its timestep (b,), such as
            ``ResShiftScheduler.loss_weights`` (DFBK eq. 4); every one 1 unless given.
        stage: See ``StageTrainer``, as all other arguments.

    Raises:
        ValueError: The scheduler is not the one that the network's contract names.
    """

    stage = "denoiser"

    def __init__(
        self,
        network: TranslationNetwork,
        *,
        scheduler: LatentScheduler,
        loss_weights: Callable[[Tensor], Tensor] | None = None,
        **stage: Any,
    ) -> None:
        refuse_difference(network.facts()["schedule"], scheduler.facts())
        super().__init__(network, network.denoiser, **stage)
        self.scheduler, self.loss_weights = scheduler, loss_weights
        self.denoiser = over_ranks(network.denoiser, self.state.device)

    def losses(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the prediction."""
        with torch.no_grad():
            known = encode_pair(self.network, batch)
        clean, concat = known["clean"], known["concat"]
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        steps = self.scheduler.num_used_timesteps
        timesteps = torch.randint(steps, clean.shape[:1], generator=generator).to(clean.device)
        x_t = self.scheduler.add_noise(clean, noise, timesteps, start=known["start"])
        wanted = self.scheduler.training_target(clean, noise, timesteps)
        prediction = self.inferer(
            self.scheduler.model_input(x_t, timesteps),
            self.denoiser,
            timesteps,
            concat=concat if concat.shape[1] else None,
            modality=batch["target_index"],
            **self.network.text_of(batch["target_index"]),
        )
        errors = (prediction.float() - wanted.float()).square().flatten(1).mean(1)
        if self.loss_weights is not None:
            errors = errors * self.loss_weights(timesteps).to(errors)
        return {Keys.LOSS: errors.mean()}


class TranslateBySampling(Inferer):
    """A few-step sample, decoded: what stage 3 is validated on.

    Args:
        scheduler: A solver with ``set_timesteps``, ``timesteps`` and ``step``.
        steps: Network evaluations.
        seed: Of the noise, together with the case and the target's index.

    Raises:
        UsageError: The scheduler has not so many timesteps.
    """

    def __init__(self, scheduler: LatentScheduler, *, steps: int = 10, seed: int = 0) -> None:
        check_steps(scheduler, steps, least=1)
        self.scheduler, self.steps, self.seed = scheduler, steps, seed

    def __call__(
        self, inputs: Mapping[str, Any], network: TranslationNetwork, *args: Any, **kwargs: Any
    ) -> Any:
        """Rows of a picture: ``source``, ``target_like``, ``prediction``, ``target``."""
        target = inputs["target_index"]
        case = network.encode_case(case_volumes(inputs), inputs["available"])
        prior = network.ask_prior(case, target)
        text: dict[str, Any] = network.text_of(target)
        noise = torch.cat(
            [
                case_noise(self.seed, name, [network.modalities[index]], case.latents.shape[2:])
                for name, index in zip(inputs["case"], target.tolist(), strict=True)
            ]
        )
        self.scheduler.set_timesteps(self.steps)
        found = sample(
            network.denoiser,
            self.scheduler,
            concat=prior.concat,
            modality=target,
            noise=noise.to(case.latents.device),
            **text,
            start=prior.start,
        )
        return {
            "source": inputs["source"],
            "target_like": network.decode(prior.start),
            "prediction": network.decode(found),
            "target": inputs["target"],
        }
