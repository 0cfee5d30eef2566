"""MSG-LDM's bundle: four stages, both data sets and every ablation, on phantoms."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from voxlate.data_prep import load_datalist, save_datalist
from voxlate.networks.fusion import GatedFusion, MeanFusion
from voxlate.networks.high_frequency_injection import HighFrequencyInjection
from voxlate.networks.structure_enhancement import StructureEnhancement
from voxlate.pipelines import Translator, parts_from_files

STAGES = ("autoencoder", "structure", "prior", "denoiser")
CONFIGS = Path(__file__).parents[2] / "bundles/msg_brats/configs"
TINY_STAGE = {  # of the structure stage, which alone knows these keys
    "disentanglement::style_widths": [4, 4],
    "disentanglement::num_res_blocks": 1,
    "disentanglement::up_kernel_size": 3,
    "disentanglement::out_kernel_size": 3,
}
QUICK = {"warmup_steps": 0, "ema_decay": 0.5}  # two steps are to be seen
NETWORK_ABLATIONS = {
    "no_decoupling": GatedFusion,
    "no_high_frequency": HighFrequencyInjection,
    "no_enhancement": StructureEnhancement,
}


def train(bundle: Any, stages: tuple[str, ...], overlays: list[str], data: Path) -> None:
    for stage in stages:
        extra = {"structure": TINY_STAGE, "prior": QUICK}.get(stage, {})
        bundle.train([stage], overlays, data, **extra)


@pytest.fixture
def incomplete(phantoms: Path, tmp_path: Path) -> Path:
    """The phantoms as BraTS 2020, the second patient without T1ce and lesion map."""
    root = tmp_path / "incomplete"
    shutil.copytree(phantoms, root)
    modalities = ["t1", "t2", "t1ce", "flair"]
    training, validation = load_datalist(root / "datalist.json", modalities)
    del training[1].files["t1ce"], training[1].masks["lesion"]
    save_datalist(root / "brats2020.json", training, validation)
    return root


@pytest.mark.slow
def test_incomplete_cases_go_through_the_stages_and_a_case_is_completed(
    copied: Callable[..., Any], incomplete: Path
) -> None:
    bundle = copied("msg_brats")
    train(bundle, STAGES, ["brats2020"], incomplete)
    before, after = (
        torch.load(bundle.root / f"runs/{stage}/model.pt", weights_only=True)
        for stage in ("structure", "denoiser")
    )
    for name, value in before.items():
        if name.startswith(("autoencoder.", "prior.structure.")):
            assert torch.equal(value, after[name]), name  # later stages leave it as it is
    assert float(after["scale_factor"]) != 1.0
    parts = parts_from_files(bundle.network_files("brats2020"))
    parts.network.load_state_dict(after)
    translator = Translator(
        parts.network,
        preprocessing=parts.preprocessing,
        scheduler=parts.scheduler,
        steps=2,
        device="cpu",
    )
    case = incomplete / "patient03"
    made = translator(volumes={name: case / f"{name}.nii.gz" for name in ("t1", "flair")})
    assert set(made.volumes) == {"t2", "t1ce"}
    for scan in made.volumes.values():
        assert scan.shape == made.scan.shape and torch.isfinite(torch.as_tensor(scan)).all()


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["no_decoupling", "no_structure_loss", "no_style_loss"])
def test_ablation_trains(ablation: str, copied: Callable[..., Any], incomplete: Path) -> None:
    bundle = copied("msg_brats")
    stages = ("autoencoder", "prior") if ablation == "no_decoupling" else STAGES[:2]
    train(bundle, stages, ["brats2020", f"ablation_{ablation}"], incomplete)
    first, last = (
        torch.load(bundle.root / f"runs/{stage}/model.pt", weights_only=True) for stage in stages
    )
    name = "prior.structure.encoders.0.scales.0.enter.conv.weight"
    assert not torch.equal(first[name], last[name])  # whichever stage it is that teaches it


@pytest.mark.parametrize("ablation", [None, *NETWORK_ABLATIONS])
def test_ablation_leaves_out_what_it_says(ablation: str | None, copied: Callable[..., Any]) -> None:
    bundle = copied("msg_brats")
    overlays = [f"ablation_{ablation}"] if ablation else []
    structure = parts_from_files(bundle.network_files(*overlays)).network.prior.structure
    kinds = {type(module) for module in structure.modules()}
    for name, kind in NETWORK_ABLATIONS.items():
        assert (kind in kinds) == (name != ablation)
    assert (MeanFusion in kinds) == (ablation == "no_decoupling")


def test_losses_have_the_published_weights_and_ablations_take_them_away(
    copied: Callable[..., Any], incomplete: Path
) -> None:
    bundle = copied("msg_brats")
    found = {}
    for ablation in ("no_structure_loss", "no_style_loss", ""):
        overlays = [f"ablation_{ablation}"] if ablation else []
        names = ("train_structure", "brats2020", *overlays)
        options = {"kind": "train", "dataset_dir": str(incomplete), "initial_weights": None}
        workflow = bundle.workflow(*names, **options, **TINY_STAGE)
        losses = workflow.parser.get_parsed_content("stage_losses")
        found[ablation] = {**losses.weights, "spectra": losses.reconstruction.frequency_weight}
    published = {"reconstruction": 1, "segmentation": 2, "kl": 0.05, "style": 0.1, "spectra": 1}
    assert found[""] == published
    assert found["no_structure_loss"] == {**published, "spectra": 0}
    assert found["no_style_loss"] == {**published, "style": 0}


def test_structure_alone_is_all_that_the_denoiser_sees(copied: Callable[..., Any]) -> None:
    bundle = copied("msg_brats")
    for overlays, beside in (([], 4 + 4 * 4 + 4 + 4), (["structure_alone"], 4)):
        network = parts_from_files(bundle.network_files(*overlays)).network
        assert network.denoiser.concat_channels == beside


@pytest.mark.parametrize(
    ("overlay", "modalities", "classes"),
    [
        (None, ["t1", "t1ce", "t2", "flair"], 4),
        ("brats2020", ["t1", "t2", "t1ce", "flair"], 4),
        ("wmh2017", ["t1", "flair"], 2),
    ],
)
def test_data_set_overlays_say_contrasts_and_classes(
    overlay: str | None, modalities: list[str], classes: int
) -> None:
    parser = ConfigParser()
    names = ["train_structure", *([overlay] if overlay else [])]
    parser.read_config([str(CONFIGS / f"{name}.yaml") for name in names])
    assert len(parser["label_classes"]) == classes
    network = ConfigParser()
    names[0] = "network"
    network.read_config([str(CONFIGS / f"{name}.yaml") for name in names])
    assert network["modalities"] == modalities
    assert network.get_parsed_content("structure_def::num_modalities") == len(modalities)


def test_sizes_are_the_papers() -> None:
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "network.yaml"))
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    structure = network.prior.structure
    assert structure.channels == [32, 64, 128, 256] and structure.num_modalities == 4
    assert network.autoencoder.downsampling == 4
    assert network.denoiser.concat_channels == 256 + 4 * 4 + 4 + 4
    assert parser.get_parsed_content("steps") == 100
