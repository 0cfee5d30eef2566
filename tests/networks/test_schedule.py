"""The beta schedule, the choice of timesteps, and what predictions mean."""

from pathlib import Path

import numpy as np
import pytest
import torch

from voxlate.networks.schedule import (
    alpha_bars,
    clean_and_noise,
    draw_noise,
    half_log_snr,
    scaled_linear_betas,
    spaced_timesteps,
)

SPACINGS = ("leading", "leading_plus_one", "trailing", "linspace", "log_snr")
ALPHA_BAR = alpha_bars(scaled_linear_betas())


def test_betas_are_the_squares_of_evenly_spaced_roots() -> None:
    betas = scaled_linear_betas(5, 0.01, 0.09)
    expected = torch.tensor([0.1, 0.15, 0.2, 0.25, 0.3], dtype=torch.float64) ** 2
    torch.testing.assert_close(betas, expected, rtol=1e-14, atol=0)


def test_schedule_is_the_reference_schedule(vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "ddpm_schedule_scaled_linear.npz")
    betas = scaled_linear_betas()
    np.testing.assert_allclose(betas, vector["out/betas"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(alpha_bars(betas), vector["out/alphas_cumprod"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("betas", [(0.0, 0.02), (0.02, 0.01), (0.01, 1.0)])
def test_impossible_betas_are_refused(betas: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="betas"):
        scaled_linear_betas(1000, *betas)


def test_a_schedule_of_no_timesteps_is_refused() -> None:
    with pytest.raises(ValueError, match="num_train_timesteps"):
        scaled_linear_betas(0)


@pytest.mark.parametrize("count", [1, 2, 5, 10, 20, 50, 100, 200, 250, 500])
def test_leading_plus_one_is_the_reference_range_where_it_divides(count: int) -> None:
    expected = [index + 1 for index in range(0, 1000, 1000 // count)]
    assert spaced_timesteps(count, ALPHA_BAR, "leading_plus_one").flip(0).tolist() == expected


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("last", [0, 17, 36])
def test_every_count_gives_that_many_descending_timesteps(spacing: str, last: int) -> None:
    alpha_bar = alpha_bars(scaled_linear_betas(37))[: last + 1]
    for count in range(1, last + 2):
        chosen = spaced_timesteps(count, alpha_bar, spacing)
        assert len(chosen) == count
        assert (chosen.diff() < 0).all()
        assert chosen[-1] >= 0 and chosen[0] <= last
    assert chosen.tolist() == list(range(last, -1, -1))  # all of them, whatever the spacing


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", [3, 7, 30, 40, 333, 600, 999, 1000])
def test_counts_that_do_not_divide_the_schedule_are_exact(spacing: str, count: int) -> None:
    chosen = spaced_timesteps(count, ALPHA_BAR, spacing)
    assert len(chosen) == count and (chosen.diff() < 0).all()
    assert chosen[-1] >= 0 and chosen[0] <= 999


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "log_snr"])
def test_sampling_begins_at_the_noisiest_timestep(spacing: str) -> None:
    assert spaced_timesteps(8, ALPHA_BAR[:431], spacing)[0] == 430


def test_leading_includes_the_cleanest_timestep() -> None:
    assert spaced_timesteps(4, ALPHA_BAR[:15], "leading").tolist() == [11, 7, 3, 0]


def test_log_snr_spacing_is_even_in_log_snr() -> None:
    chosen = spaced_timesteps(10, ALPHA_BAR, "log_snr")
    steps = half_log_snr(ALPHA_BAR[chosen]).diff()
    assert chosen[0] == 999 and chosen[-1] == 0
    torch.testing.assert_close(steps, steps.mean().expand(9), rtol=0.1, atol=0)


def test_half_log_snr_of_a_clean_latent_is_infinite() -> None:
    level = half_log_snr(torch.tensor([0.5, 0.8, 1.0], dtype=torch.float64))
    torch.testing.assert_close(level[:2].exp() ** 2, torch.tensor([1.0, 4.0]).double())
    assert level[2] == torch.inf


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", [0, 1001])
def test_impossible_counts_are_refused(spacing: str, count: int) -> None:
    with pytest.raises(ValueError, match=rf"steps must be in 1\.\.1000, got {count}"):
        spaced_timesteps(count, ALPHA_BAR, spacing)


def test_an_unknown_spacing_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="'even'"):
        spaced_timesteps(5, ALPHA_BAR, "even")  # type: ignore[arg-type]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_clean_and_noise_are_recovered_from_each_prediction(prediction_type: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 4, 5, 5, generator=generator, dtype=torch.float64)
    alpha_bar = torch.tensor([0.9, 0.4, 0.001], dtype=torch.float64).view(3, 1, 1, 1)
    x_t = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise
    prediction = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean,
    }[prediction_type]
    got = clean_and_noise(prediction, x_t, alpha_bar, prediction_type)
    torch.testing.assert_close(torch.stack(got), torch.stack([clean, noise]), rtol=0, atol=1e-11)


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    def seeded(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    shape = [1, 2, 3, 3, 3]
    batch = draw_noise([3, *shape[1:]], [seeded(5), seeded(6), seeded(7)])
    alone = [draw_noise(shape, seeded(seed)) for seed in (5, 6, 7)]
    assert torch.equal(batch, torch.cat(alone))
    assert batch.dtype == torch.float32 and batch.device.type == "cpu"


def test_a_wrong_number_of_generators_is_refused() -> None:
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        draw_noise([2, 1, 4], [torch.Generator()])
