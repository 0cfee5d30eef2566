"""Small trees in the names of each public data set, quirks included, filled with phantoms."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from voxlate.data_prep import Phantom, make_phantom

SHAPE, SPACING = (36, 40, 34), 4.0
MODALITIES = ("t1", "t1ce", "t2", "flair", "pd")
Plant = Callable[[Path, int], None]

_phantoms: dict[int, Phantom] = {}


def phantom(seed: int) -> Phantom:
    """A phantom of its own for each case; made once."""
    if seed not in _phantoms:
        _phantoms[seed] = make_phantom(
            SHAPE, seed=seed, spacing=SPACING, modalities=MODALITIES, noise=0.005
        )
    return _phantoms[seed]


def write(
    path: Path, data: np.ndarray, affine: np.ndarray, dtype: type[np.generic] = np.int16
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.rint(data).astype(dtype), affine)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def volume(path: Path, seed: int, modality: str) -> None:
    source = phantom(seed)
    write(path, source.volumes[modality], source.affine)


def labels(path: Path, seed: int, values: tuple[int, ...]) -> None:
    """A lesion mask with the given values in turn along z, in a block inside the brain."""
    source = phantom(seed)
    seg = np.zeros(SHAPE, dtype=np.uint8)
    for index, value in enumerate(values):
        seg[14:20, 16:22, 12 + 3 * index : 15 + 3 * index] = value
    write(path, seg, source.affine, np.uint8)


def brats2020(root: Path, count: int) -> None:
    top = root / "MICCAI_BraTS2020_TrainingData"
    numbers = [*range(1, count), 355]
    for seed, number in enumerate(numbers):
        name = f"BraTS20_Training_{number:03d}"
        for modality in ("t1", "t1ce", "t2", "flair"):
            volume(top / name / f"{name}_{modality}.nii", seed, modality)
        seg = "W39_1998.09.19_Segm.nii" if number == 355 else f"{name}_seg.nii"
        labels(top / name / seg, seed, (1, 2, 4))
    (top / "name_mapping.csv").write_text("Grade,BraTS_2020_subject_ID\n")
    (top / "survival_info.csv").write_text("Brats20ID,Age\n")


def brats2021(root: Path, count: int) -> None:
    for seed, number in enumerate(range(0, 2 * count, 2)):
        name = f"BraTS2021_{number:05d}"
        for modality in ("t1", "t1ce", "t2", "flair"):
            volume(root / name / f"{name}_{modality}.nii.gz", seed, modality)
        labels(root / name / f"{name}_seg.nii.gz", seed, (1, 2, 4))


def brats2023(root: Path, count: int) -> None:
    words = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
    for side, number in [("Training", n) for n in range(count - 1)] + [("Validation", 900)]:
        top = root / f"ASNR-MICCAI-BraTS2023-GLI-Challenge-{side}Data"
        name = f"BraTS-GLI-{number:05d}-000"
        for modality, word in words.items():
            volume(top / name / f"{name}-{word}.nii.gz", number, modality)
        if side == "Training":
            labels(top / name / f"{name}-seg.nii.gz", number, (1, 2, 3))


def ixi(root: Path, count: int) -> None:
    for seed in range(count):
        name = f"IXI{seed + 2:03d}-{('Guys', 'HH', 'IOP')[seed % 3]}-{800 + seed:04d}"
        source = phantom(seed)
        # the T1 was scanned sagittally, T2 and PD axially, the head a little further on
        turn = nib.Nifti1Image(source.volumes["t1"], source.affine).as_reoriented(
            np.array([[2, 1], [0, -1], [1, 1]])
        )
        write(root / "IXI-T1" / f"{name}-T1.nii.gz", np.asarray(turn.dataobj), turn.affine)
        away = np.eye(4)
        away[:3, 3] = 4, -3, 5
        for modality in ("t2", "pd"):
            path = root / f"IXI-{modality.upper()}" / f"{name}-{modality.upper()}.nii.gz"
            write(path, source.volumes[modality], away @ source.affine)


def isles2015(root: Path, count: int) -> None:
    words = {"flair": "MR_Flair", "dwi": "MR_DWI", "t1": "MR_T1", "t2": "MR_T2"}
    for side, cases in (("Training", range(1, count)), ("Testing", range(1, 2))):
        for number in cases:
            seed = number + (50 if side == "Testing" else 0)
            for index, (modality, word) in enumerate(words.items()):
                name = f"VSD.Brain.XX.O.{word}.{70600 + 7 * number + index}"
                path = root / f"SISS2015_{side}" / str(number) / name / f"{name}.nii"
                volume(path, seed, "pd" if modality == "dwi" else modality)
            if side == "Training":
                name = f"VSD.Brain.XX.O.OT.{70600 + 7 * number + 5}"
                path = root / f"SISS2015_{side}" / str(number) / name / f"{name}.nii"
                labels(path, seed, (1,))


def wmh2017(root: Path, count: int) -> None:
    places = ["Utrecht/0", "Singapore/50", "Amsterdam/GE3T/100", "Utrecht/2", "Singapore/51"]
    for seed, place in enumerate(places[:count]):
        folder = root / "training" / place
        for part in ("orig", "pre"):
            volume(folder / part / "FLAIR.nii.gz", seed, "flair")
            volume(folder / part / "T1.nii.gz", seed, "t1")
        volume(folder / "orig" / "3DT1.nii.gz", seed, "t1")
        (folder / "orig" / "reg_3DT1_to_FLAIR.txt").write_text("(Transform)\n")
        labels(folder / "wmh.nii.gz", seed, (1, 2))


def synthrad2023(root: Path, count: int) -> None:
    for seed in range(count):
        name = f"1B{'ABC'[seed % 3]}{seed + 1:03d}"
        folder = root / "Task1" / "brain" / name
        source = phantom(seed)
        inside = source.labels > 0
        volume(folder / "mr.nii.gz", seed, "t1")
        hounsfield = np.where(inside, source.volumes["t1"] / 4, -1024.0)
        hounsfield[16:20, 18:22, 15:18] = 3071  # metal
        write(folder / "ct.nii.gz", hounsfield, source.affine)
        write(folder / "mask.nii.gz", inside, source.affine, np.uint8)
    (root / "Task1" / "brain" / "overview").mkdir(parents=True)
    volume(root / "Task1" / "pelvis" / "1PA001" / "mr.nii.gz", 0, "t1")


def bids(root: Path, count: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    for seed in range(count):
        subject, session = f"sub-{seed // 2 + 1:02d}", f"ses-{seed % 2 + 1}"
        anat, stem = root / subject / session / "anat", f"{subject}_{session}"
        for word, modality in (("T1w", "t1"), ("ce-gadolinium_T1w", "t1ce"), ("FLAIR", "flair")):
            volume(anat / f"{stem}_{word}.nii.gz", seed, modality)
        (anat / f"{stem}_T1w.json").write_text("{}")
        derived = root / "derivatives" / "masks" / subject / session / "anat"
        labels(derived / f"{stem}_label-lesion_mask.nii.gz", seed, (1,))


def table(root: Path, count: int) -> None:
    lines = ["id,patient,T1w,t2,lesion"]
    for seed in range(count):
        volume(root / f"scans/{seed} a.nii.gz", seed, "t1")
        volume(root / f"scans/{seed} b.nii.gz", seed, "t2")
        labels(root / f"scans/{seed} l.nii.gz", seed, (1,))
        patient = f"P{seed // 2}"
        paths = ",".join(f"scans/{seed} {c}.nii.gz" for c in "abl")
        lines.append(f"visit{seed},{patient},{paths}")
    (root / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


TREES: dict[str, Plant] = {
    "brats2020": brats2020,
    "brats2021": brats2021,
    "brats2023": brats2023,
    "ixi": ixi,
    "isles2015": isles2015,
    "wmh2017": wmh2017,
    "synthrad2023": synthrad2023,
    "bids": bids,
    "table": table,
}


class LayoutTrees:
    """Plants the tree of a layout; each is drawn once and copied.

    Args:
        store: Where the drawn trees are kept.
    """

    names = tuple(TREES)

    def __init__(self, store: Path) -> None:
        self.store = store

    def __call__(self, name: str, root: Path, count: int = 4) -> Path:
        """Plant ``count`` cases of a layout in a new folder ``root``."""
        kept = self.store / f"{name}_{count}"
        if not kept.is_dir():
            TREES[name](kept, count)
        shutil.copytree(kept, root)
        return root
