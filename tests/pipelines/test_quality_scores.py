"""Scores with closed forms, what each of them catches, and how they part right from wrong scans."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from voxlate.data_prep import foreground, guess_modality, read_scan
from voxlate.pipelines.qc_picture import percentile_window
from voxlate.pipelines.quality_scores import (
    MAX_CLIPPED,
    MAX_STEP,
    MIN_EDGES,
    MIN_SPREAD,
    Scores,
    edge_agreement,
    largest_step,
    score,
    severity,
)

SHAPE = (40, 48, 36)
SPACING = (3.0, 3.0, 3.0)
FloatArray = npt.NDArray[np.float32]


def texture(seed: int = 0) -> FloatArray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 2)
    return ((smooth - smooth.min()) / np.ptp(smooth)).astype(np.float32) * 0.8 + 0.1


def ball() -> npt.NDArray[np.bool_]:
    grid = np.meshgrid(*[np.linspace(-1.1, 1.1, n) for n in SHAPE], indexing="ij")
    return sum(axis**2 for axis in grid) < 1


def judged(translation: FloatArray, source: FloatArray) -> Scores:
    return score("t2", translation, source, ball(), SPACING, stripped=True)


def codes(found: Scores) -> list[str]:
    return [text.split(":")[0] for text in found.warnings]


def test_same_edges_in_any_contrast_agree_wholly() -> None:
    source = texture()
    inside = np.ones(SHAPE, bool)
    for other in (source, 900 - 300 * source):  # the contrast is turned round, and scaled
        assert edge_agreement(other, source, inside, list(SPACING)) == pytest.approx(1, abs=1e-5)


def test_unrelated_edges_agree_by_a_third() -> None:
    inside = np.ones(SHAPE, bool)
    found = edge_agreement(texture(1), texture(2), inside, list(SPACING))
    assert found == pytest.approx(1 / 3, abs=0.04)


def test_constant_has_no_edges_that_agree() -> None:
    inside = np.ones(SHAPE, bool)
    assert edge_agreement(np.full(SHAPE, 0.5, np.float32), texture(), inside, list(SPACING)) == 0


def test_slope_is_no_step_beyond_its_own_and_a_seam_is_one() -> None:
    slope = np.broadcast_to(np.linspace(0, 0.35, SHAPE[2]), SHAPE).astype(np.float32)
    flat = np.full(SHAPE, 0.5, np.float32)
    inside = np.ones(SHAPE, bool)
    assert largest_step(slope, flat, inside) == pytest.approx(0.01, abs=1e-5)
    seam = flat.copy()
    seam[:, 24:] += 0.2
    assert largest_step(seam, flat, inside) == pytest.approx(0.2, abs=1e-6)
    assert largest_step(seam, seam * 100, inside) == 0  # the scan has it, too


def test_turned_contrast_raises_no_doubt_and_nothing_outside_the_brain_counts() -> None:
    source = texture()
    found = judged(1 - source, source)
    assert found.warnings == () and found.edges == pytest.approx(1, abs=1e-5)
    inside = judged(np.where(ball(), 1 - source, 0).astype(np.float32), source * 700)
    assert inside[:4] == pytest.approx(found[:4], abs=0.01)


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (lambda t: np.roll(t, 4, 1), "W_EDGES"),
        (lambda t: t + 0.2 * (np.arange(SHAPE[2]) > 18), "W_PROFILE"),
        (lambda t: 0.5 + 0.05 * t, "W_FLAT"),
        (lambda t: (4 * t - 1.5).clip(0, 1), "W_CLIPPED"),
    ],
)
def test_each_fault_has_its_warning(made: object, code: str) -> None:
    source = texture()
    found = judged(made(source).astype(np.float32), source)  # type: ignore[operator]
    assert code in codes(found)


def test_too_little_of_a_head_is_not_judged() -> None:
    speck = np.zeros(SHAPE, bool)
    speck[:4, :4, :4] = True
    found = score("t2", texture(), texture(), speck, SPACING, stripped=True)
    assert found.fields() == dict.fromkeys(("EdgeAgreement", "LargestStep", "Spread", "Clipped"))
    assert found.warnings == ()


def test_severity_is_one_at_a_limit_whichever_and_grows_beyond() -> None:
    fine = {"EdgeAgreement": 0.9, "LargestStep": 0.0, "Spread": 0.5, "Clipped": 0.0}
    limits = {
        "EdgeAgreement": MIN_EDGES,
        "LargestStep": MAX_STEP,
        "Spread": MIN_SPREAD,
        "Clipped": MAX_CLIPPED,
    }
    assert severity({"t2": fine}) == pytest.approx(MIN_EDGES / 0.9)
    for name, limit in limits.items():
        assert severity({"t2": fine, "flair": {**fine, name: limit}}) == pytest.approx(1)
        beyond = limit / 2 if limit in (MIN_EDGES, MIN_SPREAD) else limit * 2
        assert severity({"t2": {name: beyond}}) == pytest.approx(2)
    assert severity({}) == severity({"t2": dict.fromkeys(limits)}) == 0


@pytest.mark.slow
def test_real_scans_are_told_from_moved_and_seamed_ones(real_data_dir: Path) -> None:
    """The counts of docs/quality.md: a true T2 or FLAIR of the same head, and the same spoilt."""
    doubts = {name: [0, 0] for name in ("true", "moved 6 mm", "mirrored", "seam")}
    for t1_path in sorted(real_data_dir.glob("open_ms*/*/t1.nii.gz")):
        t1 = read_scan(t1_path)
        head = foreground(t1.data, t1.spacing)
        for path in sorted(t1_path.parent.glob("*.nii.gz")):
            if path.name not in ("t2.nii.gz", "flair.nii.gz"):
                continue
            target = str(guess_modality(path.name))
            right = np.where(head, percentile_window(read_scan(path).data), 0).astype(np.float32)
            seam = right.copy()
            seam[:, :, : right.shape[2] // 4 * 2] -= 0.15
            spoilt = {
                "true": right,
                "moved 6 mm": np.roll(right, round(6 / t1.spacing[0]), 0),
                "mirrored": right[::-1],
                "seam": seam.clip(0, 1),
            }
            for name, volume in spoilt.items():
                found = score(target, volume, t1.data, head, t1.spacing, stripped=True)
                doubts[name][0] += bool({"W_EDGES", "W_PROFILE"} & set(codes(found)))
                doubts[name][1] += 1
    assert doubts["true"] == [0, 14]
    assert doubts["moved 6 mm"] == [14, 14]
    assert doubts["seam"] == [14, 14]
    assert doubts["mirrored"] == [11, 14]
