import pickle

import pytest

from voxlate.data_prep import ScanError, UsageError, guess_modality, parse_modality


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("T1w", "t1"), ("t1n", "t1"), ("T1c", "t1ce"), ("t1-gd", "t1ce"), ("t2-FLAIR", "flair")],
)
def test_aliases_are_understood(name: str, wanted: str) -> None:
    assert parse_modality(name) == wanted


def test_name_in_the_list_stands_for_itself() -> None:
    assert parse_modality("t1n", ("t1n", "t2w")) == "t1n"
    assert parse_modality("T2", ("t1n", "t2w")) == "t2w"
    assert parse_modality("adc", ("adc",)) == "adc"


@pytest.mark.parametrize("name", ["t3", "", "ct"])
def test_other_names_are_refused_with_the_choice(name: str) -> None:
    with pytest.raises(UsageError, match="choose from t1, t1ce, t2, flair") as caught:
        parse_modality(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("BraTS2021_00000_t1ce.nii.gz", "t1ce"),
        ("BraTS-GLI-00000-000-t2f.nii.gz", "flair"),
        ("sub-01_T1w.nii.gz", "t1"),
        ("sub-01_ce-gadolinium_T1w.nii.gz", "t1ce"),
        ("mr.nii.gz", "mr"),
        ("mr_t2.nii.gz", "t2"),
        ("VSD.Brain.XX.O.MR_DWI.70612.nii", "dwi"),
        ("brain_mr.nii.gz", None),
        ("t1_to_t2.nii.gz", None),
        ("anna.nii.gz", None),
        ("t1/anna.nii.gz", None),
    ],
)
def test_modality_is_guessed_only_where_the_name_is_clear(name: str, wanted: str | None) -> None:
    assert guess_modality(name) == wanted


def test_error_is_one_line_whatever_the_file_is_called() -> None:
    error = ScanError("bad\nthing", "do\tthis", code="E_X", file="a\nb\udcff.nii")
    assert str(error) == "a\\nb\\udcff.nii: bad\\nthing - do\\tthis"
    assert str(ScanError("bad", "do", code="E_X")) == "bad - do"


def test_error_keeps_its_fields_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ScanError("bad", "do", code="E_X", file="a.nii")))
    assert isinstance(error, ScanError)
    assert (str(error), error.code, error.file) == ("a.nii: bad - do", "E_X", "a.nii")
