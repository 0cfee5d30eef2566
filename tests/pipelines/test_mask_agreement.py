"""Dice and HD95: closed forms, MONAI as oracle, and what happens where a mask is empty."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance

from voxlate.pipelines.mask_agreement import dice, hd95

EMPTY = np.zeros((12, 14, 10), dtype=bool)


def cube(*starts: int, side: int = 4) -> np.ndarray:
    mask = EMPTY.copy()
    mask[tuple(slice(start, start + side) for start in starts)] = True
    return mask


def test_dice_of_shifted_cubes() -> None:
    assert dice(cube(2, 2, 2), cube(3, 2, 2)) == pytest.approx(2 * 48 / 128)
    assert dice(cube(2, 2, 2), cube(2, 2, 2)) == 1


def test_hd95_of_a_shift_is_its_length_in_mm() -> None:
    assert hd95(cube(2, 2, 2), cube(5, 2, 2), (2.0, 1.0, 1.0)) == pytest.approx(6.0)
    assert hd95(cube(2, 2, 2), cube(2, 2, 2)) == 0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.5, 3.0)])
def test_hd95_equals_monai(spacing: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (20, 22, 18)], indexing="ij"))
    p = (grid**2).sum(0) + 0.2 * rng.normal(size=grid[0].shape) < 0.5
    r = ((grid - 0.2) ** 2).sum(0) < 0.4
    batched = [torch.from_numpy(mask)[None, None].float() for mask in (p, r)]
    theirs = compute_hausdorff_distance(
        *batched, include_background=True, percentile=95, spacing=spacing
    )
    assert hd95(p, r, spacing) == pytest.approx(float(theirs), rel=1e-5)


def test_empty_masks_are_neither_left_out_nor_perfect() -> None:
    lesion = cube(2, 2, 2)
    assert (dice(EMPTY, EMPTY), hd95(EMPTY, EMPTY)) == (1, 0)
    for pair in ((EMPTY, lesion), (lesion, EMPTY)):
        assert dice(*pair) == 0
        assert hd95(*pair, (1.0, 1.0, 2.0)) == pytest.approx(np.sqrt(12**2 + 14**2 + 20**2))


def test_masks_that_are_no_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="alike in shape"):
        dice(EMPTY, EMPTY[1:])
    with pytest.raises(ValueError, match="be bool"):
        hd95(EMPTY.astype(np.uint8), EMPTY)  # type: ignore[arg-type]
