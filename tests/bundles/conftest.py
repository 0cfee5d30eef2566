"""Copies of the bundles with networks small enough for tests, and phantoms to run them on."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow

from voxlate.data_prep import find_cases, save_datalist, split_by_subject, write_phantom_case
from voxlate.pipelines import network_from_files, save_weights

ROOT = Path(__file__).parents[2]
NAMES = ("aldm_brats", "brain_mri_completion", "brain_mri_translation", "dfbk_brats", "msg_brats")
BUNDLES = {name: ROOT / "bundles" / name for name in NAMES}
VOLUME = {"spacing": [6.0, 6.0, 6.0], "size": [24, 24, 24]}
TINY_NETWORK = {
    "brain_mri_translation": {
        "steps": 2,
        **{f"preprocessing_def::{name}": value for name, value in VOLUME.items()},
        "network_def::normalization::spacing": VOLUME["spacing"],
    },
    "brain_mri_completion": {
        **{f"preprocessing_def::{name}": value for name, value in VOLUME.items()},
        "network_def::normalization::spacing": VOLUME["spacing"],
        "path_def::features": 16,
    },
    "aldm_brats": {
        "steps": 2,
        **{f"preprocessing_def::{name}": value for name, value in VOLUME.items()},
        "autoencoder_def::channels": [4, 4, 8],
        "autoencoder_def::num_codes": 16,
        "autoencoder_def::norm_groups": 2,
        "generator_def::hidden": 4,
        "generator_def::stem_channels": 4,
        "generator_def::res_channels": [4],
        "generator_def::spade_channels": [4, 4],
        "denoiser_def::channels": [8, 8, 8],
        "denoiser_def::num_head_channels": 4,
        "denoiser_def::norm_groups": 2,
    },
    "dfbk_brats": {
        "steps": 2,
        **{f"preprocessing_def::{name}": value for name, value in VOLUME.items()},
        "autoencoder_def::channels": [4, 4, 8],
        "autoencoder_def::num_codes": 16,
        "autoencoder_def::norm_groups": 2,
        "generator_def::features": 4,
        "generator_def::hidden": 4,
        "denoiser_def::channels": [8, 8, 8],
        "denoiser_def::num_head_channels": 4,
        "denoiser_def::norm_groups": 2,
        "balance::head_channels": 4,
        "guidance::head_channels": 4,
    },
    "msg_brats": {
        "steps": 2,
        **{f"preprocessing_def::{name}": value for name, value in VOLUME.items()},
        "autoencoder_def::channels": [4, 8],
        "autoencoder_def::num_codes": 16,
        "autoencoder_def::norm_groups": 2,
        "structure_def::channels": [4, 8],
        "prior_def::condition_channels": 4,
        "prior_def::features": 4,
        "prior_def::norm_groups": 2,
        "denoiser_def::channels": [8, 8, 8],
        "denoiser_def::num_head_channels": 4,
        "denoiser_def::norm_groups": 2,
    },
}
TINY_SLICES = {  # in place of what is tiny of the latent form
    "slice_size": 28,
    "slice_channels": [8, 8],
    "slice_attention": [False, True],
    "denoiser_def::network::num_head_channels": 4,
    "denoiser_def::network::norm_groups": 2,
    "denoiser_def::network::swin::embed_channels": 8,
}
TINY_TRAINING = {
    "max_steps": 2,
    "steps_per_epoch": 2,
    "val_interval": 1,
    "checkpoint_every": 2,
    "log_every": 1,
    "adversarial_start": 1,
    "crop_size": 24,
    "precision": "float32",
    "device": "cpu",
    "force": True,
}


class Bundle:
    """A copy of a bundle, with an overlay ``tiny.yaml`` that makes it quick.

    Args:
        root: Folder of the copy.
        network: Network keys to change, by nested id; ``None`` removes one.
        training: Training keys to change.
    """

    def __init__(self, root: Path, network: Mapping[str, Any], training: Mapping[str, Any]) -> None:
        self.root, self.configs = root, root / "configs"
        self.network, self.training = network, training
        own = self.configs / "tiny_network.yaml"
        own.write_text(yaml.safe_dump({k: v for k, v in network.items() if v is not None}))
        overlay = {**training, "+network_files": ["$@bundle_root + '/configs/tiny_network.yaml'"]}
        (self.configs / "tiny.yaml").write_text(yaml.safe_dump(overlay))

    def files(self, *names: str) -> list[str]:
        return [str(self.configs / f"{name}.yaml") for name in names]

    def network_files(self, *overlays: str) -> list[str]:
        return self.files("network", *overlays, "tiny_network")

    def random_weights(self, *overlays: str) -> Path:
        network = network_from_files(self.network_files(*overlays))
        for name, weight in network.denoiser.named_parameters():
            if name.endswith("conv_out.weight"):
                torch.nn.init.normal_(weight, std=0.1)  # zero: noise is unseen
        path = self.root / "models" / "model.pt"
        save_weights(network.state_dict(), path)
        return path

    def shrink(self) -> None:
        """Write what is tiny into the copy's own files, so that no overlay is needed."""
        for path in self.configs.glob("*.yaml"):
            config = yaml.safe_load(path.read_text())
            changes = {"network": self.network, "network_2d": TINY_SLICES}.get(path.stem, {})
            if path.stem.startswith("train_"):
                changes = self.training
            elif not path.stem.startswith("network") and "preprocessing_def" in config:
                changes = {k: v for k, v in self.network.items() if k.startswith("preprocessing")}
            for key, value in changes.items():
                *outer, last = key.split("::")
                place = config
                for part in outer:
                    place = place[part]
                place[last] = value
            path.write_text(yaml.safe_dump(config, sort_keys=False))

    def workflow(self, *names: str, kind: str, **override: Any) -> ConfigWorkflow:
        return ConfigWorkflow(
            self.files(*names, "tiny"),
            meta_file=str(self.configs / "metadata.json"),
            logging_file=False,
            workflow_type=kind,
            bundle_root=str(self.root),
            **override,
        )

    def run(self, *names: str, kind: str, **override: Any) -> ConfigWorkflow:
        workflow = self.workflow(*names, kind=kind, **override)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return workflow

    def train(
        self, stages: Sequence[str], overlays: Sequence[str], data: Path, **override: Any
    ) -> None:
        """Take two steps of each stage; weights and the validation's figure are numbers."""
        for stage in stages:
            workflow = self.run(
                f"train_{stage}", *overlays, kind="train", dataset_dir=str(data), **override
            )
            assert workflow.trainer.state.iteration == 2
            (metrics,) = [v for k, v in workflow.evaluator.state.metrics.items() if k == "psnr"]
            assert metrics == metrics
            state = torch.load(self.root / "runs" / stage / "model.pt", weights_only=True)
            assert all(bool(value.isfinite().all()) for value in state.values())

    def translate(
        self, stage: str, overlays: Sequence[str], data: Path, out: Path, **options: Any
    ) -> None:
        """Translate a folder with the weights of a stage."""
        self.run(
            "inference",
            *overlays,
            kind="infer",
            dataset_dir=str(data),
            output_dir=str(out),
            weights=str(self.root / "runs" / stage / "model.pt"),
            **options,
        )
        assert len(list(out.rglob("*.nii.gz"))) >= 3


@pytest.fixture
def copied(tmp_path: Path) -> Callable[..., Bundle]:
    """Copy a bundle without its weights."""

    def copy(
        name: str,
        *,
        network: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        slices: bool = False,
    ) -> Bundle:
        root = tmp_path / name
        ignored = shutil.ignore_patterns("*.pt", "runs", "eval", "__pycache__")
        shutil.copytree(BUNDLES[name], root, ignore=ignored)
        tiny, steps = dict(TINY_NETWORK[name]), dict(TINY_TRAINING)
        if slices:
            volumes = ("autoencoder_def", "generator_def", "denoiser_def")
            tiny = {k: None if k.startswith(volumes) else v for k, v in tiny.items()} | TINY_SLICES
            steps["crop_size"] = [28, 28, 1]
        return Bundle(root, {**tiny, **(network or {})}, {**steps, **(training or {})})

    return copy


def phantom_set(
    root: Path, modalities: Sequence[str], called: Mapping[str, str] | None = None
) -> Path:
    """Three patients; contrasts that the phantom lacks are others, ``called`` by their names."""
    names = dict(called or {})
    for number in (1, 2, 3):
        folder = root / f"patient{number:02d}"
        write_phantom_case(folder, (64, 72, 64), seed=number, spacing=2.0, modalities=modalities)
        for modality, name in names.items():
            (folder / f"{modality}.nii.gz").rename(folder / f"{name}.nii.gz")
    modalities = [names.get(modality, modality) for modality in modalities]
    train, validation = split_by_subject(find_cases(root, modalities), validation=["patient03"])
    save_datalist(root / "datalist.json", train, validation)
    return root


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients with four contrasts, and a data list that keeps the third for validation."""
    return phantom_set(tmp_path_factory.mktemp("phantoms"), ("t1", "t1ce", "t2", "flair"))


@pytest.fixture(scope="session")
def phantoms_with_pd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients with the contrasts of IXI."""
    return phantom_set(tmp_path_factory.mktemp("phantoms_pd"), ("t1", "t2", "pd"))


@pytest.fixture(scope="session")
def phantoms_with_dwi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients with the contrasts of ISLES that its overlay names."""
    root = tmp_path_factory.mktemp("phantoms_dwi")
    return phantom_set(root, ("t1", "flair", "t2"), {"t2": "dwi"})


@pytest.fixture(scope="session")
def phantoms_with_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients with the files of SynthRAD."""
    root = tmp_path_factory.mktemp("phantoms_ct")
    return phantom_set(root, ("t1", "t2"), {"t1": "mr", "t2": "ct"})


@pytest.fixture(scope="session")
def schemas_dir() -> Path:
    """The model zoo's schemas of metadata.json."""
    folder = Path(os.environ.get("VOXLATE_SCHEMAS", ROOT / "../shared/schemas"))
    if not folder.is_dir():
        pytest.skip(f"VOXLATE_SCHEMAS names no folder ({folder} is absent)")
    return folder
