"""What a translation's numbers mean: the networks' own scale, its percentiles, or a scan's units.

The networks answer on a scale on which 0 and 1 stand for the 0.5th and 99.5th percentile of the
target contrast in the head. A scale here is a straight line on top of that, y = slope * x +
intercept with a floor, so no scale changes what can be seen in an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import UsageError
from .intensity import IntensityMap, cleared_value, foreground, percentile_map
from .modalities import guess_modality
from .reading import read_scan

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

PERCENTILES = (0.5, 99.5)  #: of the head, the two points that a line is drawn through
CHOICES = "give unit, percentile or match:REFERENCE"

MEANING = {
    "unit": (
        "0 and 1 are the 0.5th and 99.5th percentile of the target contrast's foreground, clipped; "
        "background 0"
    ),
    "percentile": (
        "0 and 1 are the 0.5th and 99.5th percentile of this volume's own foreground, clipped at 0 "
        "only; background 0"
    ),
    "match": (
        "the unit of the reference scan: the 0.5th and 99.5th percentile of the foreground are the "
        "reference's"
    ),
}


@dataclass(frozen=True)
class Reference:
    """A real scan of a target contrast, and the limits of its intensities.

    Attributes:
        file: Its name.
        sha256: Of the file.
        limits: Percentiles of its foreground.
        background: The value around its head: the cleared one, or the least there is.
    """

    file: str
    sha256: str
    limits: IntensityMap
    background: float


@dataclass(frozen=True)
class Scaled:
    """A volume on its scale, and the line that took it there from the networks' 0 to 1."""

    values: FloatArray
    slope: float
    intercept: float


@dataclass(frozen=True)
class OutputScale:
    """Takes volumes from the networks' 0 to 1 to the intensities of a file.

    Attributes:
        name: ``unit``, ``percentile`` or ``match``.
        references: For ``match``, by target.
    """

    name: str = "unit"
    references: Mapping[str, Reference] = field(default_factory=dict)

    def __call__(self, target: str, values: FloatArray, head: BoolArray) -> Scaled:
        """Put one volume on the scale.

        Args:
            target: Its contrast.
            values: (X, Y, Z) in [0, 1], 0 where the background was cleared.
            head: Where the head is.
        """
        if self.name == "unit":
            return Scaled(values, 1.0, 0.0)
        own = percentile_map(values, head, PERCENTILES)
        goal = self.references[target].limits if self.name == "match" else IntensityMap(0.0, 1.0)
        slope = (goal.high - goal.low) / (own.high - own.low)
        intercept = goal.low - slope * own.low
        floor = self.references[target].background if self.name == "match" else 0.0
        line = values * np.float64(slope) + intercept
        if floor <= goal.low:
            line = line.clip(floor)
        scaled = np.where(head | (values > 0), line, floor).astype(np.float32)
        return Scaled(scaled, slope, intercept)

    @property
    def identity(self) -> str:
        """What decides the voxels, for the fingerprint of a run."""
        marks = [f"{target}={ref.sha256}" for target, ref in sorted(self.references.items())]
        return ":".join([self.name, ",".join(marks)]) if marks else self.name

    def describe(self, target: str, scaled: Scaled) -> dict[str, Any]:
        """The record of one volume: the line from the networks' scale, and the reference."""
        record: dict[str, Any] = {
            "Scale": self.name,
            "Slope": scaled.slope,
            "Intercept": scaled.intercept,
        }
        if self.name == "match":
            reference = self.references[target]
            record["Reference"] = {
                "File": reference.file,
                "SHA256": reference.sha256,
                "Low": reference.limits.low,
                "High": reference.limits.high,
            }
        return record


UNIT = OutputScale()


def parse_output_scale(text: str, targets: Sequence[str]) -> OutputScale:
    """Understand ``unit``, ``percentile`` or ``match:REFERENCE``; read the references.

    Args:
        text: REFERENCE is a scan where there is one target; else a folder with a scan of each, told
            apart by their names.
        targets: The contrasts that will be made.

    Raises:
        UsageError: None of the three, or no reference for a target.
        ScanError: A reference cannot be used.
    """
    name, _, path = text.partition(":")
    if text in ("unit", "percentile"):
        return OutputScale(text)
    if name != "match" or not path:
        raise UsageError(f"no intensity scale {text!r}", CHOICES, code="E_INTENSITY")
    files = _reference_files(Path(path), targets)
    return OutputScale("match", {target: _measure(file) for target, file in files.items()})


def _reference_files(path: Path, targets: Sequence[str]) -> dict[str, Path]:
    if not path.is_dir():
        if len(targets) != 1:
            raise UsageError(
                f"one reference for {len(targets)} contrasts",
                "name one target, or a folder with a scan of each",
                code="E_INTENSITY",
                file=path,
            )
        return {targets[0]: path}
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        is_scan = file.name.lower().endswith((".nii", ".nii.gz"))
        modality = guess_modality(file) if is_scan and not file.name.startswith(".") else None
        if modality is not None and modality in targets:
            if modality in found:
                raise UsageError(
                    f"both {found[modality].name} and {file.name} are {modality}",
                    "leave one reference for each contrast",
                    code="E_INTENSITY",
                    file=path,
                )
            found[modality] = file
    missing = [target for target in targets if target not in found]
    if missing:
        raise UsageError(
            f"no reference scan for {', '.join(missing)}",
            "add one whose name says so, as in t2.nii.gz",
            code="E_INTENSITY",
            file=path,
        )
    return found


def _measure(file: Path) -> Reference:
    scan = read_scan(file)
    head = foreground(scan.data, scan.spacing)
    cleared = cleared_value(scan.data)
    background = float(scan.data.min()) if cleared is None else float(cleared)
    limits = percentile_map(scan.data, head, PERCENTILES)
    return Reference(file.name, scan.sha256, limits, background)
