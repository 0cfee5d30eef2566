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
from jaxtyping import Float
from torch import Tensor

from voxlate.data_prep import (
    UNIT,
    OutputScale,
    Overrides,
    Prepared,
    Preprocessing,
    Scan,
    Suitability,
    parse_output_scale,
)
from voxlate.data_prep.contrasts import read_contrast
from voxlate.data_prep.overrides import NONE
from voxlate.data_prep.rigid_transform import RigidTransform

from .bundle import Origin
from .case_inputs import CaseInputs
from .quality_scores import Scores
from .samples import sample_seeds

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
        steps: Denoising steps; 0 for none.
        scale: What the intensities of the results mean.
        stored_as: Voxel type of the files: ``float32`` or the scan's own.
        others: Further modalities that are given, as channels behind the source.
        further: What else was asked for, see ``further_options``.
    """

    case_id: str
    source: str
    targets: tuple[str, ...]
    seed: int
    steps: int
    scale: OutputScale = UNIT
    stored_as: StoredAs = "float32"
    others: tuple[str, ...] = ()
    further: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[str, ...]:
        """Every given modality, in the order of the channels."""
        return (self.source, *self.others)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each sample, or the user's alone."""
        return sample_seeds(self.seed, self.further.get("samples"))


@dataclass(frozen=True)
class ReadyCase:
    """A scan, or several of one case, and what the networks will see of them.

    Attributes:
        scan: On whose grid the results will be.
        prepared: What the networks see of it.
        seconds: By stage.
        inputs: Of a case with several contrasts, all of them.
        beside: What the networks see of the further ones, (1, x, y, z) each.
    """

    scan: Scan
    prepared: Prepared
    seconds: dict[str, float]
    inputs: CaseInputs | None = None
    beside: tuple[Tensor, ...] = ()

    @property
    def volume(self) -> Float[Tensor, "n x y z"]:
        """A channel for each given contrast."""
        return torch.cat([self.prepared.volume, *self.beside])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What reading tolerated or doubts."""
        return self.scan.warnings if self.inputs is None else self.inputs.warnings

    @property
    def others(self) -> dict[str, Scan]:
        """The further contrasts, on the scan's grid."""
        if self.inputs is None:
            return {}
        reference = self.inputs.reference
        return {name: scan for name, scan in self.inputs.scans.items() if name != reference}


@dataclass(frozen=True)
class Made:
    """What the networks answered on the model's grid, sample by sample, and where they did."""

    volumes: Float[Tensor, "kt 1 x y z"]
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
        steps: Denoising steps; 0 for none.
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
        further: What else was asked for, see ``further_options``.
        seeds: Of the samples, where there are several; the volumes are then their means.
        deviations: Likewise by target, the standard deviation of the samples, in the volumes' unit.
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
    further: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    deviations: Mapping[str, FloatArray] = field(default_factory=dict)

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


def read_case(
    scan: str | os.PathLike[str] | Scan,
    preprocessing: Preprocessing,
    *,
    modality: str = "",
    overrides: Overrides = NONE,
) -> ReadyCase:
    """Read a scan, unless it was read already, and prepare it for the networks.

    Args:
        scan: NIfTI file, or a scan that was read.
        preprocessing: To the network's grid and intensities.
        modality: Of the scan: a CT may then look like one.
        overrides: What the user vouches for.

    Raises:
        ScanError: The scan cannot be used.
    """
    clock = Clock()
    with clock("read"):
        if not isinstance(scan, Scan):
            scan = read_contrast(scan, modality, overrides)
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
