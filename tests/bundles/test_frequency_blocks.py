"""The shipped weights under an overlay that switches frequency balance and guidance on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

BUNDLE = Path(__file__).parents[2] / "bundles" / "brain_mri_translation"


def network(**denoiser: Any) -> torch.nn.Module:
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "network.yaml"))
    parser["bundle_root"] = str(BUNDLE)
    for name, value in denoiser.items():
        parser[f"network_def::denoiser::{name}"] = value
    return parser.get_parsed_content("network_def").eval()


def test_blocks_leave_the_shipped_denoiser_as_it_is_until_trained() -> None:
    weights = BUNDLE / "models" / "model.pt"
    if not weights.is_file():
        pytest.skip("the bundle has no weights")
    plain = network()
    blocks = network(
        frequency_balance={"levels": [False, True, True]},
        knowledge_guidance={"text_channels": 768},
    )
    state = torch.load(weights, map_location="cpu", weights_only=True)
    plain.load_state_dict(state)
    found = blocks.load_state_dict(state, strict=False)
    assert not found.unexpected_keys and found.missing_keys
    assert all(".balances." in key or ".guidance." in key for key in found.missing_keys)
    generator = torch.Generator().manual_seed(0)
    given = {
        "x_t": torch.randn(1, 32, 9, 8, 7, generator=generator),
        "timesteps": torch.tensor([150]),
        "concat": torch.randn(1, 64, 9, 8, 7, generator=generator),
        "modality": torch.tensor([1]),
    }
    text = torch.randn(1, 20, 768, generator=generator)
    with torch.inference_mode():
        expected = plain.denoiser(**given)
        assert torch.equal(blocks.denoiser(**given, text=text), expected)
