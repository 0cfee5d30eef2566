"""What can be wrong with the scans of one case: unreadable, off grid, strange, not aligned."""

import hashlib
from dataclasses import dataclass, field
from itertools import combinations

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from voxlate.data_prep import Scan, ScanError, foreground
from voxlate.data_prep.cases import Case
from voxlate.data_prep.contrasts import NOT_MR, read_contrast
from voxlate.data_prep.labels import read_labels
from voxlate.data_prep.registration import misalignment_mm

MIN_HEAD, MAX_HEAD = 0.02, 0.98  #: share of the volume
MAX_SATURATED = 0.02  #: share of the head at its largest value
MAX_OUTLIER = 30.0  #: largest value over the 99.5th percentile of the head
MAX_OFFSET_MM = 2.0
MIN_SAME_HEAD = 0.7  #: Dice of the heads of two contrasts
THUMBNAIL = 24  #: voxels a side


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed.

    Attributes:
        level: ``error`` or ``warning``.
        check: ``read``, ``geometry``, ``intensity``, ``alignment``, ``duplicate`` or ``leakage``.
        case: Id, or ids.
        text: What it is.
    """

    level: str
    check: str
    case: str
    text: str


@dataclass(frozen=True)
class CaseFacts:
    """What the checks of the whole set need of a case.

    Attributes:
        case: Its id.
        patient: Whose session it is.
        findings: About this case alone.
        hashes: Modality to the hash of its voxels.
        thumbnails: Modality to the head (24, 24, 24), mean 0 and norm 1.
        shape: Of the first scan.
        spacing: Of the first scan, mm along right, anterior, superior.
        offsets_mm: Pair of modalities to how far they are apart.
    """

    case: str
    patient: str
    findings: list[Finding] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)
    thumbnails: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    offsets_mm: dict[str, float] = field(default_factory=dict)


def check_case(case: Case) -> CaseFacts:
    """Read the scans of a case and look at each, and at each pair."""
    facts = CaseFacts(case.id, case.subject)
    scans: dict[str, Scan] = {}
    for name, path in case.files.items():
        try:
            scans[name] = read_contrast(path, name)
        except ScanError as error:
            facts.findings.append(Finding("error", "read", case.id, str(error)))
    for name, scan in scans.items():
        facts.findings.extend(_intensity(case.id, name, scan))
        facts.hashes[name] = hashlib.sha256(
            scan.data.tobytes() + str(scan.shape).encode()
        ).hexdigest()
        facts.thumbnails[name] = thumbnail(scan)
    if not scans:
        return facts
    first = next(iter(scans.values()))
    canonical = nib.io_orientation(first.affine)[:, 0].argsort()
    sizes = tuple(round(first.spacing[axis], 3) for axis in canonical)
    shape = tuple(first.shape[axis] for axis in canonical)
    facts = CaseFacts(
        facts.case, facts.patient, facts.findings, facts.hashes, facts.thumbnails, shape, sizes
    )
    _pairs(case.id, scans, facts)
    _masks(case, first, facts)
    return facts


def thumbnail(scan: Scan) -> npt.NDArray[np.float32]:
    """The head in 24 x 24 x 24 blocks, right, anterior, superior, mean 0 and norm 1."""
    turned = nib.as_closest_canonical(nib.Nifti1Image(scan.data, scan.affine))
    data = np.asarray(turned.dataobj, dtype=np.float32)
    inside = foreground(data, tuple(float(z) for z in turned.header.get_zooms()[:3]))  # type: ignore[arg-type]
    box = ndimage.find_objects(inside.astype(np.uint8))[0]
    head = np.where(inside, data, data[inside].min())[box]
    small = ndimage.zoom(
        ndimage.uniform_filter(head, [max(1, n // THUMBNAIL) for n in head.shape]),
        [THUMBNAIL / n for n in head.shape],
        order=1,
    )[:THUMBNAIL, :THUMBNAIL, :THUMBNAIL]
    centred = small - small.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-9), dtype=np.float32)


def _intensity(case_id: str, name: str, scan: Scan) -> list[Finding]:
    findings = [
        Finding(
            "warning", "intensity" if "RANGE" in note else "geometry", case_id, f"{name}: {note}"
        )
        for note in scan.warnings
        if not (name in NOT_MR and "W_MODALITY" in note)
    ]
    inside = foreground(scan.data, scan.spacing)
    values = scan.data[inside]
    share = float(inside.mean())
    if not MIN_HEAD < share < MAX_HEAD:
        text = f"{name}: the head fills {share:.1%} of the volume"
        findings.append(Finding("warning", "intensity", case_id, text))
    top, high = float(values.max()), float(np.percentile(values, 99.5))
    saturated = float((values == top).mean())
    if saturated > MAX_SATURATED:
        text = f"{name}: {saturated:.1%} of the head is at the largest value {top:g}"
        findings.append(Finding("warning", "intensity", case_id, text))
    if name not in NOT_MR and high > 0 and top > MAX_OUTLIER * high:
        text = f"{name}: the largest value {top:g} is {top / high:.0f} times the 99.5th percentile"
        findings.append(Finding("warning", "intensity", case_id, text))
    return findings


def _pairs(case_id: str, scans: dict[str, Scan], facts: CaseFacts) -> None:
    first_name, first = next(iter(scans.items()))
    for one, other in combinations(scans, 2):
        if facts.hashes[one] == facts.hashes[other]:
            text = f"{one} and {other} are the same voxels"
            facts.findings.append(Finding("error", "duplicate", case_id, text))
    for name, scan in scans.items():
        if name == first_name:
            continue
        if scan.shape != first.shape or not np.allclose(scan.affine, first.affine, atol=1e-3):
            text = f"{name} is on another grid than {first_name}: {scan.shape} and {first.shape}"
            facts.findings.append(Finding("error", "geometry", case_id, text))
        else:
            heads = [foreground(s.data, s.spacing) for s in (first, scan)]
            dice = 2 * float((heads[0] & heads[1]).sum()) / max(1, heads[0].sum() + heads[1].sum())
            if dice < MIN_SAME_HEAD:
                text = f"the heads of {name} and {first_name} share {dice:.0%}"
                facts.findings.append(Finding("error", "alignment", case_id, text))
        offset = misalignment_mm(scan, first)
        facts.offsets_mm[f"{name}-{first_name}"] = round(offset, 2)
        if offset > MAX_OFFSET_MM:
            text = f"{name} is about {offset:.1f} mm away from {first_name}"
            facts.findings.append(Finding("error", "alignment", case_id, text))


def _masks(case: Case, first: Scan, facts: CaseFacts) -> None:
    for name, path in case.masks.items():
        try:
            mask = read_labels(path)
        except ScanError as error:
            facts.findings.append(Finding("error", "read", case.id, str(error)))
            continue
        if mask.shape != first.shape or not np.allclose(mask.affine, first.affine, atol=1e-3):
            text = f"{name} is on another grid than the scans: {mask.shape} and {first.shape}"
            facts.findings.append(Finding("error", "geometry", case.id, text))
        elif name == "brainmask" and not mask.data.any():
            facts.findings.append(Finding("error", "geometry", case.id, "brainmask is empty"))
