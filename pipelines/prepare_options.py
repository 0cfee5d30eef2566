"""What ``voxlate prepare`` does to a case, and the fingerprint that tells it was done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from voxlate.data_prep import UsageError
from voxlate.data_prep.cases import Case
from voxlate.data_prep.layouts import Protocol

FORMAT = 1  #: of the record; another number makes every case be prepared again
MASKS = ("auto", "given", "nonzero", "none")


@dataclass(frozen=True)
class PrepareOptions:
    """The steps; each is off, or as its layout has it, unless asked for.

    Attributes:
        n4: Divide MR scans by their bias field.
        register: Register the other contrasts of a case to its reference.
        reference: Contrast that stays; the first if None.
        spacing: Voxel size in mm; None keeps the reference's grid.
        mask: Where the brain mask comes from: ``given`` with the data, ``nonzero`` voxels,
            ``none``, or ``auto``: given where there is one.
        mask_command: Program and arguments that find the brain, with ``{input}`` and ``{output}``;
            used instead of ``mask`` where there are any.
        crop: Cut the volumes to the head and ``margin_mm`` around it.
        margin_mm: Room left by the crop.
        limits: Modality to the values it is clipped to; the lower one is its background.
        labels: Values of the lesion mask to what they become.
    """

    n4: bool = False
    register: bool = False
    reference: str | None = None
    spacing: tuple[float, float, float] | None = None
    mask: str = "auto"
    mask_command: tuple[str, ...] = ()
    crop: bool = True
    margin_mm: float = 4.0
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    labels: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.mask not in MASKS:
            raise UsageError(
                f"unknown brain mask {self.mask!r}",
                f"choose from {', '.join(MASKS)}",
                code="E_OPTION",
            )
        if self.spacing is not None and min(self.spacing) <= 0:
            raise UsageError(
                f"spacing is {self.spacing}", "give positive millimetres", code="E_OPTION"
            )

    @classmethod
    def of(cls, protocol: Protocol) -> PrepareOptions:
        """The steps that a layout's protocol has."""
        return cls(
            register=protocol.register,
            reference=protocol.reference,
            spacing=protocol.spacing,
            limits=protocol.limits,
            labels=protocol.labels,
        )

    def fingerprint(self, case: Case) -> str:
        """A hash of the steps and of the case's files (path, size, time of change).

        Raises:
            OSError: A file is not there.
        """
        facts = []
        for name, path in sorted({**case.files, **case.masks}.items()):
            stat = path.stat()
            facts.append([name, str(path.absolute()), stat.st_size, stat.st_mtime_ns])
        content = json.dumps([FORMAT, asdict(self), facts], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def parse_spacing(text: str) -> tuple[float, float, float] | None:
    """Read ``1``, ``1x1x3`` (right, anterior, superior, mm) or ``own``, which is None.

    Raises:
        UsageError: It is none of these.
    """
    if text == "own":
        return None
    try:
        numbers = [float(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise UsageError(f"spacing is {text!r}", "write 1, 1x1x3 or own", code="E_OPTION")
    return numbers[0], numbers[1], numbers[2]
