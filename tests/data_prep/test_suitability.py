from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from voxlate.data_prep import (
    Scan,
    Suitability,
    assess,
    foreground,
    guess_modality,
    make_phantom,
    read_scan,
    scan_from_array,
)


def phantom_scan(modality: str = "t1", *, skull: bool = False, spacing: float = 2.2) -> Scan:
    size = tuple(round(n / spacing) for n in (200, 230, 200))
    phantom = make_phantom(
        size, seed=1, spacing=spacing, noise=0.01, skull=skull, modalities=(modality,)
    )
    return scan_from_array(phantom.volumes[modality], phantom.affine)


def judged(scan: Scan, modality: str = "t1") -> Suitability:
    return assess(scan, modality, foreground(scan.data, scan.spacing))


def codes(found: Suitability) -> list[str]:
    return [text.split(":")[0] for text in found.warnings]


def resized(scan: Scan, spacing: tuple[float, float, float]) -> Scan:
    """The same voxels, said to be of another size."""
    return scan_from_array(scan.data, np.diag([*spacing, 1.0]))


def brain(shape: tuple[int, int, int] = (80, 90, 76), *, dark: bool = True) -> Scan:
    """A ball of 160 x 180 x 152 mm with one percent of it dark, or bright, as fluid is."""
    rng = np.random.default_rng(0)
    at = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(a**2 for a in at) < 0.85
    values = 500 + rng.normal(0, 5, shape)
    values[30:45, 30:50, 30:45] = 100 if dark else 900
    return scan_from_array(np.where(inside, values, 0), np.diag([2.0, 2, 2, 1]))


def test_whole_brain_in_the_expected_contrast_raises_no_doubt() -> None:
    found = judged(brain(), "t1")
    assert found.warnings == () and not found.skull
    assert found.foreground_ml == pytest.approx(
        4 / 3 * np.pi * 80 * 90 * 76 * 0.85**1.5 / 1e3, rel=0.05
    )
    np.testing.assert_allclose(found.extent_mm, np.array([160, 180, 152]) * 0.92, rtol=0.04)


@pytest.mark.parametrize(
    ("dark", "claim", "doubted"),
    [
        (True, "t1", False),
        (False, "t1", True),
        (True, "t2", True),
        (False, "t2", False),
        (True, "flair", False),  # oedema can be bright, fluid is dark: nothing can be said
        (False, "flair", False),
        (False, "t1ce", False),
    ],
)
def test_bright_fluid_in_a_t1_and_dark_fluid_in_a_t2_are_doubted(
    dark: bool, claim: str, doubted: bool
) -> None:
    assert ("W_CONTRAST" in codes(judged(brain(dark=dark), claim))) == doubted


@pytest.mark.parametrize(("modality", "brain_only"), [("t1", True), ("mr", False), ("ct", False)])
@pytest.mark.parametrize("size", [2.0, 2.8])
def test_skull_is_told_by_the_volume_and_doubted_where_unexpected(
    size: float, modality: str, brain_only: bool
) -> None:
    found = judged(resized(brain(), (size,) * 3), modality)
    assert found.skull == (size > 2.5)
    assert ("W_SKULL" in codes(found)) == (found.skull == brain_only)


def test_voxels_that_hide_detail_are_told() -> None:
    assert codes(judged(resized(brain((100, 110, 36)), (1.6, 1.6, 4.2)))) == ["W_COARSE"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flip", [1, -1])
def test_missing_vertex_is_told_on_whatever_axis_it_lies(
    order: tuple[int, int, int], flip: int
) -> None:
    whole = brain()
    cut = whole.data[:, :, :60]  # superior ends at 120 of 152 mm
    affine = np.diag([2.0, 2, 2, 1])
    affine[:3, :3] = affine[:3, :3][:, list(order)]
    data = cut.transpose(order)
    axis = order.index(2)
    if flip < 0:
        data = np.flip(data, axis)
        affine[:3, axis] *= -1
    found = judged(scan_from_array(np.ascontiguousarray(data), affine))
    assert codes(found) == ["W_COVERAGE"]
    assert found.extent_mm[2] < 120 and found.cut_mm2 > 5000


def test_slab_is_no_whole_brain() -> None:
    slab = scan_from_array(brain().data[:, :, 20:56], np.diag([2.0, 2, 2, 1]))
    assert codes(judged(slab)) == ["W_COVERAGE"]


def test_phantom_with_skull_is_larger_than_any_brain() -> None:
    assert "W_SKULL" in codes(judged(phantom_scan(skull=True)))


@pytest.mark.slow
def test_verdicts_on_real_scans_are_those_that_the_documentation_counts(real_data: Path) -> None:
    """docs/quality.md: every scan of the folder, told its true contrast and every other."""
    skull: Counter[bool] = Counter()
    coverage, doubted, asked = 0, Counter[str](), Counter[str]()
    for path in sorted(real_data.rglob("*.nii.gz")):
        true = guess_modality(path)
        if true is None or "mask" in path.name or "lesion" in path.name:
            continue
        scan = read_scan(path)
        head = foreground(scan.data, scan.spacing)
        found = assess(scan, true, head)
        skull[found.skull == ("raw" in str(path))] += 1
        coverage += "W_COVERAGE" in codes(found)
        assert "W_COARSE" not in codes(found)
        if not found.skull:
            for claim in ("t1", "t2"):
                asked[f"{true} as {claim}"] += 1
                doubted[f"{true} as {claim}"] += "W_CONTRAST" in codes(assess(scan, claim, head))
    assert skull == {True: 30}
    assert coverage == 3  # the three raw scans: their field of view does end inside the brain
    assert dict(asked) == {
        "t1 as t1": 8, "t1 as t2": 8, "t2 as t1": 8, "t2 as t2": 8, "flair as t1": 8,
        "flair as t2": 8, "t1ce as t1": 3, "t1ce as t2": 3,
    }  # fmt: skip
    assert {k: v for k, v in doubted.items() if v} == {
        "t1 as t2": 8, "t2 as t1": 8, "flair as t1": 1, "flair as t2": 7, "t1ce as t1": 1,
        "t1ce as t2": 2,
    }  # fmt: skip
