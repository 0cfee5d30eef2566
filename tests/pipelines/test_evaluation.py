import csv
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from voxlate.data_prep import OutputError, Scan, UsageError
from voxlate.data_prep.cases import Case, find_cases
from voxlate.pipelines import evaluation, evaluation_pairs
from voxlate.pipelines.evaluation import evaluate, select_cases
from voxlate.pipelines.evaluation_baselines import MeanImage, match_histogram, trivial_answers
from voxlate.pipelines.evaluation_pairs import measure_baselines
from voxlate.pipelines.evaluation_row import Row
from voxlate.pipelines.evaluation_summary import summarize
from voxlate.pipelines.evaluation_truth import Truth
from voxlate.pipelines.intensity_scale import reference_map
from voxlate.pipelines.patient_bootstrap import patient_interval

MODALITIES = ("t1", "t1ce", "t2", "flair")
SIZE, AFFINE = (32, 33, 34), np.diag([2.0, 2.0, 2.0, 1.0])


def scan_data(seed: int) -> np.ndarray:
    """A ball of smooth noise in a cleared background."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SIZE], indexing="ij")
    values = rng.normal(size=SIZE)
    for axis in range(3):
        values = values + np.roll(values, 1, axis)
    values = 500 + 100 * values
    return np.where(sum(a**2 for a in axes) < 0.7, values.clip(1), 0).astype(np.float32)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two patients; the first twice, and once without t2."""
    root = tmp_path / "scans"
    seed = 0
    for case in ("anna_study1", "anna_study2", "bert"):
        (root / case).mkdir(parents=True)
        for modality in ("t1", "flair") if case == "anna_study2" else ("t1", "t2", "flair"):
            seed += 1
            nib.save(nib.Nifti1Image(scan_data(seed), AFFINE), root / case / f"{modality}.nii.gz")
    return root


class Made(SimpleNamespace):
    """What the evaluation reads of a ``Translation``."""

    def __getitem__(self, target: str) -> np.ndarray:
        return self.volumes[target].numpy()


class KnowsTheAnswer:
    """A translator that returns the truth plus an error: its metrics have closed forms."""

    modalities = MODALITIES
    origin = SimpleNamespace(bundle="perfect", version="1.2", sha256="ab" * 32)
    steps, device, dtype, scheduler = 7, torch.device("cpu"), torch.float32, object()

    def __init__(self, root: Path, error: float = 0.1) -> None:
        self.truths = {
            file: torch.from_numpy(nib.load(file).get_fdata(dtype=np.float32))
            for file in root.rglob("*.nii.gz")
        }
        self.error = error
        self.calls: list[tuple[str, str, list[str], int, int | None]] = []

    def __call__(
        self,
        scan: Scan,
        source: str,
        targets: Sequence[str],
        *,
        seed: int,
        steps: int | None,
        case_id: str,
        progress: Any,
    ) -> Made:
        self.calls.append((case_id, source, list(targets), seed, steps))
        volumes = {}
        for target in targets:
            truth = self.truths[scan.path.with_name(f"{target}.nii.gz")]
            inside = truth > 0
            volumes[target] = (reference_map(truth, inside)(truth) + self.error) * inside
        return Made(scan=scan, source=source, volumes=volumes)


@pytest.fixture
def translator(dataset: Path) -> KnowsTheAnswer:
    return KnowsTheAnswer(dataset)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_source_goes_to_every_other_target_in_one_call(
    dataset: Path, translator: KnowsTheAnswer, tmp_path: Path
) -> None:
    evaluate(translator, find_cases(dataset, MODALITIES), tmp_path / "out", seed=5, steps=3)
    assert translator.calls == [
        ("anna_study1", "t1", ["t2", "flair"], 5, 3),
        ("anna_study1", "t2", ["t1", "flair"], 5, 3),
        ("anna_study1", "flair", ["t1", "t2"], 5, 3),
        ("anna_study2", "t1", ["flair"], 5, 3),
        ("anna_study2", "flair", ["t1"], 5, 3),
        ("bert", "t1", ["t2", "flair"], 5, 3),
        ("bert", "t2", ["t1", "flair"], 5, 3),
        ("bert", "flair", ["t1", "t2"], 5, 3),
    ]


def test_values_by_case_have_their_closed_forms(
    dataset: Path, translator: KnowsTheAnswer, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "out"
    evaluate(translator, find_cases(dataset, MODALITIES), out, sources=["T1"])
    rows = [r for r in read_csv(out / "cases.csv") if r["answer"] == "translation"]
    default = [r for r in rows if r["metric_set"] == "default"]
    assert {(r["given"], r["target"]) for r in rows} == {("t1", "t2"), ("t1", "flair")}
    assert {r["run"] for r in rows} == {"perfect"}
    assert {r["subject"] for r in rows} == {"anna", "bert"}
    expected = {"psnr": 20.0, "rmse": 0.1, "mae": 0.1, "sharpness": 1.0}
    for metric, value in expected.items():
        found = [
            float(r["value"]) for r in default if (r["region"], r["metric"]) == ("brain", metric)
        ]
        assert len(found) == 5
        assert found == pytest.approx([value] * 5, rel=1e-5), metric


def test_summary_holds_the_matrix_the_baselines_and_where_it_came_from(
    dataset: Path, translator: KnowsTheAnswer, tmp_path: Path
) -> None:
    found = evaluate(translator, find_cases(dataset, MODALITIES), tmp_path, seed=4)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["failures"] == []
    provenance = summary["provenance"]
    assert provenance["weights_sha256"] == "ab" * 32
    assert (provenance["seed"], provenance["steps"], provenance["bundle"]) == (4, 7, "perfect")
    assert provenance["masks"]["bert"] == {"brain": "foreground", "lesion": "none"}
    cell = {
        s.answer: s
        for s in found.statistics
        if (s.given, s.target, s.metric_set, s.region, s.metric)
        == ("t1", "flair", "default", "brain", "psnr")
    }
    assert set(cell) == {"translation", "copy", "trivial", "gain"}
    assert (cell["translation"].cases, cell["translation"].subjects) == (3, 2)
    assert cell["gain"].mean == pytest.approx(20.0 - cell["trivial"].mean, abs=1e-3)
    assert cell["trivial"].named in ("matched copy", "matched inverse")
    page = (tmp_path / "summary.md").read_text()
    line = "| t2 | t1 | perfect | **prediction** | 20.00 ± 0.00 [20.00, 20.00] |"
    assert page.count(line) == 1
    assert "14 of 14 expected predictions measured" in page


def test_bad_scans_are_counted_and_the_rest_goes_on(
    dataset: Path, translator: KnowsTheAnswer, tmp_path: Path
) -> None:
    (dataset / "bert" / "t1.nii.gz").write_bytes(b"\x1f\x8b broken")
    moved = nib.Nifti1Image(scan_data(9), np.diag([2.0, 2.0, 2.5, 1.0]))
    nib.save(moved, dataset / "anna_study1" / "flair.nii.gz")
    found = evaluate(translator, find_cases(dataset, MODALITIES), tmp_path, sources=["t1", "t2"])
    assert {(f.case, f.given, f.target) for f in found.failures} == {
        ("bert", "t1", "t2"),
        ("bert", "t1", "flair"),
        ("bert", "t2", "t1"),
        ("anna_study1", "t1", "flair"),
        ("anna_study1", "t2", "flair"),
    }
    assert {f.code for f in found.failures if f.case != "bert"} == {"E_GRID"}
    assert "flair.nii.gz: its grid" in (tmp_path / "summary.md").read_text()


def test_brainmask_of_the_case_decides_where_it_counts(
    dataset: Path, translator: KnowsTheAnswer, tmp_path: Path
) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[12:20, 12:20, 12:20] = 1
    nib.save(nib.Nifti1Image(mask, AFFINE), dataset / "bert" / "brainmask.nii.gz")
    truth = torch.from_numpy(nib.load(dataset / "bert" / "t2.nii.gz").get_fdata(dtype=np.float32))
    inside = torch.from_numpy(mask > 0)
    whole = reference_map(truth, truth > 0)
    part = reference_map(truth, inside)
    expected = (whole(truth) + 0.1 - part(truth))[inside].double().square().mean().sqrt()
    evaluate(translator, find_cases(dataset, MODALITIES), tmp_path, sources=["t1"], targets=["t2"])
    rows = read_csv(tmp_path / "cases.csv")
    found = [
        float(r["value"])
        for r in rows
        if (r["case"], r["answer"], r["region"], r["metric"])
        == ("bert", "translation", "brain", "rmse")
    ]
    assert found == [pytest.approx(float(expected), rel=1e-5)]


def test_everything_failing_still_leaves_a_report(
    dataset: Path, translator: KnowsTheAnswer, tmp_path: Path
) -> None:
    for file in dataset.rglob("*.nii.gz"):
        file.write_bytes(b"")
    found = evaluate(translator, find_cases(dataset, MODALITIES), tmp_path)
    assert (len(found.failures), found.rows, found.statistics) == (14, [], [])
    assert "0 of 0" in (tmp_path / "summary.md").read_text()


def test_no_pair_and_no_folder_are_refused(
    dataset: Path, translator: KnowsTheAnswer, tmp_path: Path
) -> None:
    cases = find_cases(dataset, MODALITIES)
    with pytest.raises(UsageError, match="none of 3 case"):
        evaluate(translator, cases, tmp_path, sources=["t1"], targets=["t1ce"])
    with pytest.raises(UsageError, match="unknown modality 'xray'"):
        evaluate(translator, cases, tmp_path, sources=["xray"])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        evaluate(translator, cases, tmp_path / "file" / "out")


def test_cases_are_chosen_by_id_subject_or_pattern(dataset: Path) -> None:
    cases = find_cases(dataset, MODALITIES)
    ids = {
        name: [case.id for case in select_cases(cases, [name])]
        for name in ("bert", "anna", "*study2")
    }
    assert ids == {
        "bert": ["bert"],
        "anna": ["anna_study1", "anna_study2"],
        "*study2": ["anna_study2"],
    }
    assert select_cases(cases, None) == cases
    with pytest.raises(UsageError, match="no case 'carl'"):
        select_cases(cases, ["carl"])


def test_matched_volume_has_the_reference_histogram_and_its_own_order() -> None:
    generator = torch.Generator().manual_seed(0)
    volume, reference = torch.rand(2, 9, 8, 7, generator=generator)
    mask = torch.rand(9, 8, 7, generator=generator) > 0.3
    matched = match_histogram(volume, reference, mask)
    assert torch.equal(matched[mask].sort().values, reference[mask].sort().values)
    assert torch.equal(matched[mask].argsort(), volume[mask].argsort())


def test_equal_voxels_stay_equal_and_keep_the_mean() -> None:
    reference = torch.tensor([1.0, 2.0, 3.0, 6.0])
    volume = torch.tensor([5.0, 5.0, 5.0, 9.0])
    matched = match_histogram(volume, reference, torch.ones(4, dtype=torch.bool))
    assert matched.tolist() == [2.0, 2.0, 2.0, 6.0]


def plain_truth(volume: torch.Tensor) -> Truth:
    everywhere = torch.ones_like(volume, dtype=torch.bool)
    return Truth("t2", volume, everywhere, everywhere, None, np.eye(4))


def test_a_negative_is_answered_by_its_inverse() -> None:
    source = torch.rand(12, 11, 13, generator=torch.Generator().manual_seed(2))
    truth = plain_truth(1 - source)
    answers = dict(trivial_answers(100 * source, truth))
    assert torch.allclose(answers["matched inverse"], 1 - source, atol=1e-6)
    assert not torch.allclose(answers["matched copy"], 1 - source, atol=1e-2)
    low, high = np.percentile(source.double().numpy(), (0.5, 99.5))
    expected = ((source.double() - low) / (high - low)).clamp(0, 1).float()
    assert torch.allclose(truth.to_scale(answers["copy"]), expected, atol=1e-5)


def test_every_given_contrast_is_tried_as_an_answer_and_measured_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = torch.rand(2, 12, 11, 13, generator=torch.Generator().manual_seed(2))
    truth, asked = plain_truth(first), []

    def counted(source: torch.Tensor, truth: Truth) -> Any:
        asked.append(source)
        return trivial_answers(source, truth)

    monkeypatch.setattr(evaluation_pairs, "trivial_answers", counted)
    case, known = Case("a", {"t1": Path("t1"), "flair": Path("flair")}), {}
    measured = {
        given: measure_baselines(sources, truth, case=case, given=given, known=known)
        for given, sources in {
            "t1": {"t1": first},
            "t1+flair": {"t1": first, "flair": second},
            "flair": {"flair": second},
        }.items()
    }
    assert len(asked) == 2
    answers = ("copy", "matched copy", "matched inverse")
    assert list(dict.fromkeys(row.answer for row in measured["t1+flair"])) == [
        f"{answer} of {modality}" for modality in ("t1", "flair") for answer in answers
    ]
    for given in ("t1", "flair"):
        together = [r for r in measured["t1+flair"] if r.answer.endswith(f" of {given}")]
        assert [r._replace(given=given, answer=r.answer.split(" of ")[0]) for r in together] == (
            measured[given]
        )
        assert {row.given for row in measured[given]} == {given}


def test_mean_image_leaves_the_patient_out_and_follows_the_grid() -> None:
    volumes = torch.rand(3, 12, 11, 13, generator=torch.Generator().manual_seed(2))
    truths = [plain_truth(volume) for volume in volumes]
    mean = MeanImage()
    assert mean.without("a", truths[0]) is None
    for subject, truth in zip("aab", truths, strict=True):
        mean.add(subject, truth)
    found = mean.without("b", truths[2])
    expected = truths[2].from_scale((truths[0].scaled + truths[1].scaled) / 2)
    assert found is not None
    assert torch.allclose(found, expected, atol=1e-6)
    moved = np.eye(4)
    moved[0, 3] = 2  # two voxels further right
    other = Truth("t2", volumes[2], truths[2].brain, truths[2].head, None, moved)
    shifted = mean.without("b", other)
    assert shifted is not None
    assert torch.allclose(shifted[:-2], expected[2:], atol=1e-5)


def psnr_row(case: str, subject: str, answer: str, value: float) -> Row:
    run = "ours" if answer == "translation" else ""
    return Row(run, case, subject, "t1", "t2", answer, "default", "brain", "psnr", value, 9)


def test_summary_takes_the_better_match_and_pairs_the_gain() -> None:
    values = {
        "translation": (20.0, 100.0),
        "copy": (1.0, 2.0),
        "matched copy": (12.0, 14.0),
        "matched inverse": (15.0, 12.0),
    }
    rows = [
        psnr_row(case, case, answer, value)
        for answer, pair in values.items()
        for case, value in zip("ab", pair, strict=True)
    ]
    found = {s.answer: s for s in summarize(rows)}
    assert found["trivial"].named == "matched inverse"
    assert found["trivial"].mean == 13.5
    assert found["gain"].mean == pytest.approx((5 + 88) / 2)
    assert found["gain"].sd == pytest.approx(83 / math.sqrt(2))
    assert (found["translation"].capped, found["copy"].capped) == (1, 0)


def test_interval_resamples_patients_not_scans() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=24)
    alone = patient_interval(values, [str(i) for i in range(24)])
    twice = patient_interval(np.repeat(values, 5), [str(i) for i in range(24) for _ in range(5)])
    assert alone == pytest.approx(twice)  # five copies of a patient add no certainty
    assert patient_interval([1.0, 2.0], ["a", "a"]) is None
    half = 1.96 * values.std() / math.sqrt(24)  # normal approximation of the bootstrap
    assert alone is not None
    assert alone == pytest.approx((values.mean() - half, values.mean() + half), abs=0.08)
    assert patient_interval(values, [str(i) for i in range(24)], seed=1) != alone


def test_command_reads_its_lists_and_tells_partial_failure(
    dataset: Path, translator: KnowsTheAnswer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation.Translator, "from_bundle", lambda path, device: translator)
    app = typer.Typer()
    app.command()(evaluation.main)
    arguments = ["--dataset-dir", str(dataset), "--output-dir", str(tmp_path / "out"), "--quiet"]
    arguments += ["--cases", "bert, anna_study2", "--sources", "t1", "--targets", "t2,flair"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert [call[:3] for call in translator.calls] == [
        ("bert", "t1", ["t2", "flair"]),
        ("anna_study2", "t1", ["flair"]),
    ]
    (dataset / "bert" / "flair.nii.gz").write_bytes(b"")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 8
    assert "bert t1 to flair" in result.output
    result = CliRunner().invoke(app, [*arguments[:5], "--sources", "xray"])
    assert result.exit_code == 2


def test_case_without_a_second_contrast_is_passed_over(translator: KnowsTheAnswer) -> None:
    lone = Case("lone", {"t1": Path("t1.nii.gz")})
    with pytest.raises(UsageError, match="none of 1 case"):
        evaluate(translator, [lone], "unused")
    assert not Path("unused").exists()


def test_a_bundle_is_evaluated_end_to_end_and_alike_twice(
    dataset: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    app = typer.Typer()
    app.command()(evaluation.main)
    arguments = ["--dataset-dir", str(dataset), "--bundle", str(tiny_bundle), "--device", "cpu"]
    arguments += ["--cases", "bert", "--sources", "t1", "--seed", "3", "--quiet", "--output-dir"]
    for name in ("one", "two"):
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / name)])
        assert result.exit_code == 0, result.output
    for name in ("cases.csv", "summary.json", "summary.md", "summary.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    provenance = json.loads((tmp_path / "one" / "summary.json").read_text())["provenance"]
    assert (provenance["bundle"], provenance["bundle_version"]) == ("tiny", "9.8.7")
    weights = (tiny_bundle / "models" / "model.pt").read_bytes()
    assert provenance["weights_sha256"] == hashlib.sha256(weights).hexdigest()
