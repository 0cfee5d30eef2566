"""Several contrasts in: what belongs together, what does not, and the missing ones out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from voxlate.data_prep import Preprocessing, ScanError, UsageError, read_scan
from voxlate.networks import VQGAN, TranslationNetwork
from voxlate.networks.denoiser import Denoiser
from voxlate.networks.dpm_solver import DPMSolverScheduler
from voxlate.networks.structure import SharedStructure
from voxlate.networks.structure_prior import StructurePrior
from voxlate.pipelines import Translator
from voxlate.pipelines.case_inputs import missing_targets, read_inputs
from voxlate.pipelines.completion import complete, complete_volumes

MODALITIES = ("t1", "t1ce", "t2", "flair")
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "v_prediction",
}


@pytest.fixture(scope="module")
def translator() -> Translator:
    torch.manual_seed(0)
    prior = StructurePrior(
        SharedStructure(4, channels=(4, 8), stem_levels=1),
        2,
        downsampling=2,
        condition_channels=4,
        features=8,
        norm_groups=4,
    )
    torch.nn.init.normal_(prior.conv_out.weight, std=0.1)
    network = TranslationNetwork(
        VQGAN(3, norm_groups=4, channels=(8,), stem_levels=1, latent_channels=2, num_codes=8),
        prior,
        Denoiser(
            3,
            2,
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
    return Translator(
        network,
        preprocessing=Preprocessing(spacing=(3.5, 3.5, 3.5), size=(44, 52, 40)),
        scheduler=DPMSolverScheduler(prediction_type="v_prediction"),
        steps=2,
        device="cpu",
    )


def files(patient: Path, *names: str) -> dict[str, Path]:
    return {name: patient / f"{name}.nii.gz" for name in names}


def moved(source: Path, to: Path, shift_mm: float) -> Path:
    """The same voxels elsewhere in space."""
    image = nib.load(source)
    affine = image.affine.copy()
    affine[0, 3] += shift_mm
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), to)
    return to


def rolled(source: Path, to: Path, voxels: int) -> Path:
    """The head elsewhere on the same grid."""
    image = nib.load(source)
    data = np.roll(np.asarray(image.dataobj), voxels, axis=0)
    nib.save(nib.Nifti1Image(data, image.affine), to)
    return to


def test_missing_contrasts_are_made_on_the_given_grid(
    patient: Path, translator: Translator
) -> None:
    inputs = read_inputs(files(patient, "flair", "t1"), MODALITIES)
    assert list(inputs.scans) == ["t1", "flair"] and inputs.reference == "t1"
    assert not inputs.moves and not inputs.warnings
    made = complete(translator, inputs, steps=0)
    assert list(made.volumes) == ["t1ce", "t2"] and made.scan is inputs.scans["t1"]
    for volume in made.volumes.values():
        assert volume.shape == inputs.scans["t1"].shape and np.isfinite(volume).all()
    assert list(made.others) == ["flair"] and made.source == "t1" and made.case_id == "t1"
    alone = complete(translator, read_inputs(files(patient, "t1"), MODALITIES), ["t2"], steps=0)
    assert not np.allclose(alone["t2"], made["t2"], atol=1e-3)  # the flair says something
    again = translator(volumes=files(patient, "t1", "flair"), steps=0)
    assert all(np.array_equal(made[name], again[name]) for name in made.volumes)


def test_given_volumes_pass_through_unchanged(translator: Translator) -> None:
    generator = torch.Generator().manual_seed(0)
    given = {m: torch.rand(1, 16, 16, 16, generator=generator) * 2 - 1 for m in ("flair", "T1w")}
    found = translator(volumes=given)
    assert list(found) == list(MODALITIES)
    assert found["flair"] is given["flair"] and found["t1"] is given["T1w"]
    some = complete_volumes(translator, given, ["t2", "flair"])
    assert list(some) == ["t1", "t2", "flair"]
    torch.testing.assert_close(some["t2"], found["t2"])


def test_the_same_image_as_two_contrasts_is_refused(patient: Path, tmp_path: Path) -> None:
    image = nib.load(patient / "t1.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), tmp_path / "copy.nii")
    given = {"t1": patient / "t1.nii.gz", "t2": tmp_path / "copy.nii"}
    with pytest.raises(
        ScanError, match=r"copy.nii: given as t2, .* given as t1 \(t1.nii.gz\)"
    ) as e:
        read_inputs(given, MODALITIES)
    assert e.value.code == "E_SAME_INPUT"


def test_another_grid_is_refused_with_both_grids_and_the_way_out(
    patient: Path, tmp_path: Path
) -> None:
    given = files(patient, "t1") | {"t2": moved(patient / "t2.nii.gz", tmp_path / "b.nii", 7)}
    with pytest.raises(ScanError, match="b.nii: .*from .* than the t1 t1.nii.gz .*from") as e:
        read_inputs(given, MODALITIES)
    assert e.value.code == "E_GRID" and "--register rigid" in str(e.value)


def test_registration_brings_another_grid_home_and_keeps_the_transform(
    patient: Path, tmp_path: Path
) -> None:
    given = files(patient, "t1") | {"t2": moved(patient / "t2.nii.gz", tmp_path / "b.nii", 7)}
    inputs = read_inputs(given, MODALITIES, register=True)
    assert list(inputs.moves) == ["t2"]
    found = inputs.moves["t2"].matrix @ np.array([0, 0, 0, 1])
    np.testing.assert_allclose(found[:3], [7, 0, 0], atol=1.5)
    truth = read_scan(patient / "t2.nii.gz")
    assert inputs.scans["t2"].shape == truth.shape
    error = np.abs(inputs.scans["t2"].data - truth.data).mean() / truth.data.std()
    assert error < 0.2


def test_heads_that_do_not_agree_on_one_grid_are_warned_of_or_registered(
    patient: Path, tmp_path: Path
) -> None:
    given = files(patient, "t1") | {"t2": rolled(patient / "t2.nii.gz", tmp_path / "r.nii", 2)}
    inputs = read_inputs(given, MODALITIES)
    assert any("r.nii: the head seems to lie" in warning for warning in inputs.warnings)
    assert list(read_inputs(given, MODALITIES, register=True).moves) == ["t2"]


def test_python_keeps_in_the_record_that_scans_were_registered(
    patient: Path, several_bundle: Path, tmp_path: Path
) -> None:
    given = files(patient, "t1") | {"t2": rolled(patient / "t2.nii.gz", tmp_path / "r.nii", 2)}
    translator = Translator.from_bundle(several_bundle, device="cpu")
    found = translator(volumes=given, targets=["flair"], register=True)
    assert list(found.moves) == ["t2"] and found.further == {"register": "rigid"}
    assert translator(volumes=files(patient, "t1"), targets=["flair"]).further == {}


def test_an_empty_scan_is_refused_by_name(patient: Path, tmp_path: Path) -> None:
    image = nib.load(patient / "t1.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.int16), image.affine), tmp_path / "e.nii")
    with pytest.raises(ScanError, match="e.nii"):
        read_inputs(files(patient, "t1") | {"t2": tmp_path / "e.nii"}, MODALITIES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no scan"),
        (("t1", "T1w"), "two scans are t1"),
        (("t1", "swi"), "unknown modality 'swi'"),
    ],
)
def test_impossible_names_are_refused(patient: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_inputs(dict.fromkeys(names, patient / "t1.nii.gz"), MODALITIES)


def test_targets_are_what_is_missing_and_given_ones_are_noted() -> None:
    assert missing_targets(MODALITIES, ["t1", "flair"], None) == (["t1ce", "t2"], ())
    wanted, notes = missing_targets(MODALITIES, ["t1"], ["T2w", "t1", "t2"])
    assert wanted == ["t2"] and notes == ("W_GIVEN: t1 is given, so it is not made",)
    with pytest.raises(UsageError, match="nothing is missing: t1, t2 given"):
        missing_targets(MODALITIES, ["t1", "t2"], ["t2"])
    with pytest.raises(UsageError, match="nothing is missing"):
        missing_targets(MODALITIES, MODALITIES, None)


def test_a_model_of_one_source_says_so(known: Any, patient: Path) -> None:
    one = Translator(
        known.network,
        preprocessing=known.preprocessing,
        scheduler=known.scheduler,
        steps=1,
        device="cpu",
    )
    inputs = read_inputs(files(patient, "t1", "flair"), MODALITIES)
    with pytest.raises(UsageError, match="one contrast at a time, got t1, flair"):
        complete(one, inputs, ["t2"])
    alone = replace(inputs, scans={"t1": inputs.scans["t1"]})
    assert complete(one, alone, ["t2"])["t2"].any()


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({}, UsageError, "no volume"),
        ({"t1": (1, 8, 8, 8), "T1w": (1, 8, 8, 8)}, UsageError, "given twice"),
        ({"t1": (1, 8, 8, 8), "t2": (1, 8, 8, 9)}, ValueError, "all alike"),
        ({"t1": (8, 8, 8)}, ValueError, "all alike"),
    ],
)
def test_volumes_that_do_not_fit_are_refused(
    translator: Translator, given: dict[str, Any], error: type[Exception], message: str
) -> None:
    volumes: dict[str, Tensor] = {name: torch.zeros(shape) for name, shape in given.items()}
    with pytest.raises(error, match=message):
        complete_volumes(translator, volumes)


def test_one_kind_of_input_at_a_time(translator: Translator, patient: Path) -> None:
    volume, file = torch.zeros(1, 8, 8, 8), patient / "t1.nii.gz"
    for call in ({}, {"scan": volume, "volumes": {"t1": volume}}):
        with pytest.raises(UsageError, match="no scan, or two kinds"):
            translator(**call)  # type: ignore[call-overload]
    with pytest.raises(UsageError, match="volumes and files together"):
        translator(volumes={"t1": volume, "t2": file})  # type: ignore[call-overload]
