"""The demo: a real average brain from an ordinary dependency, down the same path."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from voxlate.data_prep import UsageError, foreground
from voxlate.pipelines import bundle
from voxlate.pipelines.demo import demo, write_template

app = typer.Typer()
app.command()(demo)


def test_template_is_a_skull_stripped_brain_at_1_mm(tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    image = nib.load(write_template(tmp_path / "new" / "template.nii.gz"))
    data = image.get_fdata(dtype=np.float32)
    np.testing.assert_allclose(image.header.get_zooms(), 1)
    litres = foreground(data).sum() / 1e6
    assert 1.2 < litres < 2.5
    assert not data[0].any() and not data[-1].any()


def test_template_without_nilearn_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'voxlate\[demo\]'"):
        write_template(tmp_path / "template.nii.gz")


def test_named_scan_is_translated_into_everything_else_as_often_as_asked(
    head_file: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "default_bundle", lambda: tiny_bundle)
    out = tmp_path / "out"
    for _ in range(2):
        result = CliRunner().invoke(
            app, ["--scan", str(head_file), "--source", "t2", "--output", str(out)]
        )
        assert result.exit_code == 0, result.output
    picture = out / "scans.one_t1_qc.png"
    assert f"The picture is {picture}" in result.stdout
    made = {path.name for path in out.glob("*.nii.gz")}
    assert made == {f"scans.one_t1_{target}.nii.gz" for target in ("t1", "t1ce", "flair")}


def test_demo_refuses_like_the_command(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--scan", "absent.nii.gz", "--output", str(tmp_path / "o")])
    assert result.exit_code not in (0, 1)
    assert "absent.nii.gz" in result.stderr and "Traceback" not in result.output
