"""All files of a case or none: failures and interruptions leave the folder as it was."""

import os
from pathlib import Path

import pytest

from voxlate.data_prep import OutputError
from voxlate.pipelines.outputs import check_outputs, staged

NAMES = ["a.txt", "b.txt"]


def fill(folder: Path, text: str) -> None:
    for name in NAMES:
        (folder / name).write_text(text)


def test_files_appear_together_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with staged(target, NAMES, overwrite=False) as staging:
        fill(staging, "new")
        assert [path for path in target.iterdir() if path.is_file()] == []
    assert sorted(path.name for path in target.iterdir()) == NAMES


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt(), SystemExit(143)])
def test_failure_leaves_nothing_behind(error: BaseException, tmp_path: Path) -> None:
    with (
        pytest.raises(type(error)),
        staged(tmp_path / "deep" / "out", NAMES, overwrite=False) as staging,
    ):
        fill(staging, "new")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_what_was_there(tmp_path: Path) -> None:
    fill(tmp_path, "old")
    with (
        pytest.raises(OutputError, match="No space"),
        staged(tmp_path, NAMES, overwrite=True) as staging,
    ):
        (staging / "a.txt").write_text("new")
        raise OSError(28, "No space left on device")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        NAMES, "old"
    )


def test_existing_output_is_refused_by_name_unless_overwritten(tmp_path: Path) -> None:
    fill(tmp_path, "old")
    with pytest.raises(OutputError, match="a.txt: this output is there already"):
        check_outputs(tmp_path, NAMES, overwrite=False)
    with staged(tmp_path, NAMES, overwrite=True) as staging:
        fill(staging, "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="there already"),
        staged(tmp_path, NAMES, overwrite=False) as staging,
    ):
        fill(staging, "mine")
        fill(tmp_path, "theirs")
    assert (tmp_path / "b.txt").read_text() == "theirs"


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(OutputError, match="file is a file") as caught:
            check_outputs(folder, NAMES, overwrite=False)
        assert caught.value.exit_code == 4


def test_what_a_killed_run_left_under_the_same_name_goes(tmp_path: Path) -> None:
    (tmp_path / ".voxlate-x").mkdir()
    (tmp_path / ".voxlate-x" / "half.nii.gz").write_text("half")
    with staged(tmp_path, NAMES, overwrite=False, staging_name=".voxlate-x") as staging:
        assert staging == tmp_path / ".voxlate-x" and list(staging.iterdir()) == []
        fill(staging, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES


def test_the_last_name_appears_when_all_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, replace = [], os.replace

    def watch(source: Path, target: Path) -> None:
        replace(source, target)
        seen.append(sorted(path.name for path in tmp_path.iterdir() if path.is_file()))

    monkeypatch.setattr(os, "replace", watch)
    with staged(tmp_path, NAMES, overwrite=False) as staging:
        fill(staging, "new")
    assert seen == [["a.txt"], ["a.txt", "b.txt"]]


def test_name_that_would_be_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="shorter") as caught:
        check_outputs(tmp_path, ["n" * 250 + "_flair.nii.gz"], overwrite=True)
    assert caught.value.code == "E_NAME" and caught.value.exit_code == 4
