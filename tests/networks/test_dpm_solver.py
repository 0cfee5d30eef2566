"""DPM-Solver++ 2M: its formula, its accuracy against DDIM's, and its memory of the step before."""

import numpy as np
import pytest
import torch
from torch import Tensor

from voxlate.networks.ddim import DDIMScheduler
from voxlate.networks.dpm_solver import DPMSolverScheduler
from voxlate.networks.noise_scheduler import NoiseScheduler


def gaussian_noise(scheduler: NoiseScheduler, x_t: Tensor, timestep: Tensor, std: float) -> Tensor:
    """The perfect denoiser of latents from N(0, std^2): the expected noise in x_t."""
    alpha_bar = scheduler.alphas_cumprod[timestep]
    return (1 - alpha_bar).sqrt() / (alpha_bar * std**2 + 1 - alpha_bar) * x_t


def gain(scheduler: NoiseScheduler, std: float, steps: int) -> float:
    """What sampling does to the standard deviation; linear, so one number tells it."""
    scheduler.set_timesteps(steps)
    x_t = torch.ones(1, 1, 1, dtype=torch.float64)
    for timestep in scheduler.timesteps:
        x_t, _ = scheduler.step(gaussian_noise(scheduler, x_t, timestep, std), timestep, x_t)
    return float(x_t)


def test_ten_steps_keep_the_spread_of_unit_latents() -> None:
    assert gain(DPMSolverScheduler(), 1.0, 10) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("spacing", ["leading_plus_one", "trailing", "linspace"])
def test_ten_steps_of_ddim_lose_a_sixth_of_it(spacing: str) -> None:
    assert 0.82 <= gain(DDIMScheduler(spacing=spacing), 1.0, 10) <= 0.845


@pytest.mark.parametrize(
    ("std", "least"),
    [(0.5, 0.95), (0.1, 0.85)],  # the last timestep's own noise (0.039) is blurred away at 0.1
)
def test_ten_steps_keep_more_of_narrow_latents_than_ddim(std: float, least: float) -> None:
    kept = gain(DPMSolverScheduler(), std, 10) / std
    assert least <= kept <= 1.05
    assert kept > gain(DDIMScheduler(), std, 10) / std + 0.1


def error(scheduler: NoiseScheduler, std: float, steps: int) -> float:
    """Against the exact solution at the last timestep: x scales as the spread does."""
    scheduler.set_timesteps(steps)
    x_t = torch.ones(1, 1, 1, dtype=torch.float64)
    for timestep in scheduler.timesteps[:-1]:
        x_t, _ = scheduler.step(gaussian_noise(scheduler, x_t, timestep, std), timestep, x_t)
    spread = (scheduler.alphas_cumprod * (std**2 - 1) + 1).sqrt()
    exact = spread[scheduler.timesteps[-1]] / spread[scheduler.timesteps[0]]
    return abs(float(x_t) / float(exact) - 1)


@pytest.mark.parametrize("std", [0.5, 1.0])
def test_half_the_step_quarters_the_error_and_only_halves_ddims(std: float) -> None:
    ours, ddim = DPMSolverScheduler(), DDIMScheduler(spacing="log_snr")
    assert error(ours, std, 20) == pytest.approx(4 * error(ours, std, 40), rel=0.1)
    assert error(ddim, std, 20) == pytest.approx(2 * error(ddim, std, 40), rel=0.1)
    assert error(ours, std, 40) < 0.1 * error(ddim, std, 40)


@pytest.mark.parametrize("steps", [2, 3, 10, 25])
@pytest.mark.parametrize("spacing", ["log_snr", "trailing"])
def test_steps_are_the_closed_form_recursion(steps: int, spacing: str) -> None:
    scheduler = DPMSolverScheduler(prediction_type="sample", spacing=spacing)
    scheduler.set_timesteps(steps)
    alpha_bar = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
    visited = scheduler.timesteps.tolist()
    signal, sigma = np.sqrt(alpha_bar[visited]), np.sqrt(1 - alpha_bar[visited])
    level = np.log(signal / sigma)

    def denoiser(x_t: np.ndarray, timestep: int) -> np.ndarray:
        return np.tanh(x_t) + timestep / 3000

    expected = np.random.default_rng(0).standard_normal((2, 3, 4))
    x_t, cleans = torch.from_numpy(expected), []
    for index, timestep in enumerate(visited):
        cleans.append(denoiser(expected, timestep))
        if index + 1 == steps:
            expected = cleans[-1]
        else:
            h = level[index + 1] - level[index]
            mixed = cleans[-1]
            if index > 0:
                r = (level[index] - level[index - 1]) / h
                mixed = (1 + 1 / (2 * r)) * cleans[-1] - 1 / (2 * r) * cleans[-2]
            expected = (
                sigma[index + 1] / sigma[index] * expected
                - signal[index + 1] * (np.exp(-h) - 1) * mixed
            )
        prediction = torch.from_numpy(denoiser(x_t.numpy(), timestep))
        x_t, _ = scheduler.step(prediction, timestep, x_t)
    np.testing.assert_allclose(x_t, expected, rtol=1e-9, atol=1e-9)


def test_first_step_is_ddims() -> None:
    ours, ddim = DPMSolverScheduler(), DDIMScheduler(spacing="log_snr")
    x_t, noise = torch.randn(2, 1, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    for scheduler in (ours, ddim):
        scheduler.set_timesteps(10)
    torch.testing.assert_close(ours.step(noise, 999, x_t), ddim.step(noise, 999, x_t))


def test_a_new_run_forgets_the_last_one() -> None:
    scheduler, std = DPMSolverScheduler(), 0.7
    fresh = gain(scheduler, std, 6)
    x_t = torch.full((3, 2, 4), 50.0, dtype=torch.float64)
    scheduler.step(x_t, scheduler.timesteps[0], x_t)  # a run that was broken off
    x_t = torch.ones(1, 1, 1, dtype=torch.float64)
    for timestep in scheduler.timesteps:  # the first timestep alone begins anew
        x_t, _ = scheduler.step(gaussian_noise(scheduler, x_t, timestep, std), timestep, x_t)
    assert float(x_t) == fresh
    assert gain(scheduler, std, 6) == fresh


def test_steps_out_of_order_are_refused() -> None:
    scheduler = DPMSolverScheduler()
    scheduler.set_timesteps(5)
    first, second, third = scheduler.timesteps[:3]
    x_t = torch.ones(1, 1, 4)
    with pytest.raises(ValueError, match="step 0 was not"):
        scheduler.step(x_t, second, x_t)
    scheduler.step(x_t, first, x_t)
    with pytest.raises(ValueError, match="step 1 was not"):
        scheduler.step(x_t, third, x_t)
    scheduler.step(x_t, second, x_t)
    with pytest.raises(ValueError, match="step 0 was not"):
        scheduler.step(x_t, second, x_t)
    scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="step 1 was not"):
        scheduler.step(x_t, third, x_t)


def test_another_batch_within_a_run_is_refused() -> None:
    scheduler = DPMSolverScheduler()
    scheduler.set_timesteps(5)
    first, second = scheduler.timesteps[:2]
    scheduler.step(torch.ones(2, 1, 4), first, torch.ones(2, 1, 4))
    with pytest.raises(ValueError, match="batch changed"):
        scheduler.step(torch.ones(1, 1, 4), second, torch.ones(1, 1, 4))


def test_start_timestep_begins_every_run_there_and_ends_clean() -> None:
    scheduler = DPMSolverScheduler(start_timestep=400)
    assert (scheduler.num_used_timesteps, DPMSolverScheduler().num_used_timesteps) == (401, 1000)
    scheduler.set_timesteps(6)
    assert int(scheduler.timesteps[0]) <= 400
    assert len(scheduler.timesteps) == 6
    clean, noise = torch.full((1, 1, 4), 0.5), torch.ones(1, 1, 4)
    x_t = scheduler.add_noise(clean, noise, scheduler.timesteps[:1])
    for timestep in scheduler.timesteps:
        alpha_bar = scheduler.alphas_cumprod[timestep]
        exact = (x_t.double() - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
        x_t, _ = scheduler.step(exact.float(), timestep, x_t)
    torch.testing.assert_close(x_t, clean, rtol=1e-4, atol=1e-4)
