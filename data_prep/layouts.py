"""Public data sets as they are downloaded: which files make a case, and the papers' protocols."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .cases import Case
from .errors import NoInputError, UsageError, VoxlateError

MASKS = ("lesion", "brainmask")
SHOWN = 3  #: so many bad cases are named in a message


@dataclass(frozen=True)
class Protocol:
    """What a paper did with a data set; sizes are along right, anterior, superior.

    Attributes:
        modalities: In the order of the one-hot code; empty where the data set decides.
        source: The paper.
        reference: The contrast whose space the others are taken to; the first if None.
        register: The contrasts of a case were not aligned by the publishers.
        spacing: Voxel size of prepared volumes in mm; None keeps the reference's own grid.
        size: Voxels that the bundle crops or pads to.
        multiple_of: Of an axis that has to grow beyond ``size``.
        percentiles: Of the head, mapped to -1 and 1 by the bundle.
        split: Training and validation (or test) cases, as printed.
        slices: Slices of each volume that a 2D paper used; None where volumes are whole.
        limits: Modality to the values it is clipped to, in its own unit (HU for CT).
        labels: Values of the lesion mask to what they become.
    """

    modalities: tuple[str, ...]
    source: str
    reference: str | None = None
    register: bool = False
    spacing: tuple[float, float, float] | None = None
    size: tuple[int, int, int] = (192, 192, 144)
    multiple_of: int = 16
    percentiles: tuple[float, float] = (0.5, 99.5)
    split: tuple[int, int] | None = None
    slices: int | None = None
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    labels: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """What lies in a folder, usable or not.

    Attributes:
        files: Id of a case to its files, by the name of a modality or a mask.
        sides: Id of a case that the publishers put in ``training`` or ``validation`` to that.
        patients: Id of a case to its patient, where the id does not tell.
    """

    files: Mapping[str, Mapping[str, Path]]
    sides: Mapping[str, str] = field(default_factory=dict)
    patients: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What can be prepared, in order of the ids, and why the rest cannot.

    Attributes:
        cases: Each with what the layout wants.
        bad: Id of a case that cannot be used to the reason.
        sides: Of ``Listing``; empty where the publishers' split is not there as a whole.
    """

    cases: list[Case]
    bad: Mapping[str, str]
    sides: Mapping[str, str]


@dataclass(frozen=True)
class Layout:
    """One data set: how it is found, and what the papers did with it.

    Attributes:
        name: As the command line has it.
        title: As people say it.
        tree: One line that shows where a file is expected.
        find: Looks through a folder.
        protocol: Of the paper that used it.
    """

    name: str
    title: str
    tree: str
    find: Callable[[Path], Listing]
    protocol: Protocol


def find_layout_cases(
    layout: Layout,
    root: str | os.PathLike[str],
    *,
    modalities: Sequence[str] | None = None,
    skip_bad: bool = False,
    others: Sequence[Layout] = (),
) -> Found:
    """Find the cases of a data set, or say what is not where it should be.

    Args:
        layout: Which data set.
        root: Its folder, or one above it.
        modalities: Wanted of every case; None for the protocol's, or where that names none, for
            what each case has.
        skip_bad: Go on without the cases that cannot be used.
        others: What to suggest where the folder holds another data set.

    Raises:
        NoInputError: The folder does not exist, or nothing in it is such a case.
        UsageError: Some cases are incomplete, and ``skip_bad`` was not given.
    """
    root = Path(root)
    if not root.exists():
        raise NoInputError("no such folder", "check the path", code="E_PATH", file=root)
    listing = layout.find(root)
    if not listing.files:
        packed = next((p.name for p in sorted(root.glob("*")) if _is_packed(p)), None)
        hint = f"unpack {packed} first, or " if packed else ""
        held = next((o for o in others if o is not layout and _holds(root, o)), None)
        if held is not None:
            hint = f"it looks like {held.title}: prepare it as {held.name}, or "
        raise NoInputError(
            f"no case of {layout.title} in this folder",
            f"{hint}give the folder that holds {layout.tree}",
            code="E_LAYOUT",
            file=root,
        )
    found = _sort_out(listing, tuple(modalities or layout.protocol.modalities))
    if found.bad and (not skip_bad or not found.cases):
        first = [f"{name} {reason}" for name, reason in list(found.bad.items())[:SHOWN]]
        more = f"; and {len(found.bad) - SHOWN} more" if len(found.bad) > SHOWN else ""
        finish = "complete the download"
        raise UsageError(
            f"{len(found.bad)} of {len(listing.files)} cases of {layout.title} cannot be used "
            f"({'; '.join(first)}{more}); expected {layout.tree}",
            f"{finish}, or add --skip-bad to prepare the others" if found.cases else finish,
            code="E_LAYOUT",
            file=root,
        )
    return found


def _holds(root: Path, layout: Layout) -> bool:
    """Whether the folder has cases of a layout."""
    try:
        return bool(layout.find(root).files)
    except VoxlateError:
        return False


def _sort_out(listing: Listing, wanted: tuple[str, ...]) -> Found:
    """Part the cases that have everything from those that lack something."""
    cases, bad = [], {}
    for case_id, files in sorted(listing.files.items()):
        images = wanted or tuple(name for name in files if name not in MASKS)
        lacking = [name for name in images if name not in files]
        kept = {name: path for name, path in files.items() if name in (*images, *MASKS)}
        empty = [p.name for p in kept.values() if not p.is_file() or p.stat().st_size == 0]
        if lacking or not images:
            bad[case_id] = f"lacks {', '.join(lacking) or 'every scan'}"
        elif empty:
            bad[case_id] = f"has missing or empty files: {', '.join(sorted(empty))}"
        else:
            images_of = {name: kept[name] for name in images}
            masks_of = {name: kept[name] for name in MASKS if name in kept}
            patient = listing.patients.get(case_id, "")
            cases.append(Case(case_id, images_of, masks_of, patient))
    both = set(listing.sides.values()) == {"training", "validation"}
    return Found(cases, bad, listing.sides if both else {})


def folders_below(root: Path) -> list[Path]:
    """Every visible folder below ``root`` and itself, sorted; links are not followed."""
    folders = []
    for folder, subfolders, _ in os.walk(root):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith((".", "__MACOSX")))
        folders.append(Path(folder))
    return folders


def is_scan(path: Path) -> bool:
    """Whether a file is NIfTI by its name and visible."""
    return path.name.lower().endswith((".nii", ".nii.gz")) and not path.name.startswith(".")


def _is_packed(path: Path) -> bool:
    return path.name.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz", ".7z"))
