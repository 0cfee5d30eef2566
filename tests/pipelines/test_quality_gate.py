"""The gate between autoencoder and prior, on an autoencoder whose error is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from voxlate.data_prep import VoxlateError
from voxlate.networks import TranslationNetwork
from voxlate.networks.ema import ExponentialMovingAverage
from voxlate.pipelines.quality_gate import InBrainPSNR, StageEvaluator, check_quality, in_brain_psnr
from voxlate.pipelines.train_autoencoder import Reconstruct
from voxlate.pipelines.training_data import PreparedCase, ValidationVolumes

SCHEDULE = {
    "num_train_timesteps": 10,
    "beta_start": 0.001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}


class OffBy(nn.Module):
    """Reconstruct with a constant error."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error))

    def encode_continuous(self, volume: Tensor) -> Tensor:
        return volume

    def decode(self, latent: Tensor) -> Tensor:
        return latent + self.error


def evaluator(folder: Path, error: float, *, averaged: float | None = None) -> StageEvaluator:
    """An error outside the brain must not count: there the volume is wild."""
    rng = np.random.default_rng(0)
    mask = np.zeros((8, 8, 8), dtype=bool)
    mask[2:6, 2:6, 2:6] = True
    files = {}
    for name in ("t1", "t2"):
        volume = np.where(mask, rng.uniform(-0.9, 0.9, mask.shape), -1)
        np.save(folder / f"{name}.npy", volume.astype(np.float16))
        files[name] = folder / f"{name}.npy"
    np.save(folder / "mask.npy", mask)
    network = TranslationNetwork(
        OffBy(error),
        nn.Identity(),
        nn.Identity(),
        modalities=["t1", "t2"],
        quantized=False,
        normalization={},
        schedule=SCHEDULE,
    )
    ema = None
    if averaged is not None:
        ema = ExponentialMovingAverage(network.autoencoder)
        ema.average["error"].fill_(averaged)
    data = ValidationVolumes(
        [PreparedCase("case", files, folder / "mask.npy")], ["t1", "t2"], multiple=2
    )
    return StageEvaluator(
        network,
        device="cpu",
        val_data_loader=DataLoader(data, batch_size=2),
        inferer=Reconstruct(),
        ema=ema,
        precision="float32",
        key_val_metric={"psnr": InBrainPSNR(["t1", "t2"])},
    )


def test_psnr_is_that_of_the_unit_range_inside_the_mask() -> None:
    truth = torch.zeros(1, 4, 4, 4)
    mask = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    mask[:, 1:3] = True
    guess = torch.where(mask, 0.02, 0.9)  # 0.01 of the unit range inside
    assert in_brain_psnr(guess, truth, mask) == pytest.approx(40.0, abs=1e-4)
    assert in_brain_psnr(torch.full_like(truth, 3.0), torch.ones_like(truth), mask) > 99  # clipped


def test_gate_lets_a_good_autoencoder_through(tmp_path: Path) -> None:
    gate = evaluator(tmp_path, 0.02)
    assert check_quality(gate, bar=39.9) == pytest.approx(40.0, abs=0.01)
    assert gate.state.metrics["psnr_t2"] == pytest.approx(40.0, abs=0.01)


@pytest.mark.parametrize("force", [False, "false", "False"])
def test_gate_refuses_below_the_bar(tmp_path: Path, force: bool | str) -> None:
    with pytest.raises(VoxlateError, match=r"40\.00 dB.*40\.10 dB.*--force") as refusal:
        check_quality(evaluator(tmp_path, 0.02), bar=40.1, force=force)
    assert refusal.value.code == "E_QUALITY_GATE" and "\n" not in str(refusal.value)


@pytest.mark.parametrize("force", [True, "true"])
def test_force_goes_on_with_a_warning(
    tmp_path: Path, force: bool | str, caplog: pytest.LogCaptureFixture
) -> None:
    found = check_quality(evaluator(tmp_path, 0.05), bar=40, force=force)
    assert found == pytest.approx(32.04, abs=0.01)
    assert "because of force" in caplog.text


def test_gate_refuses_where_there_is_nothing_to_measure(tmp_path: Path) -> None:
    gate = evaluator(tmp_path, 0.02)
    gate.state.metrics = {}
    gate.state.epoch_length = 0
    with pytest.warns(UserWarning, match="empty"), pytest.raises(VoxlateError, match="nan dB"):
        check_quality(gate, bar=10)


def test_evaluation_uses_averaged_weights_and_puts_all_back(tmp_path: Path) -> None:
    gate = evaluator(tmp_path, 0.5, averaged=0.02)
    gate.network.train()
    gate.run()
    assert gate.state.metrics["psnr"] == pytest.approx(40.0, abs=0.01)
    assert gate.network.autoencoder.error.item() == 0.5
    assert all(module.training for module in gate.network.modules())
