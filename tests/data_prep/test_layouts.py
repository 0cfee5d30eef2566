"""Each data set is found in the tree it comes in; what is missing is said with its place."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from voxlate.data_prep import Case, NoInputError, UsageError, load_datalist, save_datalist
from voxlate.data_prep.known_layouts import LAYOUTS, layout_by_name
from voxlate.data_prep.layouts import Found, find_layout_cases

IDS = {
    "brats2020": [f"BraTS20_Training_{n}" for n in ("001", "002", "003", "355")],
    "brats2021": [f"BraTS2021_{n:05d}" for n in (0, 2, 4, 6)],
    "brats2023": [f"BraTS-GLI-{n:05d}-000" for n in (0, 1, 2, 900)],
    "ixi": ["IXI002-Guys-0800", "IXI003-HH-0801", "IXI004-IOP-0802", "IXI005-Guys-0803"],
    "isles2015": ["test_01", "training_01", "training_02", "training_03"],
    "wmh2017": ["Amsterdam_GE3T_100", "Singapore_50", "Utrecht_0", "Utrecht_2"],
    "synthrad2023": ["1BA001", "1BA004", "1BB002", "1BC003"],
    "bids": ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1", "sub-02_ses-2"],
    "table": ["visit0", "visit1", "visit2", "visit3"],
}
IMAGES = {
    "brats2020": ["t1", "t2", "t1ce", "flair"],
    "brats2021": ["t1", "t1ce", "t2", "flair"],
    "brats2023": ["t1", "t1ce", "t2", "flair"],
    "ixi": ["t1", "t2", "pd"],
    "isles2015": ["t1", "t2", "flair", "dwi"],
    "wmh2017": ["t1", "flair"],
    "synthrad2023": ["mr", "ct"],
    "bids": ["flair", "t1", "t1ce"],
    "table": ["t1", "t2"],
}


def find(name: str, root: Path, **options: Any) -> Found:
    return find_layout_cases(layout_by_name(name), root, **options)


@pytest.mark.parametrize("name", IDS)
def test_downloaded_tree_is_found_whole(name: str, layout_trees: Any, tmp_path: Path) -> None:
    found = find(name, layout_trees(name, tmp_path / "raw"))
    assert [case.id for case in found.cases] == IDS[name]
    assert all(sorted(case.files) == sorted(IMAGES[name]) for case in found.cases)
    assert all(path.is_file() for case in found.cases for path in case.files.values())
    masked = [case for case in found.cases if case.masks]
    assert len(masked) == {"ixi": 0, "brats2023": 3, "isles2015": 3}.get(name, 4)
    assert not found.bad


@pytest.mark.parametrize("name", IDS)
def test_tree_is_found_from_the_folder_above_and_the_same_from_anywhere(
    name: str, layout_trees: Any, tmp_path: Path
) -> None:
    below = layout_trees(name, tmp_path / "downloads" / "raw")
    root = below if name in ("table", "bids") else tmp_path
    assert [case.id for case in find(name, root).cases] == IDS[name]


def test_publishers_sides_count_where_both_are_there(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("brats2023", tmp_path / "raw")
    assert find("brats2023", root).sides["BraTS-GLI-00900-000"] == "validation"
    shutil.rmtree(next(root.glob("*ValidationData")))
    assert find("brats2023", root).sides == {}
    isles = find("isles2015", layout_trees("isles2015", tmp_path / "isles"))
    assert isles.sides["test_01"] == "validation"
    assert isles.sides["training_01"] == "training"


def test_brats_2023_is_known_in_the_names_of_2021_too(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("brats2021", tmp_path / "raw")
    assert [case.id for case in find("brats2023", root).cases] == IDS["brats2021"]


def test_case_355_of_brats_2020_has_its_mask(layout_trees: Any, tmp_path: Path) -> None:
    case = find("brats2020", layout_trees("brats2020", tmp_path / "raw")).cases[-1]
    assert case.masks["lesion"].name == "W39_1998.09.19_Segm.nii"


def test_sessions_of_a_patient_are_one_patients(layout_trees: Any, tmp_path: Path) -> None:
    assert [c.subject for c in find("bids", layout_trees("bids", tmp_path / "b")).cases] == [
        "sub-01", "sub-01", "sub-02", "sub-02",
    ]  # fmt: skip
    cases = find("table", layout_trees("table", tmp_path / "t")).cases
    assert [c.subject for c in cases] == ["P0", "P0", "P1", "P1"]
    save_datalist(tmp_path / "list.json", cases[:2], cases[2:])
    training, _ = load_datalist(tmp_path / "list.json", ["t1", "t2"])
    assert [c.subject for c in training] == ["P0", "P0"]
    save_datalist(tmp_path / "leak.json", cases[:1], cases[1:])
    with pytest.raises(UsageError, match="patient P0 is in training and in validation"):
        load_datalist(tmp_path / "leak.json", ["t1", "t2"])


@pytest.mark.parametrize("name", [n for n in IDS if n != "table"])
def test_folder_without_a_case_says_what_was_expected(name: str, tmp_path: Path) -> None:
    (tmp_path / "IXI-T1.tar").touch()
    with pytest.raises(NoInputError, match="no case of") as caught:
        find(name, tmp_path)
    assert layout_by_name(name).tree in str(caught.value)
    assert "unpack IXI-T1.tar first" in str(caught.value)
    with pytest.raises(NoInputError, match="no such folder"):
        find(name, tmp_path / "nowhere")


@pytest.mark.parametrize("tree", IDS)
def test_another_data_set_is_refused_and_named(
    tree: str, layout_trees: Any, tmp_path: Path
) -> None:
    root = layout_trees(tree, tmp_path / "raw")
    own = {"brats2021": {"brats2021", "brats2023"}}.get(tree, {tree})  # one tree, both names
    for name in set(LAYOUTS) - own - {"table"}:
        with pytest.raises(NoInputError, match="no case of") as caught:
            find(name, root, others=tuple(LAYOUTS.values()))
        named = [n for n in LAYOUTS if f"prepare it as {n}, or" in str(caught.value)]
        assert named == [tree], caught.value
    if tree != "table":
        with pytest.raises(UsageError, match="table.csv: cannot be read"):
            find("table", root)


def test_half_a_download_names_the_first_cases_and_can_be_skipped(
    layout_trees: Any, tmp_path: Path
) -> None:
    root = layout_trees("brats2021", tmp_path / "raw", count=6)
    for number in (0, 2, 4, 6):
        (root / f"BraTS2021_{number:05d}/BraTS2021_{number:05d}_t2.nii.gz").unlink()
    (root / "BraTS2021_00008/BraTS2021_00008_t1.nii.gz").write_bytes(b"")
    with pytest.raises(UsageError) as caught:
        find("brats2021", root)
    line = str(caught.value)
    assert line.startswith(f"{root}: 5 of 6 cases of BraTS 2021 cannot be used")
    assert "BraTS2021_00000 lacks t2; " in line and "; and 2 more" in line
    assert "BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz" in line and "--skip-bad" in line
    found = find("brats2021", root, skip_bad=True)
    assert [case.id for case in found.cases] == ["BraTS2021_00010"]
    assert len(found.bad) == 5
    assert "BraTS2021_00008_t1.nii.gz" in found.bad["BraTS2021_00008"]


def test_nothing_usable_is_an_error_even_when_bad_cases_are_skipped(
    layout_trees: Any, tmp_path: Path
) -> None:
    root = layout_trees("ixi", tmp_path / "raw")
    shutil.rmtree(root / "IXI-PD")
    with pytest.raises(UsageError, match="4 of 4 cases of IXI cannot be used .*lacks pd"):
        find("ixi", root, skip_bad=True)
    assert len(find("ixi", root, modalities=["t1", "t2"]).cases) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t1,t2\na,b\n", "columns are"),
        ("id\na\n", "columns are"),
        ("id,T1 weighted\na,b\n", "column 't1 weighted' is no modality"),
        ("id,t1\na,x.nii\na,y.nii\n", "line 3: the id 'a' is there twice"),
        ("id,t1\n../a,x.nii\n", "is not a plain name"),
        ("id,t1,split\na,x.nii,dev\n", "split is 'dev'"),
        ("id,t1\na,missing.nii\n", "missing or empty files: missing.nii"),
    ],
)
def test_wrong_table_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        find("table", tmp_path)


def test_table_takes_semicolons_and_sides(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("table", tmp_path / "raw")
    rows = ["id;t1;split", "a;scans/0 a.nii.gz;training", "b;scans/1 a.nii.gz;validation"]
    (root / "own.csv").write_text("\n".join(rows))
    found = find("table", root / "own.csv")
    assert [(case.id, found.sides[case.id]) for case in found.cases] == [
        ("a", "training"),
        ("b", "validation"),
    ]
    assert isinstance(found.cases[0], Case)


def test_unknown_layout_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="choose from brats2020, brats2021"):
        layout_by_name("brats")
    assert list(LAYOUTS) == list(IDS)
