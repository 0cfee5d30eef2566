"""A MONAI bundle as its parts: network, weights, preprocessing, scheduler."""

import os
import pydoc
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser

from voxlate.data_prep import Preprocessing, WeightsError
from voxlate.networks import TranslationNetwork

from .checkpoint import load_weights, sha256_of

DEFAULT_BUNDLE = "brain_mri_translation"
NETWORK_FILE = Path("configs", "network.yaml")
WEIGHTS_FILE = Path("models", "model.pt")


class Origin(NamedTuple):
    """Which bundle, and the SHA-256 of its weights file and of its network's configuration."""

    bundle: str
    version: str
    sha256: str
    configuration: str = ""


class NetworkParts(NamedTuple):
    """What network files describe; ``steps`` are those of sampling."""

    network: TranslationNetwork
    preprocessing: Preprocessing
    scheduler: Any
    steps: int


def default_bundle() -> Path:
    """Folder of the bundle that comes with voxlate, weights included."""
    return Path(str(resources.files("voxlate.bundles"))) / DEFAULT_BUNDLE


def network_from_files(files: Sequence[str | os.PathLike[str]]) -> TranslationNetwork:
    """Build ``network_def`` from configuration files; later files override earlier ones.

    Weights are not loaded.
    """
    return _parser(files).get_parsed_content("network_def")


def parts_from_files(files: Sequence[str | os.PathLike[str]]) -> NetworkParts:
    """Build network, preprocessing and scheduler from files; later ones override earlier ones.

    They have the keys ``network_def``, ``preprocessing_def``, ``scheduler_def`` and ``steps``, and
    may use ``bundle_root``: the folder above the first file's. Weights are not loaded.

    Raises:
        WeightsError: A key is missing.
    """
    parser = _parser(files)
    keys = ("network_def", "preprocessing_def", "scheduler_def", "steps")
    for key in keys:
        if key not in parser:
            raise WeightsError(f"{key} is missing", "add it", code="E_BUNDLE", file=files[-1])
    return NetworkParts(*(parser.get_parsed_content(key) for key in keys))


class BundleFacts(NamedTuple):
    """What a bundle says of itself before its network is built.

    Attributes:
        root: Its folder.
        modalities: That its network knows, in order.
        steps: Denoising steps unless a run says otherwise.
        scheduler: Walks them.
        configuration: SHA-256 of ``configs/network.yaml``.
        several: Whether its network makes use of more than one given contrast.
    """

    root: Path
    modalities: tuple[str, ...]
    steps: int
    scheduler: Any
    configuration: str
    several: bool = False

    @property
    def weights(self) -> Path:
        """Where its weights are, or should be."""
        return self.root / WEIGHTS_FILE


def bundle_facts(path: str | os.PathLike[str] | None = None) -> BundleFacts:
    """Read a bundle's configuration; its weights may be absent.

    Args:
        path: Bundle folder; by default the one that comes with voxlate.

    Raises:
        WeightsError: No such bundle, or a key of it is missing.
    """
    root = _checked_root(path)
    parser = _parser([root / NETWORK_FILE])
    keys = ("network_def::modalities", "steps", "scheduler_def")
    for key in keys:
        if key not in parser:
            raise WeightsError(
                f"{key} is missing", "add it", code="E_BUNDLE", file=root / NETWORK_FILE
            )
    modalities, steps, scheduler = (parser.get_parsed_content(key) for key in keys)
    return BundleFacts(
        root,
        tuple(modalities),
        int(steps),
        scheduler,
        sha256_of(root / NETWORK_FILE),
        _prior_takes_several(parser),
    )


def read_bundle(path: str | os.PathLike[str] | None = None) -> tuple[NetworkParts, Origin]:
    """Read ``configs/network.yaml``, ``configs/metadata.json`` and ``models/model.pt``.

    Args:
        path: Bundle folder; by default the one that comes with voxlate.

    Raises:
        WeightsError: No such bundle, a file or key of it is missing, or its weights do not fit.
    """
    root = _checked_root(path)
    parts = parts_from_files([root / NETWORK_FILE])
    digest = load_weights(parts.network, root / WEIGHTS_FILE)
    configuration = sha256_of(root / NETWORK_FILE)
    return parts, Origin(root.resolve().name, _version(root), digest, configuration)


def _checked_root(path: str | os.PathLike[str] | None) -> Path:
    root = default_bundle() if path is None else Path(path)
    if not (root / NETWORK_FILE).is_file():
        raise WeightsError(
            f"there is no bundle here ({NETWORK_FILE} is missing)",
            "name a bundle's folder",
            code="E_BUNDLE",
            file=root,
        )
    return root


def _parser(files: Sequence[str | os.PathLike[str]]) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([os.fspath(file) for file in files])
    parser["bundle_root"] = os.fspath(Path(files[0]).absolute().parents[1])
    return parser


def _prior_takes_several(parser: ConfigParser) -> bool:
    """Whether the prior's class can encode a whole case; it is looked up, not built."""
    prior: Any = parser.config["network_def"].get("prior")
    while isinstance(prior, str) and prior.startswith("@"):
        prior = parser[prior[1:]]
    target = prior.get("_target_", "") if isinstance(prior, dict) else ""
    return hasattr(pydoc.locate(str(target)), "encode_case")


def _version(root: Path) -> str:
    metadata = root / "configs" / "metadata.json"
    if not metadata.is_file():
        return "unknown"
    return str(ConfigParser.load_config_file(metadata).get("version", "unknown"))
