"""ResShift: schedule, posterior, scaling and loop against the reference; what four steps end at."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from voxlate.networks.resshift import ResShiftScheduler, shift_posterior, shift_roots

REFERENCES = {"T4": (4, 0.2), "T15": (15, 0.04)}
every_reference = pytest.mark.parametrize("name", REFERENCES)
spaces = pytest.mark.parametrize("space", ["latent", "pixel"])


def reference(name: str = "T4", **change: object) -> ResShiftScheduler:
    steps, min_noise = REFERENCES[name]
    return ResShiftScheduler(steps, **{"min_noise_level": min_noise, **change})


def tensors(vector: np.lib.npyio.NpzFile, *names: str) -> list[Tensor]:
    return [torch.from_numpy(vector[name]) for name in names]


def latents(count: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


@every_reference
def test_schedule_is_the_reference_one(name: str, vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "resshift_schedule.npz")
    scheduler = reference(name)
    before = torch.cat([torch.zeros(1, dtype=torch.float64), scheduler.etas[:-1]])
    posterior = shift_posterior(scheduler.etas, before, kappa=scheduler.kappa)
    one = torch.ones((), dtype=torch.float64)
    steps = torch.arange(scheduler.num_train_timesteps)
    scales = {}
    for space, pixel_space in (("latent", False), ("pixel", True)):
        scaled = reference(name, pixel_space=pixel_space).model_input(
            one.expand(len(steps), 1), steps
        )
        scales[f"scale_{space}"] = 1 / scaled[:, 0]
    found = {
        "sqrt_etas": scheduler.sqrt_etas,
        "etas": scheduler.etas,
        "etas_prev": before,
        "alpha": scheduler.etas - before,
        "posterior_variance": posterior.variance,
        "posterior_mean_coef1": posterior.noisy_weight,
        "posterior_mean_coef2": posterior.clean_weight,
        "weight_loss_mse": scheduler.loss_weights(steps),
        "prior_std": scheduler.start(torch.zeros(1, 1), torch.ones(1, 1).double())[0, 0],
        **scales,
    }
    for key, value in found.items():
        expected = vector[f"out/{name}_{key}"]
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12, err_msg=key)


@every_reference
def test_forward_process_and_scaling_are_the_reference_ones(name: str, vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "resshift_schedule.npz")
    clean, start, noise, t = tensors(vector, "in/x0", "in/y0", "in/noise", f"in/t_{name}")
    scheduler = reference(name)
    x_t = scheduler.add_noise(clean, noise, t, start=start)
    found = {
        "x_t": x_t,
        "x_T_prior": scheduler.start(start, noise),
        "xt_scaled_latent": scheduler.model_input(x_t, t),
        "xt_scaled_pixel": reference(name, pixel_space=True).model_input(x_t, t),
    }
    for key, value in found.items():
        expected = vector[f"out/{name}_{key}"]
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-6, err_msg=key)
    before = torch.cat([torch.zeros(1, dtype=torch.float64), scheduler.etas[:-1]])
    posterior = shift_posterior(scheduler.etas[t], before[t], kappa=scheduler.kappa)
    noisy, cleaned, variance = (value.view(-1, 1, 1, 1) for value in posterior)
    np.testing.assert_allclose(
        noisy * x_t + cleaned * clean, vector[f"out/{name}_post_mean"], rtol=1e-6, atol=1e-6
    )
    spread = vector[f"out/{name}_post_var"]
    np.testing.assert_allclose(variance.expand(spread.shape), spread, rtol=1e-6, atol=1e-7)
    error = (0.1 * (clean - start)).square().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(
        scheduler.loss_weights(t) * error, vector[f"out/{name}_mse_weighted_example"], rtol=1e-5
    )


@spaces
def test_four_steps_are_the_reference_loop(
    space: str, vectors_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector = np.load(vectors_dir / "resshift_sampling_loop.npz")
    start, noise, fresh = tensors(vector, "in/y0", "in/noise_T", "in/noises")
    drawn = iter(fresh)
    monkeypatch.setattr("voxlate.networks.resshift.draw_noise", lambda *_: next(drawn))
    scheduler = reference(pixel_space=space == "pixel")
    x_t = scheduler.start(start, noise)
    np.testing.assert_allclose(x_t, vector[f"out/{space}_x_T"], rtol=1e-6, atol=1e-6)
    for turn, timestep in enumerate(scheduler.timesteps):
        prediction = 0.6 * scheduler.model_input(x_t, timestep) + 0.3 * start
        prediction = prediction + 0.01 * float(timestep) - 0.05
        x_t, clean = scheduler.step(prediction, timestep, x_t)
        for found, key in ((x_t, "x"), (clean, "pred")):
            expected = vector[f"out/{space}_{key}"][turn]
            np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_training_loss_is_the_reference_one(vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "resshift_sampling_loop.npz")
    clean, start, noise, t = tensors(vector, "in/x0", "in/y0", "in/noise_T", "in/t")
    scheduler = reference()
    x_t = scheduler.add_noise(clean, noise, t, start=start)
    np.testing.assert_allclose(x_t, vector["out/train_z_t"], rtol=1e-6, atol=1e-6)
    answer = 0.6 * scheduler.model_input(x_t, t) + 0.3 * start
    answer = answer + 0.01 * t.view(-1, 1, 1, 1) - 0.05
    wanted = scheduler.training_target(clean, noise, t)
    error = (answer - wanted).square().mean(dim=(1, 2, 3))
    np.testing.assert_allclose(error, vector["out/train_mse_latent"], rtol=1e-5)
    weighted = scheduler.loss_weights(t) * error
    np.testing.assert_allclose(weighted, vector["out/train_mse_weighted"], rtol=1e-5)


def test_reference_respacing_is_leading(vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "resshift_schedule.npz")
    scheduler = reference("T15", spacing="leading")
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.flip(0).tolist() == vector["out/space_timesteps_15_4"].tolist()


@pytest.mark.parametrize("steps", [1, 2, 4, 11, 15])
def test_perfect_denoiser_ends_exactly_at_the_clean_latent(steps: int) -> None:
    scheduler = reference("T15")
    scheduler.set_timesteps(steps)
    clean, start, noise = latents(3, 2, 3, 4, 4)
    x_t = scheduler.start(start, noise)
    for timestep in scheduler.timesteps:
        x_t, _ = scheduler.step(clean, timestep, x_t, generator=torch.Generator().manual_seed(1))
    assert torch.equal(x_t, clean)


def test_respaced_posterior_keeps_the_forward_marginals() -> None:
    """Mean and variance of x_prev, from a state on the forward path, are the forward path's."""
    scheduler = reference("T15")
    scheduler.set_timesteps(5)
    for here, following in pairwise(scheduler.timesteps.tolist()):
        eta, eta_prev = scheduler.etas[here], scheduler.etas[following]
        kept, clean, variance = shift_posterior(eta, eta_prev, kappa=scheduler.kappa)
        torch.testing.assert_close(kept * (1 - eta) + clean, 1 - eta_prev)  # of the clean latent
        torch.testing.assert_close(kept * eta, eta_prev)  # of the start
        sigma2 = scheduler.kappa**2
        torch.testing.assert_close(kept**2 * sigma2 * eta + variance, sigma2 * eta_prev)


def test_step_draws_from_the_posterior_of_the_next_timestep_in_the_list() -> None:
    scheduler = reference("T15")
    scheduler.set_timesteps(3)
    clean, x_t = torch.zeros(1, 1, 200, 200).double(), torch.ones(1, 1, 200, 200).double()
    timestep, following = scheduler.timesteps[:2].tolist()
    moved, _ = scheduler.step(clean, timestep, x_t, generator=torch.Generator().manual_seed(0))
    kept = scheduler.etas[following] / scheduler.etas[timestep]
    variance = 4 * kept * (scheduler.etas[timestep] - scheduler.etas[following])
    assert moved.mean() == pytest.approx(float(kept), abs=0.02)
    assert moved.std() == pytest.approx(float(variance.sqrt()), rel=0.02)


def test_fresh_noise_of_a_row_is_its_own_generators() -> None:
    scheduler = reference()
    x_t, clean = latents(2, 3, 1, 4, 4)

    def moved(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return scheduler.step(clean[rows], 3, x_t[rows], generator=generators)[0]

    assert torch.equal(moved([0, 1, 2])[1:2], moved([1]))
    assert torch.equal(moved([2, 1])[1:2], moved([1]))


def test_model_input_of_unit_latents_has_unit_deviation() -> None:
    """With a start equal to the clean latent the variance is 1 + kappa^2 eta at every timestep."""
    scheduler = reference()
    clean, noise = latents(2, 4, 1, 100, 100)
    t = torch.arange(4)
    scaled = scheduler.model_input(scheduler.add_noise(clean, noise, t, start=clean), t)
    torch.testing.assert_close(scaled.std(dim=(1, 2, 3)), torch.ones(4).double(), rtol=0, atol=0.02)


def test_half_precision_states_are_computed_in_float32() -> None:
    scheduler = reference()
    clean, start, noise = latents(3, 2, 1, 4, 4)
    t = torch.tensor([1, 3])
    half = scheduler.add_noise(clean.bfloat16(), noise.bfloat16(), t, start=start.bfloat16())
    exact = scheduler.add_noise(clean, noise, t, start=start)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.double(), exact, rtol=0.02, atol=0.03)
    assert scheduler.model_input(half, t).dtype is torch.bfloat16
    assert scheduler.half().etas.dtype is torch.float64


def test_another_schedule_is_refused() -> None:
    reference().refuse_other(reference(spacing="leading").facts())
    with pytest.raises(ValueError, match=r"num_train_timesteps is 15, the scheduler's 4"):
        reference().refuse_other(reference("T15", min_noise_level=0.2).facts())
    with pytest.raises(ValueError, match=r"kappa is 1\.5, the scheduler's 2\.0"):
        reference().refuse_other(reference(kappa=1.5).facts())


def test_missing_start_is_refused() -> None:
    noise = torch.zeros(1, 1, 4)
    with pytest.raises(ValueError, match="no start"):
        reference().start(None, noise)
    with pytest.raises(ValueError, match="no start"):
        reference().add_noise(noise, noise, torch.tensor([0]))


@pytest.mark.parametrize("steps", [0, 5])
def test_more_steps_than_timesteps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps must be in 1\.\.4, got {steps}"):
        reference().set_timesteps(steps)


def test_timesteps_not_set_and_other_shapes_are_refused() -> None:
    scheduler = reference()
    scheduler.set_timesteps(2)
    x_t = torch.zeros(2, 1, 4)
    with pytest.raises(ValueError, match="timestep 1 is none of the 2"):
        scheduler.step(x_t, 1, x_t)
    with pytest.raises((ValueError, TypeError)):  # the second under run-time shape checks
        scheduler.step(x_t[:1], 3, x_t)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train_timesteps": 1}, "at least 2, got 1"),
        ({"kappa": 0.0}, "kappa and power must be positive"),
        ({"power": -1.0}, "kappa and power must be positive"),
        ({"min_noise_level": 0.0}, "must rise within"),
        ({"etas_end": 1.0}, "must rise within"),
        ({"etas_end": 0.05}, "must rise within"),
    ],
)
def test_impossible_schedule_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shift_roots(**change)
