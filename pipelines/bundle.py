"""A MONAI bundle as its parts: network, weights, preprocessing, scheduler."""

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from voxlate.data_prep.errors import WeightsError
from voxlate.networks import TranslationNetwork

from .checkpoint import load_weights

DEFAULT_BUNDLE = "brain_mri_translation"
NETWORK_FILE = Path("configs", "network.yaml")
WEIGHTS_FILE = Path("models", "model.pt")


class BundleParts(NamedTuple):
    """What translation needs of a bundle. ``sha256`` is that of the weights file."""

    name: str
    version: str
    network: TranslationNetwork
    preprocessing: Any
    scheduler: Any
    steps: int
    sha256: str


def default_bundle() -> Path:
    """Folder of the bundle that comes with voxlate, weights included."""
    return Path(str(resources.files("voxlate.bundles"))) / DEFAULT_BUNDLE


def network_from_files(files: Sequence[str | os.PathLike[str]]) -> TranslationNetwork:
    """Build ``network_def`` from configuration files; later files override earlier ones.

    Weights are not loaded.
    """
    return _parser(files).get_parsed_content("network_def")


def read_bundle(path: str | os.PathLike[str] | None = None) -> BundleParts:
    """Read a bundle: ``configs/network.yaml``, ``configs/metadata.json`` and ``models/model.pt``.

    The network file has the keys ``network_def``, ``preprocessing_def``, ``scheduler_def`` and ``steps``.

    Args:
        path: Bundle folder; by default the one that comes with voxlate.

    Raises:
        WeightsError: No such bundle, a file or key of it is missing, or its weights do not fit.
    """
    root = default_bundle() if path is None else Path(path)
    if not (root / NETWORK_FILE).is_file():
        raise WeightsError(
            f"there is no bundle here ({NETWORK_FILE} is missing)",
            "name a bundle's folder",
            code="E_BUNDLE",
            file=root,
        )
    parser = _parser([root / NETWORK_FILE])
    for key in ("network_def", "preprocessing_def", "scheduler_def", "steps"):
        if key not in parser:
            raise WeightsError(
                f"{key} is missing", "complete it", code="E_BUNDLE", file=root / NETWORK_FILE
            )
    network: TranslationNetwork = parser.get_parsed_content("network_def")
    digest = load_weights(network, root / WEIGHTS_FILE)
    return BundleParts(
        name=root.resolve().name,
        version=_version(root),
        network=network.eval(),
        preprocessing=parser.get_parsed_content("preprocessing_def"),
        scheduler=parser.get_parsed_content("scheduler_def"),
        steps=int(parser.get_parsed_content("steps")),
        sha256=digest,
    )


def _parser(files: Sequence[str | os.PathLike[str]]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([os.fspath(file) for file in files])
    return parser


def _version(root: Path) -> str:
    metadata = root / "configs" / "metadata.json"
    if not metadata.is_file():
        return "unknown"
    return str(ConfigParser.load_config_file(metadata).get("version", "unknown"))
