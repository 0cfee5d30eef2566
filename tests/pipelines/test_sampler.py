"""The sampling loop, against a denoiser and a scheduler whose result can be written down."""

from typing import Any

import pytest
import torch
from torch import Tensor

from voxlate.networks.ddpm import DDPMScheduler
from voxlate.pipelines.sampler import sample


class Halving:
    """Timesteps 3, 2, 1; each step returns half the state plus the prediction."""

    timesteps = torch.tensor([3, 2, 1])

    def start(self, prior_start: Tensor | None, noise: Tensor) -> Tensor:
        return noise if prior_start is None else prior_start + 3 * noise

    def model_input(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        return x_t / timestep

    def step(
        self, prediction: Tensor, timestep: Tensor, x_t: Tensor, *, generator: Any
    ) -> tuple[Tensor, Tensor]:
        assert prediction.dtype is torch.float32
        return x_t / 2 + prediction, x_t


class Recorder:
    """Predicts the timestep, in bfloat16, and keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, x_t: Tensor, timesteps: Tensor, **condition: Any) -> Tensor:
        self.calls.append({"x_t": x_t, "timesteps": timesteps.tolist(), **condition})
        return timesteps.view(-1, 1, 1).expand_as(x_t).bfloat16()


def run(**change: Any) -> tuple[Tensor, Recorder]:
    denoiser = Recorder()
    arguments: dict[str, Any] = {
        "concat": torch.ones(2, 3, 4),
        "modality": torch.tensor([1, 2]),
        "noise": torch.full((2, 1, 4), 8.0),
    }
    return sample(denoiser, Halving(), **(arguments | change)), denoiser


def test_every_timestep_is_visited_once_from_the_first_to_the_last() -> None:
    result, denoiser = run()
    # 8 -> 8/2+3 = 7 -> 7/2+2 = 5.5 -> 5.5/2+1 = 3.75
    torch.testing.assert_close(result, torch.full((2, 1, 4), 3.75))
    assert [call["timesteps"] for call in denoiser.calls] == [[3, 3], [2, 2], [1, 1]]
    shown = [float(call["x_t"][0, 0, 0]) for call in denoiser.calls]
    assert shown == pytest.approx([8 / 3, 7 / 2, 5.5])  # the scheduler's scale of each state
    assert torch.equal(denoiser.calls[0]["modality"], torch.tensor([1, 2]))
    assert denoiser.calls[0]["concat"].shape == (2, 3, 4)


def test_scheduler_makes_the_first_state_of_start_and_noise() -> None:
    result, _ = run(start=torch.full((2, 1, 4), 2.0), noise=torch.ones(2, 1, 4))
    # 2 + 3 * 1 = 5 -> 5.5 -> 4.75 -> 3.375
    torch.testing.assert_close(result, torch.full((2, 1, 4), 3.375))


def test_condition_without_channels_is_no_condition() -> None:
    _, denoiser = run(concat=torch.ones(2, 0, 4))
    assert all(call["concat"] is None for call in denoiser.calls)


def test_text_reaches_a_denoiser_that_reads_it_and_no_other() -> None:
    text, mask = torch.ones(2, 5, 3), torch.ones(2, 5, dtype=torch.bool)
    _, denoiser = run(text=text, text_mask=mask)
    assert all(call["text"] is text and call["text_mask"] is mask for call in denoiser.calls)
    _, denoiser = run()
    assert not any("text" in call or "text_mask" in call for call in denoiser.calls)


def test_progress_counts_the_steps() -> None:
    seen: list[tuple[int, int]] = []
    run(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_state_stays_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, _ = run(noise=torch.full((2, 1, 4), 8.001))
    assert result.dtype is torch.float32
    assert result[0, 0, 0].item() == pytest.approx(3.75 + 0.001 / 8, abs=1e-6)


def test_fresh_noise_of_a_row_does_not_depend_on_its_company() -> None:
    scheduler = DDPMScheduler()
    scheduler.set_timesteps(4)

    def draw(rows: list[int]) -> Tensor:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return sample(
            lambda x_t, timesteps, **condition: 0.1 * x_t,
            scheduler,
            concat=torch.ones(len(rows), 0, 4),
            modality=torch.tensor(rows),
            noise=torch.ones(len(rows), 1, 4),
            generators=generators,
        )

    assert torch.equal(draw([0, 1])[1], draw([1])[0])
    assert not torch.equal(draw([0, 1])[0], draw([0, 1])[1])
