"""Lesions found downstream: ceiling, prediction, floor; the command and the small U-Net."""

import json
import shlex
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from voxlate.data_prep import Case, NoInputError, ScanError, UsageError, WeightsError
from voxlate.pipelines.cli import app
from voxlate.pipelines.downstream import CommandSegmenter, Downstream, find_segmenter
from voxlate.pipelines.evaluation_pairs import read_truth
from voxlate.pipelines.evaluation_row import Row
from voxlate.pipelines.evaluation_run import find_references
from voxlate.pipelines.evaluation_summary import summarize
from voxlate.pipelines.lesion_segmenter import LesionSegmenter, train_segmenter

SIZE, AFFINE = (32, 34, 36), np.diag([2.0, 2.0, 2.0, 1.0])
GRID = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SIZE], indexing="ij"))
HEAD = (GRID**2).sum(0) < 0.7
LESION = ((GRID - 0.2) ** 2).sum(0) < 0.04
BRIGHT = """
import sys
import nibabel as nib, numpy as np
image = nib.load(sys.argv[1])
mask = (image.get_fdata() > 700).astype(np.uint8)
nib.save(nib.Nifti1Image(mask, image.affine), sys.argv[2])
"""


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Two patients whose lesion is bright on FLAIR."""
    root = tmp_path / "real"
    for place, case in enumerate(("anna", "bert")):
        (root / case).mkdir(parents=True)
        rng = np.random.default_rng(place)
        for modality, lesion in (("t1", 0), ("flair", 400)):
            values = 500 + 30 * rng.normal(size=SIZE) + lesion * LESION
            image = np.where(HEAD, values, 0).astype(np.float32)
            nib.save(nib.Nifti1Image(image, AFFINE), root / case / f"{modality}.nii.gz")
        mask = nib.Nifti1Image(LESION.astype(np.uint8), AFFINE)
        nib.save(mask, root / case / "lesion.nii.gz")
    return root


@pytest.fixture
def command(tmp_path: Path) -> str:
    (tmp_path / "bright voxels.py").write_text(BRIGHT)
    script = shlex.quote(str(tmp_path / "bright voxels.py"))
    return f"{sys.executable} {script} {{flair}} {{output}}"


def by_answer(rows: list[Row], metric: str = "dice") -> dict[str, float]:
    return {row.answer: row.value for row in rows if row.metric == metric}


def test_command_finds_ceiling_prediction_and_floor(real: Path, command: str) -> None:
    case = find_references(real)[0]
    truth = read_truth(case, "flair")
    half = truth.volume.clone()
    half[16:][truth.lesion[16:]] = 500.0  # the prediction lost a part of the lesion
    downstream = find_segmenter(command, ("t1", "t2", "flair"))
    rows = downstream.measure(case, truth, {("ours", "t1"): half})
    kept = int(LESION[:16].sum())
    found = by_answer(rows)
    assert found["real set (ceiling)"] == 1
    assert found["zero-filled set (floor)"] == 0
    assert found["translation"] == pytest.approx(2 * kept / (kept + int(LESION.sum())))
    assert by_answer(rows, "volume_ratio")["translation"] == pytest.approx(kept / LESION.sum())
    diagonal = 2 * np.linalg.norm(SIZE)
    assert by_answer(rows, "hd95")["zero-filled set (floor)"] == pytest.approx(diagonal)
    assert [s.answer for s in summarize(rows) if s.metric == "dice"] == [
        "translation",
        "real set (ceiling)",
        "zero-filled set (floor)",
    ]


def test_a_missing_prediction_gets_the_floor(real: Path, command: str) -> None:
    case = find_references(real)[0]
    rows = find_segmenter(command, ("t1", "flair")).measure(
        case, read_truth(case, "flair"), {("ours", "t1"): None}
    )
    assert by_answer(rows)["translation"] == 0
    assert rows[0].absent


def test_cases_without_a_lesion_mask_are_passed_over(real: Path, command: str) -> None:
    (real / "anna" / "lesion.nii.gz").unlink()
    case = find_references(real)[0]
    truth = read_truth(case, "flair")
    assert find_segmenter(command, ("flair",)).measure(case, truth, {}) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit('no weights found')", "ended with 1: no weights found"),
        ("pass", "wrote no mask"),
        (
            "import sys, nibabel as nib, numpy as np;"
            "nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), sys.argv[1])",
            "on another grid",
        ),
        ("import time; time.sleep(30)", "took more than"),
    ],
)
def test_a_command_that_fails_is_told_in_one_line(code: str, message: str, real: Path) -> None:
    case = find_references(real)[0]
    truth = read_truth(case, "flair")
    timeout = 0.5 if "sleep" in code else 300.0
    segmenter = CommandSegmenter((sys.executable, "-c", code, "{output}"), timeout)
    with pytest.raises(ScanError, match=message) as refused:
        Downstream(segmenter, ["flair"]).measure(case, truth, {("r", ""): truth.volume})
    assert "\n" not in str(refused.value)


def test_commands_are_arguments_and_never_a_shell(tmp_path: Path) -> None:
    parsed = CommandSegmenter.parse("seg 'a b' {output}; touch x")
    assert parsed.arguments == ("seg", "a b", "{output};", "touch", "x")
    for text, message in (("seg {flair}", "no {output}"), ("seg '{output}", "cannot be read")):
        with pytest.raises(UsageError, match=message):
            CommandSegmenter.parse(text)
    with pytest.raises(ScanError, match="cannot be started"):
        CommandSegmenter(("/nowhere/seg", "{output}"))._run({})


@pytest.mark.slow
def test_small_segmenter_learns_a_bright_lesion_and_needs_its_contrast(real: Path) -> None:
    cases = find_references(real)
    segmenter = train_segmenter(cases, ["t1", "flair"], steps=25, crop=32)
    assert segmenter.subjects == ("anna", "bert")
    truth = read_truth(cases[0], "flair")
    other = read_truth(cases[0], "t1").scaled
    found = segmenter({"t1": other, "flair": truth.scaled})
    without = segmenter({"t1": other, "flair": torch.zeros_like(other)})

    def overlap(mask: torch.Tensor) -> float:
        both = int(mask.sum()) + int(truth.lesion.sum())
        return 2 * int((mask & truth.lesion).sum()) / both

    assert found.shape == SIZE
    assert overlap(found) > overlap(without) + 0.2


def test_same_seed_same_segmenter_and_what_is_saved_is_loaded(real: Path, tmp_path: Path) -> None:
    cases = find_references(real)
    one, two = (train_segmenter(cases, ["flair"], steps=1, crop=32, seed=3) for _ in range(2))
    one.save(tmp_path / "s.safetensors")
    again = LesionSegmenter.load(tmp_path / "s.safetensors")
    assert (again.modalities, again.subjects) == (("flair",), ("anna", "bert"))
    for a, b, c in zip(*(s.network.state_dict().values() for s in (one, two, again)), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_no_lesions_and_no_segmenter_are_refused(real: Path, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="none of 1 case"):
        train_segmenter([Case("x", {})], ["t1"])
    with pytest.raises(UsageError, match="no crops of 40 voxels"):
        train_segmenter(find_references(real), ["t1"], crop=40)
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="no lesion segmenter"):
        find_segmenter(str(tmp_path / "no.safetensors"), ("t1",))


def test_commands_train_it_and_evaluate_with_it(real: Path, tmp_path: Path) -> None:
    weights = tmp_path / "deep" / "segmenter.safetensors"
    arguments = ["train-segmenter", str(real), "--output", str(weights), "--modality", "flair"]
    arguments += ["--modality", "t1", "--steps", "2", "--crop", "32"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    made = tmp_path / "made" / "bert"
    made.mkdir(parents=True)
    (made / "t1_flair.nii.gz").write_bytes((real / "bert" / "flair.nii.gz").read_bytes())
    arguments = ["evaluate", str(tmp_path / "made"), str(real), "--quiet"]
    arguments += ["--output", str(tmp_path / "out"), "--segmenter", str(weights)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 8, result.output  # one prediction is missing
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["downstream"]["trained_on"] == ["anna", "bert"]
    assert "the segmenter was trained on patient bert" in summary["leaks"]
    dice = {s["answer"]: s["expected"] for s in summary["statistics"] if s["metric"] == "dice"}
    assert dice == {
        "translation": 2,
        "real set (ceiling)": 2,
        "zero-filled set (floor)": 2,
    }
    assert "## Downstream segmentation" in (tmp_path / "out" / "summary.md").read_text()
    result = CliRunner().invoke(app, [*arguments[:6], "--segmenter", "seg {flair}"])
    assert result.exit_code == 2
