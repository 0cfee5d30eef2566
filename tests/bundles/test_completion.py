"""The bundle that completes cases: fitted, then used from any subset, and its experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import run as run_bundle

from voxlate.pipelines import Translator

HELD_BACK = ["patient03"]
QUICK = {"warmup_steps": 0, "ema_decay": 0.5}
TINY_STRUCTURE = {
    "structure_def::channels": [4, 4],
    "prior_def::condition_channels": 4,
    "prior_def::features": 4,
    "prior_def::norm_groups": 2,
}
TINY_STAGE = {
    "disentanglement::style_widths": [4, 4],
    "disentanglement::num_res_blocks": 1,
}


def fit(bundle: Any, data: Path, weights: Path) -> dict[str, torch.Tensor]:
    run_bundle(
        config_file=str(bundle.configs / "fit_paths.yaml"),
        bundle_root=str(bundle.root),
        network_files=bundle.network_files(),
        initial_weights=str(weights),
        dataset_dir=str(data),
        validation_subjects=HELD_BACK,
        device="cpu",
        precision="float32",
    )
    return torch.load(bundle.root / "runs" / "paths" / "model.pt", weights_only=True)


def test_fit_gives_paths_and_shares_and_touches_nothing_else(
    copied: Callable[..., Any], phantoms: Path
) -> None:
    bundle = copied("brain_mri_completion")
    before = torch.load(bundle.random_weights(), weights_only=True)
    after = fit(bundle, phantoms, bundle.root / "models" / "model.pt")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    fresh = {name for name in before if name.startswith("denoiser.")}
    rounds = [f"path.rounds.{index}.weights" for index in (0, 1)]
    fitted = {f"prior.guess.{name}" for name in (*rounds, "path.spread", "shares")}
    assert fitted <= changed <= fitted | fresh
    shares = after["prior.guess.shares"].softmax(1)
    assert float(shares.max()) > 0.3 > float(shares.min())


def test_fitted_weights_complete_a_case_from_any_subset(
    copied: Callable[..., Any], phantoms: Path
) -> None:
    bundle = copied("brain_mri_completion")
    state = fit(bundle, phantoms, bundle.random_weights())
    torch.save(state, bundle.root / "models" / "model.pt")
    bundle.shrink()  # a translator reads the bundle's own files
    translator = Translator.from_bundle(bundle.root, device="cpu")
    generator = torch.Generator().manual_seed(0)
    given = {name: torch.rand(1, 24, 24, 24, generator=generator) for name in ("t1", "flair")}
    found = translator(volumes=given)
    assert list(found) == ["t1", "t1ce", "t2", "flair"]
    assert torch.equal(found["t1"], given["t1"]) and torch.equal(found["flair"], given["flair"])
    alone = translator(volumes={"t1": given["t1"]})
    assert not torch.equal(alone["t2"], found["t2"])


@pytest.mark.slow
def test_structure_trains_beside_the_paths(
    copied: Callable[..., Any], phantoms: Path, tmp_path: Path
) -> None:
    bundle = copied("brain_mri_completion", network=TINY_STRUCTURE, training=QUICK)
    first = {"initial_weights": str(bundle.random_weights("structure")), **TINY_STAGE}
    held = {"validation_subjects": HELD_BACK}
    bundle.train(["structure"], ["structure"], phantoms, **held, **first)
    bundle.train(["prior"], ["structure"], phantoms, **held)
    bundle.translate("prior", ["structure"], phantoms, tmp_path / "out", targets=["t2"])
