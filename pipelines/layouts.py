"""What a case's results are called: in the input's tree, or as BIDS derivatives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

BIDS_SUFFIXES = {"t1": "T1w", "t1ce": "T1w", "t2": "T2w", "flair": "FLAIR", "pd": "PDw"}
CONTRAST_AGENT = "ce-gadolinium"
_AFTER_CE = ("rec", "dir", "run", "echo")  # entities that BIDS orders behind "ce"


@dataclass(frozen=True)
class CaseFiles:
    """Results of a case, all in one folder; paths below the output folder, with slashes.

    Attributes:
        volumes: By target.
        record: The manifest, see docs/batch.md.
        picture: Three planes of everything; None where none is wanted.
        sidecars: BIDS sidecars by target, of deviations as ``<target>_sd``; empty elsewhere.
        deviations: By target, the standard deviation of several samples; empty of one answer.
    """

    volumes: Mapping[str, str]
    record: str
    picture: str | None = None
    sidecars: Mapping[str, str] = field(default_factory=dict)
    deviations: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where they all lie; ``"."`` is the output folder itself."""
        return str(PurePosixPath(self.record).parent)

    @property
    def names(self) -> list[str]:
        """File names in the order in which they appear: the record last."""
        picture = [] if self.picture is None else [self.picture]
        volumes = [*self.volumes.values(), *self.deviations.values()]
        paths = [*volumes, *picture, *self.sidecars.values(), self.record]
        return [PurePosixPath(path).name for path in paths]


def tree_files(
    case_id: str, targets: Sequence[str], *, picture: bool = True, deviations: bool = False
) -> CaseFiles:
    """``<case_id>_<target>.nii.gz``, ``<case_id>_qc.png`` and ``<case_id>.json``.

    Args:
        case_id: Path below the output folder, without a suffix.
        targets: Wanted modalities.
        picture: Whether there is one.
        deviations: Whether there is ``<case_id>_<target>_sd.nii.gz``, too.
    """
    return CaseFiles(
        volumes={target: f"{case_id}_{target}.nii.gz" for target in targets},
        record=f"{case_id}.json",
        picture=f"{case_id}_qc.png" if picture else None,
        deviations={t: f"{case_id}_{t}_sd.nii.gz" for t in targets if deviations},
    )


def bids_files(
    case_id: str, targets: Sequence[str], *, picture: bool = True, deviations: bool = False
) -> CaseFiles:
    """BIDS derivatives: ``sub-01/anat/sub-01_desc-synth_T2w.nii.gz`` with a JSON sidecar each.

    Entities of the source's name stay, but for ``ce`` and ``desc``, which are the target's own. The
    picture and the record have suffixes that BIDS does not know; ``.bidsignore`` lists them.

    Args:
        case_id: Path of the source below the data set, without ``.nii.gz``.
        targets: Wanted modalities.
        picture: Whether there is one.
        deviations: Whether each volume has its ``desc-synthSD``, too.
    """
    path = PurePosixPath(case_id)
    words = path.name.split("_")
    kept = [word for word in words if "-" in word and not re.match(r"(ce|desc)-", word)]
    source = "-".join(re.sub(r"[^A-Za-z0-9]", "", w) for w in words if "-" not in w) or "scan"
    base = str(path.parent / "_".join(kept))
    if any(word.startswith("ce-") for word in words):
        source += "ce"  # a T1w with and one without contrast agent keep two records
    stems = {target: str(path.parent / _bids_name(kept, target, "synth")) for target in targets}
    spread = {
        target: str(path.parent / _bids_name(kept, target, "synthSD"))
        for target in targets
        if deviations
    }
    return CaseFiles(
        volumes={target: f"{stem}.nii.gz" for target, stem in stems.items()},
        record=f"{base}_from-{source}_manifest.json",
        picture=f"{base}_from-{source}_qc.png" if picture else None,
        sidecars={
            **{target: f"{stem}.json" for target, stem in stems.items()},
            **{f"{target}_sd": f"{stem}.json" for target, stem in spread.items()},
        },
        deviations={target: f"{stem}.nii.gz" for target, stem in spread.items()},
    )


def _bids_name(entities: Sequence[str], target: str, desc: str) -> str:
    words = list(entities)
    if target == "t1ce":
        behind = (i for i, word in enumerate(words) if word.split("-")[0] in _AFTER_CE)
        words.insert(next(behind, len(words)), CONTRAST_AGENT)
    return "_".join([*words, f"desc-{desc}", BIDS_SUFFIXES.get(target, target)])
