import json
from pathlib import Path

import pytest

from voxlate.data_prep import (
    Case,
    NoInputError,
    UsageError,
    find_cases,
    load_datalist,
    save_datalist,
    split_by_subject,
)

MODALITIES = ("t1", "t1ce", "t2", "flair")


def plant(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def summary(cases: list[Case]) -> dict[str, list[str]]:
    return {case.id: [*case.files, *case.masks] for case in cases}


def test_one_folder_for_each_case_nested_at_will(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "b/patient2/t1.nii.gz",
        "b/patient2/flair.nii.gz",
        "b/patient2/lesion.nii.gz",
        "a/patient1_study1/t2.nii.gz",
        "a/patient1_study1/brainmask.nii.gz",
        "a/patient1_study1/notes.txt",
    )
    cases = find_cases(tmp_path, MODALITIES)
    assert summary(cases) == {
        "a/patient1_study1": ["t2", "brainmask"],
        "b/patient2": ["t1", "flair", "lesion"],
    }
    assert [c.subject for c in cases] == ["a/patient1", "b/patient2"]
    assert cases[1].files["t1"] == tmp_path / "b/patient2/t1.nii.gz"


def test_brats_names_of_2021_and_2023(tmp_path: Path) -> None:
    plant(
        tmp_path,
        "BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz",
        "BraTS2021_00000/BraTS2021_00000_t1.nii.gz",
        "BraTS2021_00000/BraTS2021_00000_seg.nii.gz",
        "BraTS-GLI-00007-001-t1c.nii.gz",
        "BraTS-GLI-00007-001-t2f.nii.gz",
        "BraTS-GLI-00007-000-t1n.nii.gz",
    )
    cases = find_cases(tmp_path, MODALITIES)
    assert summary(cases) == {
        "BraTS-GLI-00007-000": ["t1"],
        "BraTS-GLI-00007-001": ["t1ce", "flair"],
        "BraTS2021_00000": ["t1", "t1ce", "lesion"],
    }
    assert [c.subject for c in cases] == ["BraTS-GLI-00007", "BraTS-GLI-00007", "BraTS2021_00000"]


def test_bids_names(tmp_path: Path) -> None:
    anat = "sub-01/ses-2/anat/sub-01_ses-2"
    plant(tmp_path, f"{anat}_T1w.nii.gz", f"{anat}_ce-gadolinium_T1w.nii.gz", f"{anat}_FLAIR.nii")
    (case,) = find_cases(tmp_path, MODALITIES)
    assert list(case.files) == ["t1", "t1ce", "flair"]
    assert case.subject == "sub-01"


def test_plain_scans_are_cases_of_the_modality_given(tmp_path: Path) -> None:
    plant(tmp_path, "anna.nii.gz", "Bert.NII.GZ", "._anna.nii.gz", ".hidden/x.nii")
    cases = find_cases(tmp_path, MODALITIES, source="T1w")
    assert summary(cases) == {"Bert": ["t1"], "anna": ["t1"]}
    with pytest.raises(NoInputError, match="no NIfTI scan"):
        find_cases(tmp_path, MODALITIES)


def test_other_modalities_are_passed_over(tmp_path: Path) -> None:
    plant(tmp_path, "p/t1.nii.gz", "p/ct.nii.gz", "p/dwi.nii.gz")
    assert summary(find_cases(tmp_path, MODALITIES)) == {"p": ["t1"]}


def test_two_files_of_one_kind_are_refused(tmp_path: Path) -> None:
    plant(tmp_path, "p/t1.nii.gz", "p/T1w.nii")
    with pytest.raises(UsageError, match="both t1") as caught:
        find_cases(tmp_path, MODALITIES)
    assert caught.value.exit_code == 2


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such folder") as caught:
        find_cases(tmp_path / "nowhere", MODALITIES)
    assert caught.value.exit_code == 3


def test_split_keeps_the_sessions_of_a_patient_together(tmp_path: Path) -> None:
    plant(tmp_path, *[f"g/p{n}_study{k}/t1.nii.gz" for n in range(3) for k in (1, 2)])
    cases = find_cases(tmp_path, MODALITIES)
    training, validation = split_by_subject(cases, validation=["p1"])
    assert [c.id for c in validation] == ["g/p1_study1", "g/p1_study2"]
    assert len(training) == 4
    assert not {c.subject for c in training} & {c.subject for c in validation}
    with pytest.raises(UsageError, match="p9"):
        split_by_subject(cases, validation=["p9"])


def test_datalist_round_trip_with_relative_names(tmp_path: Path) -> None:
    plant(tmp_path, "data/p1/t1.nii.gz", "data/p1/lesion.nii.gz", "data/p2/flair.nii.gz")
    cases = find_cases(tmp_path / "data", MODALITIES)
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "split.json"
    save_datalist(path, cases[:1], cases[1:])
    content = json.loads(path.read_text())
    assert content == {
        "training": [
            {
                "id": "p1",
                "t1": "../data/p1/t1.nii.gz",
                "lesion": "../data/p1/lesion.nii.gz",
            }
        ],
        "validation": [{"id": "p2", "flair": "../data/p2/flair.nii.gz"}],
    }
    training, validation = load_datalist(path, MODALITIES)
    assert summary(training + validation) == {"p1": ["t1", "lesion"], "p2": ["flair"]}
    assert training[0].files["t1"].samefile(cases[0].files["t1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a data list"),
        ("{", "not JSON"),
        ('{"training": [{"t1": "a.nii"}]}', "no id"),
        ('{"training": [{"id": "x", "t1": "missing.nii"}]}', "no such file"),
        ('{"training": [{"id": "x"}, {"id": "x"}]}', "twice"),
        ('{"training": [{"id": "x_ses1"}], "validation": [{"id": "x_ses2"}]}', "patient x is in"),
    ],
)
def test_wrong_datalist_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises((UsageError, NoInputError), match=message):
        load_datalist(path, MODALITIES)


def test_real_scans_are_found(real_data: Path) -> None:
    cases = {c.id: c for c in find_cases(real_data, MODALITIES)}
    assert list(cases["open_ms/patient07"].files) == list(MODALITIES)
    assert "lesion" in cases["open_ms/patient07"].masks
    assert cases["open_ms_longitudinal/patient12_study2"].subject.endswith("patient12")
