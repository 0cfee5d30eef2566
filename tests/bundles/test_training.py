"""Every training configuration and overlay, run for two steps on phantoms with tiny networks."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from voxlate.networks import DDIMScheduler, DPMSolverScheduler, ResShiftScheduler
from voxlate.pipelines import parts_from_files

STAGES = ("autoencoder", "prior", "denoiser")
HELD_BACK = {"validation_subjects": ["patient03"]}  # of the bundle that splits by name
VQGAN_ONLY = {"autoencoder_def::num_codes": None, "autoencoder_def::norm_groups": None}
REPO = {
    "generator_def::stem_channels": None,
    "generator_def::res_channels": None,
    "generator_def::spade_channels": None,
    "generator_def::features": 4,
}
NO_GENERATOR = {
    f"generator_def::{key}": None
    for key in ("hidden", "stem_channels", "res_channels", "spade_channels")
}
KL = {
    **VQGAN_ONLY,
    "autoencoder_def::channels": None,
    "autoencoder_def::network::channels": [8, 8, 8],
    "autoencoder_def::network::norm_num_groups": 2,
}


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        *itertools.product(["aldm_brats", "dfbk_brats", "msg_brats"], STAGES),
        *(("brain_mri_translation", stage) for stage in (*STAGES, "regression")),
    ],
)
def test_training_configuration_has_every_property(
    name: str,
    stage: str,
    copied: Callable[..., Any],
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = copied(name)
    extra = HELD_BACK if name == "brain_mri_translation" else {}
    workflow = bundle.workflow(
        f"train_{stage}", kind="train", dataset_dir=str(phantoms), initial_weights=None, **extra
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.slow
def test_default_bundle_goes_through_its_stages(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("brain_mri_translation")
    bundle.train([*STAGES, "regression"], [], phantoms, **HELD_BACK)
    bundle.translate("regression", [], phantoms, tmp_path / "out", steps=2, targets=["t2"])
    state = torch.load(bundle.root / "runs/regression/model.pt", weights_only=True)
    assert state["regression.share"] == pytest.approx(0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overlays",
    [
        ["ablation_from_noise"],
        ["resshift"],
        ["resshift", "frequency_balance"],
        ["resshift", "knowledge_guidance"],
        ["resshift", "frequency_balance", "knowledge_guidance"],
        ["frequency_balance"],
    ],
    ids="+".join,
)
def test_default_bundle_trains_its_denoiser_under_overlays(
    overlays: list[str], copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("brain_mri_translation")
    stages_before = str(bundle.random_weights())
    bundle.train(["denoiser"], overlays, phantoms, initial_weights=stages_before, **HELD_BACK)
    bundle.translate("denoiser", overlays, phantoms, tmp_path / "out", steps=2, targets=["t2"])
    state = torch.load(bundle.root / "runs/denoiser/model.pt", weights_only=True)
    blocks = {"frequency_balance": ".balances.", "knowledge_guidance": ".guidance."}
    for name, place in blocks.items():
        assert any(place in key for key in state) == (name in overlays)
    parts = parts_from_files(bundle.network_files(*overlays))
    kind = {"resshift": ResShiftScheduler, "ablation_from_noise": DDIMScheduler}
    assert isinstance(parts.scheduler, kind.get(overlays[0], DPMSolverScheduler))


@pytest.mark.slow
def test_paper_goes_through_its_stages_with_every_loss_that_needs_no_weights(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("aldm_brats")
    learns = bundle.workflow(
        "train_autoencoder",
        kind="train",
        dataset_dir=str(phantoms),
        cycle_weight=1.0,
    )
    learns.initialize()
    generator = learns.trainer.network.prior.parameters()
    stepped = {id(p) for group in learns.trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in generator} <= stepped  # ALDM's code forgot it
    bundle.train(STAGES[:1], [], phantoms, cycle_weight=1.0)
    bundle.train(STAGES[1:], [], phantoms)
    bundle.translate("denoiser", [], phantoms, tmp_path / "out", steps=2)
    spade = ["ablation_ms_spade_only"]
    bundle.translate("prior", spade, phantoms, tmp_path / "ms_spade")
    assert bundle.workflow("inference", *spade, kind="infer").parser["steps"] == 0


@pytest.mark.slow
def test_public_code_on_brats_goes_through_its_stages(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("aldm_brats", network=REPO)
    (phantoms / "brats2021.json").write_bytes((phantoms / "datalist.json").read_bytes())
    overlays = ["network_repo", "brats2021"]
    bundle.train(STAGES, overlays, phantoms)
    bundle.translate("denoiser", overlays, phantoms, tmp_path / "out", targets=["flair"])
    state = torch.load(bundle.root / "runs/denoiser/model.pt", weights_only=True)
    assert state["denoiser.conv_in.weight"].shape[1] == 3 * 4  # x_t, source, target-like
    assert "denoiser.modality_embedding.weight" in state


@pytest.mark.slow
def test_ixi_goes_through_its_stages(
    copied: Callable[..., Any], phantoms_with_pd: Path, tmp_path: Path
) -> None:
    bundle = copied("aldm_brats")
    list_file = phantoms_with_pd / "datalist.json"
    (phantoms_with_pd / "ixi.json").write_bytes(list_file.read_bytes())
    bundle.train(STAGES, ["ixi"], phantoms_with_pd)
    out = tmp_path / "out"
    bundle.translate("denoiser", ["ixi"], phantoms_with_pd, out, steps=2, targets=["pd"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ablation", "network", "stages", "concat"),
    [
        ("diffusion_only", NO_GENERATOR, ("autoencoder", "denoiser"), 0),
        ("palette_concat", NO_GENERATOR, ("autoencoder", "denoiser"), 1),
        ("kl", KL, STAGES, 1),
    ],
)
def test_ablation_goes_through_its_stages(
    ablation: str,
    network: dict[str, Any],
    stages: tuple[str, ...],
    concat: int,
    copied: Callable[..., Any],
    phantoms: Path,
    tmp_path: Path,
) -> None:
    bundle = copied("aldm_brats", network=network)
    overlays = [f"ablation_{ablation}"]
    bundle.train(stages, overlays, phantoms)
    bundle.translate("denoiser", overlays, phantoms, tmp_path / "out", steps=2, targets=["t2"])
    state = torch.load(bundle.root / "runs/denoiser/model.pt", weights_only=True)
    assert state["denoiser.conv_in.weight"].shape[1] == (1 + concat) * 3
    assert float(state["scale_factor"]) != 1.0
    assert any("generator" in key for key in state) == (ablation == "kl")


@pytest.mark.parametrize(
    ("overlay", "modalities", "size"),
    [
        ("brats2021", ["t1", "t1ce", "t2", "flair"], [192, 192, 144]),
        ("ixi", ["t1", "t2", "pd"], [256, 160, 224]),
    ],
)
def test_data_set_overlays_say_contrasts_and_grid(
    overlay: str, modalities: list[str], size: list[int], copied: Callable[..., Any]
) -> None:
    parser = ConfigParser()
    parser.read_config(copied("aldm_brats").files("network", overlay))
    assert parser["modalities"] == modalities
    prepared = parser.get_parsed_content("preprocessing_def")
    assert list(prepared.size) == size
    assert prepared.percentiles == (0.5, 99.5)


@pytest.mark.slow
def test_two_processes_train_together(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path, importable: dict[str, str]
) -> None:
    bundle = copied("brain_mri_translation")
    files = bundle.files("train_autoencoder", "multi_gpu_train", "tiny")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [sys.executable, *launch, "-m", "monai.bundle", "run", "--config_file", str(files)]
    command += ["--bundle_root", str(bundle.root), "--dataset_dir", str(phantoms)]
    command += ["--validation_subjects", "['patient03']", "--threads", "1"]
    subprocess.run(command, env=importable, check=True, timeout=300, cwd=tmp_path)
    assert (bundle.root / "runs/autoencoder/model.pt").is_file()
    events = list((bundle.root / "runs/autoencoder/tensorboard").glob("events*"))
    assert len(events) == 2  # training and validation, of one rank


@pytest.mark.slow
def test_tracking_keeps_the_losses(copied: Callable[..., Any], phantoms: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra 'tracking' is not installed")
    bundle = copied("brain_mri_translation")
    bundle.run(
        "train_autoencoder",
        kind="train",
        dataset_dir=str(phantoms),
        tracking=str(bundle.configs / "tracking.yaml"),
        **HELD_BACK,
    )
    database = bundle.root / "runs" / "autoencoder" / "mlruns.db"
    client = mlflow.MlflowClient(f"sqlite:///{database}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "voxlate"]
    runs = client.search_runs([experiment.experiment_id])
    assert any("loss" in run.data.metrics for run in runs)
