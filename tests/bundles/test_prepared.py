"""Each data set, from the tree it is downloaded as to two steps of the bundle that names it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from voxlate.data_prep.known_layouts import LAYOUTS, layout_by_name
from voxlate.pipelines.prepare import prepare, preprocessing_of
from voxlate.pipelines.prepare_options import PrepareOptions

TINY = {"spacing": (6.0, 6.0, 6.0), "size": (24, 24, 24)}  # as the tiny bundles have it
BY_NAME = [
    ("brats2021", "brats2021", "aldm_brats", None),
    ("ixi", "ixi", "aldm_brats", None),
    ("brats2023", "brats2023", "dfbk_brats", ["t1", "t2", "flair"]),
    ("brats2023", "brats2021", "dfbk_brats", ["t1", "t2", "flair"]),  # the other naming scheme
    ("isles2015", "isles2015", "dfbk_brats", ["t1", "flair", "dwi"]),
    ("synthrad2023", "synthrad2023", "dfbk_brats", None),
    ("brats2020", "brats2020", "msg_brats", None),
    ("wmh2017", "wmh2017", "msg_brats", None),
    ("bids", "bids", "brain_mri_translation", None),
    ("table", "table", "brain_mri_translation", None),
]
OVERLAYS = {"bids": "prepared", "table": "prepared"}  # the others' have the layout's name


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "tree", "name", "modalities"), BY_NAME)
def test_prepared_data_set_trains_from_the_cache_it_came_with(
    layout: str,
    tree: str,
    name: str,
    modalities: list[str] | None,
    copied: Callable[..., Any],
    layout_trees: Any,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    root = layout_trees(tree, tmp_path / "raw", count=2 if layout == "ixi" else 3)
    preprocessing = replace(preprocessing_of(layout_by_name(layout).protocol), **TINY)
    options = PrepareOptions() if layout in OVERLAYS else None  # these would be registered as well
    prepare(
        *(layout, root, out),
        options=options,
        modalities=modalities,
        preprocessing=preprocessing,
        quiet=True,
    )
    made = sorted(path.name for path in (out / "cache").iterdir())
    copied(name).train(
        ["autoencoder"], [OVERLAYS.get(layout, layout)], out, cache_dir=str(out / "cache")
    )
    assert sorted(path.name for path in (out / "cache").iterdir()) == made


def test_every_layout_has_a_bundle_that_trains_on_it() -> None:
    assert {layout for layout, *_ in BY_NAME} == set(LAYOUTS)
