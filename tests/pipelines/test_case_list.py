"""Cases from folders, BIDS data sets and CSV files; whatever is wrong with one is its own."""

import os
from pathlib import Path

import pytest

from voxlate.data_prep import NoInputError, UsageError
from voxlate.pipelines.case_list import CaseJob, CaseList, list_jobs, unusable_id, wanted_of
from voxlate.pipelines.case_table import escape, unescape

MODALITIES = ("t1", "t1ce", "t2", "flair")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def listed(
    source: Path, *targets: str, sources: list[str] | None = None, **options: str
) -> CaseList:
    wanted = wanted_of(MODALITIES, sources, targets or None)
    return list_jobs(source, source.parent / "out", MODALITIES, wanted, **options)  # type: ignore[arg-type]


def by_id(found: CaseList) -> dict[str, CaseJob]:
    return {job.id: job for job in found.jobs}


def test_mixed_folder_gives_each_case_its_first_source_and_mirrored_names(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "in", "a/t1.nii.gz", "a/t2.nii.gz", "b/x_flair.nii", "plain.nii.gz", "c/scan.mgz"
    )
    found = listed(root, "t2", "flair")
    jobs = by_id(found)
    assert list(jobs) == ["a/t1", "b/x_flair", "plain"]
    assert jobs["a/t1"].source == "t1" and jobs["a/t1"].targets == ("t2", "flair")
    assert jobs["b/x_flair"].source == "flair" and jobs["b/x_flair"].targets == ("t2",)
    assert jobs["b/x_flair"].notes == ("W_SOURCE: flair is the source and was not made",)
    assert jobs["plain"].source == "t1"
    assert jobs["a/t1"].files.volumes["t2"] == "a/t1_t2.nii.gz"
    assert any(".mgz" in note and "mri_convert" in note for note in found.notes)


def test_what_is_named_like_a_scan_and_is_none_is_left_out_and_counted(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "a/t1.nii.gz", "a/._t1.nii.gz", "b/t1.nii.gz/readme.txt")
    found = listed(root, "t2")
    assert list(by_id(found)) == ["a/t1"]
    assert sorted(found.notes) == [
        "1 folder(s) named like a scan were left out",
        "1 macOS side file(s) (._*) were left out",
    ]


def test_case_without_the_named_source_is_refused_alone(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "a/t1.nii.gz", "b/t2.nii.gz")
    jobs = by_id(listed(root, "flair", sources=["t1"]))
    assert jobs["a/t1"].refusal is None
    refusal = jobs["b/t2"].refusal
    assert refusal is not None and refusal.code == "E_MISSING" and "only t2" in refusal.what


def test_default_targets_are_every_other_contrast(tmp_path: Path) -> None:
    (job,) = listed(touch(tmp_path / "in", "a/t2.nii.gz")).jobs
    assert job.targets == ("t1", "t1ce", "flair") and job.notes == ()


def test_own_results_are_no_input(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "a/t1.nii.gz", "res/a/t1_t2.nii.gz", "res/b/t1.nii.gz")
    wanted = wanted_of(MODALITIES, None, ["t2"])
    assert [job.id for job in list_jobs(root, root / "res", MODALITIES, wanted).jobs] == ["a/t1"]
    with pytest.raises(UsageError, match="among the scans"):
        list_jobs(root, root, MODALITIES, wanted)


@pytest.mark.parametrize(
    "names", [("a/x.nii", "a/x.nii.gz"), ("a/Case.nii.gz", "a/case.nii.gz"), ("A/x.nii", "a/x.nii")]
)
def test_two_scans_with_one_output_name_are_refused_with_both(
    names: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        listed(touch(tmp_path / "in", *names), "t2")
    assert caught.value.code == "E_CLASH"
    assert all(Path(name).name in str(caught.value) for name in names)


def test_pattern_chooses_by_name_or_path(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "a/t1.nii.gz", "b/t1.nii.gz", "b/other_t1.nii.gz")
    assert list(by_id(listed(root, "t2", pattern="b/*"))) == ["b/other_t1", "b/t1"]
    assert list(by_id(listed(root, "t2", pattern="other*"))) == ["b/other_t1"]
    with pytest.raises(NoInputError, match=r"'\*\.mgz'"):
        listed(root, "t2", pattern="*.mgz")


@pytest.mark.parametrize("name", ["", "nothing.csv", "empty"])
def test_nothing_to_do_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError) as caught:
        listed(tmp_path / name if name else tmp_path / "absent", "t2")
    assert caught.value.exit_code == 3


@pytest.mark.skipif(os.getuid() == 0, reason="root may list every folder")
def test_folder_without_permission_is_one_failed_case(tmp_path: Path) -> None:
    root = touch(tmp_path / "in", "a/t1.nii.gz", "b/t1.nii.gz")
    (root / "b").chmod(0)
    try:
        jobs = by_id(listed(root, "t2"))
    finally:
        (root / "b").chmod(0o755)
    assert jobs["b"].refusal is not None and jobs["b"].refusal.code == "E_PATH"
    assert jobs["a/t1"].refusal is None


def test_bids_subjects_alone_are_listed(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "in",
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_T2w.nii.gz",
        "sub-01/func/sub-01_task-x_bold.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
    )
    found = listed(root, "t2", "flair")
    assert found.layout == "bids"
    assert list(by_id(found)) == ["sub-01/anat/sub-01_T1w", "sub-02/ses-1/anat/sub-02_ses-1_T2w"]
    first = found.jobs[0].files
    assert first.volumes["t2"] == "sub-01/anat/sub-01_desc-synth_T2w.nii.gz"
    assert listed(root, "t2", layout="tree").layout == "tree"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_table_as_spreadsheets_write_it(separator: str, tmp_path: Path) -> None:
    rows = [
        ["id", "T1w", "FLAIR", "targets", "age"],
        ["00123", "a.nii.gz", "", "", "7"],
        ["'=cmd()", "", "sub/b.nii.gz", "t2+t1", "8"],
    ]
    text = "\r\n".join(separator.join(row) for row in rows) + "\r\n\r\n"
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    jobs = by_id(listed(tmp_path / "list.csv", "t2", "flair"))
    assert list(jobs) == ["00123", "=cmd()"]
    assert jobs["00123"].scan == str(tmp_path / "a.nii.gz")
    assert jobs["00123"].files.volumes["t2"] == "00123_t2.nii.gz"
    assert jobs["=cmd()"].source == "flair" and jobs["=cmd()"].targets == ("t2", "t1")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("../../x,a.nii", "E_PATH"),
        ("/etc/x,a.nii", "E_PATH"),
        ("C:\\x,a.nii", "E_PATH"),
        ("..,a.nii", "E_PATH"),
        (".hidden,a.nii", "E_PATH"),
        (",a.nii", "E_PATH"),
        ("x,", "E_MISSING"),
    ],
)
def test_bad_row_is_a_failed_case_that_names_its_line(row: str, code: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"id,t1\ngood,g.nii\n{row}\n")
    jobs = listed(tmp_path / "list.csv", "t2").jobs
    (bad,) = [job for job in jobs if job.refusal is not None]
    assert bad.refusal is not None and bad.refusal.code == code
    assert bad.refusal.file == f"{tmp_path / 'list.csv'}:3"
    assert bad.files.names == ["row-3_qc.png", "row-3.json"] or ".." not in str(bad.files)


@pytest.mark.parametrize(
    "text",
    ["id,t1\nx,a\nX,b\n", "case,t1\nx,a\n", "id,age\nx,7\n", "id,t1,T1w\nx,a,b\n"],
)
def test_table_that_cannot_be_worked_on_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UsageError):
        listed(tmp_path / "list.csv", "t2")


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "'=x", "'", "plain", ""])
def test_formulas_are_text_on_the_way_out_and_back(text: str) -> None:
    assert not escape(text).startswith(("=", "+", "-", "@"))
    assert unescape(escape(text)) == text


@pytest.mark.parametrize(
    "case_id", ["a/../b", "a//b", "con", "a/NUL.x", "a ", "a.", "x" * 201, "a\nb", "a:b"]
)
def test_ids_that_are_no_file_names_are_told(case_id: str) -> None:
    assert unusable_id(case_id) is not None
    assert unusable_id("site_a/patient 07/t1é") is None


def test_only_source_as_only_target_is_refused() -> None:
    with pytest.raises(UsageError, match="t1 already"):
        wanted_of(MODALITIES, ["t1"], ["T1w"])
