"""A folder through MONAI's evaluator: tree kept, bad scans reported, results the same."""

import csv
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset

from voxlate.data_prep import NoInputError, UsageError
from voxlate.pipelines import (
    PrepareScan,
    SaveTranslations,
    TranslationEvaluator,
    TranslationInferer,
    Translator,
    list_scans,
    one_case,
    read_bundle,
)
from voxlate.pipelines.one_to_many import resolve_targets

MODALITIES = ("t1", "t1ce", "t2", "flair")


@pytest.fixture
def scans(tmp_path: Path, head_file: Path) -> Path:
    """Two sites with scans of one name, one of them damaged, and a T2 beside."""
    root = tmp_path / "scans"
    for name in ("a/pat/t1.nii.gz", "b/pat/t1.nii.gz", "b/pat/t2.nii.gz", "plain.nii.gz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(head_file.read_bytes())
    (root / "b/broken.nii.gz").write_bytes(head_file.read_bytes()[:-500])
    return root


def evaluator(
    scans: Path, output: Path, bundle: Path, **change: Any
) -> tuple[TranslationEvaluator, SaveTranslations]:
    parts, _ = read_bundle(bundle)
    found = list_scans(scans, MODALITIES, source="t1", output_dir=output)
    inferer = TranslationInferer(
        parts.scheduler, steps=parts.steps, source="t1", targets=["flair", "t2"]
    )
    saver = SaveTranslations(
        output,
        inferer=inferer,
        preprocessing=parts.preprocessing,
        weights=bundle / "models" / "model.pt",
        **change,
    )
    data = Dataset(found, transform=PrepareScan(parts.preprocessing))
    engine = TranslationEvaluator(
        torch.device("cpu"),
        DataLoader(data, batch_size=1, collate_fn=one_case),
        parts.network,
        inferer=inferer,
        val_handlers=[saver],
    )
    return engine, saver


def test_folder_is_translated_with_its_tree_and_one_bad_scan_stops_nothing(
    scans: Path, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    engine, saver = evaluator(scans, output, tiny_bundle)
    with pytest.raises(SystemExit) as caught:
        engine.run()
    assert caught.value.code == 8
    ends = ("_flair.nii.gz", "_qc.png", "_t2.nii.gz", ".json")
    expected = {f"{name}{end}" for name in ("a/pat/t1", "b/pat/t1", "plain") for end in ends}
    found = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert found == expected | {"failed.csv"}
    assert {path.relative_to(output).as_posix() for path in saver.written} == expected
    with (output / "failed.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["case"] == "b/broken" and str(scans / "b" / "broken.nii.gz") in row["message"]
    assert row["message"] in caplog.text


def test_results_are_those_of_the_translator(
    scans: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (scans / "b" / "broken.nii.gz").unlink()
    engine, _ = evaluator(scans, tmp_path / "out", tiny_bundle)
    engine.run()
    alone = Translator.from_bundle(tiny_bundle, device="cpu")
    result = alone(scans / "a" / "pat" / "t1.nii.gz", "t1", ["t2"], case_id="a/pat/t1")
    made = nib.load(tmp_path / "out" / "a" / "pat" / "t1_t2.nii.gz").get_fdata()
    np.testing.assert_allclose(made, result["t2"], atol=1e-2)


@pytest.fixture
def cases(tmp_path: Path, patient: Path) -> Path:
    """Four patients with one, two, three and all contrasts."""
    root = tmp_path / "cases"
    for number in range(1, 5):
        (root / f"p{number}").mkdir(parents=True)
        for name in MODALITIES[:number]:
            shutil.copy(patient / f"{name}.nii.gz", root / f"p{number}" / f"{name}.nii.gz")
    return root


def test_cases_are_completed_from_what_each_has(
    cases: Path, several_bundle: Path, tmp_path: Path
) -> None:
    sources, output = ["flair", "t2", "t1", "t1ce"], tmp_path / "out"
    parts, _ = read_bundle(several_bundle)
    found = list_scans(cases, MODALITIES, source=sources, output_dir=output)
    assert [list(item["given"]) for item in found] == [list(MODALITIES[:n]) for n in (1, 2, 3)]
    inferer = TranslationInferer(parts.scheduler, steps=parts.steps, source=sources)
    saver = SaveTranslations(output, inferer=inferer, preprocessing=parts.preprocessing)
    data = Dataset(found, transform=PrepareScan(parts.preprocessing))
    TranslationEvaluator(
        torch.device("cpu"),
        DataLoader(data, batch_size=1, collate_fn=one_case),
        parts.network,
        inferer=inferer,
        val_handlers=[saver],
    ).run()
    made = {path.relative_to(output).as_posix() for path in output.rglob("*.nii.gz")}
    lacking = {f"p{n}/t1_{name}.nii.gz" for n in (1, 2, 3) for name in MODALITIES[n:]}
    assert made == lacking
    volumes = {name: cases / "p3" / f"{name}.nii.gz" for name in MODALITIES[:3]}
    alone = Translator.from_bundle(several_bundle, device="cpu")
    expected = alone(volumes=volumes, case_id="p3/t1")["flair"]
    written = nib.load(output / "p3" / "t1_flair.nii.gz").get_fdata()
    np.testing.assert_allclose(written, expected, atol=1e-2)
    record = json.loads((output / "p3" / "t1.json").read_text())
    assert {entry["Modality"] for entry in record["OtherInputs"]} == {"t1ce", "t2"}


def test_contrasts_elsewhere_are_registered_where_asked_and_it_is_recorded(
    cases: Path, several_bundle: Path, tmp_path: Path
) -> None:
    sources, output = ["t1", "t2"], tmp_path / "out"
    for case in ("p1", "p2", "p4"):
        shutil.rmtree(cases / case)
    image = nib.load(cases / "p3" / "t2.nii.gz")
    affine = image.affine.copy()
    affine[:3, 3] += (4.0, -3.0, 2.0)  # mm
    nib.save(nib.Nifti1Image(image.get_fdata(), affine), cases / "p3" / "t2.nii.gz")
    parts, _ = read_bundle(several_bundle)
    found = list_scans(cases, MODALITIES, source=sources, output_dir=output)
    refused = PrepareScan(parts.preprocessing)(found[0])["failure"]
    assert refused.code == "E_GRID"
    inferer = TranslationInferer(
        parts.scheduler, steps=parts.steps, source=sources, targets=["flair", "t2"]
    )
    data = Dataset(found, transform=PrepareScan(parts.preprocessing, register="rigid"))
    TranslationEvaluator(
        torch.device("cpu"),
        DataLoader(data, batch_size=1, collate_fn=one_case),
        parts.network,
        inferer=inferer,
        val_handlers=[SaveTranslations(output, inferer=inferer, preprocessing=parts.preprocessing)],
    ).run()
    record = json.loads((output / "p3" / "t1.json").read_text())
    assert record["Options"]["Register"] == "rigid"
    move = np.array(record["OtherInputs"][0]["Registered"]["MatrixRASMM"])
    np.testing.assert_allclose(move[:3, 3], (4.0, -3.0, 2.0), atol=1.0)
    assert any("W_GIVEN: t2" in warning for warning in record["Warnings"])
    with pytest.raises(UsageError, match="no such registration: affine"):
        PrepareScan(parts.preprocessing, register="affine")


def test_several_sources_are_refused_where_one_is_translated(
    cases: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    parts, _ = read_bundle(tiny_bundle)
    several = TranslationInferer(parts.scheduler, steps=parts.steps, source=["t1", "t2"])
    with pytest.raises(UsageError, match="one contrast at a time"):
        several(torch.zeros(1, 2, 8, 8, 8), parts.network)
    with pytest.raises(UsageError, match="name one source"):
        resolve_targets(MODALITIES, ["t1", "t2"], None)
    with pytest.raises(NoInputError, match="lacks a target"):
        list_scans(cases / "p4", MODALITIES, source=MODALITIES, output_dir=tmp_path / "out")


def test_second_run_fails_every_case_rather_than_overwrite(
    scans: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    (scans / "b" / "broken.nii.gz").unlink()
    engine, _ = evaluator(scans, tmp_path / "out", tiny_bundle)
    engine.run()
    with pytest.raises(SystemExit) as caught:
        engine.run()
    assert caught.value.code == 9
    again, saver = evaluator(scans, tmp_path / "out", tiny_bundle, overwrite=True)
    again.run()
    assert saver.failures == []


def test_only_the_source_contrast_is_listed_and_results_are_no_input(scans: Path) -> None:
    (scans / "out").mkdir()
    (scans / "out" / "plain_t2.nii.gz").write_bytes(b"")
    (scans / "out" / "old.nii.gz").write_bytes(b"")
    found = list_scans(scans, MODALITIES, source="T1w", output_dir=scans / "out")
    assert [item["case_id"] for item in found] == ["a/pat/t1", "b/broken", "b/pat/t1", "plain"]
    beside = list_scans(scans, MODALITIES, source="t2", output_dir=scans / "out")
    assert "b/pat/t2" in [item["case_id"] for item in beside]


def test_scans_with_the_same_outputs_are_refused(scans: Path) -> None:
    (scans / "plain.nii").write_bytes(b"")
    with pytest.raises(UsageError, match=r"plain\.nii"):
        list_scans(scans, MODALITIES, source="t1", output_dir=scans / "out")


def test_results_among_the_scans_are_refused(scans: Path) -> None:
    with pytest.raises(UsageError, match="among the scans"):
        list_scans(scans, MODALITIES, source="t1", output_dir=scans / "a" / "..")


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError):
        list_scans(tmp_path, MODALITIES, source="t1", output_dir=tmp_path / "out")


def test_batches_of_several_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="batch of 2"):
        one_case([{"image": torch.zeros(1)}, {"image": torch.zeros(1)}])


def test_log_names_each_case_that_was_written(
    scans: Path, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (scans / "b" / "broken.nii.gz").unlink()
    with caplog.at_level(logging.INFO, logger="voxlate"):
        evaluator(scans, tmp_path / "out", tiny_bundle)[0].run()
    assert "b/pat/t1: written" in caplog.text
