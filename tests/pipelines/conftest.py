"""A head small enough for tests, a network whose answer is known, and a tiny bundle."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from voxlate.data_prep import Preprocessing
from voxlate.data_prep.phantom import write_phantom_case
from voxlate.networks import TranslationNetwork
from voxlate.networks.dpm_solver import DPMSolverScheduler
from voxlate.networks.prior import PriorOutput
from voxlate.pipelines import batch as batch_module
from voxlate.pipelines import network_from_files, save_weights
from voxlate.pipelines.batch_worker import job_from, run_order
from voxlate.pipelines.case_list import CaseJob
from voxlate.pipelines.failures import StopBatch
from voxlate.pipelines.supervisor import Supervisor, _Worker

FAULTS = Path(__file__).parents[2] / "benchmarks" / "faults"
MODALITIES = ("t1", "t1ce", "t2", "flair")
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "sample",
}
SHIFT = 0.1  # of the known answer, for each place in the list of modalities

NETWORK_YAML = """
preprocessing_def:
  _target_: voxlate.data_prep.Preprocessing
  spacing: [2, 2, 2]
  size: [40, 48, 40]
scheduler_def:
  _target_: voxlate.networks.dpm_solver.DPMSolverScheduler
  prediction_type: v_prediction
steps: 2
network_def:
  _target_: voxlate.networks.TranslationNetwork
  modalities: [t1, t1ce, t2, flair]
  quantized: false
  normalization: {percentiles: [0.5, 99.5]}
  schedule:
    num_train_timesteps: 1000
    beta_start: 0.0015
    beta_end: 0.0195
    prediction_type: v_prediction
  autoencoder:
    _target_: voxlate.networks.VQGAN
    channels: [4, 4]
    latent_channels: 2
    num_codes: 8
    stem_levels: 1
    norm_groups: 2
  prior:
    _target_: voxlate.networks.prior.MSSpadePrior
    generator: null
    concat: [source]
  denoiser:
    _target_: voxlate.networks.denoiser.Denoiser
    latent_channels: 2
    concat_channels: 2
    channels: [4, 4]
    attention_levels: [false, false]
    num_head_channels: 4
    norm_groups: 2
"""


def several_contrasts() -> str:
    """The tiny network with a prior that takes several contrasts."""
    config = yaml.safe_load(NETWORK_YAML)
    config["preprocessing_def"] |= {"spacing": [3.5] * 3, "size": [44, 52, 40]}
    network = config["network_def"]
    network["autoencoder"]["channels"] = [4]
    network["denoiser"]["concat_channels"] = 18
    structure = {
        "_target_": "voxlate.networks.structure.SharedStructure",
        "num_modalities": 4,
        "channels": [4, 8],
    }
    network["prior"] = {
        "_target_": "voxlate.networks.structure_prior.StructurePrior",
        "structure": structure,
        "latent_channels": 2,
        "downsampling": 2,
        "condition_channels": 4,
        "features": 8,
        "norm_groups": 4,
    }
    return yaml.safe_dump(config, sort_keys=False)


class Identity(nn.Module):
    """An autoencoder of latents that are the volume itself."""

    downsampling = 4

    def encode_continuous(self, volume: Tensor) -> Tensor:
        return volume

    def decode(self, latent: Tensor) -> Tensor:
        return latent


class Shift(nn.Module):
    """A prior that answers source + SHIFT * target index."""

    def forward(self, latents: Tensor, available: Tensor, target: Tensor) -> PriorOutput:
        rows = torch.arange(len(target), device=target.device)
        source = latents[rows, available.int().argmax(1)]
        return PriorOutput(source, source + SHIFT * target.view(-1, 1, 1, 1, 1))


class Answer(nn.Module):
    """A denoiser that knows the clean latent: its condition, shifted by the modality."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(
        self, x_t: Tensor, timesteps: Tensor, *, concat: Tensor, modality: Tensor
    ) -> Tensor:
        self.batches.append(len(x_t))
        return concat + SHIFT * modality.view(-1, 1, 1, 1, 1)


class Inline(Supervisor):
    """Runs the one worker's cases here; what a process would tell by JSON still goes through it."""

    def run(self, jobs: Sequence[CaseJob]) -> None:
        worker = _Worker("cpu", {job.id: job for job in jobs})
        told = json.loads(json.dumps([asdict(job) for job in jobs]))
        assert [job_from(fields) for fields in told] == list(jobs)
        order = {**self.order, "device": "cpu", "alone": told, "jobs": []}

        def emit(event: str, fields: dict[str, Any]) -> None:
            self._take(worker, json.loads(json.dumps({"event": event, **fields})))

        try:
            run_order(order, emit)
        except StopBatch as stop:
            raise stop.error from stop


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> type[Supervisor]:
    """Batches run their worker in this process."""
    monkeypatch.setattr(batch_module, "Supervisor", Inline)
    return Inline


@pytest.fixture
def known() -> SimpleNamespace:
    """A network that adds SHIFT * target index to the source, with preprocessing and scheduler."""
    network = TranslationNetwork(
        Identity(),
        Shift(),
        Answer(),
        modalities=MODALITIES,
        quantized=False,
        normalization={"percentiles": [0.5, 99.5]},
        schedule=SCHEDULE,
    )
    return SimpleNamespace(
        network=network,
        preprocessing=Preprocessing(spacing=(2, 2, 2), size=(40, 48, 40)),
        scheduler=DPMSolverScheduler(prediction_type="sample"),
        shift=SHIFT,
    )


def head(stripped: bool = True) -> np.ndarray:
    """An ellipsoid with smooth texture, on a cleared or a noisy background."""
    shape = (36, 44, 34)
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    inside = (grid**2).sum(0) < 0.8
    texture = 500 + 200 * np.sin(4 * grid[0]) * np.cos(5 * grid[1]) + 100 * grid[2]
    noise = rng.normal(0, 5, shape)
    return np.where(inside, texture + noise, 0 if stripped else np.abs(noise)).astype(np.int16)


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    """A skull-stripped head in LPS order with axes permuted, 2 mm, int16."""
    affine = np.array([[0, -2.0, 0, 50], [-2.0, 0, 0, 40], [0, 0, 2.0, -30], [0, 0, 0, 1]])
    image = nib.Nifti1Image(head(), affine)
    image.header["descrip"] = b"PATIENT DOE"
    image.set_sform(affine, 4)
    image.set_qform(affine, 1)
    image.to_filename(tmp_path / "scans.one_t1.nii.gz")
    return tmp_path / "scans.one_t1.nii.gz"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle with random weights."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny", NETWORK_YAML)


@pytest.fixture(scope="session")
def several_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle that takes several contrasts, with random weights."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "several", several_contrasts())


def write_bundle(root: Path, network_yaml: str) -> Path:
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "network.yaml").write_text(network_yaml)
    (root / "configs" / "metadata.json").write_text('{"version": "9.8.7"}')
    torch.manual_seed(0)
    network = network_from_files([root / "configs" / "network.yaml"])
    save_weights(network.state_dict(), root / "models" / "model.pt")
    return root


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a phantom's four contrasts on one grid."""
    folder = tmp_path_factory.mktemp("patient")
    write_phantom_case(folder, (44, 52, 42), seed=3, spacing=3.5, modalities=MODALITIES)
    return folder


@pytest.fixture(scope="module")
def faults() -> Iterator[SimpleNamespace]:
    """The modules of benchmarks/faults."""
    sys.path.insert(0, str(FAULTS))  # the bundle's configuration names the stub as the workers do
    import bench
    import checkout
    import everyday
    import trials

    yield SimpleNamespace(bench=bench, checkout=checkout, everyday=everyday, trials=trials)
    sys.path.remove(str(FAULTS))


@pytest.fixture(scope="module")
def bench(faults: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The stub bundle, twenty scans, and a process that forks workers."""
    folder = tmp_path_factory.mktemp("faults")
    made = faults.bench.Bench(folder / "bench", 20, faults.checkout.package(folder / "package"))
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)
