"""Half-precision weights: close, exact where they must be, refused where they do not fit."""

from pathlib import Path

import pytest
import torch

from voxlate.data_prep import WeightsError
from voxlate.pipelines.bundle import read_bundle
from voxlate.pipelines.checkpoint import read_weights, save_weights
from voxlate.pipelines.ship_weights import in_half_precision, main


def test_shipped_weights_load_into_the_same_bundle_and_are_close(tiny_bundle: Path) -> None:
    file = tiny_bundle / "models" / "model.pt"
    before = read_weights(file)
    before["scale_factor"] = torch.tensor(1.2345678)
    save_weights(before, file)
    assert main([str(file), str(file)]) == 0
    network = read_bundle(tiny_bundle)[0].network
    for name, value in network.state_dict().items():
        tolerance = 0 if name in ("scale_factor", "contract") else 2**-10
        torch.testing.assert_close(value, before[name], rtol=tolerance, atol=tolerance * 1e-3)


def test_weights_beyond_half_precision_are_refused() -> None:
    with pytest.raises(WeightsError, match="conv does not fit"):
        in_half_precision({"conv": torch.tensor([1e6])})


def test_missing_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.pt"), str(tmp_path / "out.pt")]) == 5
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.pt").exists()
