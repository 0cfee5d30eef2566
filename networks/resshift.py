"""ResShift: diffusion that shifts the prior's latent to the clean one, in as few as four steps."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .latent_scheduler import LatentScheduler, at_timesteps, refuse_other_shape
from .schedule import EvenSpacing, Generators, draw_noise, even_timesteps

RESSHIFT_FACTS = (
    "num_train_timesteps",
    "kappa",
    "power",
    "min_noise_level",
    "etas_end",
    "pixel_space",
)
"""What of a schedule a denoiser depends on."""


def shift_roots(
    num_train_timesteps: int = 4,
    *,
    kappa: float = 2.0,
    power: float = 0.3,
    min_noise_level: float = 0.2,
    etas_end: float = 0.99,
) -> Float[Tensor, " t"]:
    """Square root of eta, the share of the shift that is done, at each timestep, in float64.

    sqrt(eta_t) = s * (etas_end / s)^(((t - 1) / (T - 1))^power) for t = 1..T, with
    s = min(min_noise_level / kappa, min_noise_level) (Yue et al. 2023).

    Args:
        num_train_timesteps: T, at least 2.
        kappa: Noise for each unit of shift: x_T has the standard deviation kappa * etas_end.
        power: How slowly the steps begin, counted from the clean end.
        min_noise_level: kappa * sqrt(eta_1), for kappa of at least 1.
        etas_end: sqrt(eta_T); the square root, though the reference names it so.

    Raises:
        ValueError: A value is out of range.
    """
    if num_train_timesteps < 2:
        raise ValueError(f"num_train_timesteps must be at least 2, got {num_train_timesteps}")
    if kappa <= 0 or power <= 0:
        raise ValueError(f"kappa and power must be positive, got {kappa} and {power}")
    first = min(min_noise_level / kappa, min_noise_level)
    if not 0 < first < etas_end < 1:
        raise ValueError(
            f"sqrt(eta) must rise within (0, 1), got {first} (from min_noise_level "
            f"{min_noise_level}) to etas_end {etas_end}"
        )
    done = torch.linspace(0, 1, num_train_timesteps, dtype=torch.float64, device="cpu") ** power
    return first * (torch.tensor(etas_end / first, dtype=torch.float64).log() * done).exp()


class ShiftPosterior(NamedTuple):
    """q(x_prev | x_t, clean): its mean is noisy_weight * x_t + clean_weight * clean."""

    noisy_weight: Tensor
    clean_weight: Tensor
    variance: Tensor


def shift_posterior(
    eta: Float[Tensor, "*shape"], eta_prev: Float[Tensor, "*shape"], *, kappa: float
) -> ShiftPosterior:
    """Posterior of the less shifted latent; eta_prev is 0 for the last step, to the clean one."""
    kept = eta_prev / eta
    return ShiftPosterior(kept, (eta - eta_prev) / eta, kappa**2 * kept * (eta - eta_prev))


class ResShiftScheduler(LatentScheduler):
    """Residual shifting (Yue et al. 2023): x_t lies between the clean latent and the prior's.

    x_t = clean + eta_t * (start - clean) + kappa * sqrt(eta_t) * noise. The denoiser predicts the
    clean latent from x_t brought to unit scale. A run begins at the prior's latent plus noise, so
    only what is still wrong with that latent is left to diffuse. The last step ends at the
    predicted clean latent, without fresh noise.

    Args:
        num_train_timesteps: T of the training: 4 or 15 in the reference (15 with
            ``min_noise_level`` 0.04).
        kappa: See ``shift_roots``, as the three after it.
        power: How slowly the steps begin.
        min_noise_level: Noise of the cleanest timestep.
        etas_end: Share of the shift at the last timestep, its square root.
        pixel_space: The data are intensities in [-1, 1], not latents: their scale at each timestep
            is taken for 1 + 3 * kappa * sqrt(eta), and predictions are clipped to that range.
        spacing: How fewer than T timesteps are chosen, see ``even_timesteps``; the reference's is
            "leading", which leaves the noisiest out.

    Raises:
        ValueError: The schedule is impossible.
    """

    def __init__(
        self,
        num_train_timesteps: int = 4,
        *,
        kappa: float = 2.0,
        power: float = 0.3,
        min_noise_level: float = 0.2,
        etas_end: float = 0.99,
        pixel_space: bool = False,
        spacing: EvenSpacing = "linspace",
    ) -> None:
        roots = shift_roots(
            num_train_timesteps,
            kappa=kappa,
            power=power,
            min_noise_level=min_noise_level,
            etas_end=etas_end,
        )
        super().__init__(num_train_timesteps)
        self.kappa, self.power, self.min_noise_level = kappa, power, min_noise_level
        self.etas_end, self.pixel_space = etas_end, pixel_space
        self.sqrt_etas, self.etas = roots, roots**2
        self.spacing: EvenSpacing = spacing
        self.set_timesteps(num_train_timesteps)

    def facts(self) -> dict[str, Any]:
        """What a denoiser trained with this scheduler depends on; see ``LatentScheduler``."""
        return {name: getattr(self, name) for name in RESSHIFT_FACTS}

    def _spaced(self, count: int) -> Int[Tensor, " count"]:
        return even_timesteps(count, self.num_train_timesteps, self.spacing)

    def start(
        self, prior_start: Float[Tensor, "b c *size"] | None, noise: Float[Tensor, "b c *size"]
    ) -> Float[Tensor, "b c *size"]:
        """The prior's latent + kappa * sqrt(eta) * noise at the first timestep."""
        first = self.timesteps[:1]
        return _given(prior_start) + self._sigma(first, noise) * noise

    def add_noise(
        self,
        original_samples: Float[Tensor, "b c *size"],
        noise: Float[Tensor, "b c *size"],
        timesteps: Int[Tensor, " b"],
        start: Float[Tensor, "b c *size"] | None = None,
    ) -> Float[Tensor, "b c *size"]:
        """Clean + eta * (start - clean) + kappa * sqrt(eta) * noise.

        Raises:
            ValueError: There is no start to shift to.
        """
        start = _given(start)
        eta = at_timesteps(self.etas, timesteps, noise)
        x_t = original_samples + eta * (start - original_samples)
        x_t = x_t + self._sigma(timesteps, noise) * noise
        return x_t.to(torch.promote_types(original_samples.dtype, noise.dtype))

    def model_input(
        self, x_t: Float[Tensor, "b c *size"], timesteps: Int[Tensor, "*b"]
    ) -> Float[Tensor, "b c *size"]:
        """x_t over its scale: the deviation sqrt(eta * kappa^2 + 1), or the range of intensities.

        The latent's scale takes latents of unit deviation for granted.
        """
        sigma = self._sigma(timesteps, x_t)
        scale = 1 + 3 * sigma if self.pixel_space else (sigma**2 + 1).sqrt()
        return (x_t / scale).to(x_t.dtype)

    def training_target(
        self,
        original_samples: Float[Tensor, "b c *size"],
        noise: Float[Tensor, "b c *size"],
        timesteps: Int[Tensor, " b"],
    ) -> Float[Tensor, "b c *size"]:
        """The clean latent, at every timestep."""
        return original_samples

    def loss_weights(self, timesteps: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Weights of the squared error in the variational bound, the infinite one cut.

        alpha_t / (2 kappa^2 eta_t eta_(t-1)) with alpha_t = eta_t - eta_(t-1) (DFBK, eq. 4), which
        divides by zero at the cleanest timestep: there the posterior variance of the next one is
        used. The reference trains without weights.
        """
        before = torch.cat([self.etas.new_zeros(1), self.etas[:-1]])
        posterior = shift_posterior(self.etas, before, kappa=self.kappa)
        variance = torch.cat([posterior.variance[1:2], posterior.variance[1:]])
        weights = 0.5 * posterior.clean_weight**2 / variance
        return weights.to(timesteps.device)[timesteps]

    def step(
        self,
        model_output: Float[Tensor, "b c *size"],
        timestep: int | Tensor,
        sample: Float[Tensor, "b c *size"],
        *,
        generator: Generators = None,
    ) -> tuple[Float[Tensor, "b c *size"], Float[Tensor, "b c *size"]]:
        """Draw the less shifted latent from the posterior; see ``LatentScheduler.step``."""
        refuse_other_shape(model_output, sample)
        position = self._position(timestep)
        dtype = torch.promote_types(sample.dtype, torch.float32)
        clean, x_t = model_output.to(dtype), sample.to(dtype)
        if self.pixel_space:
            clean = clean.clamp(-1, 1)
        posterior = shift_posterior(*self._levels(position), kappa=self.kappa)
        x_prev = posterior.noisy_weight * x_t + posterior.clean_weight * clean
        if posterior.variance > 0:
            fresh = draw_noise(x_t.shape, generator).to(x_t)
            x_prev = x_prev + posterior.variance.sqrt() * fresh
        return x_prev.to(sample.dtype), clean.to(sample.dtype)

    def _levels(self, position: int) -> tuple[Tensor, Tensor]:
        """Eta at a position of the list and at the one after it; 0 at the end."""
        here = self.etas[int(self.timesteps[position])]
        if position + 1 == len(self.timesteps):
            return here, torch.zeros_like(here)
        return here, self.etas[int(self.timesteps[position + 1])]

    def _sigma(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return at_timesteps(self.kappa * self.sqrt_etas, timesteps, like)


def _given(start: Tensor | None) -> Tensor:
    if start is None:
        raise ValueError("ResShift shifts to the prior's latent, but there is no start")
    return start
