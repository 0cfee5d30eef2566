"""One case on its way from raw files to volumes on one grid: the steps, and what they recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from voxlate.data_prep import (
    RigidTransform,
    Scan,
    ScanError,
    foreground,
    register_rigid,
    resample,
    write_scan,
)
from voxlate.data_prep.bias_field import correct_bias_field
from voxlate.data_prep.brain_mask import brain_from_command
from voxlate.data_prep.cases import Case
from voxlate.data_prep.contrasts import NOT_MR, read_contrast
from voxlate.data_prep.labels import read_labels
from voxlate.data_prep.reading import MIN_VOXELS

from .checkpoint import sha256_of
from .outputs import staged
from .prepare_options import FORMAT, PrepareOptions

RECORD = "record.json"
SAME_MM = 1e-3


@dataclass
class Working:
    """A case between two steps.

    Attributes:
        scans: By modality; from the resampling on, all on one grid.
        labels: ``lesion`` and ``brainmask``, values as on disk.
        transforms: Of the registered modalities.
        notes: What the steps did, for the record.
    """

    scans: dict[str, Scan]
    labels: dict[str, Scan]
    transforms: dict[str, RigidTransform] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def prepare_raw_case(case: Case, options: PrepareOptions, folder: Path) -> dict[str, Path]:
    """Prepare one case into a folder, or find it there, done alike and undamaged.

    Args:
        case: Raw files.
        options: The steps.
        folder: Holds ``<modality>.nii.gz``, masks, ``<modality>_to_<reference>.txt`` and
            ``record.json`` afterwards; never a part of them.

    Returns:
        Name of each modality and mask to its file.

    Raises:
        ScanError: A file cannot be used, or a step failed.
        OutputError: The folder cannot be written.
    """
    try:
        fingerprint = options.fingerprint(case)
    except OSError as error:
        raise ScanError(
            f"cannot be read ({error.strerror})", "check the disk", code="E_PATH", file=case.id
        ) from None
    if (done := finished(folder, fingerprint)) is not None:
        return done
    reference = options.reference or next(iter(case.files))
    if reference not in case.files:
        raise ScanError(
            f"has no {reference}, to which its contrasts are taken",
            f"choose a reference among {', '.join(case.files)}, or leave the case out",
            code="E_REFERENCE",
            file=case.id,
        )
    working = _read(case, options)
    if options.n4:
        _correct(working)
    if options.register:
        _register(working, reference)
    _bring_to_one_grid(working, reference, options)
    _mask(working, reference, options)
    if options.crop:
        _crop(working, options)
    return _write(working, case, reference, options, fingerprint, folder)


def finished(folder: Path, fingerprint: str) -> dict[str, Path] | None:
    """The files of a case that was prepared alike, each as it was written; None otherwise."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if record["fingerprint"] != fingerprint:
            return None
        for name, checksum in record["outputs"].items():
            if sha256_of(folder / name) != checksum:
                return None
        return {kind: folder / name for kind, name in record["volumes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read(case: Case, options: PrepareOptions) -> Working:
    scans = {}
    for name, path in case.files.items():
        scan = read_contrast(path, name)
        if name in options.limits:
            low, high = options.limits[name]
            scan = replace(scan, data=scan.data.clip(low, high))
        scans[name] = scan
    labels = {name: read_labels(path) for name, path in case.masks.items()}
    working = Working(scans, labels)
    working.notes["warnings"] = {n: list(s.warnings) for n, s in scans.items() if s.warnings}
    if "lesion" in labels and options.labels:
        before = labels["lesion"]
        data = before.data.copy()
        for old, new in options.labels.items():
            data[before.data == old] = new
        labels["lesion"] = replace(before, data=data)
        working.notes["labels"] = {
            str(old): {"became": new, "voxels": int((before.data == old).sum())}
            for old, new in options.labels.items()
        }
    return working


def _correct(working: Working) -> None:
    corrected = [name for name in working.scans if name not in NOT_MR]
    for name in corrected:
        working.scans[name] = correct_bias_field(working.scans[name])
    working.notes["n4"] = corrected


def _register(working: Working, reference: str) -> None:
    fixed = working.scans[reference]
    for name, scan in working.scans.items():
        if name != reference:
            working.transforms[name] = register_rigid(scan, fixed)
    working.notes["registration"] = {
        name: {
            "shift_mm": round(t.shift_mm, 3),
            "turn_deg": round(t.turn_deg, 3),
            "information": round(t.information, 4),
            "overlap": round(t.overlap, 4),
        }
        for name, t in working.transforms.items()
    }


def _bring_to_one_grid(working: Working, reference: str, options: PrepareOptions) -> None:
    """Resample what is not there already; a scan on the grid is copied voxel by voxel."""
    shape, affine = _grid(working.scans[reference], options.spacing)
    resampled = []
    for name, scan in working.scans.items():
        transform = working.transforms.get(name)
        if transform is None and _is_on(scan, shape, affine):
            continue
        background = _background(name, options)
        working.scans[name] = resample(scan, shape, affine, transform, background=background)
        resampled.append(name)
    for name, scan in working.labels.items():
        if not _is_on(scan, shape, affine):
            working.labels[name] = resample(scan, shape, affine, labels=True)
            resampled.append(name)
    working.notes["resampled"] = resampled


def _grid(scan: Scan, spacing: tuple[float, float, float] | None) -> tuple[tuple[int, ...], Any]:
    """The scan's grid at another voxel size (along right, anterior, superior), centre kept."""
    if spacing is None:
        return scan.shape, scan.affine
    turned = [int(axis) for axis in nib.io_orientation(scan.affine)[:, 0]]
    wanted = np.array([spacing[axis] for axis in turned])
    own = np.array(scan.spacing)
    if np.allclose(own, wanted, atol=SAME_MM):
        return scan.shape, scan.affine
    shape = np.maximum(1, np.round(np.array(scan.shape) * own / wanted)).astype(int)
    affine = scan.affine.copy()
    affine[:3, :3] *= wanted / own
    middle = scan.affine @ [*((np.array(scan.shape) - 1) / 2), 1]
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((shape - 1) / 2)
    return tuple(int(n) for n in shape), affine


def _is_on(scan: Scan, shape: tuple[int, ...], affine: npt.NDArray[np.float64]) -> bool:
    return scan.shape == shape and np.allclose(scan.affine, affine, atol=SAME_MM)


def _background(name: str, options: PrepareOptions) -> float:
    return options.limits[name][0] if name in options.limits else 0.0


def _mask(working: Working, reference: str, options: PrepareOptions) -> None:
    """Clear what is outside the brain, where there is a mask; keep the mask beside the volumes."""
    source = options.mask
    if source == "auto":
        source = "given" if "brainmask" in working.labels else "none"
    first = working.scans[reference]
    if options.mask_command:
        source = " ".join(options.mask_command)
        inside = brain_from_command(first, options.mask_command)
    elif source == "given":
        if "brainmask" not in working.labels:
            raise ScanError(
                "comes without a brain mask",
                "choose another --mask, or leave the case out",
                code="E_MASK",
                file=first.path,
            )
        inside = working.labels["brainmask"].data > 0
    elif source == "nonzero":
        inside = _head(working)
    else:
        working.notes["mask"] = {"source": "none"}
        return
    if not inside.any():
        raise ScanError(
            "its brain mask is empty", "leave the case out", code="E_MASK", file=first.path
        )
    working.labels["brainmask"] = replace(first, data=inside.astype(np.float32))
    for name, scan in working.scans.items():
        cleared = np.where(inside, scan.data, np.float32(_background(name, options)))
        working.scans[name] = replace(scan, data=cleared)
    working.notes["mask"] = {"source": source, "share": round(float(inside.mean()), 4)}


def _head(working: Working) -> npt.NDArray[np.bool_]:
    heads = [foreground(scan.data, scan.spacing) for scan in working.scans.values()]
    return np.logical_or.reduce(heads)


def _crop(working: Working, options: PrepareOptions) -> None:
    first = next(iter(working.scans.values()))
    inside = _head(working)
    start, stop = [], []
    for axis, (n, spacing) in enumerate(zip(first.shape, first.spacing, strict=True)):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(inside.any(axis=others))
        margin = int(np.ceil(options.margin_mm / spacing))
        low, high = int(found[0]) - margin, int(found[-1]) + 1 + margin
        short = max(0, MIN_VOXELS - (min(n, high) - max(0, low)))  # what is read back has as many
        start.append(max(0, max(0, low) - short))
        stop.append(min(n, max(high, start[-1] + MIN_VOXELS)))
    affine = first.affine.copy()
    affine[:3, 3] = (first.affine @ [*start, 1])[:3]
    cut = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    for group in (working.scans, working.labels):
        for name, scan in group.items():
            group[name] = replace(scan, data=np.ascontiguousarray(scan.data[cut]), affine=affine)
    working.notes["crop"] = {"start": start, "from_shape": list(first.shape)}


def _write(
    working: Working,
    case: Case,
    reference: str,
    options: PrepareOptions,
    fingerprint: str,
    folder: Path,
) -> dict[str, Path]:
    everything = {**working.scans, **working.labels}
    volumes = {name: f"{name}.nii.gz" for name in everything}
    texts = {name: f"{name}_to_{reference}.txt" for name in working.transforms}
    names = [*volumes.values(), *texts.values(), RECORD]
    with staged(folder, names, overwrite=True) as staging:
        for name, scan in everything.items():
            like = replace(scan, header=_header(scan))
            write_scan(staging / volumes[name], scan.data, like, description="voxlate prepare")
        for name, transform in working.transforms.items():
            (staging / texts[name]).write_text(transform.itk_text(), encoding="ascii")
        grid = next(iter(working.scans.values()))
        record = {
            "format": FORMAT,
            "id": case.id,
            "patient": case.subject,
            "fingerprint": fingerprint,
            "steps": asdict(options),
            "reference": reference,
            "inputs": _inputs(case, everything),
            **working.notes,
            "grid": {"shape": grid.shape, "spacing": grid.spacing, "affine": grid.affine.tolist()},
            "volumes": volumes,
            "outputs": {name: sha256_of(staging / name) for name in names[:-1]},
        }
        (staging / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():  # what other steps left here
        if path.name not in names and path.name.endswith((".nii.gz", f"_to_{reference}.txt")):
            path.unlink()
    return {name: folder / file for name, file in volumes.items()}


def _inputs(case: Case, read: Mapping[str, Scan]) -> dict[str, dict[str, str]]:
    return {
        name: {"path": str(path), "sha256": read[name].sha256}
        for name, path in {**case.files, **case.masks}.items()
    }


def _header(scan: Scan) -> nib.Nifti1Header:
    """A header that says the scan's own grid, with none of the text of the file."""
    code = int(scan.header["sform_code"]) or int(scan.header["qform_code"]) or 1
    header = nib.Nifti1Header()
    header.set_data_shape(scan.shape)
    header.set_sform(scan.affine, code=code)
    header.set_qform(scan.affine, code=code, strip_shears=True)
    header.set_xyzt_units("mm")
    return header
