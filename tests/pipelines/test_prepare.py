"""Downloaded trees become volumes on one grid, a split and a list; twice is once."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from voxlate.data_prep import Preprocessing, ScanError, UsageError, load_datalist, read_scan
from voxlate.data_prep.known_layouts import LAYOUTS, layout_by_name
from voxlate.pipelines import prepare_steps
from voxlate.pipelines.prepare import prepare, preprocessing_of
from voxlate.pipelines.prepare_options import PrepareOptions

ROOT = Path(__file__).parents[2]
ALIGNED = [name for name in LAYOUTS if not LAYOUTS[name].protocol.register]


def record_of(output: Path, case_id: str) -> dict[str, Any]:
    return json.loads((output / "cases" / case_id / "record.json").read_text())


@pytest.mark.parametrize("name", ALIGNED)
def test_layout_becomes_a_list_that_loads(name: str, layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees(name, tmp_path / "raw")
    done = prepare(name, root, tmp_path / "out", quiet=True)
    protocol = layout_by_name(name).protocol
    assert (done.datalist.name, done.cases, done.failed) == (f"{name}.json", 4, {})
    training, validation = load_datalist(done.datalist, protocol.modalities)
    assert len(training) + len(validation) == 4 and validation
    for case in (*training, *validation):
        scans = [nib.load(path) for path in case.files.values()]
        assert len(scans) == len(protocol.modalities)
        assert all(scan.shape == scans[0].shape for scan in scans)
        assert all(np.allclose(scan.affine, scans[0].affine) for scan in scans)
    summary = json.loads((tmp_path / "out/prepared.json").read_text())
    assert summary["protocol"]["source"] == protocol.source
    assert summary["training"] == len(training)
    assert not (tmp_path / "out/failed.csv").exists()


def test_voxels_that_need_no_step_are_copied_and_the_crop_only_cuts(
    layout_trees: Any, tmp_path: Path
) -> None:
    root = layout_trees("brats2021", tmp_path / "raw")
    prepare("brats2021", root, tmp_path / "out", quiet=True)
    folder = tmp_path / "out/cases/BraTS2021_00000"
    raw = read_scan(root / "BraTS2021_00000/BraTS2021_00000_t1.nii.gz")
    cut = read_scan(folder / "t1.nii.gz")
    start = record_of(tmp_path / "out", "BraTS2021_00000")["crop"]["start"]
    there = tuple(slice(s, s + n) for s, n in zip(start, cut.shape, strict=True))
    np.testing.assert_array_equal(cut.data, raw.data[there])
    np.testing.assert_allclose(cut.affine[:3, 3], (raw.affine @ [*start, 1])[:3], atol=1e-4)
    assert np.count_nonzero(cut.data) == np.count_nonzero(raw.data)
    assert cut.data.size < raw.data.size


@pytest.mark.parametrize(
    ("name", "case_id", "kept", "dropped"),
    [
        ("brats2020", "BraTS20_Training_355", {1, 2, 3}, 4),
        ("brats2021", "BraTS2021_00000", {1, 2, 3}, 4),
        ("brats2023", "BraTS-GLI-00000-000", {1, 2, 3}, 4),
        ("wmh2017", "Utrecht_0", {1}, 2),
    ],
)
def test_lesion_values_mean_the_same_in_every_year(
    name: str, case_id: str, kept: set[int], dropped: int, layout_trees: Any, tmp_path: Path
) -> None:
    prepare(name, layout_trees(name, tmp_path / "raw"), tmp_path / "out", quiet=True)
    lesion = nib.load(tmp_path / "out/cases" / case_id / "lesion.nii.gz").get_fdata()
    assert set(np.unique(lesion)) == {0, *kept}
    assert str(dropped) in record_of(tmp_path / "out", case_id)["labels"]


def test_ct_is_clipped_to_its_window_and_masked_to_air(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("synthrad2023", tmp_path / "raw")
    prepare("synthrad2023", root, tmp_path / "out", quiet=True)
    folder = tmp_path / "out/cases/1BA001"
    ct = nib.load(folder / "ct.nii.gz").get_fdata()
    inside = nib.load(folder / "brainmask.nii.gz").get_fdata() > 0
    assert ct.max() == 3000 and ct.min() == -1024
    assert (ct[~inside] == -1024).all()
    assert (nib.load(folder / "mr.nii.gz").get_fdata()[~inside] == 0).all()
    assert record_of(tmp_path / "out", "1BA001")["mask"]["source"] == "given"


def test_ixi_is_registered_to_its_t1_and_the_transforms_are_kept(
    layout_trees: Any, tmp_path: Path
) -> None:
    root = layout_trees("ixi", tmp_path / "raw", count=1)
    options = PrepareOptions(register=True, reference="t1", spacing=(4.0, 4.0, 4.0))
    prepare("ixi", root, tmp_path / "out", options=options, quiet=True)
    folder = tmp_path / "out/cases/IXI002-Guys-0800"
    record = record_of(tmp_path / "out", "IXI002-Guys-0800")
    for contrast in ("t2", "pd"):
        moved = record["registration"][contrast]
        assert moved["shift_mm"] == pytest.approx(np.sqrt(50), abs=1.0)  # 4, -3, 5 mm apart
        assert "AffineTransform_double_3_3" in (folder / f"{contrast}_to_t1.txt").read_text()
    t1 = read_scan(folder / "t1.nii.gz").data
    t2 = read_scan(folder / "t2.nii.gz").data
    agree = ((t1 > 0) == (t2 > 200)).mean()
    assert agree > 0.93


def test_second_run_does_nothing_and_a_changed_step_or_file_does(
    layout_trees: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = layout_trees("brats2021", tmp_path / "raw")
    out = tmp_path / "out"
    prepare("brats2021", root, out, quiet=True)
    written: list[str] = []
    write = prepare_steps._write
    monkeypatch.setattr(prepare_steps, "_write", lambda *a: (written.append(a[1].id), write(*a))[1])
    prepare("brats2021", root, out, quiet=True)
    assert written == []
    damaged = out / "cases/BraTS2021_00002/t2.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (out / "cases/BraTS2021_00004/flair.nii.gz").unlink()
    os.utime(root / "BraTS2021_00006/BraTS2021_00006_t1.nii.gz", (1, 1))
    prepare("brats2021", root, out, quiet=True)
    assert written == ["BraTS2021_00002", "BraTS2021_00004", "BraTS2021_00006"]
    prepare("brats2021", root, out, options=PrepareOptions(crop=False), quiet=True)
    assert len(written) == 7


def test_damaged_case_fails_alone_and_is_listed(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("brats2021", tmp_path / "raw")
    broken = root / "BraTS2021_00002/BraTS2021_00002_t1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    (root / "BraTS2021_00004/BraTS2021_00004_t2.nii.gz").unlink()
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="BraTS2021_00004 lacks t2"):
        prepare("brats2021", root, out, quiet=True)
    assert not out.exists()
    done = prepare("brats2021", root, out, skip_bad=True, quiet=True)
    assert done.cases == 2
    rows = list(csv.DictReader((out / "failed.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["BraTS2021_00002", "BraTS2021_00004"]
    assert "BraTS2021_00002_t1.nii.gz" in rows[0]["reason"]
    assert not (out / "cases/BraTS2021_00002").exists()
    (root / "BraTS2021_00004").rename(root / "gone")
    with pytest.raises(ScanError, match="1 of 3 cases failed, first BraTS2021_00002"):
        prepare("brats2021", root, tmp_path / "strict", quiet=True)
    assert not (tmp_path / "strict/brats2021.json").exists()
    assert (tmp_path / "strict/failed.csv").exists()


def test_split_is_the_publishers_the_files_or_the_seeds(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("brats2023", tmp_path / "raw")
    done = prepare("brats2023", root, tmp_path / "out", quiet=True)
    validation = load_datalist(done.datalist, ["t1"])[1]
    assert [case.id for case in validation] == ["BraTS-GLI-00900-000"]
    split = tmp_path / "mine.csv"
    held = "BraTS-GLI-00000-000"
    ids = [row.split(",")[0] for row in (tmp_path / "out/split.csv").read_text().splitlines()[1:]]
    rows = [f"{name},{'test' if name == held else 'train'}" for name in ids]
    split.write_text("\n".join(["id,split", *rows]))
    done = prepare("brats2023", root, tmp_path / "out", split=split, quiet=True)
    assert [c.id for c in load_datalist(done.datalist, ["t1"])[1]] == [held]
    done = prepare("brats2023", root, tmp_path / "out", validation_share=0.5, quiet=True)
    assert len(load_datalist(done.datalist, ["t1"])[1]) == 2


def test_brain_mask_from_a_command_that_is_no_shell(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("brats2021", tmp_path / "raw", count=2)
    script = tmp_path / "strip it.py"
    script.write_text(
        "import sys, nibabel as nib, numpy as np\n"
        "i = nib.load(sys.argv[1]); d = np.zeros(i.shape, 'f4'); d[10:26, 10:30, 8:26] = 1\n"
        "nib.save(nib.Nifti1Image(d, i.affine), sys.argv[2])\n"
    )
    command = (sys.executable, str(script), "{input}", "{output}")
    out = tmp_path / "out"
    options = PrepareOptions(mask_command=command, crop=False)
    prepare("brats2021", root, out, options=options, quiet=True)
    t1 = nib.load(out / "cases/BraTS2021_00000/t1.nii.gz").get_fdata()
    assert np.count_nonzero(t1) <= 16 * 20 * 18
    assert record_of(out, "BraTS2021_00000")["mask"]["source"].startswith(sys.executable)

    def fails(*command: str) -> str:
        with pytest.raises((ScanError, UsageError)) as caught:
            prepare("brats2021", root, tmp_path / "no", options=PrepareOptions(
                mask_command=command), quiet=True)  # fmt: skip
        return str(caught.value)

    assert "put {input} and {output}" in fails("hd-bet", "{input}")
    assert "cannot be started" in fails("no-such-program", "{input}", "{output}")
    end = (sys.executable, "-c", "import sys; sys.exit('no licence')", "{input}", "{output}")
    assert "ended with 1 (no licence)" in fails(*end)
    assert "wrote no output" in fails(sys.executable, "-c", "", "{input}", "{output}")


def test_mask_that_is_not_there_is_refused(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("brats2021", tmp_path / "raw", count=1)
    with pytest.raises(ScanError, match="comes without a brain mask"):
        prepare("brats2021", root, tmp_path / "out", options=PrepareOptions(mask="given"),
                quiet=True)  # fmt: skip
    with pytest.raises(UsageError, match="unknown brain mask"):
        PrepareOptions(mask="bet")
    with pytest.raises(UsageError, match="positive millimetres"):
        PrepareOptions(spacing=(0, 1, 1))


def test_case_without_the_reference_is_refused(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("table", tmp_path / "raw", count=1)
    with pytest.raises(ScanError, match="visit0: has no flair, to which its contrasts are taken"):
        prepare("table", root, tmp_path / "out", options=PrepareOptions(reference="flair"),
                quiet=True)  # fmt: skip


def test_n4_takes_a_bias_field_away(layout_trees: Any, tmp_path: Path) -> None:
    root = layout_trees("wmh2017", tmp_path / "raw", count=1)
    file = root / "training/Utrecht/0/pre/T1.nii.gz"
    image = nib.load(file)
    tilt = np.linspace(0.6, 1.4, image.shape[1])[None, :, None]
    nib.save(nib.Nifti1Image((image.get_fdata() * tilt).astype(np.float32), image.affine), file)
    plain, corrected = tmp_path / "plain", tmp_path / "n4"
    prepare("wmh2017", root, plain, options=PrepareOptions(crop=False), quiet=True)
    prepare("wmh2017", root, corrected, options=PrepareOptions(n4=True, crop=False), quiet=True)
    values = [
        nib.load(folder / "cases/Utrecht_0/t1.nii.gz").get_fdata() for folder in (plain, corrected)
    ]
    truth = image.get_fdata()
    inside = truth > 0

    def slope(volume: np.ndarray) -> float:
        y = np.broadcast_to(np.arange(volume.shape[1])[None, :, None], volume.shape)[inside]
        return abs(float(np.polyfit(y, np.log(volume[inside] / truth[inside]), 1)[0]))

    assert slope(values[1]) < 0.5 * slope(values[0])
    assert record_of(corrected, "Utrecht_0")["n4"] == ["t1", "flair"]


def test_cache_is_the_one_that_training_looks_in(layout_trees: Any, tmp_path: Path) -> None:
    from voxlate.pipelines.prepared_cases import prepare_cases

    root = layout_trees("synthrad2023", tmp_path / "raw", count=2)
    small = Preprocessing(spacing=(6, 6, 6), size=(24, 24, 24))
    out = tmp_path / "out"
    done = prepare("synthrad2023", root, out, preprocessing=small, quiet=True)
    made = sorted(p.name for p in (out / "cache").iterdir())
    training, validation = load_datalist(done.datalist, ["mr", "ct"])
    found = prepare_cases([*training, *validation], small, out / "cache")
    assert sorted(p.name for p in (out / "cache").iterdir()) == made
    assert len(made) == 2
    ct = found[0].volume("ct")
    assert ct.dtype == np.float16 and ct.min() == -1 and ct.max() == 1


@pytest.mark.parametrize(
    ("layout", "overlay"),
    [
        ("brats2021", "aldm_brats/configs/brats2021.yaml"),
        ("ixi", "aldm_brats/configs/ixi.yaml"),
        ("brats2023", "dfbk_brats/configs/brats2023.yaml"),
        ("isles2015", "dfbk_brats/configs/isles2015.yaml"),
        ("synthrad2023", "dfbk_brats/configs/synthrad2023.yaml"),
        ("brats2020", "msg_brats/configs/brats2020.yaml"),
        ("wmh2017", "msg_brats/configs/wmh2017.yaml"),
        ("bids", "brain_mri_translation/configs/network.yaml"),
    ],
)
def test_arrays_are_those_that_the_bundle_looks_for(layout: str, overlay: str) -> None:
    config = yaml.safe_load((ROOT / "bundles" / overlay).read_text())
    stated = {k: v for k, v in config["preprocessing_def"].items() if k != "_target_"}
    protocol = layout_by_name(layout).protocol
    assert repr(preprocessing_of(protocol)) == repr(Preprocessing(**stated))
    if protocol.modalities:
        assert set(config["modalities"]) <= set(protocol.modalities)
        assert f"/{layout}.json" in config["datalist"]


def test_several_processes_make_what_one_makes(
    layout_trees: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "path" / "voxlate"  # for the new processes, where it is not installed
    package.mkdir(parents=True)
    for room in ("data_prep", "networks", "pipelines"):
        (package / room).symlink_to(ROOT / room)
    (package / "__init__.py").write_text("__version__ = '0'\n")
    monkeypatch.syspath_prepend(package.parent)
    root = layout_trees("brats2021", tmp_path / "raw", count=2)
    one, two = tmp_path / "one", tmp_path / "two"
    prepare("brats2021", root, one, quiet=True)
    prepare("brats2021", root, two, workers=2, quiet=True)
    for file in sorted(one.rglob("*.nii.gz")):
        assert file.read_bytes() == (two / file.relative_to(one)).read_bytes()
    assert (one / "brats2021.json").read_text() == (two / "brats2021.json").read_text()
