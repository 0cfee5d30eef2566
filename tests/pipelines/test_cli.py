"""The command: files, exit codes, one line for what is wrong, and nothing left behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import voxlate
from voxlate.pipelines.checkpoint import sha256_of
from voxlate.pipelines.cli import app

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["translate", *map(str, arguments), "--device", "cpu"])


def line(result: Any) -> str:
    """The one line of a refusal."""
    lines = [text for text in result.stderr.splitlines() if text.startswith("voxlate: ")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]


def test_volumes_picture_and_record_are_written(
    head_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "out"
    result = run(head_file, "--to", "t2", "--to", "flair", "--output", out, "--bundle", tiny_bundle)
    assert result.exit_code == 0, result.output
    names = [f"scans.one_t1_{end}" for end in ("flair.nii.gz", "qc.png", "t2.nii.gz")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "scans.one_t1.json"])
    given, made = nib.load(head_file), nib.load(out / "scans.one_t1_t2.nii.gz")
    assert made.shape == given.shape
    np.testing.assert_array_equal(made.affine, given.affine)
    for code in ("sform_code", "qform_code", "xyzt_units"):
        assert made.header[code] == given.header[code]
    voxels = made.get_fdata()
    assert voxels.min() >= 0 and voxels.max() <= 1
    assert not voxels[given.get_fdata() == 0].any()
    record = json.loads((out / "scans.one_t1.json").read_text())
    assert record["Outputs"]["t2"]["SHA256"] == sha256_of(out / "scans.one_t1_t2.nii.gz")
    assert "scans.one_t1: denoise" in result.stderr


def test_same_seed_gives_the_same_bytes(head_file: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        run(head_file, "--to", "t2", "--output", tmp_path / folder, "--bundle", tiny_bundle)
    first, second = (tmp_path / f / "scans.one_t1_t2.nii.gz" for f in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_existing_results_need_overwrite(
    head_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "scans.one_t1_qc.png").write_text("mine")
    arguments = (head_file, "--to", "t2", "--output", out, "--bundle", tiny_bundle)
    result = run(*arguments)
    assert result.exit_code == 4 and "--overwrite" in line(result)
    assert [path.name for path in out.iterdir()] == ["scans.one_t1_qc.png"]
    assert run(*arguments, "--overwrite").exit_code == 0


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--to": "t1"}, 2, "already"),
        ({"--to": "pet"}, 2, "unknown modality 'pet'"),
        ({"--source": "pet"}, 2, "unknown modality 'pet'"),
        ({"--bundle": "nowhere"}, 5, "nowhere: there is no bundle here"),
        ({"--device": "cuda:99"}, 6, "'cuda:99' is not there"),
        ({"--device": "tpu"}, 6, "'tpu' is unknown"),
        ({"--steps": "5000"}, 2, "0 to 1000"),
    ],
)
def test_wrong_option_is_one_line_and_leaves_nothing(
    change: dict[str, str],
    code: int,
    message: str,
    head_file: Path,
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    options = {"--to": "t2", "--bundle": str(tiny_bundle), "--output": str(tmp_path / "out")}
    flat = [part for pair in ({"--device": "cpu"} | options | change).items() for part in pair]
    result = CliRunner().invoke(app, ["translate", str(head_file), *flat])
    assert result.exit_code == code
    assert message in line(result) and " - " in line(result)
    assert not (tmp_path / "out").exists()


def damaged(kind: str, good: Path) -> Path:
    file = good.with_name(f"{kind}.nii.gz")
    image = nib.load(good)
    data = np.asarray(image.dataobj)
    if kind == "truncated":
        file.write_bytes(good.read_bytes()[:-2000])
    elif kind == "web page":
        file.write_text("<html>404</html>")
    elif kind == "constant":
        nib.save(nib.Nifti1Image(np.full_like(data, 3), image.affine), file)
    elif kind == "4d":
        nib.save(nib.Nifti1Image(np.stack([data, data], -1), image.affine), file)
    elif kind == "2d":
        nib.save(nib.Nifti1Image(data[..., 0], image.affine), file)
    elif kind == "rgb":
        rgb = np.zeros(data.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
        nib.save(nib.Nifti1Image(rgb, image.affine), file)
    elif kind == "nan":
        nib.save(nib.Nifti1Image(np.full(data.shape, np.nan, np.float32), image.affine), file)
    return file


@pytest.mark.parametrize(
    "kind", ["missing", "truncated", "web page", "constant", "4d", "2d", "rgb", "nan"]
)
def test_bad_scan_is_one_line_that_names_it_and_leaves_nothing(
    kind: str, head_file: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    file = damaged(kind, head_file)
    result = run(file, "--to", "t2", "--output", tmp_path / "out", "--bundle", tiny_bundle)
    assert result.exit_code not in (0, 1)
    assert str(file) in line(result) and " - " in line(result)
    assert not (tmp_path / "out").exists()


def test_interruption_leaves_nothing_and_ends_with_130(
    head_file: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("voxlate.pipelines.outputs.draw_qc", interrupt)
    result = run(head_file, "--output", tmp_path / "out", "--bundle", tiny_bundle)
    assert result.exit_code == 130 and "interrupted" in line(result)
    assert not (tmp_path / "out").exists()


def test_checkpoint_import_is_reached_and_refuses_like_the_rest(tmp_path: Path) -> None:
    arguments = ["import-checkpoint", str(tmp_path / "x.ckpt"), "--output", str(tmp_path / "y.pt")]
    result = CliRunner().invoke(app, [*arguments, "--from", "elsewhere"])
    assert result.exit_code == 2
    assert "use aldm or monai-generative" in line(result)
    assert list(tmp_path.iterdir()) == []


def test_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.stdout == f"voxlate {voxlate.__version__}\n" and result.exit_code == 0


def test_help_answers_without_loading_torch(importable: dict[str, str]) -> None:
    code = (
        "import sys\n"
        "from voxlate.pipelines.cli import main\n"
        "sys.argv = ['voxlate', '--help']\n"
        "try:\n    main()\n"
        "finally:\n    print('heavy:', sorted({'torch', 'monai', 'numpy'} & sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=importable, capture_output=True, text=True, check=True
    )
    assert "translate" in result.stdout and "heavy: []" in result.stdout


def test_refusal_from_a_shell(importable: dict[str, str], tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "voxlate.pipelines.cli", "translate", "absent.nii.gz"]
        + ["--output", str(tmp_path / "out")],
        env=importable,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode not in (0, 1) and result.stdout == ""
    assert [text for text in result.stderr.splitlines() if "absent.nii.gz:" in text]
    assert "Traceback" not in result.stderr and not (tmp_path / "out").exists()
