"""What the trainer and the sampler ask of a scheduler, whatever its forward process."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from monai.networks.schedulers import Scheduler
from torch import Tensor, nn

from .schedule import Generators


class LatentScheduler(Scheduler, ABC):
    """A MONAI scheduler that may begin at the prior's latent and scale what the denoiser sees.

    One training step and one sampling run, for any of them::

        x_t = scheduler.add_noise(clean, noise, t, start=prior_start)
        loss = mse(denoiser(scheduler.model_input(x_t, t), t),
                   scheduler.training_target(clean, noise, t))

        x_t = scheduler.start(prior_start, noise)
        for t in scheduler.timesteps:
            x_t, clean = scheduler.step(denoiser(scheduler.model_input(x_t, t), t), t, x_t)

    Timesteps are 0..T-1, 0 the cleanest. Schedules are float64, arithmetic is float32 at least, and
    the next noise level is always read off the scheduler's own list of timesteps.

    Args:
        num_train_timesteps: T of the training.
    """

    timesteps: Tensor

    def __init__(self, num_train_timesteps: int) -> None:
        nn.Module.__init__(self)  # MONAI's own would build a beta schedule
        self.num_train_timesteps = num_train_timesteps
        self.num_inference_steps: int | None = None

    @property
    def num_used_timesteps(self) -> int:
        """Timesteps that training and sampling may visit, the cleanest first."""
        return self.num_train_timesteps

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a denoiser trained with this scheduler depends on, as JSON values."""

    def refuse_other(self, trained: Mapping[str, Any]) -> None:
        """Refuse to walk a denoiser that was trained on another schedule.

        Args:
            trained: ``facts`` of the scheduler it was trained with.

        Raises:
            ValueError: They differ; names the first difference.
        """
        refuse_difference(trained, self.facts())

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Choose the timesteps of the next sampling run, noisiest first.

        Args:
            num_inference_steps: In 1..``num_used_timesteps``.
            device: Where ``timesteps`` shall lie.

        Raises:
            ValueError: There are not so many.
        """
        self.timesteps = self._spaced(num_inference_steps).to(device)
        self.num_inference_steps = num_inference_steps

    @abstractmethod
    def _spaced(self, count: int) -> Int[Tensor, " count"]:
        """``count`` different timesteps, descending."""

    @abstractmethod
    def start(
        self, prior_start: Float[Tensor, "b c *size"] | None, noise: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, "b c *size"]:
        """x_t at the first of ``timesteps``.

        Args:
            prior_start: The prior's own latent; schedulers that begin at noise do not use it.
            noise: Standard normal.

        Raises:
            ValueError: The scheduler begins at the prior's latent, and there is none.
        """

    @abstractmethod
    def add_noise(
        self,
        original_samples: Float[Tensor, "b c *size"],
        noise: Float[Tensor, "b c *size"],
        timesteps: Int[Tensor, " b"],
        start: Float[Tensor, "b c *size"] | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """The forward process at ``timesteps``.

        Args:
            original_samples: The clean latents.
            noise: Standard normal.
            timesteps: One a sample.
            start: The prior's latents, for schedulers that shift towards them.
        """

    def model_input(
        self, x_t: Float[Tensor, "b c *size"], timesteps: Int[Tensor, "*b"]
    ) -> Float[Tensor, "b c *size"]:
        """What the denoiser is given for x_t: x_t itself where its scale is the same throughout."""
        return x_t

    @abstractmethod
    def training_target(
        self,
        original_samples: Float[Tensor, "b c *size"],
        noise: Float[Tensor, "b c *size"],
        timesteps: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c *size"]:
        """What the denoiser should answer at ``timesteps``."""

    @abstractmethod
    def step(
        self,
        model_output: Float[Tensor, "b c *size"],
        timestep: int | Tensor,
        sample: Float[Tensor, "b c *size"],
        *,
        generator: Generators = None,
    ) -> tuple[Float[Tensor, "b c *size"], Float[Tensor, "b c *size"]]:
        """Go from one timestep to the next of the list.

        Args:
            model_output: The denoiser's prediction for ``sample`` at ``timestep``.
            timestep: One of ``timesteps``.
            sample: The noisy latent x_t (not the ``model_input``).
            generator: Source of fresh noise: one, or one a sample. Without one, torch's own.

        Returns:
            The less noisy latent and the predicted clean latent, in the sample's dtype.

        Raises:
            ValueError: The timestep is none of the list's, or the shapes differ.
        """

    def _position(self, timestep: int | Tensor) -> int:
        visited = self.timesteps.tolist()
        if int(timestep) not in visited:
            raise ValueError(
                f"timestep {int(timestep)} is none of the {len(visited)} that were set "
                f"({visited[0]} to {visited[-1]})"
            )
        return visited.index(int(timestep))


def refuse_difference(trained: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Compare a network's schedule with a scheduler's.

    Raises:
        ValueError: They differ; names the first difference.
    """
    for name in sorted(found.keys() | trained.keys()):
        wanted, have = trained.get(name, "not used"), found.get(name, "not used")
        if wanted != have:
            raise ValueError(f"the network's {name} is {wanted}, the scheduler's {have}")


def refuse_other_shape(prediction: Tensor, sample: Tensor) -> None:
    """Refuse a prediction that would broadcast.

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != sample.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and sample {tuple(sample.shape)} differ"
        )


def at_timesteps(
    values: Float[Tensor, " t"], timesteps: Int[Tensor, "*b"], like: Tensor
) -> Float[Tensor, "..."]:
    """A schedule's values at ``timesteps``, to multiply ``like`` (b, ...) with: float32 at least.

    Args:
        values: One for each timestep, float64.
        timesteps: (b,), or () for all samples.
        like: Gives device, precision and number of axes.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    chosen = values.to(like.device, dtype)[timesteps.to(like.device)]
    return chosen.reshape(-1, *[1] * (like.ndim - 1))
