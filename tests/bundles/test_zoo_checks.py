"""What the model zoo's continuous integration asks of a bundle, done offline."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_metadata, verify_net_in_out
from monai.bundle.config_item import ComponentLocator, ConfigComponent

ROOT = Path(__file__).parents[2]
NAMES = ("aldm_brats", "brain_mri_completion", "brain_mri_translation", "dfbk_brats", "msg_brats")
BUNDLES = {name: ROOT / "bundles" / name for name in NAMES}
CONFIGS = [path for name in NAMES for path in sorted((BUNDLES[name] / "configs").glob("*.yaml"))]
LOCATOR = ComponentLocator()  # of MONAI's components by their bare names
SHARED = ("inference", "evaluate", "multi_gpu_train", "multi_gpu_evaluate", "tracking")


@pytest.mark.parametrize("name", NAMES)
def test_bundle_has_the_files_the_zoo_wants(name: str) -> None:
    for file in ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "docs/README.md"):
        assert (BUNDLES[name] / file).is_file()
    assert (BUNDLES[name] / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_metadata_fits_its_schema(name: str, schemas_dir: Path, tmp_path: Path) -> None:
    metadata = BUNDLES[name] / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    assert content["version"] in content["changelog"]
    schema = schemas_dir / Path(content["schema"]).name
    placed = tmp_path / "schema.json"  # what is there is not downloaded
    shutil.copy(schema, placed)
    verify_metadata(meta_file=str(metadata), filepath=str(placed))


@pytest.mark.parametrize("name", NAMES)
def test_network_takes_and_gives_what_the_metadata_says(
    name: str, copied: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = copied(name)
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle.configs / "metadata.json"),
        config_file=bundle.files("inference", "tiny"),
        device="cpu",
        n=1,
        p=1,
        any=1,
        bundle_root=str(bundle.root),
    )


def test_network_is_found_without_bundle_root_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the zoo's own checks stand elsewhere and name no bundle_root
    configs = BUNDLES["brain_mri_translation"] / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
        device="cpu",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("traced", [False, True])
def test_exported_network_answers_as_the_network(
    name: str, traced: bool, copied: Callable[..., Any]
) -> None:
    bundle = copied(name)
    weights = bundle.random_weights()
    exported = bundle.root / "models" / "model.ts"
    options: dict[str, Any] = {"use_trace": True, "input_shape": [1, 1, 16, 16, 16]}
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(weights),
        meta_file=str(bundle.configs / "metadata.json"),
        config_file=bundle.files("inference", "tiny"),
        bundle_root=str(bundle.root),
        **(options if traced else {}),
    )
    workflow = bundle.workflow("inference", kind="infer")
    workflow.initialize()
    network = workflow.network_def.eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    image = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = network(image)
        made = torch.jit.load(exported)(image)
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parents[1].name}/{path.stem}")
def test_every_target_can_be_imported(path: Path) -> None:
    for target in targets_of(ConfigParser.load_config_file(path)):
        component = ConfigComponent({"_target_": target}, locator=LOCATOR).resolve_module_name()
        located = locate(component)
        assert callable(located), target


@pytest.mark.parametrize("file", SHARED)
def test_bundles_share_what_does_not_depend_on_the_network(file: str) -> None:
    texts = [
        (BUNDLES[name] / "configs" / f"{file}.yaml").read_text().replace(name, "NAME")
        for name in NAMES
    ]
    assert len(set(texts)) == 1


@pytest.mark.parametrize("stage", ["autoencoder", "prior", "denoiser"])
@pytest.mark.parametrize("name", NAMES[2:])  # brain_mri_completion has stages of its own
def test_stages_are_built_alike_in_all_bundles(name: str, stage: str) -> None:
    one, other = (dict(leaves(load(each, f"train_{stage}"))) for each in (NAMES[0], name))
    both = {key for key in one.keys() & other.keys() if key.endswith("_target_")}
    # the default bundle keeps its few pairs encoded, msg_brats takes several sources
    both -= {"train::dataset::_target_", "validate::dataset::_target_"}
    assert {key: one[key] for key in both} == {key: other[key] for key in both}
    assert "train::trainer::_target_" in both


def test_overlay_for_several_gpus_silences_the_tensorboard_handlers() -> None:
    overlay = load("brain_mri_translation", "multi_gpu_train")
    places = [key.split("::") for key in overlay if key.endswith("_disabled_")]
    for name in NAMES:
        for path in (BUNDLES[name] / "configs").glob("train_*.yaml"):
            config = load(name, path.stem)
            for part, handlers, number, _ in places:
                handler = config[part][handlers][int(number)]
                assert handler["_target_"] == "TensorBoardStatsHandler"


@pytest.mark.parametrize("name", NAMES)
def test_readme_names_only_files_that_exist(name: str) -> None:
    text = (BUNDLES[name] / "docs" / "README.md").read_text()
    words = [word.strip("`'\"[](),;:.") for word in text.replace(",", " ").split()]
    named = {word for word in words if word.startswith("configs/") and "*" not in word}
    assert named
    for file in named:
        assert (BUNDLES[name] / file).is_file(), file


def load(name: str, config: str) -> dict[str, Any]:
    return ConfigParser.load_config_file(BUNDLES[name] / "configs" / f"{config}.yaml")


def targets_of(config: Any) -> Iterator[str]:
    for key, value in leaves(config):
        if key.endswith("_target_") and not value.startswith(("$", "@")):
            yield value


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    items = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in items:
        path = f"{prefix}::{key}" if prefix else str(key)
        if isinstance(value, (dict, list)):
            yield from leaves(value, path)
        else:
            yield path, value
