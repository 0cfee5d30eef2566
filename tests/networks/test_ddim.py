"""DDIM: the reference's tables and loop, and the closed-form recursion at any number of steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from voxlate.networks import ddim
from voxlate.networks.ddim import DDIMScheduler, ddim_sigma
from voxlate.networks.ddpm import DDPMScheduler

REFERENCE = {"final_alpha_bar": 1 - 0.0015}  # ALDM ends at timestep 0's level, not at 1


@pytest.mark.parametrize("steps", [50, 200])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_tables_are_the_reference_ones(vectors_dir: Path, steps: int, eta: float) -> None:
    vector = np.load(vectors_dir / "ddim_schedules_and_loop.npz")
    scheduler = DDIMScheduler(eta=eta, **REFERENCE)
    scheduler.set_timesteps(steps)
    ascending = scheduler.timesteps.flip(0)
    assert ascending.tolist() == vector[f"out/S{steps}_timesteps"].tolist()
    here = scheduler.alphas_cumprod[ascending]
    before = torch.cat([scheduler.final_alpha_bar[None], here[:-1]])
    table = f"out/S{steps}_eta{eta:.0f}"
    np.testing.assert_allclose(here, vector[f"{table}_alphas"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(before, vector[f"{table}_alphas_prev"], rtol=0, atol=1e-6)
    sigmas = ddim_sigma(here, before, eta=eta)
    np.testing.assert_allclose(sigmas, vector[f"{table}_sigmas"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_loop_is_the_reference_one(
    vectors_dir: Path, eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = np.load(vectors_dir / "ddim_schedules_and_loop.npz")
    x_t, source, translated, y, noises = (
        torch.from_numpy(vector[f"in/{name}"])
        for name in ("x_T", "z_src", "z_srctgt", "y", "noises")
    )
    given = iter(noises)
    monkeypatch.setattr(ddim, "draw_noise", lambda shape, generator: next(given))
    scheduler = DDIMScheduler(eta=eta, **REFERENCE)
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.flip(0).tolist() == vector["out/loop_timesteps"].tolist()
    for step, timestep in enumerate(scheduler.timesteps, start=1):
        condition = -0.2 * source + 0.1 * translated + 0.05 * y.view(-1, 1, 1, 1, 1)
        x_t, clean = scheduler.step(0.3 * x_t + condition + 1e-4 * timestep, timestep, x_t)
        if eta == 1:
            np.testing.assert_allclose(
                x_t, vector["out/loop_eta1_x_inter"][step], rtol=2e-6, atol=1e-6
            )
            np.testing.assert_allclose(
                clean, vector["out/loop_eta1_pred_x0"][step], rtol=2e-6, atol=1e-6
            )
    np.testing.assert_allclose(x_t, vector[f"out/loop_eta{eta:.0f}"], rtol=2e-6, atol=1e-6)
    assert len(list(given)) == (0 if eta == 1 else 5)


def denoiser(x_t: np.ndarray, timestep: int) -> np.ndarray:
    return np.tanh(0.4 * x_t) - timestep / 5000


@pytest.mark.parametrize("steps", [1, 5, 7, 10, 50, 200, 333, 1000])
@pytest.mark.parametrize("final", [1.0, 1 - 0.0015])
def test_any_number_of_steps_is_the_closed_form_recursion(steps: int, final: float) -> None:
    scheduler = DDIMScheduler(final_alpha_bar=final)
    scheduler.set_timesteps(steps)
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    alpha_bar = np.cumprod(1 - betas)
    visited = scheduler.timesteps.tolist()
    assert len(visited) == steps
    expected = np.random.default_rng(0).standard_normal((1, 2, 3, 3))
    x_t = torch.from_numpy(expected)
    levels = [*alpha_bar[visited], final]
    for index, timestep in enumerate(visited):
        noise = denoiser(expected, timestep)
        clean = (expected - np.sqrt(1 - levels[index]) * noise) / np.sqrt(levels[index])
        following = levels[index + 1]
        expected = np.sqrt(following) * clean + np.sqrt(1 - following) * noise
        prediction = torch.from_numpy(denoiser(x_t.numpy(), timestep))
        x_t, _ = scheduler.step(prediction, timestep, x_t)
    np.testing.assert_allclose(x_t, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spacing", ["leading_plus_one", "trailing", "linspace", "log_snr"])
def test_step_with_the_true_noise_lands_on_the_forward_path(spacing: str) -> None:
    scheduler = DDIMScheduler(spacing=spacing)
    scheduler.set_timesteps(7)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 2, 4, 4, generator=generator, dtype=torch.float64)

    def noised(timestep: Tensor) -> Tensor:
        return scheduler.add_noise(clean, noise, timestep.expand(1))

    for timestep, following in zip(scheduler.timesteps, scheduler.timesteps[1:], strict=False):
        moved, _ = scheduler.step(noise, timestep, noised(timestep))
        torch.testing.assert_close(moved, noised(following), rtol=0, atol=1e-12)
    last = scheduler.timesteps[-1]
    torch.testing.assert_close(
        scheduler.step(noise, last, noised(last))[0], clean, rtol=0, atol=1e-12
    )


def test_eta_one_is_ddpm() -> None:
    ours, theirs = DDIMScheduler(eta=1.0), DDPMScheduler(spacing="leading_plus_one")
    x_t, noise = torch.randn(2, 1, 2, 4, generator=torch.Generator().manual_seed(0)).double()
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(9)
    for timestep in ours.timesteps:
        results = [
            scheduler.step(noise, timestep, x_t, generator=torch.Generator().manual_seed(4))[0]
            for scheduler in (ours, theirs)
        ]
        torch.testing.assert_close(*results, rtol=0, atol=1e-11)


def test_stochastic_sampling_that_ends_clean_adds_no_noise_at_the_end() -> None:
    scheduler = DDIMScheduler(eta=1.0)
    scheduler.set_timesteps(5)
    last = scheduler.timesteps[-1]
    x_t = torch.ones(1, 1, 4)
    ended, clean = scheduler.step(x_t, last, x_t)
    torch.testing.assert_close(ended, clean)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_out_of_range_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match="eta"):
        DDIMScheduler(eta=eta)


@pytest.mark.parametrize("final", [0.5, 1.01])
def test_final_level_out_of_range_is_refused(final: float) -> None:
    with pytest.raises(ValueError, match="final_alpha_bar"):
        DDIMScheduler(final_alpha_bar=final)
