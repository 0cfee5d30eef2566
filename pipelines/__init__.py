"""What a person runs: translation, training, evaluation and the command line.

Names are imported on first use, so that ``voxlate --help`` answers before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import (
        NetworkParts,
        default_bundle,
        network_from_files,
        parts_from_files,
        read_bundle,
    )
    from .bundle_inference import (
        PrepareScan,
        TranslationEvaluator,
        TranslationInferer,
        list_scans,
        one_case,
    )
    from .case_steps import Translation
    from .checkpoint import read_weights, save_weights
    from .device import autocast_dtype, choose_device, inference_context
    from .sampler import sample
    from .save_translations import SaveTranslations
    from .seeds import case_generator
    from .translator import Translator

_HOME = {
    "NetworkParts": "bundle",
    "PrepareScan": "bundle_inference",
    "SaveTranslations": "save_translations",
    "Translation": "case_steps",
    "TranslationEvaluator": "bundle_inference",
    "TranslationInferer": "bundle_inference",
    "Translator": "translator",
    "autocast_dtype": "device",
    "case_generator": "seeds",
    "choose_device": "device",
    "default_bundle": "bundle",
    "inference_context": "device",
    "list_scans": "bundle_inference",
    "network_from_files": "bundle",
    "one_case": "bundle_inference",
    "parts_from_files": "bundle",
    "read_bundle": "bundle",
    "read_weights": "checkpoint",
    "sample": "sampler",
    "save_weights": "checkpoint",
}

__all__ = [
    "NetworkParts",
    "PrepareScan",
    "SaveTranslations",
    "Translation",
    "TranslationEvaluator",
    "TranslationInferer",
    "Translator",
    "autocast_dtype",
    "case_generator",
    "choose_device",
    "default_bundle",
    "inference_context",
    "list_scans",
    "network_from_files",
    "one_case",
    "parts_from_files",
    "read_bundle",
    "read_weights",
    "sample",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
