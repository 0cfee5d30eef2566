"""IXI, ISLES 2015, WMH 2017 and SynthRAD 2023: where their files lie, and the papers' protocols."""

from __future__ import annotations

import re
from pathlib import Path

from .layouts import Layout, Listing, Protocol, folders_below, is_scan

_IXI = re.compile(r"(IXI\d{3}-[A-Za-z]+-\d{4})-(T1|T2|PD)\.nii(\.gz)?")
_ISLES = re.compile(r"VSD\.Brain\.XX\.O\.(MR_Flair|MR_DWI|MR_T1|MR_T2|OT)\.\d+\.nii(\.gz)?", re.I)
_ISLES_KINDS = {
    "mr_flair": "flair",
    "mr_dwi": "dwi",
    "mr_t1": "t1",
    "mr_t2": "t2",
    "ot": "lesion",
}
_WMH_SITES = ("Utrecht", "Singapore", "Amsterdam")
_SYNTHRAD = re.compile(r"1B[A-C]\d{3}")


def _find_ixi(root: Path) -> Listing:
    """Files of one subject share a name, in a folder for each contrast or all in one."""
    found: dict[str, dict[str, Path]] = {}
    for folder in folders_below(root):
        for path in sorted(folder.iterdir()):
            if match := _IXI.fullmatch(path.name):
                found.setdefault(match[1], {}).setdefault(match[2].lower(), path)
    return Listing(found)


def _find_isles(root: Path) -> Listing:
    """Numbered folders of folders; training and test are numbered alike."""
    found: dict[str, dict[str, Path]] = {}
    sides = {}
    for folder in folders_below(root):
        files: dict[str, Path] = {}
        for path in sorted(folder.glob("*")):
            inner = path.glob("*") if path.is_dir() else [path]
            for file in sorted(inner):
                if is_scan(file) and (match := _ISLES.fullmatch(file.name)):
                    files[_ISLES_KINDS[match[1].lower()]] = file
        if files and folder.name.isdigit():
            test = "test" in folder.parent.name.lower()
            case_id = f"{'test' if test else 'training'}_{int(folder.name):02d}"
            found[case_id] = files
            sides[case_id] = "validation" if test else "training"
    return Listing(found, sides)


def _find_wmh(root: Path) -> Listing:
    """Folders of sites (Amsterdam has one more for the scanner), with ``pre`` and ``orig`` inside.

    ``pre`` is used: bias corrected, the T1 on the grid of the FLAIR.
    """
    found: dict[str, dict[str, Path]] = {}
    sides = {}
    for folder in folders_below(root):
        parts = folder.relative_to(root).parts
        site = next((i for i, part in enumerate(parts) if part in _WMH_SITES), None)
        above = parts if site is not None else (root.name, *parts)
        start = site if site is not None else 0
        if folder.name.isdigit() and ((folder / "pre").is_dir() or (folder / "orig").is_dir()):
            if site is None and root.name not in _WMH_SITES:
                continue
            case_id = "_".join(above[start:])
            test = "test" in (part.lower() for part in (root.name, *parts[:start]))
            files: dict[str, Path] = {}
            found[case_id] = files
            sides[case_id] = "validation" if test else "training"
            for kind, name in (("t1", "pre/T1"), ("flair", "pre/FLAIR"), ("lesion", "wmh")):
                for suffix in (".nii.gz", ".nii"):
                    if (path := folder / f"{name}{suffix}").is_file():
                        files.setdefault(kind, path)
    return Listing(found, sides)


def _find_synthrad(root: Path) -> Listing:
    """Task 1, brain: ``mr``, ``ct`` and ``mask`` in a folder for each patient."""
    found: dict[str, dict[str, Path]] = {}
    names = {"mr": "mr", "ct": "ct", "mask": "brainmask"}
    for folder in folders_below(root):
        if _SYNTHRAD.fullmatch(folder.name):
            found[folder.name] = {
                names[path.name.split(".nii")[0]]: path
                for path in sorted(folder.iterdir())
                if is_scan(path) and path.name.split(".nii")[0] in names
            }
    return Listing(found)


IXI = Layout(
    "ixi",
    "IXI",
    "IXI-T1/IXI002-Guys-0828-T1.nii.gz, IXI-T2/IXI002-Guys-0828-T2.nii.gz and "
    "IXI-PD/IXI002-Guys-0828-PD.nii.gz",
    _find_ixi,
    Protocol(
        modalities=("t1", "t2", "pd"),
        source="ALDM: 459 cases for training, 115 for validation, 256 x 160 x 224",
        reference="t1",
        register=True,
        size=(256, 160, 224),
        spacing=(1.0, 1.0, 1.0),
        split=(459, 115),
    ),
)
ISLES_2015 = Layout(
    "isles2015",
    "ISLES 2015 (SISS)",
    "SISS2015_Training/1/VSD.Brain.XX.O.MR_Flair.70614/VSD.Brain.XX.O.MR_Flair.70614.nii",
    _find_isles,
    Protocol(
        modalities=("t1", "t2", "flair", "dwi"),
        source="DFBK: 28 cases for training, 36 for test, 64 middle slices of 224 x 224",
        reference="flair",
        size=(224, 224, 160),
        split=(28, 36),
        slices=64,
    ),
)
WMH_2017 = Layout(
    "wmh2017",
    "WMH 2017",
    "Utrecht/0/pre/FLAIR.nii.gz, Utrecht/0/pre/T1.nii.gz and Utrecht/0/wmh.nii.gz",
    _find_wmh,
    Protocol(
        modalities=("t1", "flair"),
        source="MSG-LDM: axial slices of 192 x 192; the paper names no split",
        reference="flair",
        size=(192, 192, 144),
        labels={2: 0},  # other pathology, which the challenge ignores
    ),
)
SYNTHRAD_2023 = Layout(
    "synthrad2023",
    "SynthRAD 2023 (task 1, brain)",
    "Task1/brain/1BA001/mr.nii.gz, ct.nii.gz and mask.nii.gz",
    _find_synthrad,
    Protocol(
        modalities=("mr", "ct"),
        source="DFBK: 144 cases for training, 36 for test, 64 middle slices of 192 x 192",
        reference="mr",
        size=(192, 192, 192),
        split=(144, 36),
        slices=64,
        limits={"ct": (-1024.0, 3000.0)},
    ),
)
