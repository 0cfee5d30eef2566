"""The two commands: what they print, and how they end."""

import json
import shutil
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from voxlate.pipelines.cli import app
from voxlate.pipelines.prepare_options import parse_spacing


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_prepare_and_check_by_command(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("wmh2017", tmp_path / "raw", count=3)
    out = tmp_path / "out"
    done = run("prepare", "wmh2017", "--root", root, "--output", out, "--no-cache", "--quiet")
    assert (done.exit_code, done.output.strip()) == (0, str(out / "wmh2017.json"))
    checked = run("check", out, "--quiet", "--json", tmp_path / "check.json")
    assert checked.exit_code == 0, checked.output
    assert "3 cases, 6 scans: 0 errors" in checked.output
    shutil.copy(out / "cases/Utrecht_0/t1.nii.gz", out / "cases/Utrecht_0/flair.nii.gz")
    checked = run("check", out, "--quiet", "--json", tmp_path / "check.json")
    assert checked.exit_code == 8
    assert "same voxels" in " ".join(checked.output.split())
    assert json.loads((tmp_path / "check.json").read_text())["errors"] >= 1


def test_refusals_are_one_line(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("wmh2017", tmp_path / "raw", count=3)
    (root / "training/Utrecht/0/pre/T1.nii.gz").unlink()
    bad = run("prepare", "wmh2017", "--root", root, "--output", tmp_path / "out", "--quiet")
    assert bad.exit_code == 2
    (line,) = bad.output.strip().splitlines()
    assert line.startswith(f"voxlate: {root}: 1 of 3 cases of WMH 2017") and "--skip-bad" in line
    assert not (tmp_path / "out").exists()
    skipped = run(
        "prepare", "wmh2017", "--root", root, "--output", tmp_path / "out",
        "--no-cache", "--quiet", "--skip-bad",
    )  # fmt: skip
    assert skipped.exit_code == 0
    assert "1 cases left out, see" in skipped.output
    for words, text in (
        (("prepare", "brats", "--root", root, "--output", tmp_path / "x"), "unknown layout"),
        (
            ("prepare", "wmh2017", "--root", root, "--output", tmp_path / "x", "--spacing", "big"),
            "write 1, 1x1x3 or own",
        ),
        (("check", tmp_path / "nowhere"), "no such folder"),
    ):
        refused = run(*words)
        assert refused.exit_code in (2, 3) and text in refused.output


def test_spacing_is_one_number_three_or_own() -> None:
    assert parse_spacing("1.5") == (1.5, 1.5, 1.5)
    assert parse_spacing("1x1X3") == (1.0, 1.0, 3.0)
    assert parse_spacing("own") is None
