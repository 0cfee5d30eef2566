"""The whole path with a network whose answer is known: normalise, shift, restore."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxlate.data_prep import ScanError, UsageError, WeightsError, scan_from_array
from voxlate.networks import TranslationNetwork
from voxlate.networks.resshift import ResShiftScheduler
from voxlate.pipelines import Translator
from voxlate.pipelines.crops import BACKGROUND
from voxlate.pipelines.one_to_many import (
    OneToMany,
    head_box,
    pad_to_multiple,
    resolve_targets,
)


def translator(known: SimpleNamespace, **change: Any) -> Translator:
    arguments: dict[str, Any] = {
        "preprocessing": known.preprocessing,
        "scheduler": known.scheduler,
        "steps": 3,
        "device": "cpu",
        "dtype": torch.float32,
    }
    return Translator(known.network, **(arguments | change))


def as_resshift(known: SimpleNamespace) -> SimpleNamespace:
    """The known network and answer, walked by ResShift."""
    scheduler = ResShiftScheduler()
    network = TranslationNetwork(
        known.network.autoencoder,
        known.network.prior,
        known.network.denoiser,
        modalities=known.network.modalities,
        quantized=False,
        normalization={"percentiles": [0.5, 99.5]},
        schedule=scheduler.facts(),
    )
    return SimpleNamespace(**{**vars(known), "network": network, "scheduler": scheduler})


def expected(file: Path, shift: float) -> np.ndarray:
    """[0, 1] by the head's own percentiles; a shift of s in [-1, 1] is one of s / 2 there."""
    data = nib.load(file).get_fdata()
    inside = data > 0
    low, high = np.percentile(data[inside], (0.5, 99.5))
    own = ((data - low) / (high - low)).clip(0, 1)
    return np.where(inside, (own + shift / 2).clip(0, 1), 0)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_known_answer_comes_back_on_the_scans_own_grid(
    steps: int, known: SimpleNamespace, head_file: Path
) -> None:
    result = translator(known)(head_file, "t1", ["flair", "t1ce"], steps=steps)
    assert list(result.volumes) == ["flair", "t1ce"]
    np.testing.assert_allclose(result["flair"], expected(head_file, 0.3), atol=1e-5)
    np.testing.assert_allclose(result["t1ce"], expected(head_file, 0.1), atol=1e-5)
    assert result.skull_stripped and result["flair"].dtype == np.float32


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_shifting_with_a_perfect_denoiser_is_exact(
    steps: int, known: SimpleNamespace, head_file: Path
) -> None:
    """The last step ends at the predicted clean latent, so no noise is left whatever was drawn."""
    shifting = as_resshift(known)
    direct = translator(shifting)(head_file, "t1", ["flair"], steps=0)
    result = translator(shifting)(head_file, "t1", ["flair"], steps=steps, seed=steps)
    np.testing.assert_allclose(result["flair"], expected(head_file, 0.3), atol=1e-5)
    np.testing.assert_array_equal(result["flair"], direct["flair"])  # the prior knows it as well


def test_shifting_begins_at_the_priors_latent(known: SimpleNamespace) -> None:
    """A denoiser that answers what it sees, unscaled, gives the prior's latent and its noise."""
    shifting = as_resshift(known)
    shown: list[Tensor] = []

    class Echo(nn.Module):
        def forward(self, x_t: Tensor, timesteps: Tensor, **condition: Tensor) -> Tensor:
            shown.append(x_t)
            return x_t

    shifting.network.denoiser = Echo()
    volume = torch.full((1, 40, 48, 40), 0.5)
    translator(shifting)(volume, "t1", ["flair"], steps=1)
    scale = (4 * 0.99**2 + 1) ** 0.5
    begun = scale * shown[0]
    assert float(begun.mean()) == pytest.approx(0.5 + 0.3, abs=0.03)
    assert float(begun.std()) == pytest.approx(2 * 0.99, rel=0.02)


def test_more_steps_than_the_schedule_has_are_refused(known: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="5 denoising steps are not possible.*give 0 to 4"):
        translator(as_resshift(known))(torch.zeros(1, 4, 4, 4), steps=5)


def test_shifting_scheduler_for_a_diffusion_network_is_refused(known: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="beta_end is 0.0195, the scheduler's not used"):
        OneToMany(known.network, ResShiftScheduler(), steps=1)
    with pytest.raises(ValueError, match="not used, the scheduler's 0.0195"):
        OneToMany(as_resshift(known).network, known.scheduler, steps=1)


def test_background_of_an_unstripped_scan_is_left_to_the_networks(known: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    data = np.abs(rng.normal(0, 5, (36, 40, 36))).astype(np.float32)
    data[8:28, 8:32, 8:28] += 500 + 100 * rng.random((20, 24, 20), dtype=np.float32)
    scan = scan_from_array(data, np.diag([2, 2, 2, 1]))
    result = translator(known)(scan, "t1", ["flair"])
    assert not result.skull_stripped
    assert result["flair"][0, 0, 0] == pytest.approx(0.15, abs=1e-5)


def test_holes_inside_the_head_are_kept(known: SimpleNamespace) -> None:
    data = np.zeros((36, 40, 36), np.float32)
    data[8:28, 8:32, 8:28] = np.random.default_rng(0).uniform(300, 600, (20, 24, 20))
    data[17:19, 20:22, 17:19] = 0
    result = translator(known)(scan_from_array(data, np.diag([2, 2, 2, 1])), "t1", ["flair"])
    assert result["flair"][18, 21, 18] == pytest.approx(0.15, abs=1e-5)
    assert result["flair"][0, 0, 0] == 0


def test_volume_of_any_size_comes_back_with_its_size(known: SimpleNamespace) -> None:
    volume = torch.rand(1, 5, 6, 7) - 0.5
    result = translator(known)(volume, "t2", ["t1", "flair"])
    assert list(result) == ["t1", "flair"]
    torch.testing.assert_close(result["t1"], volume)
    torch.testing.assert_close(result["flair"], volume + 0.3)


def test_answers_are_clipped_to_the_range_of_volumes(known: SimpleNamespace) -> None:
    result = translator(known)(torch.full((1, 4, 4, 4), 0.95), "t1", ["flair"])
    assert result["flair"].max() == 1


def test_latents_are_scaled_for_the_prior_and_unscaled_for_the_decoder(
    known: SimpleNamespace,
) -> None:
    known.network.scale_factor.fill_(5.0)
    volume = torch.rand(1, 4, 4, 4) - 0.5
    result = translator(known)(volume, "t1", ["flair"])
    torch.testing.assert_close(result["flair"], volume + 0.3 / 5)


def test_one_encode_serves_all_targets_which_are_one_batch(known: SimpleNamespace) -> None:
    encodes = []
    encode = known.network.encode
    known.network.encode = lambda volume: encodes.append(1) or encode(volume)
    translator(known)(torch.zeros(1, 4, 4, 4), "t1", steps=2)
    assert encodes == [1]
    assert known.network.denoiser.batches == [3, 3]


def test_company_changes_nothing_and_the_seed_everything(tiny_bundle: Path) -> None:
    made = Translator.from_bundle(tiny_bundle, device="cpu")
    for parameter in made.network.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    volume = torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5
    alone = made(volume, "t1", ["flair"], seed=1)
    again = made(volume, "t1", ["t2", "flair"], seed=1)
    other = made(volume, "t1", ["flair"], seed=2)
    elsewhere = made(volume, "t1", ["flair"], seed=1, case_id="another")
    torch.testing.assert_close(alone["flair"], again["flair"], atol=2e-2, rtol=0)
    assert not torch.allclose(alone["flair"], other["flair"], atol=1e-3)
    assert not torch.allclose(alone["flair"], elsewhere["flair"], atol=1e-3)


def test_short_gpu_memory_denoises_fewer_at_a_time_with_the_same_result(
    known: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    answer = known.network.denoiser.forward

    def small_gpu(x_t: Tensor, timesteps: Tensor, **condition: Tensor) -> Tensor:
        if len(x_t) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return answer(x_t, timesteps, **condition)

    volume = torch.rand(1, 4, 4, 4) - 0.5
    stages: list[tuple[int, int]] = []

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "denoise":
            stages.append((done, total))

    enough = translator(known)(volume, steps=2)
    known.network.denoiser.forward = small_gpu
    scarce = translator(known)(volume, steps=2, progress=watch)
    for name, made in enough.items():
        torch.testing.assert_close(scarce[name], made)
    assert "1 target(s) at a time" in caplog.text
    assert stages == [(done, 6) for done in range(1, 7)]


def test_values_that_are_no_image_are_refused(known: SimpleNamespace, head_file: Path) -> None:
    known.network.decode = lambda latent: latent * float("nan")
    with pytest.raises(ScanError, match="NaN") as caught:
        translator(known)(head_file, "t1", ["t2"])
    assert caught.value.code == "E_OUTPUT_NONFINITE"


@pytest.mark.parametrize(
    ("source", "targets", "message"),
    [
        ("t1", ["t1"], "already"),
        ("t1", ["t2", "T1w"], "already"),
        ("t1", ["pd"], "choose from t1, t1ce, t2, flair"),
        ("nonsense", None, "unknown modality 'nonsense'"),
        ("t1", [], "no target"),
    ],
)
def test_impossible_contrasts_are_refused(
    source: str, targets: list[str] | None, message: str, known: SimpleNamespace
) -> None:
    with pytest.raises(UsageError, match=message):
        translator(known)(torch.zeros(1, 4, 4, 4), source, targets)


def test_contrasts_go_by_their_other_names_and_default_to_all_others() -> None:
    known = ("t1", "t1ce", "t2", "flair")
    assert resolve_targets(known, "T1w", ["T1Gd", "t1ce"]) == ("t1", ["t1ce"])
    assert resolve_targets(known, "t2", None) == ("t2", ["t1", "t1ce", "flair"])


@pytest.mark.parametrize("steps", [-1, 1001])
def test_impossible_number_of_steps_is_refused(steps: int, known: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="0 to 1000"):
        translator(known)(torch.zeros(1, 4, 4, 4), steps=steps)


def test_scheduler_for_another_noise_schedule_is_refused(known: SimpleNamespace) -> None:
    known.scheduler.prediction_type = "epsilon"
    with pytest.raises(ValueError, match="prediction_type is sample, the scheduler's epsilon"):
        OneToMany(known.network, known.scheduler, steps=1)


def test_padding_is_background_behind_the_volume() -> None:
    padded = pad_to_multiple(torch.ones(1, 1, 4, 5, 8), 4)
    assert padded.shape == (1, 1, 4, 8, 8)
    assert (padded[..., :5, :] == 1).all() and (padded[..., 5:, :] == -1).all()
    assert pad_to_multiple(torch.ones(1, 1, 4, 5, 8), 4, least=(9, 5, 1)).shape[2:] == (12, 8, 8)


def test_networks_are_shown_the_least_size_they_ask_for(known: SimpleNamespace) -> None:
    sizes = []
    known.network.least_size = [12, 4, 10]
    known.network.denoiser.register_forward_pre_hook(
        lambda _, seen, __: sizes.append(tuple(seen[0].shape[2:])), with_kwargs=True
    )
    volume = torch.rand(1, 1, 8, 8, 8) - 0.5
    made = OneToMany(known.network, known.scheduler, steps=1)(volume, source="t1", targets=["t2"])
    assert sizes == [(12, 8, 12)]
    torch.testing.assert_close(made[:, 0], (volume + 2 * known.shift)[:, 0].clamp(-1, 1))


def test_bundle_gives_network_scheduler_steps_and_origin(
    tiny_bundle: Path, head_file: Path
) -> None:
    made = Translator.from_bundle(tiny_bundle, device="cpu")
    result = made(head_file, "t1", ["t2"])
    assert made.modalities == ("t1", "t1ce", "t2", "flair")
    assert result.steps == 2 and result.case_id == "scans.one_t1"
    assert result.origin is not None and result.origin[:2] == ("tiny", "9.8.7")
    assert result["t2"].shape == nib.load(head_file).shape
    assert set(result.seconds) == {"read", "prepare", "translate", "restore"}
    assert dataclasses.is_dataclass(result)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no bundle here"):
        Translator.from_bundle(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "network.yaml").write_text("steps: 3\n")
    with pytest.raises(WeightsError, match="network_def is missing"):
        Translator.from_bundle(tmp_path)


def test_networks_see_the_head_and_its_margin_wherever_it_lies() -> None:
    volume = torch.full((1, 1, 40, 30, 30), BACKGROUND)
    volume[0, 0, 10:20, 2:12, 20:30] = 0.5
    assert head_box(volume, margin=4) == [slice(6, 24), slice(0, 16), slice(16, 30)]
    assert head_box(torch.full((1, 1, 4, 5, 6), BACKGROUND)) == [slice(0, n) for n in (4, 5, 6)]


def test_empty_grid_around_the_head_changes_no_voxel_of_it(tiny_bundle: Path) -> None:
    translator = Translator.from_bundle(tiny_bundle, device="cpu")
    head = torch.rand(1, 16, 16, 16) - 0.5
    tight, wide = (F.pad(head, [pad] * 6, value=BACKGROUND) for pad in (4, 12))
    near = translator(tight, targets=["t2"], steps=0)["t2"]
    far = translator(wide, targets=["t2"], steps=0)["t2"]
    torch.testing.assert_close(far[:, 8:-8, 8:-8, 8:-8], near)
    assert (far[:, :8] == BACKGROUND).all()


def test_shifts_average_the_answers_at_each_place(tiny_bundle: Path) -> None:
    translator = Translator.from_bundle(tiny_bundle, device="cpu")
    volume = F.pad(torch.rand(1, 16, 16, 16) - 0.5, [4] * 6, value=BACKGROUND)

    def answer(shifts: list[list[int]]) -> torch.Tensor:
        translator.network.shifts = shifts
        return translator(volume, targets=["t2"], steps=0)["t2"]

    here, moved = answer([[0, 0, 0]]), answer([[1, 0, 2]])
    assert not torch.allclose(here, moved)
    torch.testing.assert_close(answer([[0, 0, 0], [1, 0, 2]]), (here + moved) / 2)
    torch.testing.assert_close(answer([]), here)
