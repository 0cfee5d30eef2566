"""The scale and the voxel type of results, from the option to the file and its record."""

import json
from importlib import resources
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest

from voxlate.data_prep import UsageError, foreground, read_scan, scan_from_array, write_scan
from voxlate.pipelines import Translation, Translator
from voxlate.pipelines.conversion import convert
from voxlate.pipelines.manifest import fingerprint


@pytest.fixture
def reference(tmp_path: Path, head_file: Path) -> Path:
    """The head with other intensities, on a grid of its own."""
    scan = read_scan(head_file)
    rng = np.random.default_rng(0)
    data = np.where(scan.data > 0, rng.uniform(300, 1500, scan.shape), 0)
    return write_scan(
        tmp_path / "site_t2.nii.gz", data, scan_from_array(data, np.diag([3, 3, 3, 1]))
    )


@pytest.fixture
def translator(tiny_bundle: Path) -> Translator:
    return Translator.from_bundle(tiny_bundle, device="cpu")


def percentiles(made: Translation, unit: Translation) -> np.ndarray:
    """Of the head, without what the networks gave no intensity at all."""
    head = foreground(made.scan.data, made.scan.spacing) & (unit["t2"] > 0)
    return np.percentile(made["t2"][head], (0.5, 99.5))


def test_each_scale_gives_its_percentiles_and_the_same_picture(
    translator: Translator, head_file: Path, reference: Path
) -> None:
    unit, own, match = (
        translator(head_file, "t1", ["t2"], intensity=text)
        for text in ("unit", "percentile", f"match:{reference}")
    )
    np.testing.assert_allclose(percentiles(own, unit), [0, 1], atol=0.02)
    scan = read_scan(reference)
    wanted = np.percentile(scan.data[scan.data > 0], (0.5, 99.5))
    np.testing.assert_allclose(percentiles(match, unit), wanted, rtol=0.02)
    inside = foreground(unit.scan.data, unit.scan.spacing)
    for made in (unit, own, match):
        assert (made["t2"][~inside] == 0).all()
        seen = inside & (unit["t2"] > percentiles(unit, unit)[0])  # below, the scale has cut
        assert (made.windowed("t2")[~inside] == 0).all()  # black in the picture
        np.testing.assert_allclose(made.windowed("t2")[seen], unit["t2"][seen], atol=1e-5)


@pytest.mark.parametrize("text", ["unit", "percentile", "match"])
def test_files_and_record_say_the_same(
    tiny_bundle: Path, head_file: Path, reference: Path, tmp_path: Path, text: str
) -> None:
    intensity = f"match:{reference}" if text == "match" else text
    files = convert(
        head_file,
        tmp_path / "out",
        targets=["t2"],
        bundle=tiny_bundle,
        device="cpu",
        intensity=intensity,
        quiet=True,
    )
    record = json.loads(files[-1].read_text())
    schema = resources.files("voxlate.pipelines").joinpath("manifest.schema.json").read_text()
    jsonschema.validate(record, json.loads(schema))
    line = record["Intensity"]["t2"]
    assert line["Scale"] == text and ("Reference" in line) == (text == "match")
    assert record["Suitability"]["ForegroundML"] > 0
    assert str(tmp_path) not in files[-1].read_text()
    if text == "match":
        assert line["Reference"]["File"] == reference.name
        assert nib.load(files[0]).get_fdata().max() > 300


def test_results_are_stored_as_the_scan_is(
    tiny_bundle: Path, head_file: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "ints.nii.gz"
    scan = read_scan(head_file)
    write_scan(whole, scan.data, scan, dtype=np.int16)
    made = {}
    for kind in ("float32", "scan"):
        stored_as = "scan" if kind == "scan" else "float32"
        made[kind] = convert(
            whole, tmp_path / kind, targets=["t2"], bundle=tiny_bundle, device="cpu",
            stored_as=stored_as, quiet=True,
        )[0]  # fmt: skip
    images = {kind: nib.load(path) for kind, path in made.items()}
    assert images["scan"].get_data_dtype() == np.int16
    assert images["float32"].get_data_dtype() == np.float32
    np.testing.assert_allclose(
        images["scan"].get_fdata(), images["float32"].get_fdata(), atol=0.51 / 32767
    )


def test_scale_and_voxel_type_are_part_of_the_fingerprint() -> None:
    same = {"weights": "w", "configuration": "c", "seed": 0, "steps": 1}
    prints = {
        fingerprint(**same),
        fingerprint(**same, scale="percentile"),
        fingerprint(**same, stored_as="scan"),
    }
    assert len(prints) == 3


def test_doubts_about_the_input_are_among_the_warnings(
    translator: Translator, head_file: Path
) -> None:
    scan = read_scan(head_file)
    large = scan_from_array(scan.data, np.diag([*np.array(scan.spacing) * 2.2, 1.0]))
    codes = [text.split(":")[0] for text in translator(large, "t1", ["t2"]).warnings]
    assert codes[0] == "W_COARSE"
    assert set(codes[1:]) <= {"W_EDGES", "W_PROFILE", "W_FLAT", "W_CLIPPED"}, "of random weights"


def test_unknown_scale_is_refused_before_anything_is_computed(
    tiny_bundle: Path, head_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="zscore"):
        convert(
            head_file, tmp_path / "out", targets=["t2"], bundle=tiny_bundle, device="cpu",
            intensity="zscore", quiet=True,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
