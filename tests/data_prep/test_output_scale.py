from pathlib import Path

import numpy as np
import pytest

from voxlate.data_prep import (
    OutputScale,
    ScanError,
    UsageError,
    parse_output_scale,
    scan_from_array,
    write_scan,
)

SHAPE = (40, 42, 44)


def head() -> np.ndarray:
    at = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return sum(a**2 for a in at) < 0.6


def unit_volume(low: float = 0.2, high: float = 0.7) -> np.ndarray:
    values = np.random.default_rng(0).uniform(low, high, SHAPE)
    return np.where(head(), values, 0).astype(np.float32)


def write_reference(path: Path, low: float, high: float, background: float = 0.0) -> Path:
    values = np.random.default_rng(1).uniform(low, high, SHAPE)
    data = np.where(head(), values, background).astype(np.float32)
    return write_scan(path, data, scan_from_array(data, np.diag([2.0, 2, 2, 1])))


def percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values[head()], (0.5, 99.5))
    return float(low), float(high)


def test_unit_leaves_the_networks_scale_as_it_is() -> None:
    values = unit_volume()
    scaled = parse_output_scale("unit", ["t2"])("t2", values, head())
    assert scaled.values is values and (scaled.slope, scaled.intercept) == (1, 0)


def test_percentile_takes_the_volumes_own_percentiles_to_0_and_1() -> None:
    scaled = parse_output_scale("percentile", ["t2"])("t2", unit_volume(), head())
    low, high = percentiles(scaled.values)
    assert low == pytest.approx(0, abs=2e-3) and high == pytest.approx(1, abs=1e-5)
    assert scaled.values.min() == 0 and scaled.values.max() > 1
    assert (scaled.values[~head()] == 0).all()


@pytest.mark.parametrize(("low", "high", "background"), [(100, 900, 0), (-2.0, 3.0, 0), (5, 9, -1)])
def test_match_gives_the_percentiles_and_the_background_of_the_reference(
    tmp_path: Path, low: float, high: float, background: float
) -> None:
    path = write_reference(tmp_path / "site.nii.gz", low, high, background)
    scale = parse_output_scale(f"match:{path}", ["t2"])
    scaled = scale("t2", unit_volume(), head())
    wanted = np.percentile(np.random.default_rng(1).uniform(low, high, SHAPE)[head()], (0.5, 99.5))
    np.testing.assert_allclose(percentiles(scaled.values), wanted, rtol=1e-3, atol=1e-3)
    assert (scaled.values[~head()] == np.float32(background)).all()


def test_every_scale_is_the_line_that_its_record_says(tmp_path: Path) -> None:
    path = write_reference(tmp_path / "r.nii", -2, 3)
    values, inside = unit_volume(), head()
    for text in ("unit", "percentile", f"match:{path}"):
        scale = parse_output_scale(text, ["t2"])
        scaled = scale("t2", values, inside)
        record = scale.describe("t2", scaled)
        line = values * record["Slope"] + record["Intercept"]
        kept = inside & (scaled.values > scaled.values.min())
        np.testing.assert_allclose(scaled.values[kept], line[kept], rtol=1e-5, atol=1e-5)
        assert record["Scale"] == scale.name
    assert record["Reference"]["File"] == "r.nii" and len(record["Reference"]["SHA256"]) == 64


def test_a_scale_survives_its_own_clipping_order() -> None:
    """Brighter stays brighter: no scale changes what can be seen."""
    values = unit_volume()
    scaled = parse_output_scale("percentile", ["t2"])("t2", values, head()).values
    order = np.argsort(values[head()])
    assert (np.diff(scaled[head()][order]) >= 0).all()


def test_folder_gives_each_target_its_own_reference(tmp_path: Path) -> None:
    write_reference(tmp_path / "sub-1_T2w.nii.gz", 100, 900)
    write_reference(tmp_path / "sub-1_FLAIR.nii.gz", 10, 90)
    write_reference(tmp_path / "sub-1_T1w.nii.gz", 1, 2)
    scale = parse_output_scale(f"match:{tmp_path}", ["t2", "flair"])
    assert set(scale.references) == {"t2", "flair"}
    assert scale("flair", unit_volume(), head()).values.max() == pytest.approx(90, rel=0.02)
    assert scale("t2", unit_volume(), head()).values.max() == pytest.approx(900, rel=0.02)


def test_what_decides_the_voxels_is_in_the_identity(tmp_path: Path) -> None:
    one = parse_output_scale(f"match:{write_reference(tmp_path / 'a.nii', 0, 9)}", ["t2"])
    other = parse_output_scale(f"match:{write_reference(tmp_path / 'b.nii', 0, 8)}", ["t2"])
    names = {OutputScale().identity, OutputScale("percentile").identity, one.identity}
    assert len(names | {other.identity}) == 4


@pytest.mark.parametrize(
    ("text", "targets", "says"),
    [
        ("zscore", ["t2"], "zscore"),
        ("match:", ["t2"], "match"),
        ("match", ["t2"], "match"),
        ("unit:x", ["t2"], "unit"),
        ("match:r.nii.gz", ["t2", "flair"], "2 contrasts"),
    ],
)
def test_what_is_no_scale_is_refused(text: str, targets: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_output_scale(text, targets)
    assert caught.value.code == "E_INTENSITY" and caught.value.exit_code == 2


def test_reference_that_is_missing_twice_there_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reference scan for t2"):
        parse_output_scale(f"match:{tmp_path}", ["t2"])
    write_reference(tmp_path / "a_t2.nii.gz", 1, 2)
    write_reference(tmp_path / "b_t2.nii.gz", 1, 2)
    with pytest.raises(UsageError, match="both"):
        parse_output_scale(f"match:{tmp_path}", ["t2"])
    with pytest.raises(ScanError, match="No such file"):
        parse_output_scale(f"match:{tmp_path / 'nowhere.nii'}", ["t2"])
