"""What every way to translate a case shares: what is asked, read, made and given back."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voxlate.data_prep import (
    UNIT,
    OutputScale,
    Prepared,
    Preprocessing,
    Scan,
    Suitability,
    parse_output_scale,
    read_scan,
)
from voxlate.data_prep.rigid_transform import RigidTransform

from .bundle import Origin
from .quality_scores import Scores

FloatArray = npt.NDArray[np.float32]
StoredAs = Literal["float32", "scan"]


@dataclass(frozen=True)
class Request:
    """What is wanted of a case.

    Attributes:
        case_id: Name of the case, part of the noise's seed.
        source: The scan's modality.
        targets: Wanted modalities.
        seed: The user's seed.
        steps: Denoising steps; 0 is the prior alone.
        scale: What the intensities of the results mean.
        stored_as: Voxel type of the files: ``float32`` or the scan's own.
    """

    case_id: str
    source: str
    targets: tuple[str, ...]
    seed: int
    steps: int
    scale: OutputScale = UNIT
    stored_as: StoredAs = "float32"


@dataclass(frozen=True)
class ReadyCase:
    """A scan, and what the networks will see of it."""

    scan: Scan
    prepared: Prepared
    seconds: dict[str, float]


@dataclass(frozen=True)
class Made:
    """What the networks answered, (t, 1, x, y, z) on the model's grid, and where they did."""

    volumes: Tensor
    device: torch.device
    dtype: torch.dtype
    origin: Origin | None
    seconds: dict[str, float]


@dataclass(frozen=True)
class Translation:
    """One scan's translations, with what is needed to repeat them.

    Attributes:
        scan: The scan as read.
        source: Its modality.
        volumes: By target, float32 on the scan's own grid, on the scale that was asked for; on the
            scale ``unit`` 0 and 1 are the 0.5th and 99.5th percentile of the target contrast's
            foreground, background is 0.
        case_id: Name of the case, part of the noise's seed.
        seed: The user's seed.
        steps: Denoising steps; 0 is the prior alone.
        device: Where it was computed.
        dtype: The number format of the networks.
        skull_stripped: Whether the scan's background was cleared, and so the translations' too.
        origin: The bundle, where there is one.
        seconds: By stage.
        warnings: What was tolerated or is doubtful.
        scale: What the intensities mean.
        lines: By target, the record of the line from the networks' 0 to 1 to that scale.
        stored_as: Voxel type of the files.
        suitability: What was measured of the scan as an input.
        scores: By target, what was measured of the translation beside the scan.
        others: Further contrasts of the case that it was made from, by modality, on the scan's
            grid.
        moves: Of those that were registered to the scan, the transform from it to their own place.
    """

    scan: Scan
    source: str
    volumes: dict[str, FloatArray]
    case_id: str
    seed: int
    steps: int
    device: torch.device
    dtype: torch.dtype
    skull_stripped: bool
    origin: Origin | None
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    scale: OutputScale = UNIT
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)
    stored_as: StoredAs = "float32"
    suitability: Suitability | None = None
    scores: Mapping[str, Scores] = field(default_factory=dict)
    others: Mapping[str, Scan] = field(default_factory=dict)
    moves: Mapping[str, RigidTransform] = field(default_factory=dict)

    def __getitem__(self, target: str) -> FloatArray:
        return self.volumes[target]

    def windowed(self, target: str) -> FloatArray:
        """One volume as the networks gave it, from 0 to 1, whatever its scale: for pictures."""
        if self.scale.name == "unit":
            return self.volumes[target]
        line = self.lines[target]
        scaled = self.volumes[target]
        values = (scaled - np.float64(line["Intercept"])) / line["Slope"]
        return np.where(scaled > scaled.min(), values.clip(0, 1), 0).astype(np.float32)


def read_case(scan: str | os.PathLike[str] | Scan, preprocessing: Preprocessing) -> ReadyCase:
    """Read a scan, unless it was read already, and prepare it for the networks.

    Raises:
        ScanError: The scan cannot be used.
    """
    clock = Clock()
    with clock("read"):
        if not isinstance(scan, Scan):
            scan = read_scan(scan)
    with clock("prepare"):
        prepared = preprocessing.apply(scan)
    return ReadyCase(scan, prepared, clock.seconds)


def output_scale(intensity: str | OutputScale, targets: Sequence[str]) -> OutputScale:
    """The scale that a name stands for, see ``parse_output_scale``; a scale as it is."""
    if isinstance(intensity, OutputScale):
        return intensity
    return parse_output_scale(intensity, targets)


def stem(path: Path) -> str:
    """A scan's file name without ``.nii`` or ``.nii.gz``."""
    name = path.name
    for suffix in (".nii.gz", ".nii"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


class Clock:
    """Seconds of each stage, the device's queue included.

    Args:
        device: Whose queue to wait for.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device, self.seconds = device, dict[str, float]()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        yield
        if self.device is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[stage] = round(time.perf_counter() - start, 3)
