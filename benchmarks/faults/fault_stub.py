"""A bundle whose network is the identity and takes 50 ms, to try faults with."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from torch import Tensor, nn

from voxlate.networks.prior import PriorOutput
from voxlate.pipelines import network_from_files, save_weights

SECONDS = "VOXLATE_STUB_SECONDS"  #: environment variable: how long a pass takes, instead of 0.05
KILLER = "VOXLATE_STUB_KILLER"  #: environment variable: a share of bright voxels that kills
BRIGHT = 0.1  #: share of voxels above 0.6 between those of ``head`` and of ``write_bright``

NETWORK = """
preprocessing_def:
  _target_: voxlate.data_prep.Preprocessing
  spacing: [2, 2, 2]
  size: [40, 48, 40]
scheduler_def:
  _target_: voxlate.networks.dpm_solver.DPMSolverScheduler
  prediction_type: sample
steps: 0
network_def:
  _target_: voxlate.networks.TranslationNetwork
  modalities: [t1, t1ce, t2, flair]
  quantized: false
  normalization: {percentiles: [0.5, 99.5]}
  schedule:
    num_train_timesteps: 1000
    beta_start: 0.0015
    beta_end: 0.0195
    prediction_type: sample
  autoencoder: {_target_: fault_stub.Identity}
  prior: {_target_: fault_stub.Source}
  denoiser: {_target_: torch.nn.Identity}
"""


class Identity(nn.Module):
    """An autoencoder of latents that are the volume itself; the encoder takes its time."""

    downsampling = 4

    def encode_continuous(self, volume: Tensor) -> Tensor:
        time.sleep(float(os.environ.get(SECONDS, "0.05")))
        if float((volume > 0.6).float().mean()) > float(os.environ.get(KILLER, "inf")):
            os.kill(os.getpid(), 9)
        return volume

    def decode(self, latent: Tensor) -> Tensor:
        return latent


class Source(nn.Module):
    """A prior that answers the source, a little brighter for each place of the target."""

    def forward(self, latents: Tensor, available: Tensor, target: Tensor) -> PriorOutput:
        source = latents[:, int(available[0].int().argmax())]
        return PriorOutput(source, source + 0.01 * target.view(-1, 1, 1, 1, 1))


def write_bundle(root: Path) -> Path:
    """Write the bundle; who reads it needs this folder on ``PYTHONPATH``."""
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "network.yaml").write_text(NETWORK)
    (root / "configs" / "metadata.json").write_text(json.dumps({"version": "0.0.0"}))
    save_weights(
        network_from_files([root / "configs" / "network.yaml"]).state_dict(),
        root / "models" / "model.pt",
    )
    return root


def head(seed: int) -> np.ndarray:
    """A textured ellipsoid on a cleared background, int16, 36 x 44 x 34."""
    shape = (36, 44, 34)
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    texture = 500 + 200 * np.sin((4 + seed % 3) * grid[0]) * np.cos(5 * grid[1]) + 100 * grid[2]
    values = texture + rng.normal(0, 5, shape)
    return np.where((grid**2).sum(0) < 0.8, values, 0).astype(np.int16)


def write_scans(root: Path, count: int) -> Path:
    """Write ``count`` different heads of 2 mm, ``case_000/t1.nii.gz`` and so on."""
    for index in range(count):
        path = root / f"case_{index:03d}" / "t1.nii.gz"
        path.parent.mkdir(parents=True)
        _write(path, head(index))
    return root


def write_bright(path: Path) -> None:
    """Write a head whose voxels are nearly all as bright as its brightest."""
    values = head(0)
    inside = values > 0
    values[inside] = 10_000 + values[inside]
    values[inside & (np.indices(values.shape).sum(0) % 16 == 0)] = 1
    _write(path, values)


def _write(path: Path, values: np.ndarray) -> None:
    image = nib.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0]))
    image.set_sform(image.affine, 1)
    image.to_filename(path)
