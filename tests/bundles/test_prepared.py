"""Each data set, from the tree it is downloaded as to two steps of the bundle that names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from voxlate.data_prep import Preprocessing
from voxlate.pipelines.prepare import prepare

TINY = {"spacing": (6.0, 6.0, 6.0), "size": (24, 24, 24)}  # as the tiny bundles have it
BY_NAME = [
    ("brats2021", "aldm_brats", None),
    ("ixi", "aldm_brats", None),
    ("brats2023", "dfbk_brats", ["t1", "t2", "flair"]),
    ("isles2015", "dfbk_brats", ["t1", "flair", "dwi"]),
    ("synthrad2023", "dfbk_brats", None),
    ("brats2020", "msg_brats", None),
    ("wmh2017", "msg_brats", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "name", "modalities"), BY_NAME)
def test_prepared_data_set_trains_from_the_cache_it_came_with(
    layout: str,
    name: str,
    modalities: list[str] | None,
    copied: Callable[..., Any],
    layout_trees: Any,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    root = layout_trees(layout, tmp_path / "raw", count=2 if layout == "ixi" else 3)
    preprocessing = Preprocessing(**TINY, multiple_of=16)
    prepare(layout, root, out, modalities=modalities, preprocessing=preprocessing, quiet=True)
    made = sorted(path.name for path in (out / "cache").iterdir())
    copied(name).train(["autoencoder"], [layout], out, cache_dir=str(out / "cache"))
    assert sorted(path.name for path in (out / "cache").iterdir()) == made


@pytest.mark.slow
def test_folders_of_the_users_own_train_the_default_bundle(
    copied: Callable[..., Any], layout_trees: Any, tmp_path: Path
) -> None:
    from voxlate.pipelines.prepare_options import PrepareOptions

    out = tmp_path / "out"
    root = layout_trees("bids", tmp_path / "raw")
    prepare("bids", root, out, options=PrepareOptions(), quiet=True)
    held = {"validation_subjects": ["sub-02"]}
    copied("brain_mri_translation").train(["autoencoder"], [], out / "cases", **held)
