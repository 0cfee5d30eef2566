"""Scans whose modality is known before they are read."""

from __future__ import annotations

import os
from dataclasses import replace

from .overrides import NONE, Overrides
from .reading import Scan, read_scan

NOT_MR = ("ct",)  #: Hounsfield units: negative in air, and no bias field


def read_contrast(path: str | os.PathLike[str], modality: str, overrides: Overrides = NONE) -> Scan:
    """Read a scan as ``read_scan`` does, and let a CT that is called one look like one.

    Raises:
        ScanError: The scan cannot be used.
    """
    content = overrides.content or modality in NOT_MR
    return read_scan(path, overrides=replace(overrides, content=content))
