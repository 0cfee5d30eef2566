"""Samples: their seeds, their mean and deviation, and what becomes of them on disk."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from voxlate.data_prep import DEFAULT_MODALITIES, NoInputError, UsageError, find_cases
from voxlate.pipelines import Translator
from voxlate.pipelines.cli import app
from voxlate.pipelines.layouts import bids_files, tree_files
from voxlate.pipelines.samples import check_samples, mean_and_deviation, sample_seeds

SCHEMA = Path(__file__).parents[2] / "pipelines" / "manifest.schema.json"


@pytest.fixture(scope="module")
def translator(tiny_bundle: Path) -> Translator:
    return Translator.from_bundle(tiny_bundle, device="cpu")


def test_seeds_begin_with_the_users_and_grow_without_changing() -> None:
    five = sample_seeds(7, 5)
    assert five[0] == 7 and len(set(five)) == 5
    assert sample_seeds(7, 3) == five[:3] and sample_seeds(7, None) == (7,)
    assert not set(sample_seeds(8, 5)) & set(five)
    assert all(0 <= seed < 2**48 for seed in five)  # JSON readers keep whole numbers to 2**53
    assert five[1] == 45678764507722  # of SHA-256, so the same everywhere


def test_mean_and_deviation_are_numpys() -> None:
    rng = np.random.default_rng(0)
    volumes = rng.random((6, 5, 4, 3), dtype=np.float32)
    mean, deviation = mean_and_deviation(iter(volumes))
    np.testing.assert_allclose(mean, volumes.mean(0, dtype=np.float64), atol=2e-7)
    assert deviation is not None
    np.testing.assert_allclose(deviation, volumes.std(0, ddof=1, dtype=np.float64), atol=2e-7)
    _, none = mean_and_deviation(iter([volumes[0]] * 3))
    assert none is not None and not none.any()
    alone, nothing = mean_and_deviation(iter(volumes[:1]))
    assert alone is not None and np.array_equal(alone, volumes[0]) and nothing is None


@pytest.mark.parametrize(("samples", "steps"), [(1, 2), (0, 2), (-3, 2), (101, 2), (4, 0)])
def test_samples_that_cannot_differ_are_refused(samples: int, steps: int) -> None:
    with pytest.raises(UsageError) as caught:
        check_samples(samples, steps)
    assert caught.value.code == "E_SAMPLES"
    assert check_samples(2, 1) == 2 and check_samples(None, 0) is None


@pytest.mark.parametrize("intensity", ["unit", "percentile"])
def test_mean_and_deviation_are_those_of_single_runs_with_the_recorded_seeds(
    intensity: str, translator: Translator, head_file: Path
) -> None:
    found = translator(head_file, "t1", ["t2", "flair"], seed=3, samples=4, intensity=intensity)
    assert found.seeds == sample_seeds(3, 4)
    singles = [translator(head_file, "t1", ["t2", "flair"], seed=seed) for seed in found.seeds]
    for target in ("t2", "flair"):
        each = np.stack([single[target] for single in singles]).astype(np.float64)
        slope, intercept = (found.lines[target][name] for name in ("Slope", "Intercept"))
        inside = each.mean(0) * slope + intercept > 0
        mean = (each.mean(0) * slope + intercept)[inside]
        np.testing.assert_allclose(found[target][inside], mean, atol=2e-6 * slope)
        deviation = each.std(0, ddof=1)
        assert deviation.max() > 1e-3
        np.testing.assert_allclose(found.deviations[target], deviation * slope, atol=2e-6 * slope)
        mean_sd = found.scores[target].deviation
        assert mean_sd is not None and 0 < mean_sd < deviation.max()


def test_volumes_have_their_deviations_beside_them(translator: Translator) -> None:
    volume = torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = translator(volume, "t1", ["t2"], seed=3, samples=3)
    singles = torch.stack(
        [translator(volume, "t1", ["t2"], seed=seed)["t2"] for seed in sample_seeds(3, 3)]
    )
    assert list(found) == ["t2", "t2_sd"]
    torch.testing.assert_close(found["t2"], singles.mean(0))
    torch.testing.assert_close(found["t2_sd"], singles.std(0))
    with pytest.raises(UsageError, match="every sample is the same"):
        translator(volume, "t1", ["t2"], samples=3, steps=0)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])


def test_batch_writes_deviations_verifies_and_remakes_them(
    head_file: Path, tmp_path: Path, tiny_bundle: Path, inline: type
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(head_file, tmp_path / "in" / "t1.nii.gz")
    out = tmp_path / "out"
    arguments = ["batch", tmp_path / "in", "--output", out, "--bundle", tiny_bundle]
    arguments += ["--source", "t1", "--no-picture"]
    first = run(*arguments, "--to", "t2", "--samples", 3, "--dtype", "scan")
    assert first.exit_code == 0, first.output
    record = json.loads((out / "t1.json").read_text())
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    assert record["Options"]["Samples"] == 3
    assert record["Options"]["SampleSeeds"] == list(sample_seeds(0, 3))
    assert record["Deviations"]["t2"]["File"] == "t1_t2_sd.nii.gz"
    assert record["Scores"]["t2"]["MeanSD"] > 0
    spread = nib.load(out / "t1_t2_sd.nii.gz")
    assert spread.get_data_dtype() == np.int16 and 0 < spread.get_fdata().max() < 1
    options = ("--to", "t2", "--samples", 3, "--dtype", "scan")
    assert "1 verified" in run(*arguments, *options).stdout
    whole = (out / "t1_t2_sd.nii.gz").read_bytes()
    (out / "t1_t2_sd.nii.gz").write_bytes(whole[:-1])
    again = run(*arguments, *options, "--to", "flair")
    assert "1 written" in again.stdout
    assert (out / "t1_t2_sd.nii.gz").read_bytes() == whole
    assert (out / "t1_flair_sd.nii.gz").exists()
    for other in (("--samples", 4), ()):
        refused = run(*arguments, "--to", "t2", "--dtype", "scan", *other)
        assert refused.exit_code == 4 and "other options or weights" in refused.stderr
    (case,) = [c for c in find_cases(tmp_path, DEFAULT_MODALITIES, source="t1") if c.id == "in"]
    assert list(case.files) == ["t1"]


@pytest.mark.parametrize("command", ["translate", "batch", "plan"])
def test_one_sample_is_refused_in_one_line(
    command: str, head_file: Path, tmp_path: Path, tiny_bundle: Path, inline: type
) -> None:
    given = head_file if command == "translate" else head_file.parent
    out = tmp_path / "new" / "out"
    arguments = [command, given, "--output", out, "--bundle", tiny_bundle, "--samples", 1]
    device = ["--device", "cpu"] if command != "plan" else []
    result = CliRunner().invoke(app, [*map(str, arguments), "--source", "t1", *device])
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("voxlate: ")]
    assert lines == ["voxlate: 1 sample(s) asked for - give 2 to 100, or leave it out"]
    assert not out.exists()


def test_deviations_have_names_of_their_own() -> None:
    files = tree_files("a/t1", ["t2"], deviations=True)
    assert files.names == ["t1_t2.nii.gz", "t1_t2_sd.nii.gz", "t1_qc.png", "t1.json"]
    bids = bids_files("sub-1/anat/sub-1_T1w", ["t2"], deviations=True, picture=False)
    assert bids.names == [
        "sub-1_desc-synth_T2w.nii.gz",
        "sub-1_desc-synthSD_T2w.nii.gz",
        "sub-1_desc-synth_T2w.json",
        "sub-1_desc-synthSD_T2w.json",
        "sub-1_from-T1w_manifest.json",
    ]


def test_deviation_is_taken_for_no_scan(tmp_path: Path) -> None:
    for name in ("p1_t2_sd.nii.gz", "sub-1_desc-synthSD_T2w.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(NoInputError):
        find_cases(tmp_path, DEFAULT_MODALITIES, source="t1")
    (tmp_path / "p1_t2.nii.gz").write_bytes(b"")
    (case,) = find_cases(tmp_path, DEFAULT_MODALITIES, source="t1")
    assert list(case.files) == ["t2"]
