"""DFBK's bundle: both forms, every data set and every ablation, two steps each on phantoms."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from voxlate.data_prep import WeightsError
from voxlate.pipelines import parts_from_files
from voxlate.pipelines.prompts import read_prompts
from voxlate.pipelines.text_cache import build_text_cache
from voxlate.pipelines.word_tower import words_of, write_word_tower

STAGES = ("autoencoder", "prior", "denoiser")
DATA = {
    "brats2023": ("phantoms", "t1", ["t2", "flair"]),
    "isles2015": ("phantoms_with_dwi", "flair", ["dwi", "t1"]),
    "synthrad2023": ("phantoms_with_ct", "ct", ["mr"]),
}


NO_BALANCE, NO_GUIDANCE = {"balance::head_channels": None}, {"guidance::head_channels": None}
ABLATIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "ablation_none": ({**NO_BALANCE, **NO_GUIDANCE}, set()),
    "ablation_balance_only": (NO_GUIDANCE, {"balance low", "balance high"}),
    "ablation_guidance_only": (NO_BALANCE, {"guidance low", "guidance high"}),
    "ablation_balance_low": ({}, {"balance low", "guidance low", "guidance high"}),
    "ablation_balance_high": ({}, {"balance high", "guidance low", "guidance high"}),
    "ablation_guidance_low": ({}, {"balance low", "balance high", "guidance low"}),
    "ablation_guidance_high": ({}, {"balance low", "balance high", "guidance high"}),
    "ablation_balance_attention": ({}, {"every"}),
    "ablation_guidance_attention": ({}, {"every"}),
    "paper_exact": ({**NO_BALANCE, **NO_GUIDANCE}, {"every"}),
}
EVERY = {f"{block} {band}" for block in ("balance", "guidance") for band in ("low", "high")}


def data_of(overlay: str, request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(DATA[overlay][0])
    (folder / f"{overlay}.json").write_bytes((folder / "datalist.json").read_bytes())
    return folder


@pytest.mark.slow
def test_latent_form_goes_through_its_stages(
    copied: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = copied("dfbk_brats")
    data = data_of("brats2023", request)
    bundle.train(STAGES, ["brats2023"], data)
    out = tmp_path / "out"
    bundle.translate("denoiser", ["brats2023"], data, out, targets=["t2", "flair"])
    state = torch.load(bundle.root / "runs/denoiser/model.pt", weights_only=True)
    assert float(state["scale_factor"]) != 1.0


@pytest.mark.slow
@pytest.mark.parametrize("overlay", list(DATA))
def test_pixel_form_trains_in_one_stage_and_translates(
    overlay: str, copied: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = copied("dfbk_brats", slices=True)
    data = data_of(overlay, request)
    overlays = ["network_2d", overlay]
    bundle.train(["denoiser"], overlays, data)
    _, source, targets = DATA[overlay]
    out = tmp_path / "out"
    bundle.translate("denoiser", overlays, data, out, source=source, targets=targets)
    state = torch.load(bundle.root / "runs/denoiser/model.pt", weights_only=True)
    assert float(state["scale_factor"]) == 1.0  # intensities
    assert state["denoiser.network.conv_in.weight"].shape[1:] == (2, 3, 3)  # x_t, source


@pytest.mark.parametrize("overlay", list(DATA))
def test_data_set_overlays_teach_the_paper_s_pairs(
    overlay: str, copied: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    bundle = copied("dfbk_brats", slices=True)
    workflow = bundle.workflow(
        "train_denoiser",
        "network_2d",
        overlay,
        kind="train",
        dataset_dir=str(data_of(overlay, request)),
    )
    workflow.initialize()
    data = workflow.train_dataset
    names = workflow.trainer.network.modalities
    pairs = {
        (names[sample["source_index"]], names[sample["target_index"]])
        for sample in (data[index] for index in range(16))
    }
    wanted = {
        "brats2023": {("t1", "t2"), ("t1", "flair")},
        "isles2015": {("flair", "dwi"), ("flair", "t1")},
        "synthrad2023": {("mr", "ct"), ("ct", "mr")},
    }
    assert pairs == wanted[overlay]
    assert data[0]["source"].shape == (1, 28, 28, 1)
    assert {(names[s], names[t]) for _, s, t in workflow.val_dataset.items} == wanted[overlay]


def test_sizes_are_the_papers() -> None:
    configs = Path(__file__).parents[2] / "bundles/dfbk_brats/configs"
    for overlay, size, levels in (("brats2023", 192, 6), ("isles2015", 224, 5)):
        parser = ConfigParser()
        files = [str(configs / f"{name}.yaml") for name in ("network", "network_2d", overlay)]
        parser.read_config(files)
        assert parser.get_parsed_content("least_size") == [size, size, 1]
        assert len(parser["slice_channels"]) == len(parser["slice_attention"]) == levels
        assert parser["slice_channels"][0] == 160
        assert parser["slice_window"] == (14 if overlay == "isles2015" else 8)
        training = ConfigParser()
        training.read_config([str(configs / "train_denoiser.yaml"), *files[1:]])
        assert training["batch_size"] == (1 if overlay == "isles2015" else 4)
        assert training.get_parsed_content("slices") == (64 if overlay == "isles2015" else 32)


def test_four_steps_begin_at_the_prior(copied: Callable[..., Any]) -> None:
    bundle = copied("dfbk_brats", slices=True)
    parts = parts_from_files(bundle.network_files("network_2d"))
    assert parts.scheduler.num_train_timesteps == 4
    assert parts.scheduler.pixel_space
    roots = parts.scheduler.sqrt_etas.tolist()
    assert roots == pytest.approx([0.1, 0.520096, 0.761382, 0.99], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ablation", list(ABLATIONS))
def test_ablation_trains(
    ablation: str, copied: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    network, _ = ABLATIONS[ablation]
    bundle = copied("dfbk_brats", network=network, slices=True)
    data = data_of("synthrad2023", request)
    overlays = ["network_2d", "synthrad2023", ablation]
    bundle.train(["denoiser"], overlays, data)
    out = tmp_path / "out"
    bundle.translate("denoiser", overlays, data, out, source="mr", targets=["ct"])


@pytest.mark.parametrize("form", [(), ("network_2d",)])
@pytest.mark.parametrize("ablation", [None, *ABLATIONS])
def test_ablation_leaves_out_what_it_says(
    ablation: str | None, form: tuple[str, ...], copied: Callable[..., Any]
) -> None:
    network, left = ABLATIONS[ablation] if ablation else ({}, {"every"})
    bundle = copied("dfbk_brats", network=network, slices=bool(form))
    overlays = [*form, *([ablation] if ablation else [])]
    built = parts_from_files(bundle.network_files(*overlays)).network
    names = " ".join(name for name, _ in built.denoiser.named_parameters())
    found = {
        f"{block} {band}"
        for block, place in (("balance", "balances"), ("guidance", "guidance"))
        for band in ("low", "high")
        if re.search(rf"{place}\.[a-z0-9.]*\b{band}\.", names)
    }
    assert found == (EVERY if left == {"every"} else left)
    assert (built.text is None) == (not any(part.startswith("guidance") for part in found))
    differential = {
        block: f"{place}" in names and bool(re.search(rf"{place}\.[a-z0-9.]*high\.lambda", names))
        for block, place in (("balance", "balances"), ("guidance", "guidance"))
    }
    for block in ("balance", "guidance"):
        ordinary = ablation == f"ablation_{block}_attention" or f"{block} high" not in found
        assert differential[block] == (not ordinary)


@pytest.mark.slow
def test_bundle_trained_with_another_tower_keeps_to_it(
    copied: Callable[..., Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("open_clip", reason="the extra 'text' is not installed")
    bundle = copied("dfbk_brats", slices=True)
    data = data_of("synthrad2023", request)
    overlays = ["network_2d", "synthrad2023"]
    words = words_of(read_prompts(bundle.configs / "prompts.yaml").values())
    for seed in (3, 4):
        write_word_tower(tmp_path / f"tower{seed}", words, width=16, seed=seed)
    build_text_cache(bundle.root, encoder=f"local-dir:{tmp_path / 'tower3'}")
    bundle.train(["denoiser"], overlays, data)
    options = {"source": "mr", "targets": ["ct"]}
    bundle.translate("denoiser", overlays, data, tmp_path / "out", **options)
    state = torch.load(bundle.root / "runs/denoiser/model.pt", weights_only=True)
    assert state["denoiser.network.guidance.bands.low.k.weight"].shape[1] == 16
    build_text_cache(bundle.root, encoder=f"local-dir:{tmp_path / 'tower4'}")
    with pytest.raises(RuntimeError) as refused:
        bundle.translate("denoiser", overlays, data, tmp_path / "other", **options)
    assert isinstance(refused.value.__cause__, WeightsError)
    assert "text: weights" in str(refused.value.__cause__)
