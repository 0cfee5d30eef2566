"""What makes every number worthless: scans that do not lie on each other, and leaks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .evaluation_truth import Truth

REACH = 8  #: voxels in which an offset is looked for
WORTH_A_FLAG = 1.0  #: voxel
THUMBNAIL, ALIKE = 24, 0.995


@dataclass(frozen=True)
class Offset:
    """How far a volume lies from the reference it is measured against.

    Attributes:
        what: ``prediction`` or the name of a given contrast.
        voxels: Along right, anterior, superior.
        distance: Length, in voxels.
    """

    run: str
    case: str
    given: str
    target: str
    what: str
    voxels: tuple[float, float, float]
    distance: float

    @property
    def flagged(self) -> bool:
        """Whether it is more than a voxel."""
        return self.distance > WORTH_A_FLAG


def offset_between(
    volume: Float[Tensor, "x y z"], truth: Truth, reach: int = REACH
) -> tuple[float, float, float]:
    """The translation, in voxels, that best lays a volume on the real scan.

    The peak of the cross-correlation of gradient magnitudes around the brain, which contrasts
    share, refined by a parabola along every axis. It sees offsets up to ``reach``, and no rotation.
    """
    box = _box(truth.brain, reach)
    inside = truth.brain[box]
    fixed, moving = (_edges(v[box].float()) for v in (truth.volume, volume))
    fixed = (fixed - fixed[inside].mean()) * inside  # a template that a constant does not match
    spectra = [torch.fft.rfftn(v) for v in (fixed, moving)]
    correlation = torch.fft.irfftn(spectra[0] * spectra[1].conj(), s=fixed.shape)
    reach = min(reach, (min(fixed.shape) - 1) // 2)
    near = torch.roll(correlation, (reach,) * 3, (0, 1, 2))[(slice(0, 2 * reach + 1),) * 3]
    peak = [int(i) for i in np.unravel_index(int(near.argmax()), near.shape)]
    found = []
    for axis in range(3):
        where = list(peak)
        line = []
        for step in (-1, 0, 1):
            where[axis] = min(max(peak[axis] + step, 0), 2 * reach)
            line.append(float(near[tuple(where)]))
        bend = line[0] - 2 * line[1] + line[2]
        refined = 0.5 * (line[0] - line[2]) / bend if bend < 0 else 0.0
        found.append(-(peak[axis] - reach + refined))
    return found[0], found[1], found[2]


def measure_offset(
    volume: Float[Tensor, "x y z"],
    truth: Truth,
    *,
    run: str,
    case: str,
    given: str,
    what: str,
) -> Offset:
    """The offset as a line of the report."""
    voxels = offset_between(volume, truth)
    x, y, z = (round(v, 2) for v in voxels)
    return Offset(
        run, case, given, truth.target, what, (x, y, z), round(float(np.linalg.norm(voxels)), 2)
    )


@dataclass(frozen=True)
class Fingerprint:
    """Enough of a scan to know it again.

    Attributes:
        name: Of the case.
        subject: Its patient.
        modality: Of the scan.
        sha256: Of the file.
        thumbnail: Standardised block means of the brain's box.
    """

    name: str
    subject: str
    modality: str
    sha256: str
    thumbnail: np.ndarray


def thumbnail(volume: Float[Tensor, "x y z"], brain: Bool[Tensor, "x y z"]) -> np.ndarray:
    """The brain's box in 24 x 24 x 24 means, mean 0 and length 1."""
    box = _box(brain, 0)
    small = torch.nn.functional.adaptive_avg_pool3d(
        (volume * brain)[box].float()[None, None], THUMBNAIL
    )
    flat = small.flatten().double().numpy()
    flat = flat - flat.mean()
    return flat / max(float(np.linalg.norm(flat)), 1e-12)


def leaks(
    references: Sequence[Fingerprint],
    training: Sequence[Fingerprint] = (),
    predictions: Mapping[str, str] | None = None,
    inputs: Mapping[str, str] | None = None,
) -> list[str]:
    """What should not be: one line each.

    Two patients with one scan (the same file, or thumbnails that correlate above 0.995), a patient
    or a scan of the training set among the references, a prediction that is the reference or an
    input, byte by byte.

    Args:
        references: The scans measured against.
        training: Those that were trained on, where that is known.
        predictions: SHA-256 by file name.
        inputs: SHA-256 of other scans of the cases, to names.
    """
    found = []
    for index, one in enumerate(references):
        for other, place in (
            *((o, "the references") for o in references[:index]),
            *((o, "the training set") for o in training),
        ):
            if place == "the training set" and other.subject == one.subject:
                found.append(f"patient {one.subject} ({one.name}) is in the training set")
                continue
            if other.subject == one.subject or other.modality != one.modality:
                continue
            if one.sha256 and one.sha256 == other.sha256:
                found.append(f"{one.modality} of {one.name} is the file of {other.name} in {place}")
            elif float(one.thumbnail @ other.thumbnail) > ALIKE:
                found.append(f"{one.modality} of {one.name} looks like {other.name} in {place}")
    known = dict(inputs or {})
    known |= {r.sha256: f"the real {r.modality} of {r.name}" for r in references if r.sha256}
    for name, digest in (predictions or {}).items():
        if digest in known:
            found.append(f"{name} is {known[digest]}, byte by byte")
    return list(dict.fromkeys(found))


def offsets_json(offsets: Iterable[Offset]) -> list[dict[str, Any]]:
    """Offsets as plain dictionaries."""
    return [{**asdict(offset), "flagged": offset.flagged} for offset in offsets]


def _edges(volume: Tensor) -> Tensor:
    x, y, z = torch.gradient(volume)
    return (x * x + y * y + z * z).sqrt()


def _box(mask: Tensor, margin: int) -> tuple[slice, ...]:
    box = []
    for axis, length in enumerate(mask.shape):
        other = [a for a in range(3) if a != axis]
        where = mask.sum(dim=other).nonzero()
        first, last = int(where[0]), int(where[-1])
        box.append(slice(max(first - margin, 0), min(last + margin + 1, length)))
    return tuple(box)
