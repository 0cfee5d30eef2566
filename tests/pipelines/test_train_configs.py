"""The default bundle's training configurations, one after the other, on a tiny network."""

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from typer.testing import CliRunner

from voxlate.data_prep import VoxlateError
from voxlate.data_prep.phantom import write_phantom_case
from voxlate.pipelines.cli import app

BUNDLE = Path(__file__).parents[2] / "bundles" / "brain_mri_translation"
STAGES = ["autoencoder", "prior", "denoiser", "regression"]
TINY = """
preprocessing_def:
  _target_: voxlate.data_prep.Preprocessing
  spacing: [4, 4, 4]
  size: [36, 44, 36]
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
    channels: [4]
    latent_channels: 4
    num_codes: 8
    stem_levels: 1
    norm_groups: 2
    linear_skip: true
  prior:
    _target_: voxlate.networks.prior.MSSpadePrior
    generator:
      _target_: voxlate.networks.ms_spade.MSSpadeGenerator
      latent_channels: 4
      num_modalities: 4
      features: 4
      hidden: 4
  denoiser:
    _target_: voxlate.networks.denoiser.Denoiser
    latent_channels: 4
    concat_channels: 8
    channels: [8, 8]
    attention_levels: [false, false]
    num_head_channels: 8
    norm_groups: 4
  regression:
    _target_: voxlate.networks.volume_regression.VolumeRegression
    num_modalities: 4
    widths: [8, 8, 8, 8, 8, 8]
    norm_groups: 2
"""


SHIFTING = """
scheduler_def:
  _target_: voxlate.networks.resshift.ResShiftScheduler
  kappa: 1.0
steps: 4
network_def::schedule:
  num_train_timesteps: 4
  kappa: 1.0
  power: 0.3
  min_noise_level: 0.2
  etas_end: 0.99
  pixel_space: false
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("patient01", "patient19")):
        write_phantom_case(folder / "scans" / name, (38, 46, 36), seed=seed, spacing=4.0)
    (folder / "network.yaml").write_text(TINY, encoding="utf-8")
    return folder


def workflow(stage: str, folder: Path, **options: Any) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / f"train_{stage}.yaml"),
        meta_file=None,
        logging_file=False,
        workflow_type="train",
        bundle_root=str(BUNDLE),
        dataset_dir=str(folder / "scans"),
        validation_subjects=["patient19"],
        max_steps=2,
        steps_per_epoch=2,
        crop_size=32,
        batch_size=2,
        log_every=1,
        device="cpu",
        precision="float32",
        **{
            "runs_dir": str(folder),
            "network_files": [str(folder / "network.yaml")],
            **options,
        },
    )


@pytest.mark.filterwarnings("ignore")
def test_the_stages_build_on_each_other(folder: Path) -> None:
    scales = {}
    for stage in STAGES:
        options = {"adversarial_start": 1} if stage == "autoencoder" else {}
        if stage == "prior":
            options = {"quality_bar": 5.0}
        flow = workflow(stage, folder, **options)
        flow.initialize()
        assert not [name for name in flow.check_properties() or [] if name != "version"]
        flow.run()
        flow.finalize()
        assert len(list((folder / stage / "pictures").glob("*.png"))) == 3
        assert list((folder / stage / "tensorboard").glob("events*"))
        scales[stage] = torch.load(folder / stage / "model.pt", weights_only=True)["scale_factor"]
    assert scales["autoencoder"] == 1
    assert scales["prior"] == scales["denoiser"] == scales["regression"]
    assert 0 < scales["prior"] < 10
    states = [
        torch.load(folder / stage / "model.pt", weights_only=True)
        for stage in ("prior", "denoiser", "regression")
    ]
    for learned, before, after in zip(("denoiser", "regression"), states, states[1:], strict=False):
        changed = {
            name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])
        }
        assert changed == {learned}
    assert states[1]["regression.share"] == 0 and states[2]["regression.share"] > 0
    refused = workflow("prior", folder, quality_bar=90.0)
    refused.initialize()
    with pytest.raises((VoxlateError, RuntimeError)) as error:
        refused.run()
    assert isinstance(error.value.__cause__ or error.value, VoxlateError)


@pytest.mark.filterwarnings("ignore")
def test_an_overlay_trains_resshift_and_its_bundle_translates(folder: Path, tmp_path: Path) -> None:
    files = [folder / "network.yaml", tmp_path / "shifting.yaml"]
    files[1].write_text(SHIFTING, encoding="utf-8")
    options: dict[str, Any] = {
        "runs_dir": str(tmp_path),
        "initial_weights": None,
        "network_files": [str(file) for file in files],
        "train::trainer::loss_weights": "$@scheduler.loss_weights",
    }
    flow = workflow("denoiser", folder, **options)
    flow.initialize()
    flow.run()
    flow.finalize()
    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "models").mkdir()
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.export_config_file(parser.get(), str(bundle / "configs" / "network.yaml"), fmt="yaml")
    (tmp_path / "denoiser" / "model.pt").rename(bundle / "models" / "model.pt")
    scan = next((folder / "scans").rglob("*t1.nii.gz"))
    arguments = ["translate", str(scan), "--bundle", str(bundle), "--device", "cpu"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 3
    wrong = [*arguments, "--output", str(tmp_path / "more"), "--steps", "5"]
    result = CliRunner().invoke(app, wrong)
    assert result.exit_code == 2 and "give 0 to 4" in result.output
    assert not (tmp_path / "more").exists()
