"""``voxlate evaluate``: folders in, report out."""

import csv
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from voxlate.data_prep import NoInputError, UsageError
from voxlate.pipelines.cli import app
from voxlate.pipelines.evaluation_recorder import Evaluation
from voxlate.pipelines.evaluation_run import MODALITIES, evaluate_runs, find_references
from voxlate.pipelines.prediction_files import find_run

SIZE, AFFINE = (32, 34, 33), np.diag([2.0, 2.0, 2.0, 1.0])
CASES = ("anna_study1", "anna_study2", "bert", "carl")
GRID = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SIZE], indexing="ij"))
HEAD = (GRID**2).sum(0) < 0.7


def scan_data(seed: int) -> np.ndarray:
    """A ball of smooth noise in a cleared background."""
    values = np.random.default_rng(seed).normal(size=SIZE)
    for axis in range(3):
        values = values + np.roll(values, 1, axis)
    return np.where(HEAD, (500 + 100 * values).clip(1), 0).astype(np.float32)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def read(path: Path) -> np.ndarray:
    return nib.load(path).get_fdata(dtype=np.float32)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    root = tmp_path / "real"
    for place, case in enumerate(CASES):
        for offset, modality in enumerate(("t1", "t2", "flair")):
            save(root / case / f"{modality}.nii.gz", scan_data(10 * place + offset))
    return root


def predict(real: Path, folder: Path, error: float, cases: tuple[str, ...] = CASES) -> Path:
    """FLAIR from T1, off by a share of the brain's range."""
    for case in cases:
        truth = read(real / case / "flair.nii.gz")
        low, high = np.percentile(truth[HEAD], (0.5, 99.5))
        save(folder / case / "t1_flair.nii.gz", truth + error * (high - low) * HEAD)
    return folder


def run(real: Path, out: Path, *folders: Path, **options: object) -> Evaluation:
    cases = find_references(real)
    runs = [find_run(folder.name, folder, cases, MODALITIES) for folder in folders]
    return evaluate_runs(runs, cases, out, **options)  # type: ignore[arg-type]


def in_brain(found: Evaluation, metric: str, name: str) -> dict[str, float]:
    wanted = (name, "default", "brain", metric, "translation")
    return {
        r.case: r.value
        for r in found.rows
        if (r.run, r.metric_set, r.region, r.metric, r.answer) == wanted
    }


def test_values_have_their_closed_forms_and_the_report_is_whole(real: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    found = run(real, out, predict(real, tmp_path / "ours", 0.1))
    assert in_brain(found, "psnr", "ours") == pytest.approx(dict.fromkeys(CASES, 20.0), rel=1e-4)
    with (out / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == [
        "run",
        "case",
        "subject",
        "given",
        "target",
        "answer",
        "metric_set",
    ]
    assert {r["answer"] for r in rows} == {
        "translation", "copy", "matched copy", "matched inverse", "mean image",
    }  # fmt: skip
    assert {r["subject"] for r in rows} == {"anna", "bert", "carl"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["failures"] == []
    assert summary["definitions"]["default"].startswith("MR: one linear map")
    shas = summary["provenance"]["predictions_sha256"]
    assert set(shas) == {f"ours: {case}/t1_flair.nii.gz" for case in CASES}
    page = (out / "summary.html").read_text()
    assert "not a medical device" in page.lower()
    assert page.count("data:image/png;base64,") == len(list((out / "pictures").glob("*.png"))) >= 3
    assert "http" not in page.split("<body>")[1]  # nothing is fetched
    assert not (out / ".cuts").exists()


def test_missing_predictions_stay_in_the_denominator(real: Path, tmp_path: Path) -> None:
    found = run(real, tmp_path / "out", predict(real, tmp_path / "ours", 0.1, CASES[1:]))
    cell = next(
        s
        for s in found.statistics
        if (s.answer, s.region, s.metric) == ("translation", "brain", "psnr")
    )
    assert (cell.expected, cell.cases, cell.absent) == (4, 3, 1)
    truth = read(real / "anna_study1" / "flair.nii.gz")
    low, high = np.percentile(truth[HEAD], (0.5, 99.5))
    empty = -10 * math.log10(((truth[HEAD] / (high - low)) ** 2).mean())
    assert in_brain(found, "psnr", "ours")["anna_study1"] == pytest.approx(empty, rel=1e-3)
    assert cell.mean == pytest.approx(20.0, rel=1e-4)
    assert cell.mean_fixed == pytest.approx((60 + empty) / 4, rel=1e-3)
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "3 of 4 expected predictions measured; 1 missing" in page
    assert "| 3 of 4 | 1 absent" in page


def test_unusable_predictions_count_and_stop_nothing(real: Path, tmp_path: Path) -> None:
    ours = predict(real, tmp_path / "ours", 0.1)
    (ours / "bert" / "t1_flair.nii.gz").write_bytes(b"\x1f\x8b broken")
    save(ours / "carl" / "t1_flair.nii.gz", scan_data(1), np.diag([2.0, 2.0, 2.5, 1.0]))
    wrong = read(ours / "anna_study1" / "t1_flair.nii.gz")
    save(ours / "anna_study1" / "t1_flair.nii.gz", wrong / 1000)
    found = run(real, tmp_path / "out", ours)
    codes = {f.case: f.code for f in found.failures}
    assert (codes["carl"], codes["anna_study1"]) == ("E_GRID", "E_SCALE")
    assert set(codes) == {"bert", "carl", "anna_study1"}
    assert "--prediction-scale" in next(f.what for f in found.failures if f.code == "E_SCALE")
    assert sum(r.note == "failed: E_GRID" for r in found.rows) > 0


def test_a_reference_that_cannot_be_read_is_reported(real: Path, tmp_path: Path) -> None:
    ours = predict(real, tmp_path / "ours", 0.1)
    (real / "bert" / "flair.nii.gz").write_bytes(b"")
    found = run(real, tmp_path / "out", ours)
    assert [(f.case, f.target) for f in found.failures] == [("bert", "flair")]
    assert set(in_brain(found, "psnr", "ours")) == set(CASES) - {"bert"}


def test_the_order_of_axes_on_disk_does_not_matter(real: Path, tmp_path: Path) -> None:
    ours = predict(real, tmp_path / "ours", 0.1)
    turned = tmp_path / "turned"
    for case in CASES:
        image = nib.load(ours / case / "t1_flair.nii.gz")
        axes = nib.orientations.axcodes2ornt(("P", "L", "S"))
        (turned / case).mkdir(parents=True)
        nib.save(image.as_reoriented(axes), turned / case / "t1_flair.nii.gz")
    found = run(real, tmp_path / "out", ours, turned)
    for metric in ("psnr", "ssim", "slice_ssim", "sharpness"):
        assert in_brain(found, metric, "turned") == pytest.approx(in_brain(found, metric, "ours"))
    assert {c.p for c in found.comparisons if c.metric == "psnr"} == {None}  # equal


@pytest.mark.parametrize("scale", ["unit", "symmetric"])
def test_the_scale_of_predictions_can_be_said(scale: str, real: Path, tmp_path: Path) -> None:
    for case in CASES:
        truth = read(real / case / "flair.nii.gz")
        low, high = np.percentile(truth[HEAD], (0.5, 99.5))
        unit = ((truth - low) / (high - low) + 0.1) * HEAD
        made = unit if scale == "unit" else 2 * unit - 1
        save(tmp_path / "ours" / case / "t1_flair.nii.gz", made.astype(np.float32))
    found = run(real, tmp_path / "out", tmp_path / "ours", scale=scale)
    assert in_brain(found, "mae", "ours") == pytest.approx(dict.fromkeys(CASES, 0.1), rel=1e-3)


def test_runs_are_compared_over_patients(real: Path, tmp_path: Path) -> None:
    good, bad = predict(real, tmp_path / "good", 0.1), predict(real, tmp_path / "bad", 0.2)
    found = run(real, tmp_path / "out", good, bad)
    psnr = next(c for c in found.comparisons if (c.metric, c.region) == ("psnr", "brain"))
    assert (psnr.first, psnr.second, psnr.pairs) == ("good", "bad", 3)
    assert psnr.difference == pytest.approx(20 * math.log10(2), rel=1e-4)
    assert psnr.effect == 1
    assert psnr.p == pytest.approx(0.25)  # three patients cannot say more
    mae = next(c for c in found.comparisons if (c.metric, c.region) == ("mae", "brain"))
    assert mae.effect == 1  # lower is better, and the first is lower
    assert (
        "| good | bad | flair | t1 | psnr in brain | +6.021"
        in (tmp_path / "out" / "summary.md").read_text()
    )


def test_lesions_found_by_pattern_have_their_own_region(real: Path, tmp_path: Path) -> None:
    lesion = np.zeros(SIZE, np.uint8)
    lesion[14:18, 14:18, 14:18] = 1
    for case in CASES[:2]:
        save(real / "masks" / f"{case}_drawn.nii.gz", lesion)
    ours = predict(real, tmp_path / "ours", 0.1)
    cases = [
        case
        for case in find_references(real, masks={"lesion": "masks/{name}_drawn.nii.gz"})
        if case.id in CASES
    ]
    assert ["lesion" in case.masks for case in cases] == [True, True, False, False]
    found = evaluate_runs(
        [find_run("ours", ours, cases, MODALITIES)], cases, tmp_path / "o", targets=["flair"]
    )
    mine = [r for r in found.rows if r.answer == "translation" and r.metric == "psnr"]
    assert {(r.case, r.voxels) for r in mine if r.region == "lesion"} == {
        (case, 64) for case in CASES[:2]
    }
    with pytest.raises(NoInputError, match="no file fits"):
        find_references(real, masks={"lesion": "{case}/nothing.nii.gz"})
    with pytest.raises(UsageError, match="both fit"):
        find_references(real, masks={"lesion": "{case}/t*.nii.gz"})


def test_leaks_and_shifts_are_flagged(real: Path, tmp_path: Path) -> None:
    ours = predict(real, tmp_path / "ours", 0.1)
    (ours / "bert" / "t1_flair.nii.gz").write_bytes((real / "bert" / "flair.nii.gz").read_bytes())
    moved = np.roll(read(real / "carl" / "flair.nii.gz"), 3, axis=1)
    save(ours / "carl" / "t1_flair.nii.gz", moved)
    copied = read(real / "anna_study1" / "flair.nii.gz")
    save(tmp_path / "trained" / "dora" / "flair.nii.gz", 2 * copied)
    save(tmp_path / "trained" / "carl" / "flair.nii.gz", scan_data(99))
    run(real, tmp_path / "out", ours, training=find_references(tmp_path / "trained"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["leaks"] == [
        "flair of anna_study1 looks like dora in the training set",
        "patient carl (carl) is in the training set",
        "ours: bert/t1_flair.nii.gz is the real flair of bert, byte by byte",
    ]
    flagged = [o for o in summary["offsets"] if o["flagged"] and o["what"] == "prediction"]
    assert [o["case"] for o in flagged] == ["carl"]
    assert flagged[0]["voxels"][1] == pytest.approx(3, abs=0.6)
    assert summary["provenance"]["mean_image"] == "2 training cases"


def test_subsets_fill_the_paper_s_table_with_published_rows_below(
    real: Path, tmp_path: Path
) -> None:
    for given in ("t1", "t2", "t1+t2"):
        predict(real, tmp_path / "ours" / given, 0.1, CASES[:1])
    for file in (tmp_path / "ours").rglob("t1_flair.nii.gz"):
        file.rename(file.with_name("flair.nii.gz"))
    found = run(real, tmp_path / "out", tmp_path / "ours", tables=["msg1"])
    assert {s.given for s in found.statistics} == {"t1", "t2", "t1+t2"}
    page = (tmp_path / "out" / "summary.md").read_text().split("(`msg1`)")[1]
    rows = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| ours")]
    assert [row[1].strip() for row in rows] == ["t1", "t2", "t1 + t2"]
    named = [r.answer for r in found.rows if r.given == "t1+t2" and r.run == ""]
    assert "matched copy of t2" in named


def test_wrong_options_are_refused(real: Path, tmp_path: Path) -> None:
    ours = predict(real, tmp_path / "ours", 0.1)
    for options, message in (
        ({"metric_sets": ["best"]}, "no metric set 'best'"),
        ({"tables": ["aldm9"]}, "no table 'aldm9'"),
        ({"targets": ["xray"]}, "unknown modality"),
    ):
        with pytest.raises(UsageError, match=message):
            run(real, tmp_path / "out", ours, **options)
    with pytest.raises(UsageError, match="two runs are called ours"):
        run(real, tmp_path / "out", ours, ours)
    with pytest.raises(NoInputError, match="no case has a real scan"):
        run(real, tmp_path / "out", ours, targets=["t2"])
    assert not (tmp_path / "out").exists()


def test_command_says_what_is_missing_and_ends_with_eight(real: Path, tmp_path: Path) -> None:
    ours = predict(real, tmp_path / "ours", 0.1, CASES[1:])
    other = predict(real, tmp_path / "other", 0.2)
    arguments = ["evaluate", str(ours), str(real), "--output", str(tmp_path / "out"), "--quiet"]
    result = CliRunner().invoke(app, [*arguments, "--compare", f"second={other}"])
    assert result.exit_code == 8, result.output
    assert "1 expected prediction(s) are missing" in result.output
    assert str(tmp_path / "out" / "summary.html") in result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary["provenance"]["runs"]) == {"ours", "second"}
    result = CliRunner().invoke(app, [*arguments, "--given", "xray"])
    assert result.exit_code == 2
    assert "unknown modality 'xray'" in result.output
    result = CliRunner().invoke(app, ["evaluate", "nowhere", *arguments[2:]])
    assert result.exit_code == 3


def test_a_side_of_a_data_list_is_evaluated_alone(real: Path, tmp_path: Path) -> None:
    entries = [{"id": c, **{m: f"{c}/{m}.nii.gz" for m in ("t1", "flair")}} for c in CASES]
    content = {"training": entries[:2], "validation": entries[2:]}
    (real / "list.json").write_text(json.dumps(content))
    validation = find_references(real / "list.json", split="validation")
    assert [case.id for case in validation] == ["bert", "carl"]
    assert len(find_references(real / "list.json")) == 4
