"""What a person vouches for, where the file alone would be refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Overrides:
    """Answers to what a reader cannot know; each one that is used becomes a warning of the scan.

    Attributes:
        assume_mm: Lengths are mm, though the header says metres or microns.
        geometry: Believe this transform, though the other one differs.
        shear: Axes need not be square.
        content: Take it for an MR scan, though it looks like a CT or a label map.
        volume: Read this volume of a 4D file, counted from 0.
    """

    assume_mm: bool = False
    geometry: Literal["sform", "qform"] | None = None
    shear: bool = False
    content: bool = False
    volume: int | None = None


NONE = Overrides()
