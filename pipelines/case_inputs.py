"""The contrasts of one case, checked together: one person, one grid, no file twice."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from voxlate.data_prep import (
    Overrides,
    Scan,
    ScanError,
    UsageError,
    parse_modality,
)
from voxlate.data_prep.contrasts import read_contrast
from voxlate.data_prep.overrides import NONE
from voxlate.data_prep.registration import misalignment_mm, register_rigid
from voxlate.data_prep.rigid_transform import RigidTransform, resample

ALIGNED_MM = 2.0  #: heads that would move further than this to agree are not aligned


@dataclass(frozen=True)
class CaseInputs:
    """What is given of a case, on one grid.

    Attributes:
        scans: By modality in the network's order, on the grid of the first, which results get too.
        moves: Of those that were registered, the transform from the first one to them.
        warnings: What is doubtful.
    """

    scans: dict[str, Scan]
    moves: dict[str, RigidTransform]
    warnings: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """The modality whose grid it is."""
        return next(iter(self.scans))


def read_inputs(
    given: Mapping[str, str | os.PathLike[str] | Scan],
    modalities: Sequence[str],
    *,
    register: bool = False,
    overrides: Overrides = NONE,
) -> CaseInputs:
    """Read a case's contrasts and check that they belong together.

    Scans on one grid that do not agree in where the head is get a warning; with ``register`` they,
    and those on other grids, are moved rigidly onto the first and resampled once.

    Args:
        given: Modality to NIfTI file, or to a scan that was read.
        modalities: The network's, in order; the first of them that is given sets the grid.
        register: Lay scans that lie elsewhere over the first one.
        overrides: What the user vouches for.

    Raises:
        UsageError: Nothing is given, or a modality is unknown or given twice.
        ScanError: A scan cannot be used, is given twice, or lies on another grid.
    """
    if not given:
        raise UsageError("no scan", "give at least one contrast", code="E_NO_INPUT")
    named: dict[str, str | os.PathLike[str] | Scan] = {}
    for name, scan in given.items():
        modality = parse_modality(name, modalities)
        if modality in named:
            raise UsageError(f"two scans are {modality}", "give one of them", code="E_CLASH")
        named[modality] = scan
    scans: dict[str, Scan] = {}
    for modality in (name for name in modalities if name in named):
        scan = named[modality]
        if not isinstance(scan, Scan):
            scan = read_contrast(scan, modality, overrides)
        scans[modality] = scan
    refuse_same_image(scans)
    return align(scans, register=register)


def refuse_same_image(scans: Mapping[str, Scan]) -> None:
    """Refuse one image that is given as two contrasts.

    Raises:
        ScanError: Naming both.
    """
    seen: list[tuple[str, Scan]] = []
    for modality, scan in scans.items():
        for other, earlier in seen:
            if scan.shape == earlier.shape and np.array_equal(scan.data, earlier.data):
                raise ScanError(
                    f"given as {modality}, it is the image given as {other} ({earlier.path.name})",
                    "give each contrast its own file",
                    code="E_SAME_INPUT",
                    file=scan.path,
                )
        seen.append((modality, scan))


def align(scans: Mapping[str, Scan], *, register: bool) -> CaseInputs:
    """Bring all scans to the first one's grid, or refuse those that are not on it.

    Raises:
        ScanError: A scan lies on another grid, or nobody knows where, or cannot be registered.
    """
    (first, fixed), *others = scans.items()
    if others:
        refuse_unoriented(scans)
    found, moves, warnings = {first: fixed}, {}, list(fixed.warnings)
    for modality, scan in others:
        warnings += scan.warnings
        one_grid = same_grid(scan, fixed)
        if not one_grid and not register:
            raise ScanError(
                f"the {modality} is on another grid ({grid_of(scan)}) than the {first} "
                f"{fixed.path.name} ({grid_of(fixed)})",
                "add --register rigid, or register them first",
                code="E_GRID",
                file=scan.path,
            )
        apart = misalignment_mm(scan, fixed) if one_grid else float("inf")
        if apart >= ALIGNED_MM and register:
            move = register_rigid(scan, fixed)
            background = float(scan.data.min())
            scan = resample(scan, fixed.shape, fixed.affine, move, background=background)
            moves[modality] = move
        elif apart >= ALIGNED_MM:
            warnings.append(
                f"W_MISALIGNED: {scan.path.name}: the head seems to lie {apart:.1f} mm from where "
                f"it is in {fixed.path.name}; consider --register rigid"
            )
        found[modality] = scan
    return CaseInputs(found, moves, tuple(dict.fromkeys(warnings)))


def refuse_unoriented(scans: Mapping[str, Scan]) -> None:
    """Refuse scans that must match where the header of one does not say how it lies.

    Its axes are a guess, which a rigid registration cannot put right: it never mirrors.

    Raises:
        ScanError: Naming it.
    """
    for modality, scan in scans.items():
        if any(warning.startswith("W_NOGEOM") for warning in scan.warnings):
            raise ScanError(
                f"the header of the {modality} has no orientation, so how it lies against "
                f"{'the others' if len(scans) > 2 else 'the other'} is not known",
                "write its orientation into the header, or leave it out",
                code="E_NOGEOM",
                file=scan.path,
            )


def same_grid(scan: Scan, other: Scan) -> bool:
    """Whether two scans have the same voxels in space, to 0.001 mm."""
    return scan.shape == other.shape and np.allclose(scan.affine, other.affine, atol=1e-3)


def grid_of(scan: Scan) -> str:
    """A grid in words: shape, voxel size and origin."""
    shape = "x".join(str(length) for length in scan.shape)
    spacing = "x".join(f"{length:.3g}" for length in scan.spacing)
    origin = ", ".join(f"{place:.1f}" for place in scan.affine[:3, 3])
    return f"{shape} voxels of {spacing} mm from {origin}"


def missing_targets(
    modalities: Sequence[str], given: Sequence[str], targets: Sequence[str] | None
) -> tuple[list[str], tuple[str, ...]]:
    """What is to be made: of the wanted contrasts, those not given; with a note on the others.

    Args:
        modalities: The network's, in order.
        given: Of them, what the case has.
        targets: Wanted; None for every one that is missing.

    Returns:
        The targets, and warnings.

    Raises:
        UsageError: A target is unknown, or nothing is left to make.
    """
    if targets is None:
        wanted = [name for name in modalities if name not in given]
    else:
        wanted = list(dict.fromkeys(parse_modality(name, modalities) for name in targets))
    notes = tuple(
        f"W_GIVEN: {name} is given, so it is not made" for name in wanted if name in given
    )
    wanted = [name for name in wanted if name not in given]
    if not wanted:
        raise UsageError(
            f"nothing is missing: {', '.join(given)} given", "name another target", code="E_TARGET"
        )
    return wanted, notes
