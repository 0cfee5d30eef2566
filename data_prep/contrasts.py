"""Scans whose modality is known before they are read."""

from __future__ import annotations

import os

from .overrides import Overrides
from .reading import Scan, read_scan

NOT_MR = ("ct",)  #: Hounsfield units: negative in air, and no bias field


def read_contrast(path: str | os.PathLike[str], modality: str) -> Scan:
    """Read a scan as ``read_scan`` does, and let a CT that is called one look like one.

    Raises:
        ScanError: The scan cannot be used.
    """
    return read_scan(path, overrides=Overrides(content=modality in NOT_MR))
