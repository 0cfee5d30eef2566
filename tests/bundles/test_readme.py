"""Every command in the bundles' README, typed as printed, in a copy with tiny networks."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voxlate.data_prep import find_cases, save_datalist, split_by_subject

CONTRASTS = {
    "aldm_brats": ["t1", "t1ce", "t2", "flair"],
    "brain_mri_completion": ["t1", "t1ce", "t2", "flair"],
    "brain_mri_translation": ["t1", "t1ce", "t2", "flair"],
    "dfbk_brats": ["t1", "t2", "flair"],
    "msg_brats": ["t1", "t2", "t1ce", "flair"],
}
DATALISTS = {
    "aldm_brats": "brats2021.json",
    "dfbk_brats": "brats2023.json",
    "msg_brats": "brats2020.json",
}
ELSEWHERE = {"brain_mri_completion": "configs/structure.yaml"}  # test_completion.py trains that


def commands(readme: Path) -> list[str]:
    """The indented lines that begin with a program, joined, from where commands are explained on.

    What stands before it says how figures were measured, on data that a test has not.
    """
    found: list[str] = []
    explained = readme.read_text().partition("\n## MONAI Bundle Commands\n")[2]
    for line in explained.splitlines():
        if found and found[-1].endswith("\\"):
            found[-1] = found[-1][:-1] + line.strip()
        elif line.startswith(("    python ", "    torchrun ")):
            found.append(line.strip())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONTRASTS))
def test_every_command_of_the_readme_runs(
    name: str,
    copied: Callable[..., Any],
    phantoms: Path,
    schemas_dir: Path,
    importable: dict[str, str],
    tmp_path: Path,
) -> None:
    bundle = copied(name)
    bundle.shrink()
    weights = bundle.random_weights()
    if name == "brain_mri_completion":  # it starts with its neighbour's autoencoder
        neighbour = bundle.root.parent / "brain_mri_translation" / "models"
        neighbour.mkdir(parents=True)
        shutil.copy(weights, neighbour / "model.pt")
    (bundle.root / "eval").mkdir()
    shutil.copy(schemas_dir / "meta_schema_20240725.json", bundle.root / "eval" / "schema.json")
    for patient in ("patient01", "patient02"):
        shutil.copytree(phantoms / patient, bundle.root / "scans" / patient)
    if name == "brain_mri_completion":
        (bundle.root / "scans" / "patient02" / "t2.nii.gz").unlink()
    for source, subject in (("01", "07"), ("02", "12"), ("03", "19")):
        folder = bundle.root / "data" / f"patient{subject}"
        shutil.copytree(phantoms / f"patient{source}", folder)
    cases = find_cases(bundle.root / "data", CONTRASTS[name])
    split = split_by_subject(cases, validation=["patient19"])
    save_datalist(bundle.root / "data" / DATALISTS.get(name, "datalist.json"), *split)
    path = f"{Path(sys.executable).parent}{os.pathsep}{importable['PATH']}"
    ran = 0
    for command in commands(bundle.root / "docs" / "README.md"):
        if "tracking" in command and importlib.util.find_spec("mlflow") is None:
            continue
        if ELSEWHERE.get(name, command + " ") in command:
            continue
        for patient in ("BraTS2021_00000", "BraTS-GLI-00000-000", "BraTS20_Training_001"):
            command = command.replace(patient, "patient19")
        command = command.replace("=4", "=2")
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=bundle.root,
            env={**importable, "PATH": path},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        ran += 1
    completes = name == "brain_mri_completion"
    assert ran >= (7 if completes else 8)
    ends = {"brain_mri_completion": "paths", "brain_mri_translation": "regression"}
    last = ends.get(name, "denoiser")
    assert (bundle.root / "runs" / last / "model.pt").is_file()
    made = "patient02" if completes else "patient01"
    assert (bundle.root / "out" / made / "t1_t2.nii.gz").is_file()
    assert (bundle.root / "report" / "metrics.csv").is_file()
