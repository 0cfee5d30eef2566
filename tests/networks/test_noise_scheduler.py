"""What holds for every scheduler: forward process, precision, refusals, MONAI's interface."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import DiffusionInferer
from torch import Tensor, nn

from voxlate.networks.ddim import DDIMScheduler
from voxlate.networks.ddpm import DDPMScheduler
from voxlate.networks.dpm_solver import DPMSolverScheduler
from voxlate.networks.noise_scheduler import NoiseScheduler

SCHEDULERS = (DDPMScheduler, DDIMScheduler, DPMSolverScheduler)
every_scheduler = pytest.mark.parametrize("make", SCHEDULERS)
Make = Callable[..., NoiseScheduler]
REFUSAL = (ValueError, TypeError)  # the second where annotations are checked at run time


def latents(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def toy_noise(x_t: Tensor, timestep: Tensor) -> Tensor:
    """Stands for a denoiser: nonlinear, each sample for itself."""
    return torch.tanh(0.5 * x_t) + timestep / 4000


def run(scheduler: NoiseScheduler, x_t: Tensor, **generator: object) -> Tensor:
    for timestep in scheduler.timesteps:
        x_t, _ = scheduler.step(toy_noise(x_t, timestep), timestep, x_t, **generator)
    return x_t


@every_scheduler
def test_noising_is_the_reference_forward_process(make: Make, vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "ddpm_schedule_scaled_linear.npz")
    clean, noise, t = (torch.from_numpy(vector[f"in/{name}"]) for name in ("x0", "noise", "t"))
    x_t = make().add_noise(original_samples=clean, noise=noise, timesteps=t)
    np.testing.assert_allclose(x_t, vector["out/x_t"], rtol=0, atol=1e-6)


@every_scheduler
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_training_target_is_what_a_step_reads_back(make: Make, prediction_type: str) -> None:
    scheduler = make(prediction_type=prediction_type)
    scheduler.set_timesteps(10)
    clean, noise = latents(2, 2, 3, 4, 4)
    for timestep in scheduler.timesteps:
        t = timestep.expand(2)
        x_t = scheduler.add_noise(clean, noise, t)
        _, found = scheduler.step(scheduler.training_target(clean, noise, t), timestep, x_t)
        torch.testing.assert_close(found, clean, rtol=0, atol=1e-9)


def test_velocity_is_the_derivative_along_the_angle() -> None:
    scheduler = DDIMScheduler()
    clean, noise = latents(2, 3, 2, 4)
    t = torch.tensor([0, 400, 999])
    alpha_bar = scheduler.alphas_cumprod[t].view(3, 1, 1)
    expected = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean
    torch.testing.assert_close(scheduler.get_velocity(clean, noise, t), expected)


def test_schedule_survives_half_precision_samples() -> None:
    scheduler = DDIMScheduler()
    before = scheduler.alphas_cumprod.clone()
    clean, noise = latents(2, 2, 1, 4, 4)
    t = torch.tensor([3, 700])
    half = scheduler.add_noise(clean.bfloat16(), noise.bfloat16(), t)
    assert half.dtype == torch.bfloat16
    assert scheduler.add_noise(clean.bfloat16(), noise.float(), t).dtype == torch.float32
    assert scheduler.half().alphas_cumprod.dtype == torch.float64
    assert torch.equal(scheduler.alphas_cumprod, before)


@every_scheduler
def test_a_bfloat16_prediction_costs_the_state_no_precision(make: Make) -> None:
    scheduler = make(prediction_type="sample")
    scheduler.set_timesteps(2)
    first = scheduler.timesteps[0]
    clean, x_t = latents(2, 1, 4, 8, 8, dtype=torch.float32)
    clean = clean.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = scheduler.step(clean, first, x_t, generator=torch.Generator().manual_seed(1))
    exact, _ = scheduler.step(
        clean.double(), first, x_t.double(), generator=torch.Generator().manual_seed(1)
    )
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


@every_scheduler
def test_samples_of_a_batch_are_those_taken_one_by_one(make: Make) -> None:
    scheduler = make()
    scheduler.set_timesteps(6)
    x_t = latents(3, 2, 4, 4)
    batch = run(
        scheduler, x_t, generator=[torch.Generator().manual_seed(seed) for seed in range(3)]
    )
    alone = [
        run(scheduler, x_t[seed : seed + 1], generator=[torch.Generator().manual_seed(seed)])
        for seed in range(3)
    ]
    torch.testing.assert_close(batch, torch.cat(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
@every_scheduler
def test_a_run_on_the_gpu_takes_the_same_noise(make: Make) -> None:
    scheduler = make(start_timestep=700)
    clean, noise = latents(2, 2, 2, 4, 4, dtype=torch.float32)
    results = []
    for device in ("cpu", "cuda"):
        scheduler.set_timesteps(6, device)
        x_t = scheduler.start(clean.to(device), noise.to(device))
        results.append(run(scheduler, x_t, generator=torch.Generator().manual_seed(0)).cpu())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@every_scheduler
def test_a_run_is_reproduced_by_its_seed_alone(make: Make) -> None:
    scheduler = make()
    scheduler.set_timesteps(5)
    x_t = latents(2, 2, 4)
    first = run(scheduler, x_t, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    assert torch.equal(run(scheduler, x_t, generator=torch.Generator().manual_seed(3)), first)


@every_scheduler
def test_a_single_step_ends_at_the_predicted_clean_latent(make: Make) -> None:
    scheduler = make(prediction_type="sample")
    scheduler.set_timesteps(1)
    x_t, clean = latents(2, 1, 2, 4)
    ended, found = scheduler.step(clean, scheduler.timesteps[0], x_t)
    assert torch.equal(found, clean)
    torch.testing.assert_close(ended, clean, rtol=1e-14, atol=0)


@every_scheduler
def test_a_partly_noised_start_is_denoised_from_there(make: Make) -> None:
    scheduler = make(spacing="linspace", start_timestep=400)
    assert scheduler.num_used_timesteps == 401
    scheduler.set_timesteps(7)
    assert scheduler.timesteps[0] == 400 and len(scheduler.timesteps) == 7
    clean, noise = latents(2, 1, 2, 4)
    x_t = scheduler.start(clean, noise)
    expected = scheduler.add_noise(clean, noise, torch.tensor([400]))
    assert torch.equal(x_t, expected)
    for timestep in scheduler.timesteps:  # a denoiser that knows the clean latent
        alpha_bar = scheduler.alphas_cumprod[timestep]
        known = (x_t - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
        x_t, _ = scheduler.step(known, timestep, x_t)
    torch.testing.assert_close(x_t, clean, rtol=0, atol=1e-12)


@every_scheduler
def test_clipping_bounds_the_clean_latent(make: Make) -> None:
    clean, x_t = 3 * latents(2, 1, 2, 8)
    for clip, bound in ((True, 1.0), (False, float(clean.abs().max()))):
        scheduler = make(prediction_type="sample", clip_sample=clip)
        _, found = scheduler.step(clean, 999, x_t)
        assert found.abs().max() == bound


def test_clipping_leaves_prediction_and_noise_consistent() -> None:
    scheduler = DDIMScheduler(prediction_type="sample", clip_sample=True)
    scheduler.set_timesteps(2)
    clean, noise = torch.full((1, 1, 4), 5.0).double(), latents(1, 1, 4)
    timestep, following = scheduler.timesteps
    x_t = scheduler.add_noise(clean.clamp(-1, 1), noise, timestep.expand(1))
    moved, _ = scheduler.step(clean, timestep, x_t)
    expected = scheduler.add_noise(clean.clamp(-1, 1), noise, following.expand(1))
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)


class ToyNetwork(nn.Module):
    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        return toy_noise(x, timesteps[0])


@every_scheduler
def test_monai_inferer_samples_with_it(make: Make) -> None:
    scheduler = make()
    scheduler.set_timesteps(4)
    x_t = latents(2, 1, 4, 4, dtype=torch.float32)
    inferer = DiffusionInferer(scheduler)
    torch.manual_seed(0)
    got = inferer.sample(x_t, ToyNetwork(), scheduler, verbose=False)
    torch.manual_seed(0)
    torch.testing.assert_close(got, run(scheduler, x_t))


@every_scheduler
def test_a_timestep_that_was_not_set_is_refused(make: Make) -> None:
    scheduler = make()
    scheduler.set_timesteps(5)
    absent = next(t for t in range(999, 0, -1) if t not in scheduler.timesteps.tolist())
    x_t = latents(1, 1, 4)
    with pytest.raises(ValueError, match=f"timestep {absent} is none of the 5"):
        scheduler.step(x_t, absent, x_t)


@every_scheduler
def test_a_prediction_of_another_shape_is_refused(make: Make) -> None:
    with pytest.raises(REFUSAL):
        make().step(latents(1, 1, 4), 999, latents(2, 1, 4))


@every_scheduler
def test_an_unknown_prediction_type_is_refused(make: Make) -> None:
    with pytest.raises(REFUSAL, match="'noise'"):
        make(prediction_type="noise")


@every_scheduler
def test_run_without_a_start_timestep_begins_at_the_noise(make: Make) -> None:
    clean, noise = latents(2, 1, 2, 4)
    scheduler = make()
    assert torch.equal(scheduler.start(clean, noise), noise)
    assert torch.equal(scheduler.start(None, noise), noise)
    assert torch.equal(scheduler.model_input(noise, scheduler.timesteps[0]), noise)


@every_scheduler
def test_start_without_the_priors_latent_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="start_timestep 400 needs the prior's latent"):
        make(start_timestep=400).start(None, latents(1, 1, 4))


@every_scheduler
@pytest.mark.parametrize("start", [-1, 1000])
def test_a_start_that_is_no_timestep_is_refused(make: Make, start: int) -> None:
    with pytest.raises(ValueError, match=rf"start_timestep must be in 0\.\.999, got {start}"):
        make(start_timestep=start)


@every_scheduler
def test_schedule_of_other_weights_is_refused(make: Make) -> None:
    facts = make().facts()
    make().refuse_other(DDPMScheduler().facts())  # how to walk a schedule is no part of it
    for name, value in (("beta_end", 0.02), ("prediction_type", "sample")):
        with pytest.raises(ValueError, match=f"network's {name} is {value}, the scheduler's"):
            make().refuse_other({**facts, name: value})
    with pytest.raises(ValueError, match="network's kappa is 2, the scheduler's not used"):
        make().refuse_other({**facts, "kappa": 2})


@every_scheduler
def test_timesteps_that_were_not_trained_are_refused(make: Make) -> None:
    trained = make(start_timestep=400).facts()
    for start in (150, 400):
        make(start_timestep=start).refuse_other(trained)
        make(start_timestep=start).refuse_other(make().facts())
    for start, first in ((401, 401), (None, 999)):
        with pytest.raises(ValueError, match=f"up to timestep 400, .* begins at {first}"):
            make(start_timestep=start).refuse_other(trained)
