"""Splits are by patient and by seed alone."""

import random
from pathlib import Path

import pytest

from voxlate.data_prep import Case, UsageError
from voxlate.data_prep.splits import check_split, read_split, save_split, split_by_seed

CASES = [Case(f"p{n:02d}_ses{k}", {}) for n in range(20) for k in (1, 2)]


def test_split_is_by_patient_and_of_the_wanted_size() -> None:
    sides = split_by_seed(CASES, 0.25, seed=1)
    held = {case.subject for case in CASES if sides[case.id] == "validation"}
    kept = {case.subject for case in CASES if sides[case.id] == "training"}
    assert len(held) == 5 and len(kept) == 15 and not held & kept
    check_split(sides, CASES)


def test_order_of_the_cases_changes_nothing_and_the_seed_does() -> None:
    shuffled = random.Random(0).sample(CASES, len(CASES))
    assert split_by_seed(shuffled, 0.25, seed=1) == split_by_seed(CASES, 0.25, seed=1)
    assert split_by_seed(CASES, 0.25, seed=2) != split_by_seed(CASES, 0.25, seed=1)


def test_the_papers_numbers_come_out_exactly() -> None:
    cases = [Case(f"IXI{n:03d}", {}) for n in range(574)]
    sides = list(split_by_seed(cases, 115 / 574).values())
    assert (sides.count("training"), sides.count("validation")) == (459, 115)


def test_small_sets_have_both_sides_and_one_patient_only_training() -> None:
    assert sorted(split_by_seed(CASES[:4], 0.01).values()) == ["training"] * 2 + ["validation"] * 2
    assert set(split_by_seed(CASES[:2], 0.5).values()) == {"training"}
    assert set(split_by_seed(CASES, 0.0).values()) == {"training"}
    with pytest.raises(ValueError, match="share"):
        split_by_seed(CASES, 1.0)


def test_split_survives_its_file_and_aldms_words_are_known(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    sides = split_by_seed(CASES, 0.25)
    save_split(path, CASES, sides)
    assert read_split(path, CASES) == sides
    path.write_text("id,split\na,train\nb,test\n")
    assert read_split(path, [Case("a", {}), Case("b", {})]) == {
        "a": "training",
        "b": "validation",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,split\np00_ses1,training\n", "lacks 1 cases, such as p00_ses2"),
        ("id,split\np00_ses1,dev\n", "a row is"),
        ("id,split\np00_ses1,training\np00_ses2,validation\n", "patient p00 is in training and"),
    ],
)
def test_wrong_split_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        check_split(read_split(path, CASES[:2]), CASES[:2], path)
