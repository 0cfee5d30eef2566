"""DDPM: the posterior, respaced chains and the noise they draw."""

from pathlib import Path

import numpy as np
import pytest
import torch

from voxlate.networks.ddpm import DDPMScheduler, ddpm_posterior
from voxlate.networks.schedule import draw_noise


def test_posterior_is_the_reference_one(vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "ddpm_schedule_scaled_linear.npz")
    alpha_bar = DDPMScheduler().alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    np.testing.assert_allclose(before, vector["out/alphas_cumprod_prev"], rtol=0, atol=1e-12)
    posterior = ddpm_posterior(alpha_bar, before)
    for got, name in zip(
        posterior,
        ("posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance"),
        strict=True,
    ):
        np.testing.assert_allclose(got, vector[f"out/{name}"], rtol=0, atol=1e-12)
    clipped = posterior.variance.clamp(min=1e-20).log()
    expected = vector["out/posterior_log_variance_clipped"]
    np.testing.assert_allclose(clipped, expected, rtol=0, atol=1e-10)


def test_clean_latent_is_the_reference_one(vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "ddpm_schedule_scaled_linear.npz")
    x_t, noise = (torch.from_numpy(vector[key]) for key in ("out/x_t", "in/noise"))
    for row, timestep in enumerate(vector["in/t"]):
        one = slice(row, row + 1)
        _, clean = DDPMScheduler().step(noise[one], int(timestep), x_t[one])
        np.testing.assert_allclose(clean, vector["out/x0_from_eps"][one], rtol=1e-4, atol=1e-5)


def test_posterior_of_two_strides_composes_from_one_stride_posteriors() -> None:
    low, middle, high = torch.tensor([0.9, 0.6, 0.2], dtype=torch.float64)
    near, far, across = (
        ddpm_posterior(middle, low),
        ddpm_posterior(high, middle),
        ddpm_posterior(high, low),
    )
    torch.testing.assert_close(
        across.clean_weight, near.clean_weight + near.noisy_weight * far.clean_weight
    )
    torch.testing.assert_close(across.noisy_weight, near.noisy_weight * far.noisy_weight)
    torch.testing.assert_close(across.variance, near.variance + near.noisy_weight**2 * far.variance)


def test_step_is_the_posterior_mean_plus_its_noise() -> None:
    scheduler = DDPMScheduler(prediction_type="sample")
    scheduler.set_timesteps(10)
    clean, x_t = torch.randn(
        2, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    timestep, following = scheduler.timesteps[3:5]
    alpha_bar, before = scheduler.alphas_cumprod[[int(timestep), int(following)]].tolist()
    alpha = alpha_bar / before
    mean = (before**0.5 * (1 - alpha) * clean + alpha**0.5 * (1 - before) * x_t) / (1 - alpha_bar)
    spread = ((1 - alpha) * (1 - before) / (1 - alpha_bar)) ** 0.5
    fresh = draw_noise([2, 3, 4], torch.Generator().manual_seed(7)).double()
    got, _ = scheduler.step(clean, timestep, x_t, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(got, mean + spread * fresh, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [7, 50, 1000])
def test_chain_with_a_perfect_denoiser_has_the_predicted_spread(steps: int) -> None:
    """Gaussian data: each step is linear, so the variance follows a recursion of numbers."""
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(0)
    data_variance, expected = 0.25, 1.0
    x_t = torch.randn(4000, 5, generator=generator)
    levels = [*scheduler.alphas_cumprod[scheduler.timesteps].tolist(), 1.0]
    for index, timestep in enumerate(scheduler.timesteps):
        alpha_bar, before = levels[index], levels[index + 1]
        gain = alpha_bar**0.5 * data_variance / (alpha_bar * data_variance + 1 - alpha_bar)
        alpha = alpha_bar / before
        weight = (before**0.5 * (1 - alpha) * gain + alpha**0.5 * (1 - before)) / (1 - alpha_bar)
        expected = weight**2 * expected + (1 - alpha) * (1 - before) / (1 - alpha_bar)
        noise = (x_t - alpha_bar**0.5 * gain * x_t) / (1 - alpha_bar) ** 0.5
        x_t, _ = scheduler.step(noise, timestep, x_t, generator=generator)
    assert x_t.std() == pytest.approx(expected**0.5, rel=0.02)
    if steps == 1000:  # the whole chain gives back the data
        assert x_t.std() == pytest.approx(0.5, rel=0.02)


def test_last_step_draws_nothing() -> None:
    scheduler = DDPMScheduler()
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    x_t = torch.ones(1, 1, 4)
    scheduler.step(x_t, 0, x_t, generator=generator)
    assert torch.equal(generator.get_state(), before)
    scheduler.step(x_t, 1, x_t, generator=generator)
    assert not torch.equal(generator.get_state(), before)
