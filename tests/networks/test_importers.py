"""Importers against the reference's own numbers, and against what a checkpoint must not have."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from voxlate.networks import VQGAN
from voxlate.networks.importers import ms_spade_from_aldm, vqgan_from_aldm

VECTORS = Path(os.environ.get("VOXLATE_VECTORS", Path(__file__).parents[3] / "shared" / "vectors"))


def vectors(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = VECTORS / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no reference vectors at {path} (set VOXLATE_VECTORS)")
    arrays = {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(path).items()}
    return arrays, json.loads(path.with_suffix(".json").read_text())["config"]


def group(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def aldm_state_dict(arrays: dict[str, Tensor], channels: int, codes: int = 8) -> dict[str, Tensor]:
    """Encoder and decoder of the vectors as one VQModel state dict; the 1x1 convolutions are identities."""
    identity = torch.eye(channels)[..., None, None, None]
    weights = {f"encoder.{key}": value for key, value in group(arrays, "w_enc/").items()}
    weights |= {f"decoder.{key}": value for key, value in group(arrays, "w_dec/").items()}
    for name in ("quant_conv", "post_quant_conv"):
        weights |= {f"{name}.weight": identity, f"{name}.bias": torch.zeros(channels)}
    return weights | {"quantize.embedding.weight": torch.randn(codes, channels)}


def test_vqgan_equals_the_reference() -> None:
    arrays, config = vectors("aldm_autoencoder_3d")
    model = vqgan_from_aldm(aldm_state_dict(arrays, 3), ddconfig=config, n_embed=8, embed_dim=3)
    with torch.no_grad():
        continuous = model.encode(arrays["in/x"]).continuous
        decoded = model.decode(arrays["in/z"])
    torch.testing.assert_close(continuous, arrays["out/h"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoded, arrays["out/x"], rtol=1e-4, atol=1e-5)
