"""What predictions are good for: lesions found in the real set, with the prediction, without."""

import shlex
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from voxlate.data_prep import Case, ScanError, UsageError, read_scan

from .evaluation_pairs import read_truth, require_grid, to_ras
from .evaluation_row import TRANSLATION, Row
from .evaluation_summary import CEILING, FLOOR
from .evaluation_truth import Truth
from .lesion_segmenter import LesionSegmenter, segmenter_scale
from .mask_agreement import dice, hd95

SET = "downstream"
OUTPUT = "output"
TIMEOUT = 3600.0  #: seconds for one case
LAST_WORDS = 200  #: characters of what a failed command said

Volumes = Mapping[str, Float[Tensor, "x y z"]]


class Segmenter(Protocol):
    """Finds the lesion in a set of contrasts of one case."""

    def __call__(self, volumes: Volumes, truths: Mapping[str, Truth]) -> Bool[Tensor, "x y z"]:
        """Segment.

        Args:
            volumes: By modality, each in the unit of its real scan; zeros for one that is missing.
            truths: The real scans, on the same grid.
        """


@dataclass(frozen=True)
class OwnSegmenter:
    """The small U-Net of ``lesion_segmenter``."""

    segmenter: LesionSegmenter

    def __call__(self, volumes: Volumes, truths: Mapping[str, Truth]) -> Bool[Tensor, "x y z"]:
        """Segment; a volume of zeros stays zeros."""
        scaled = {
            name: segmenter_scale(truths[name], volume) if bool(volume.any()) else volume
            for name, volume in volumes.items()
        }
        return self.segmenter(scaled)


@dataclass(frozen=True)
class CommandSegmenter:
    """An external program, run once for each set, without a shell.

    Attributes:
        arguments: The program and its arguments. ``{t1}``, ``{flair}``, ... stand for NIfTI files,
            ``{output}`` for the mask that it must write (NIfTI; above 0 is lesion).
        timeout: Seconds for one set.
    """

    arguments: tuple[str, ...]
    timeout: float = TIMEOUT

    @classmethod
    def parse(cls, text: str) -> "CommandSegmenter":
        """Split a command line into arguments, as a shell would, and do nothing else with it.

        Raises:
            UsageError: A quote is open, or ``{output}`` is not there.
        """
        try:
            arguments = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(
                f"the segmenter's command cannot be read ({error})",
                "close the quote",
                code="E_OPTION",
            ) from None
        if not any("{output}" in argument for argument in arguments[1:]):
            raise UsageError(
                "the segmenter's command has no {output}",
                "write {output} where its mask belongs, and {t1}, {flair}, ... for scans",
                code="E_OPTION",
            )
        return cls(arguments)

    def __call__(self, volumes: Volumes, truths: Mapping[str, Truth]) -> Bool[Tensor, "x y z"]:
        """Write the set to a temporary folder, run the command, read its mask.

        Raises:
            ScanError: It failed, took too long, or wrote no mask on that grid.
        """
        like = next(iter(truths.values()))
        with tempfile.TemporaryDirectory(prefix="voxlate-") as folder:
            files = {OUTPUT: Path(folder, "output.nii.gz")}
            for name, volume in volumes.items():
                files[name] = Path(folder, f"{name}.nii.gz")
                nib.save(nib.Nifti1Image(volume.numpy(), like.affine), files[name])
            self._run(files)
            return _read_mask(files[OUTPUT], like)

    def _run(self, files: Mapping[str, Path]) -> None:
        arguments = []
        for argument in self.arguments:
            for name, file in files.items():
                argument = argument.replace(f"{{{name}}}", str(file))
            arguments.append(argument)
        program = Path(self.arguments[0])
        try:
            done = subprocess.run(
                arguments, capture_output=True, text=True, timeout=self.timeout, check=False
            )
        except subprocess.TimeoutExpired:
            problem = f"took more than {self.timeout:g} s"
        except OSError as error:
            problem = f"cannot be started ({error.strerror or error})"
        else:
            if done.returncode == 0:
                return
            said = (done.stderr.strip() or done.stdout.strip())[-LAST_WORDS:]
            problem = f"ended with {done.returncode}: {said}"
        raise ScanError(
            f"the segmenter {problem}", "run it by hand", code="E_SEGMENTER", file=program
        )


def _read_mask(file: Path, like: Truth) -> Bool[Tensor, "x y z"]:
    try:
        image = nib.Nifti1Image.from_filename(file)
        data, affine = np.asarray(image.dataobj), image.affine
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise ScanError(
            f"the segmenter wrote no mask ({error})",
            "let it write {output}",
            code="E_SEGMENTER",
            file=file.name,
        ) from None
    mask, own = to_ras(data > 0, affine)
    if mask.shape != like.volume.shape or not np.allclose(own, like.affine, atol=1e-3):
        raise ScanError(
            f"the segmenter's mask {tuple(mask.shape)} is on another grid than its input "
            f"{tuple(like.volume.shape)}",
            "let it keep the grid",
            code="E_GRID",
            file=file.name,
        )
    return mask


class Downstream:
    """Rows of a case's sets; the real and the zero-filled set are segmented once.

    Args:
        segmenter: Finds the lesion.
        modalities: That it is given, of those that a case has.
    """

    def __init__(self, segmenter: Segmenter, modalities: Sequence[str]) -> None:
        self.segmenter, self.modalities = segmenter, tuple(modalities)
        self._case = ""
        self._known: dict[str, np.ndarray] = {}
        self._truths: dict[str, Truth] = {}

    def measure(
        self,
        case: Case,
        truth: Truth,
        predictions: Mapping[tuple[str, str], Float[Tensor, "x y z"] | None],
    ) -> list[Row]:
        """Dice, HD95 and volume of the lesion in every set.

        Args:
            case: With a lesion mask; without one there are no rows.
            truth: Of the target.
            predictions: By run and given contrasts, in the unit of the truth; None is absent, and
                its set is the zero-filled one.

        Raises:
            VoxlateError: A scan cannot be used, or the segmenter failed.
        """
        if truth.lesion is None:
            return []
        self._load(case, truth)
        real = {name: t.volume for name, t in self._truths.items()}
        if truth.target not in real:
            return []
        without = {**real, truth.target: torch.zeros_like(truth.volume)}
        if "real" not in self._known:
            self._known["real"] = self.segmenter(real, self._truths).numpy()
        floor = self.segmenter(without, self._truths).numpy()
        rows = []
        for (run, given), made in predictions.items():
            found = floor
            if made is not None:
                found = self.segmenter({**real, truth.target: made}, self._truths).numpy()
            note = "missing: zero-filled set" if made is None else ""
            rows += _rows(run, case, given, truth, TRANSLATION, found, note)
        for given in dict.fromkeys(given for _, given in predictions):
            rows += _rows("", case, given, truth, CEILING, self._known["real"], "")
            rows += _rows("", case, given, truth, FLOOR, floor, "")
        return rows

    @property
    def facts(self) -> dict[str, Any]:
        """For the report."""
        own = isinstance(self.segmenter, OwnSegmenter)
        trained = (
            self.segmenter.segmenter.subjects if isinstance(self.segmenter, OwnSegmenter) else ()
        )
        return {
            "segmenter": "the project's small U-Net" if own else "an external command",
            "modalities": list(self.modalities),
            "trained_on": list(trained),
        }

    def leaks(self, cases: Sequence[Case]) -> list[str]:
        """Patients that the segmenter was trained on: its Dice on them means nothing."""
        trained = set(self.facts["trained_on"])
        return [
            f"the segmenter was trained on patient {subject}"
            for subject in sorted({case.subject for case in cases} & trained)
        ]

    def _load(self, case: Case, truth: Truth) -> None:
        if case.id == self._case:
            return
        self._case, self._known, self._truths = case.id, {}, {}
        for modality in self.modalities:
            if modality in case.files:
                scan = read_scan(case.files[modality])
                require_grid(scan, truth.affine, truth.volume.shape, case.files[truth.target])
                self._truths[modality] = read_truth(case, modality)


def find_segmenter(text: str, modalities: Sequence[str]) -> Downstream:
    """A segmenter from its weights file, or from a command.

    Args:
        text: A file that is there, or a command line, see ``CommandSegmenter``.
        modalities: Known ones, for a command.

    Raises:
        WeightsError: The file is no segmenter.
        UsageError: The command cannot be used.
    """
    if Path(text).is_file():
        own = LesionSegmenter.load(text)
        return Downstream(OwnSegmenter(own), own.modalities)
    command = CommandSegmenter.parse(text)
    named = [m for m in modalities if any(f"{{{m}}}" in a for a in command.arguments)]
    return Downstream(command, named)


def _rows(
    run: str, case: Case, given: str, truth: Truth, answer: str, found: np.ndarray, note: str
) -> list[Row]:
    assert truth.lesion is not None
    drawn = truth.lesion.numpy()
    voxels = int(drawn.sum())
    values = {
        "dice": dice(found, drawn),
        "hd95": hd95(found, drawn, truth.spacing),
        "volume_ratio": int(found.sum()) / voxels if voxels else float("nan"),
    }
    return [
        Row(
            *(run, case.id, case.subject, given, truth.target, answer, SET, "lesion"),
            metric,
            value,
            voxels,
            note,
        )
        for metric, value in values.items()
    ]
