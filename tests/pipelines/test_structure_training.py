"""The structure stage and what follows it, on phantoms: incomplete cases, seeds, exact resume."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from voxlate.data_prep import Preprocessing
from voxlate.data_prep.cases import Case, find_cases
from voxlate.data_prep.phantom import write_phantom_case
from voxlate.networks import VQGAN, TranslationNetwork
from voxlate.networks.denoiser import Denoiser
from voxlate.networks.disentanglement import Disentanglement
from voxlate.networks.dpm_solver import DPMSolverScheduler
from voxlate.networks.ema import ExponentialMovingAverage
from voxlate.networks.frequency_loss import StructureAwareLoss
from voxlate.networks.structure import SharedStructure
from voxlate.networks.structure_prior import StructurePrior
from voxlate.pipelines.one_to_many import OneToMany
from voxlate.pipelines.prepared_cases import PreparedCase, prepare_cases
from voxlate.pipelines.prepared_labels import prepare_labels
from voxlate.pipelines.quality_gate import InBrainPSNR, StageEvaluator
from voxlate.pipelines.subset_data import SubsetDataset, SubsetPairDataset, ValidationSubsets
from voxlate.pipelines.train_denoiser import DenoiserTrainer, TranslateBySampling
from voxlate.pipelines.train_prior import PriorTrainer, TranslateByPrior
from voxlate.pipelines.train_structure import (
    ReconstructFromStructure,
    StructureLosses,
    StructureTrainer,
)
from voxlate.pipelines.training import StageTrainer
from voxlate.pipelines.training_data import training_loader
from voxlate.pipelines.training_state import Checkpointing

MODALITIES = ["t1", "t1ce", "t2", "flair"]
HAVING = {"a": MODALITIES, "b": ["t1", "t2", "flair"], "c": ["flair"]}
PREPROCESSING = Preprocessing(spacing=(4, 4, 4), size=(36, 44, 36), multiple_of=4)
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "v_prediction",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Patient a has every contrast and a lesion map, b lacks t1ce, c has flair alone."""
    folder = tmp_path_factory.mktemp("patients")
    for seed, (name, modalities) in enumerate(HAVING.items()):
        write_phantom_case(
            folder / name, (38, 46, 36), seed=seed, spacing=4.0, modalities=modalities
        )
        if name != "a":
            (folder / name / "lesion.nii.gz").unlink()
    scan = nib.load(folder / "a" / "t1.nii.gz")
    labels = np.zeros(scan.shape, dtype=np.uint8)
    labels[18:22, 20:26, 16:20] = 1
    labels[18:20, 20:26, 16:20] = 4
    nib.save(nib.Nifti1Image(labels, scan.affine), folder / "a" / "lesion.nii.gz")
    return find_cases(folder, MODALITIES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def cases(found: list[Case], cache: Path) -> list[PreparedCase]:
    return prepare_cases(found, PREPROCESSING, cache)


@pytest.fixture(scope="module")
def labels(found: list[Case], cache: Path) -> dict[str, Path]:
    return prepare_labels(found, PREPROCESSING, cache, {"whole": [1, 4], "enhancing": [4]})


def tiny_network() -> TranslationNetwork:
    torch.manual_seed(0)
    structure = SharedStructure(4, channels=(4, 8), stem_levels=1)
    prior = StructurePrior(
        structure, 4, downsampling=2, condition_channels=4, features=8, norm_groups=4
    )
    return TranslationNetwork(
        VQGAN(3, norm_groups=4, channels=(8,), stem_levels=1, latent_channels=4, num_codes=32),
        prior,
        Denoiser(
            3,
            4,
            prior.concat_channels,
            channels=(8, 8),
            attention_levels=(False, False),
            norm_groups=4,
            num_head_channels=8,
        ),
        modalities=MODALITIES,
        quantized=False,
        normalization={},
        schedule=SCHEDULE,
    )


def tiny_losses(network: TranslationNetwork, **options: Any) -> StructureLosses:
    torch.manual_seed(1)
    model = Disentanglement(
        network.prior.structure,  # type: ignore[arg-type]
        style_widths=(4, 8),
        num_res_blocks=1,
        up_kernel_size=3,
        out_kernel_size=3,
        num_classes=2,
    )
    return StructureLosses(model, **options)


def trainer(
    stage: str,
    network: TranslationNetwork,
    cases: list[PreparedCase],
    *,
    steps: int,
    losses: StructureLosses | None = None,
    labels: dict[str, Path] | None = None,
    handlers: tuple[Any, ...] = (),
    **options: Any,
) -> StageTrainer:
    trained = losses if stage == "structure" else getattr(network, stage)
    assert trained is not None
    crops = {"crop_size": 16, "multiple": 4}
    data = (
        SubsetDataset(cases, MODALITIES, labels=labels, num_classes=2, **crops)
        if stage == "structure"
        else SubsetPairDataset(cases, MODALITIES, **crops)
    )
    common: dict[str, Any] = {
        "device": "cpu",
        "max_epochs": 1,
        "epoch_length": steps,
        "train_data_loader": training_loader(data, 2),
        "optimizer": torch.optim.AdamW(trained.parameters(), lr=5e-3),
        "ema": ExponentialMovingAverage(trained, decay=0.9),
        "precision": "float32",
        "train_handlers": handlers,
        **options,
    }
    if stage == "structure":
        return StructureTrainer(network, stage_losses=trained, **common)
    if stage == "prior":
        return PriorTrainer(network, **common)
    return DenoiserTrainer(network, scheduler=DPMSolverScheduler(**SCHEDULE), **common)


def test_a_sample_is_a_function_of_seed_and_number(
    cases: list[PreparedCase], labels: dict[str, Path]
) -> None:
    first, again, other = (
        SubsetDataset(cases, MODALITIES, crop_size=16, labels=labels, num_classes=2, seed=seed)
        for seed in (0, 0, 1)
    )
    for index in (3, 11):
        one, two = first[index], again[index]
        assert one.keys() == two.keys() and one["case"] == two["case"]
        for name in ("volumes", "present", "available", "labels"):
            assert torch.equal(one[name], two[name])
    assert any(not torch.equal(first[i]["volumes"], other[i]["volumes"]) for i in range(3))


def test_given_contrasts_are_some_that_the_case_has_of_every_number(
    cases: list[PreparedCase],
) -> None:
    data = SubsetDataset(cases, MODALITIES, crop_size=8)
    counts: dict[str, set[int]] = {}
    for sample in (data[index] for index in range(120)):
        having = torch.tensor([m in HAVING[sample["case"]] for m in MODALITIES])
        assert torch.equal(sample["present"], having)
        assert not (sample["available"] & ~having).any()
        assert (sample["volumes"][~having] == -1).all()
        counts.setdefault(sample["case"], set()).add(int(sample["available"].sum()))
    assert counts == {"a": {1, 2, 3, 4}, "b": {1, 2, 3}, "c": {1}}


def test_a_target_is_never_among_what_is_given(cases: list[PreparedCase]) -> None:
    data = SubsetPairDataset(cases, MODALITIES, crop_size=8)
    for sample in (data[index] for index in range(60)):
        assert sample["case"] in "ab" and not sample["available"][sample["target_index"]]
        assert (sample["volumes"][~sample["available"]] == -1).all()
        assert sample["available"].any()
        first = sample["volumes"][sample["available"]][:1]
        assert torch.equal(sample["source"], first)


def test_validation_has_every_target_from_every_number_of_contrasts(
    cases: list[PreparedCase],
) -> None:
    items = ValidationSubsets(cases, MODALITIES).items
    seen = {(c.case_id, t, int(given.sum())) for c, given, t in items}
    assert seen == {("a", t, n) for t in range(4) for n in (1, 2, 3)} | {
        ("b", t, n) for t in (0, 2, 3) for n in (1, 2)
    }
    assert all(not given[t] for _, given, t in items)
    again = ValidationSubsets(cases, MODALITIES).items
    assert all(torch.equal(one[1], two[1]) for one, two in zip(items, again, strict=True))


def test_labels_lie_where_the_lesion_is(found: list[Case], labels: dict[str, Path]) -> None:
    assert set(labels) == {"a"}
    classes = np.load(labels["a"])
    assert classes.shape[0] == 2 and classes.dtype == np.uint8
    assert classes[0].sum() == 4 * 6 * 4 and classes[1].sum() == 2 * 6 * 4
    assert (classes[1] <= classes[0]).all()


def test_a_map_on_another_grid_is_left_out_and_named(
    found: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "lesion.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5), np.uint8), np.eye(4)), file)
    case = Case("x", found[0].files, {"lesion": file})
    assert prepare_labels([case], PREPROCESSING, tmp_path / "cache", {"lesion": [1]}) == {}
    assert "case x counts as unlabelled" in caplog.text and "lesion.nii.gz" in caplog.text


def test_structure_stage_learns_its_part_alone(
    cases: list[PreparedCase], labels: dict[str, Path]
) -> None:
    network = tiny_network()
    losses = tiny_losses(network)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    scale = losses.style_consistency.log_scale.item()
    seen: list[dict[str, float]] = []

    class Keep:
        def attach(self, engine: StageTrainer) -> None:
            from ignite.engine import Events

            engine.add_event_handler(
                Events.ITERATION_COMPLETED,
                lambda e: seen.append({k: float(v) for k, v in e.state.output.items()}),
            )

    trainer(
        "structure", network, cases, steps=40, losses=losses, labels=labels, handlers=(Keep(),)
    ).run()
    for name in ("loss", "reconstruction", "style"):
        early = sum(step[name] for step in seen[:8])
        assert sum(step[name] for step in seen[-8:]) < 0.85 * early, name
    assert {"kl", "segmentation"} <= seen[0].keys()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(name.startswith("prior.structure.") for name in changed)
    assert losses.style_consistency.log_scale.item() != scale


def test_structure_stage_resumes_exactly(cases: list[PreparedCase], tmp_path: Path) -> None:
    def run(steps: int, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        network = tiny_network()
        losses = tiny_losses(network)
        handler = Checkpointing(tmp_path / name / "c.pt", tmp_path / name / "m.pt", every=100)
        trainer("structure", network, cases, steps=steps, losses=losses, handlers=(handler,)).run()
        return network.state_dict(), losses.state_dict()

    straight = run(4, "straight")
    run(2, "resumed")
    resumed = run(4, "resumed")
    for one, two in zip(straight, resumed, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            assert torch.equal(one[name], two[name]), name


def batch_of(cases: list[PreparedCase]) -> dict[str, Tensor]:
    data = SubsetDataset(cases[:2], MODALITIES, crop_size=16)
    one, two = data[0], data[1]
    return {k: torch.stack([one[k], two[k]]) for k in ("volumes", "present", "available")}


def test_what_a_case_has_not_is_in_no_loss(cases: list[PreparedCase]) -> None:
    """NaN in place of absent contrasts: the same loss and gradients, bit for bit."""
    network = tiny_network()
    losses = tiny_losses(network, reconstruction=StructureAwareLoss(log_magnitude=True))
    batch = batch_of([cases[1], cases[1]])
    damaged = batch["volumes"].clone()
    damaged[~batch["present"]] = float("nan")
    assert damaged.isnan().any()
    results = []
    for volumes in (batch["volumes"], damaged):
        losses.zero_grad()
        loss = losses(volumes, batch["present"], batch["available"], batch["present"])["loss"]
        loss.backward()
        grads = [p.grad.clone() for p in losses.parameters() if p.grad is not None]
        results.append((loss, grads))
    assert torch.equal(results[0][0], results[1][0])
    for one, two in zip(results[0][1], results[1][1], strict=True):
        assert torch.equal(one, two)


def test_validation_makes_the_target_without_seeing_it(cases: list[PreparedCase]) -> None:
    """Neither voxels nor style of what is not given: NaN there changes no bit."""
    network = tiny_network()
    losses = tiny_losses(network)
    infer = ReconstructFromStructure(losses.model)
    sample = ValidationSubsets(cases, MODALITIES, multiple=2)[0]
    batch = {k: v[None] for k, v in sample.items() if isinstance(v, Tensor)}
    batch["target_index"] = torch.tensor([sample["target_index"]])
    damaged = {**batch, "volumes": batch["volumes"].clone()}
    damaged["volumes"][~batch["available"]] = float("nan")
    with torch.no_grad():
        clean, found = infer(batch, network), infer(damaged, network)
    assert torch.equal(clean["prediction"], found["prediction"])
    assert found["prediction"].shape == found["target"].shape
    assert found["prediction"].isfinite().all()


def test_a_stage_about_another_structure_is_refused(cases: list[PreparedCase]) -> None:
    with pytest.raises(ValueError, match="must be about the structure of the network's prior"):
        trainer("structure", tiny_network(), cases, steps=1, losses=tiny_losses(tiny_network()))


@pytest.mark.parametrize("stage", ["prior", "denoiser"])
def test_later_stages_train_on_any_subset_and_leave_the_structure(
    cases: list[PreparedCase], stage: str
) -> None:
    network = tiny_network()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    trainer(stage, network, cases, steps=3).run()
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(name.startswith(f"{stage}.") for name in changed)
    assert not any(".structure." in name for name in changed)
    data = ValidationSubsets(cases[:1], MODALITIES, multiple=2)
    data.items = data.items[:3]
    inferer = (
        TranslateByPrior()
        if stage == "prior"
        else TranslateBySampling(DPMSolverScheduler(**SCHEDULE), steps=2)
    )
    evaluator = StageEvaluator(
        network,
        device="cpu",
        val_data_loader=torch.utils.data.DataLoader(data, batch_size=1),
        inferer=inferer,
        precision="float32",
        key_val_metric={"psnr": InBrainPSNR(MODALITIES)},
    )
    evaluator.run()
    assert np.isfinite(evaluator.state.metrics["psnr"])


class CountCalls:
    """Count a module's forward passes."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.calls = 0
        module.register_forward_hook(self.add)

    def add(self, *_: object) -> None:
        self.calls += 1


@pytest.mark.parametrize("steps", [0, 2])
def test_every_target_from_two_contrasts_with_one_look_at_the_structure(steps: int) -> None:
    network = tiny_network().eval()
    structure = CountCalls(network.prior.structure)  # type: ignore[arg-type]
    encoder = CountCalls(network.autoencoder.encoder)  # type: ignore[arg-type]
    volume = torch.rand(1, 2, 19, 22, 17) * 2 - 1
    one_to_many = OneToMany(network, DPMSolverScheduler(**SCHEDULE), steps=steps)
    call: dict[str, Any] = {"source": ["t1", "flair"], "targets": ["t1ce", "t2"], "case_id": "x"}
    with torch.inference_mode():
        made = one_to_many(volume, **call)
        assert made.shape == (2, 1, 19, 22, 17) and made.isfinite().all()
        assert structure.calls == 1 and encoder.calls == 2
        swapped = one_to_many(volume.flip(1), **{**call, "source": ["flair", "t1"]})
    torch.testing.assert_close(made, swapped, rtol=0, atol=1e-5)


def test_channels_without_a_name_are_refused() -> None:
    one_to_many = OneToMany(tiny_network().eval(), DPMSolverScheduler(**SCHEDULE), steps=0)
    with pytest.raises(ValueError, match="1 sources for 2 channels"):
        one_to_many(torch.rand(1, 2, 8, 8, 8), source="t1", targets=["t2"])
