"""Prompts: what each contrast shows, in words, as a bundle's configuration says it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from voxlate.data_prep import WeightsError

PROMPTS_FILE = Path("configs", "prompts.yaml")


def read_prompts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a file of prompts: a YAML mapping with the key ``prompts``, modality to description.

    Line breaks in a description count as blanks.

    Raises:
        WeightsError: The file is missing, unreadable, or says anything but that.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _refusal(path, "there is no such file", "add a description a modality") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _refusal(path, f"it cannot be read ({error})", "correct it") from None
    prompts = content.get("prompts") if isinstance(content, dict) else None
    if not isinstance(prompts, dict) or not prompts:
        raise _refusal(path, "it has no prompts", "write 'prompts:' and a line a modality")
    for modality, text in prompts.items():
        if not isinstance(modality, str) or not isinstance(text, str) or not text.strip():
            raise _refusal(path, f"the prompt of {modality!r} is no text", "describe the contrast")
    return {modality: " ".join(text.split()) for modality, text in prompts.items()}


def prompts_for(
    prompts: Mapping[str, str], modalities: Sequence[str], path: str | os.PathLike[str]
) -> dict[str, str]:
    """The prompts of some modalities, in their order.

    Raises:
        WeightsError: A modality has none; ``path`` is the file to name.
    """
    missing = [name for name in modalities if name not in prompts]
    if missing:
        raise _refusal(path, f"it has no prompt for {', '.join(missing)}", "describe the contrast")
    return {name: prompts[name] for name in modalities}


def _refusal(path: str | os.PathLike[str], what: str, todo: str) -> WeightsError:
    return WeightsError(what, todo, code="E_PROMPTS", file=path)
