"""BraTS 2020, 2021 and 2023: one folder for each case, in the names of either age."""

from __future__ import annotations

import re
from pathlib import Path

from .layouts import Layout, Listing, Protocol, folders_below, is_scan

MODALITIES = ("t1", "t1ce", "t2", "flair")
ENHANCING = {4: 3}  #: enhancing tumour is 4 until 2021 and 3 from 2023 on; prepared masks have 3

_ID_2020 = r"BraTS20_(?:Training|Validation)_\d{3}"
_ID_2021 = r"BraTS2021_\d{5}"
_ID_2023 = r"BraTS-[A-Za-z]+-\d{5}-\d{3}"
_KINDS = {
    "t1": "t1",
    "t1n": "t1",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t2": "t2",
    "t2w": "t2",
    "flair": "flair",
    "t2f": "flair",
    "seg": "lesion",
    "segm": "lesion",  # BraTS20_Training_355 holds W39_1998.09.19_Segm.nii
}


def brats(name: str, title: str, ids: str, tree: str, protocol: Protocol) -> Layout:
    """A year of BraTS.

    Args:
        name: Of the layout.
        title: As people say it.
        ids: Pattern of the case folders' names.
        tree: Where a file is expected.
        protocol: Of the paper.
    """
    wanted = re.compile(ids)

    def find(root: Path) -> Listing:
        found: dict[str, dict[str, Path]] = {}
        sides = {}
        for folder in folders_below(root):
            if not wanted.fullmatch(folder.name):
                continue
            files = found.setdefault(folder.name, {})
            for path in sorted(p for p in folder.iterdir() if is_scan(p)):
                word = re.split(r"[_-]", path.name.split(".nii")[0].lower())[-1]
                if (kind := _KINDS.get(word)) is not None:
                    files.setdefault(kind, path)
            above = f"{folder.parent.name} {folder.name}".lower()
            if "validation" in above:
                sides[folder.name] = "validation"
            elif "training" in above:
                sides[folder.name] = "training"
        return Listing(found, sides)

    return Layout(name, title, tree, find, protocol)


BRATS_2020 = brats(
    "brats2020",
    "BraTS 2020",
    _ID_2020,
    "MICCAI_BraTS2020_TrainingData/BraTS20_Training_001/BraTS20_Training_001_t1ce.nii[.gz]",
    Protocol(
        # the order of its channels in the paper's code
        modalities=("t1", "t2", "t1ce", "flair"),
        source="MSG-LDM: 369 cases, axial slices of 192 x 192, slices 18 to 137 of each",
        size=(192, 192, 155),
        slices=120,
        labels=ENHANCING,
    ),
)
BRATS_2021 = brats(
    "brats2021",
    "BraTS 2021",
    _ID_2021,
    "BraTS2021_00000/BraTS2021_00000_t1ce.nii.gz",
    Protocol(
        modalities=MODALITIES,
        source="ALDM: 1251 cases for training, 219 for validation, 192 x 192 x 144",
        split=(1251, 219),
        labels=ENHANCING,
    ),
)
BRATS_2023 = brats(
    "brats2023",
    "BraTS 2023",
    rf"{_ID_2023}|{_ID_2021}",
    "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-00000-000/"
    "BraTS-GLI-00000-000-t1c.nii.gz",
    Protocol(
        modalities=MODALITIES,
        source="DFBK: 1251 cases for training, 219 for test, 32 middle slices of 192 x 192",
        split=(1251, 219),
        size=(192, 192, 144),
        slices=32,
        labels=ENHANCING,
    ),
)
