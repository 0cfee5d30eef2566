"""The picture shows the right voxels in the right place, whatever the orientation on disk."""

import io

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from voxlate.pipelines.qc_picture import (
    draw_qc,
    head_box,
    head_centre,
    percentile_window,
    ras_spacing,
    to_ras,
)


def picture(affine: np.ndarray, volume: np.ndarray, targets: int = 1) -> np.ndarray:
    file = io.BytesIO()
    made = {f"target{index}": np.zeros_like(volume) for index in range(targets)}
    draw_qc(file, {"t1": volume}, made, affine, title="case")
    return imread(io.BytesIO(file.getvalue()))[..., :3]


def marked() -> np.ndarray:
    """A grey head with a dark base, RAS, and a bright block at its right front top."""
    volume = np.zeros((20, 24, 16), np.float32)
    volume[2:18, 2:22, 2:14] = 0.4
    volume[2:18, 2:22, 2] = 0.1
    volume[10:18, 12:22, 8:14] = 1
    return volume


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIR", "SLA"])
def test_picture_does_not_depend_on_the_order_on_disk(code: str) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    image = nib.Nifti1Image(marked(), affine)
    transform = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(code)
    )
    turned = image.as_reoriented(transform)
    np.testing.assert_array_equal(
        picture(turned.affine, np.asarray(turned.dataobj)), picture(affine, marked())
    )
    np.testing.assert_array_equal(to_ras(np.asarray(turned.dataobj), turned.affine), marked())
    assert ras_spacing(turned.affine) == (1.0, 1.0, 2.0)


def test_right_is_on_the_right_and_front_is_up() -> None:
    shown = picture(np.eye(4), marked())
    height, width = shown.shape[:2]
    grey = np.isclose(shown.max(-1), shown.min(-1), atol=0.02)  # neither gold nor text edges
    axial = (shown[..., 0] * grey)[int(0.08 * height) : int(0.38 * height), : width // 2]
    rows, columns = np.nonzero(axial > 0.95)
    body_rows, body_columns = np.nonzero(axial > 0.2)
    assert columns.mean() > body_columns.mean()
    assert rows.mean() < body_rows.mean()


def test_a_column_for_the_source_and_each_target() -> None:
    one, three = (picture(np.eye(4), marked(), count).shape[1] for count in (1, 3))
    assert three == 2 * one


def test_voxels_keep_their_proportions() -> None:
    flat = picture(np.eye(4), marked()).shape[0]
    tall = picture(np.diag([1.0, 1.0, 3.0, 1.0]), marked()).shape[0]
    assert tall > 1.3 * flat  # a grid three times as high


def test_window_is_that_of_the_translations() -> None:
    rng = np.random.default_rng(0)
    volume = np.zeros((8, 8, 8), np.float32)
    volume[2:] = rng.uniform(100, 300, (6, 8, 8))
    low, high = np.percentile(volume[2:], (0.5, 99.5))
    np.testing.assert_allclose(
        percentile_window(volume)[2:], ((volume[2:] - low) / (high - low)).clip(0, 1), rtol=1e-5
    )


def test_constant_volume_can_be_drawn() -> None:
    volume = np.full((4, 4, 4), 7, np.float32)
    assert np.isfinite(percentile_window(volume)).all()
    assert head_centre(percentile_window(volume)) == (1, 1, 1)


def test_cuts_go_through_the_middle_of_the_head() -> None:
    volume = np.zeros((20, 20, 20), np.float32)
    volume[12:17, 2:9, 6:9] = 1
    assert head_centre(volume) == (14, 5, 7)


def test_empty_space_around_the_head_is_cut_off() -> None:
    small = np.zeros((20, 24, 16), np.float32)
    small[2:18, 2:22, 2:14] = 0.5
    large = np.pad(small, 40)
    cut = large[head_box(large)]
    assert cut.shape == (32, 36, 28)
    assert cut.sum() == small.sum()
