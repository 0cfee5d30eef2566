from pathlib import Path

import numpy as np
import pytest

from voxlate.data_prep import find_cases, make_phantom, read_mask, read_scan, write_phantom_case
from voxlate.data_prep.phantom import (
    LABELS,
    TISSUES,
    Phantom,
    inversion_recovery,
    null_time,
    signal,
    spin_echo,
)


def mean(phantom: Phantom, modality: str, tissue: str) -> float:
    return float(phantom.volumes[modality][phantom.labels == LABELS[tissue]].mean())


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom((64, 76, 60), seed=5, spacing=2.5, lesions=6)


def test_ventricles_are_dark_on_t1_and_flair_and_bright_on_t2(phantom: Phantom) -> None:
    middle = np.linalg.inv(phantom.affine) @ [0, -6, -2, 1]
    x, y, z = np.rint(middle[:3]).astype(int)
    assert phantom.labels[x, y, z] == LABELS["csf"]
    for modality in ("t1", "t1ce", "flair"):
        assert phantom.volumes[modality][x, y, z] < 0.5 * mean(phantom, modality, "white")
    assert phantom.volumes["t2"][x, y, z] > 1.5 * mean(phantom, "t2", "white")


def test_grey_and_white_matter_have_the_contrast_of_their_weighting(phantom: Phantom) -> None:
    assert mean(phantom, "t1", "white") > 1.4 * mean(phantom, "t1", "grey")
    assert mean(phantom, "t2", "grey") > 1.2 * mean(phantom, "t2", "white")
    assert mean(phantom, "flair", "grey") > 1.03 * mean(phantom, "flair", "white")


def test_lesions_are_bright_on_flair_and_enhance_on_t1ce_alone(phantom: Phantom) -> None:
    assert mean(phantom, "flair", "lesion") > 1.4 * mean(phantom, "flair", "white")
    lesion = phantom.labels == LABELS["lesion"]
    assert mean(phantom, "t1", "lesion") < mean(phantom, "t1", "white")
    t1ce = phantom.volumes["t1ce"][lesion]
    assert (t1ce > 1.3 * mean(phantom, "t1ce", "white")).mean() > 0.1  # some take up the agent
    assert (t1ce < mean(phantom, "t1ce", "white")).mean() > 0.1  # and some do not
    other = (phantom.labels > 0) & ~lesion
    ratio = phantom.volumes["t1ce"][other].mean() / phantom.volumes["t1"][other].mean()
    assert ratio == pytest.approx(1, abs=0.02)


def test_sequences_have_their_closed_forms() -> None:
    white, csf = TISSUES["white"], TISSUES["csf"]
    assert spin_echo(white, tr=1e9, te=0) == pytest.approx(white.density)
    assert spin_echo(white, tr=white.t1, te=white.t2) == pytest.approx(
        white.density * (1 - np.exp(-1)) * np.exp(-1)
    )
    null = null_time(csf.t1, tr=9000)
    assert inversion_recovery(csf, tr=9000, te=120, ti=null) == pytest.approx(0, abs=1e-12)
    assert null_time(csf.t1, tr=1e9) == pytest.approx(csf.t1 * np.log(2))
    with pytest.raises(KeyError):
        signal(white, "ct")


def test_air_is_exactly_zero_and_the_brain_is_not(phantom: Phantom) -> None:
    for volume in phantom.volumes.values():
        assert (volume[phantom.labels == 0] == 0).all()
        assert (volume[phantom.labels > 0] > 0).all()
        assert volume.dtype == np.float32


def test_seed_decides_everything() -> None:
    first, again, other = (make_phantom((24, 28, 22), seed=s, spacing=6) for s in (1, 1, 2))
    for modality in first.volumes:
        np.testing.assert_array_equal(first.volumes[modality], again.volumes[modality])
        assert not np.array_equal(first.volumes[modality], other.volumes[modality])


def test_anatomy_is_the_same_at_every_spacing() -> None:
    fine, coarse = (
        make_phantom((n, n, n), seed=4, spacing=s, lesions=0) for n, s in ((96, 2.0), (48, 4.0))
    )
    for tissue in ("csf", "grey", "white"):
        volumes = [
            (p.labels == LABELS[tissue]).sum() * abs(np.linalg.det(p.affine))
            for p in (fine, coarse)
        ]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.25)


def test_no_lesions_when_none_are_asked_for() -> None:
    assert not (make_phantom((24, 28, 22), seed=1, spacing=6, lesions=0).labels == 5).any()


def test_skull_adds_scalp_and_noisy_air() -> None:
    phantom = make_phantom((48, 56, 48), seed=1, spacing=4, skull=True, modalities=("t1",))
    assert (phantom.labels == LABELS["scalp"]).any() and (phantom.labels == LABELS["bone"]).any()
    air = phantom.volumes["t1"][phantom.labels == 0]
    assert (air > 0).mean() > 0.99
    assert mean(phantom, "t1", "scalp") > 3 * air.mean()


def test_case_on_disk_is_found_and_read(tmp_path: Path) -> None:
    folder = write_phantom_case(tmp_path / "p1", (40, 44, 36), seed=2, spacing=4, lesions=4)
    (case,) = find_cases(tmp_path, ("t1", "t1ce", "t2", "flair"))
    assert case.id == "p1" and list(case.files) == ["t1", "t1ce", "t2", "flair"]
    scan = read_scan(folder / "flair.nii.gz")
    assert scan.spacing == (4.0, 4.0, 4.0)
    lesion = read_mask(case.masks["lesion"], like=scan)
    assert scan.data[lesion].mean() > scan.data[scan.data > 0].mean()
