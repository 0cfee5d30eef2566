"""Raw scans of a patient to a report, by the commands of docs/evaluation.md as they are printed."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).parents[2]
HEADING = "## From raw scans to a report"


def printed(program: str) -> list[str]:
    """The indented lines of the section that begin with a program, or are its list of scans."""
    section = (ROOT / "docs/evaluation.md").read_text().split(HEADING)[1].split("\n## ")[0]
    return [line.strip() for line in section.splitlines() if line.startswith(f"    {program}")]


@pytest.fixture
def raw(real_data_dir: Path, tmp_path: Path) -> Path:
    """A folder with ``scans.csv`` and the raw scans in it, the mask taken to the FLAIR's grid."""
    source = real_data_dir / "open_ms_longitudinal_raw" / "patient12_study1"
    folder = tmp_path / "study"
    (folder / "raw").mkdir(parents=True)
    for name in ("T1W", "T2W", "FLAIR"):
        (folder / "raw" / f"{name}.nii.gz").symlink_to(source / f"study1_{name}.nii.gz")
    flair = sitk.ReadImage(str(source / "study1_FLAIR.nii.gz"))
    moved = sitk.ReadTransform(str(source / "study1_FLAIR_to_common_space.txt")).GetInverse()
    brain = sitk.ReadImage(str(source / "brainmask.nii.gz"))
    brain = sitk.Resample(brain, flair, moved, sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    sitk.WriteImage(brain, str(folder / "raw" / "brain.nii.gz"))
    (folder / "scans.csv").write_text("\n".join([*printed("id,"), *printed("p12_visit1,"), ""]))
    return folder


@pytest.mark.slow
def test_raw_scans_are_prepared_translated_and_evaluated(
    raw: Path, importable: dict[str, str], browser: Any, tmp_path: Path
) -> None:
    commands = printed("voxlate ")
    assert [c.split()[1] for c in commands] == ["prepare", "check", "batch", "evaluate"]
    for command in commands:
        words = [sys.executable, "-m", "voxlate.pipelines.cli", *command.split()[1:]]
        done = subprocess.run(words, cwd=raw, env=importable, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    record = json.loads((raw / "prepared/cases/p12_visit1/record.json").read_text())
    assert record["n4"] == ["t1", "t2", "flair"] and record["mask"]["source"] == "given"
    assert record["grid"]["spacing"] == pytest.approx([1, 1, 1])
    assert set(record["registration"]) == {"t1", "t2"}
    rows = list(csv.DictReader((raw / "report/cases.csv").open()))
    psnr = {
        (row["target"], row["answer"]): float(row["value"])
        for row in rows
        if (row["metric_set"], row["region"], row["metric"]) == ("default", "brain", "psnr")
    }
    for target in ("t2", "flair"):
        assert np.isfinite(psnr[target, "translation"])
        assert psnr[target, "translation"] > psnr[target, "copy"]
    page = browser.new_context(offline=True, viewport={"width": 1200, "height": 900}).new_page()
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto((raw / "report/summary.html").as_uri())
    assert told == []
    widths = page.evaluate("Array.from(document.images, (i) => i.naturalWidth)")
    assert len(widths) == 2 and min(widths) > 300
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.screenshot(path=tmp_path / "report.png", full_page=True)
