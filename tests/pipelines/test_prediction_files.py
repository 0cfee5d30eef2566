"""Which prediction is of which case: records, names, folders, and what is refused."""

import hashlib
import json
from pathlib import Path

import pytest

from voxlate.data_prep import Case, NoInputError, UsageError
from voxlate.pipelines.prediction_files import Run, find_run, parse_given

MODALITIES = ("t1", "t1ce", "t2", "flair", "pd")


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    found = []
    for name in ("site/anna_study1", "bert", "BraTS-GLI-00001-000"):
        folder = tmp_path / "real" / name
        folder.mkdir(parents=True)
        files = {m: folder / f"{m}.nii.gz" for m in ("t1", "t2", "flair")}
        for file in files.values():
            file.write_bytes(str(file).encode())
        found.append(Case(name, files))
    return found


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def found(run: Run) -> dict[str, tuple[str, str, str]]:
    return {p.path.relative_to(run.folder).as_posix(): key for key, p in run.predictions.items()}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("bert/flair.nii.gz", ("bert", "", "flair")),
        ("bert_T2w.nii", ("bert", "", "t2")),
        ("BERT-t1-to-flair_pred.nii.gz", ("bert", "t1", "flair")),
        ("bert/t1_flair.nii.gz", ("bert", "t1", "flair")),
        ("bert/t1_t2_synthetic_flair.nii.gz", ("bert", "t1+t2", "flair")),
        ("t2+t1/bert/flair.nii.gz", ("bert", "t1+t2", "flair")),
        ("t1/bert_flair.nii.gz", ("bert", "t1", "flair")),
        ("anna_study1/flair.nii.gz", ("site/anna_study1", "", "flair")),
        ("site/anna_study1_flair.nii.gz", ("site/anna_study1", "", "flair")),
        ("BraTS-GLI-00001-000-t2f.nii.gz", ("BraTS-GLI-00001-000", "", "flair")),
        ("BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1c.nii.gz", ("BraTS-GLI-00001-000", "", "t1ce")),
        ("bert_ce-gadolinium_desc-synth_T1w.nii.gz", ("bert", "", "t1ce")),
    ],
)
def test_names_tell_case_sources_and_target(
    name: str, key: tuple[str, str, str], cases: list[Case], tmp_path: Path
) -> None:
    run = find_run("r", touch(tmp_path / "made", name), cases, MODALITIES)
    assert found(run) == {name: key}


def write_record(
    folder: Path, stem: str, case_id: str, input_file: Path | None, **more: object
) -> None:
    digest = "0" * 64 if input_file is None else hashlib.sha256(input_file.read_bytes()).hexdigest()
    record = {
        "Synthetic": True,
        "Input": {"File": f"{stem}.nii.gz", "SHA256": digest, "Modality": "t1"},
        "Outputs": {"flair": {"File": f"{stem}_flair.nii.gz"}, "t2": {"File": f"{stem}_t2.nii.gz"}},
        "IntensityScale": "0 and 1 are the 0.5th and 99.5th percentile of the foreground",
        "Options": {"CaseID": case_id},
        **more,
    }
    touch(folder, f"{stem}_flair.nii.gz", f"{stem}_t2.nii.gz")
    (folder / f"{stem}.json").write_text(json.dumps(record))


def test_the_record_beside_a_volume_tells_its_source_and_scale(
    cases: list[Case], tmp_path: Path
) -> None:
    write_record(tmp_path / "made" / "bert", "t1", "bert/t1", None)
    run = find_run("r", tmp_path / "made", cases, MODALITIES)
    assert sorted(found(run).values()) == [("bert", "t1", "flair"), ("bert", "t1", "t2")]
    assert {p.scale for p in run.predictions.values()} == {"unit"}
    assert run.directions == [("t1", "flair"), ("t1", "t2")]


def test_a_single_translation_is_known_by_its_input_s_content(
    cases: list[Case], tmp_path: Path
) -> None:
    write_record(tmp_path / "out", "t1", "t1", cases[1].files["t1"])
    run = find_run("r", tmp_path / "out", cases, MODALITIES)
    assert {key[0] for key in run.predictions} == {"bert"}


def test_records_of_several_inputs_are_understood(cases: list[Case], tmp_path: Path) -> None:
    inputs = {"flair": {"File": "f.nii.gz"}, "t1": {"File": "t1.nii.gz"}}
    write_record(tmp_path / "m" / "bert", "scan", "bert", None, Inputs=inputs)
    run = find_run("r", tmp_path / "m", cases, MODALITIES)
    assert set(run.predictions) == {("bert", "t1+flair", "flair"), ("bert", "t1+flair", "t2")}


def test_what_nothing_tells_can_be_said(cases: list[Case], tmp_path: Path) -> None:
    made = touch(tmp_path / "made", "bert/flair.nii.gz", "bert/t2_flair.nii.gz")
    run = find_run("r", made, cases, MODALITIES, given="t1")
    assert set(run.predictions) == {("bert", "t1", "flair"), ("bert", "t2", "flair")}
    assert parse_given("FLAIR+T1w", MODALITIES) == "t1+flair"
    with pytest.raises(UsageError, match="unknown modality"):
        parse_given("t1+xray", MODALITIES)


def test_predictions_of_no_case_are_kept_apart(cases: list[Case], tmp_path: Path) -> None:
    made = touch(tmp_path / "made", "bert_t2.nii.gz", "carl_t2.nii.gz", ".hidden/bert_t2.nii.gz")
    run = find_run("r", made, cases, MODALITIES)
    assert [path.name for path in run.unmatched] == ["carl_t2.nii.gz"]
    assert len(run.predictions) == 1


def test_damaged_and_foreign_records_are_passed_over(cases: list[Case], tmp_path: Path) -> None:
    made = touch(tmp_path / "made", "bert_t2.nii.gz", "a.json")
    (made / "b.json").write_text("[1, 2]")
    (made / "c.json").write_text('{"Outputs": {"t2": 3}, "Input": {"Modality": "t1"}}')
    (made / "d.json").write_text('{"Outputs": {"pet": {}}, "Input": {"Modality": "t1"}}')
    assert len(find_run("r", made, cases, MODALITIES).predictions) == 1


def test_clashes_and_empty_folders_are_refused(cases: list[Case], tmp_path: Path) -> None:
    made = touch(tmp_path / "made", "bert_t2.nii.gz", "bert/t2.nii.gz")
    with pytest.raises(UsageError, match="both t2 of case bert"):
        find_run("r", made, cases, MODALITIES)
    with pytest.raises(NoInputError, match="no such folder"):
        find_run("r", tmp_path / "absent", cases, MODALITIES)
    with pytest.raises(NoInputError, match="no prediction of t1"):
        find_run("r", touch(tmp_path / "seg", "bert_seg.nii.gz"), cases, MODALITIES)
    with pytest.raises(NoInputError, match=r"none of 1 .*'carl'.* 3 reference"):
        find_run("r", touch(tmp_path / "other", "carl_t2.nii.gz"), cases, MODALITIES)
