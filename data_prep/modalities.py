"""The contrasts by name: what they are called here, and what others call them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePath

from .errors import UsageError

#: The BraTS four, in the order of the default bundle's one-hot code.
DEFAULT_MODALITIES = ("t1", "t1ce", "t2", "flair")

#: Every known modality with the other names it goes by (BraTS 2021 and 2023, BIDS, everyday).
ALIASES: dict[str, tuple[str, ...]] = {
    "t1": ("t1w", "t1n"),
    "t1ce": ("t1c", "t1gd", "t1post", "t1wce", "t1wpost", "t1km"),
    "t2": ("t2w",),
    "flair": ("t2f", "t2flair"),
    "pd": ("pdw",),
    "dwi": (),
    "ct": (),
    "mr": (),
}
_NAMES = {alias: name for name, aliases in ALIASES.items() for alias in (name, *aliases)}
_CONTRAST_AGENT = {"gadolinium", "gd", "gad", "post", "postcontrast"}


def parse_modality(name: str, allowed: Sequence[str] = DEFAULT_MODALITIES) -> str:
    """Return the modality that ``name`` means, in any case and by any of its names.

    Raises:
        UsageError: The name is unknown, or not one of ``allowed``.
    """
    key = re.sub(r"[\s_-]", "", name).lower()
    if name in allowed:
        return name
    for modality in allowed:
        if _NAMES.get(key, key) == _NAMES.get(modality, modality):
            return modality
    known = (
        f"modality {name!r} is not one this model has"
        if key in _NAMES
        else f"unknown modality {name!r}"
    )
    raise UsageError(known, f"choose from {', '.join(allowed)}", code="E_MODALITY")


def guess_modality(path: str | os.PathLike[str]) -> str | None:
    """Read the modality from a file's name, or return None where it names none or several.

    Knows BraTS (``BraTS2021_00000_t1ce``, ``BraTS-GLI-00000-000-t1c``) and BIDS names
    (``sub-01_ce-gadolinium_T1w``); folders are not looked at.
    """
    tokens = [t for t in re.split(r"[^a-z0-9]+", PurePath(path).name.lower()) if t]
    found = {_NAMES[token] for token in tokens if token in _NAMES}
    if tokens[:1] != ["mr"] or len(found) > 1:
        found -= {"mr"}  # SynthRAD's mr.nii.gz, but "brain_mr" names no contrast
    if found == {"t1"} and _CONTRAST_AGENT & set(tokens):
        return "t1ce"
    return found.pop() if len(found) == 1 else None
