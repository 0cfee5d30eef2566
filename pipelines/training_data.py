"""Training data: samples that are a function of (seed, number) alone."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from voxlate.data_prep import NoInputError

from .crops import Augmentation, View, middle_slices, random_view, read_view, whole_view
from .prepared_cases import PreparedCase, pair, prepare_case, prepare_cases
from .ranks import ranks
from .validation_data import ValidationPairs, ValidationVolumes

__all__ = [  # all that a training configuration names
    "CropDataset",
    "PairDataset",
    "PreparedCase",
    "StepSampler",
    "ValidationPairs",
    "ValidationVolumes",
    "pair",
    "prepare_case",
    "prepare_cases",
    "training_loader",
]


class CropDataset(Dataset):
    """Random crops of single contrasts, for the autoencoder.

    Sample ``index`` is a function of (seed, index) alone, for any index from 0 on: which case,
    contrast, place and variation. ``len`` is the number of cases; a ``StepSampler`` goes on for
    ever.

    Args:
        data: Prepared cases.
        modalities: Names in one-hot order.
        crop_size: Voxels on each axis; None gives the whole foreground (sizes then differ from case
            to case).
        multiple: Of every side of a whole foreground, the autoencoder's downsampling.
        min_foreground: Wanted share of foreground in a crop.
        slices: Show crops centred on so many axial slices in the middle of the foreground; None
            for all.
        target_weights: How often each modality is shown; None shows all alike, however many cases
            have it.
        case_weights: Pattern of case ids to how often such a case is shown, beside 1 for the rest;
            the last pattern that fits counts. None shows all cases alike.
        augmentation: How crops vary; None for not at all.
        seed: Of all draws.

    Raises:
        NoInputError: No case has a modality that could be shown.
    """

    def __init__(
        self,
        data: Sequence[PreparedCase],
        modalities: Sequence[str],
        *,
        crop_size: Sequence[int] | int | None,
        multiple: int = 4,
        min_foreground: float = 0.3,
        slices: int | None = None,
        target_weights: Mapping[str, float] | None = None,
        case_weights: Mapping[str, float] | None = None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.data, self.modalities = list(data), list(modalities)
        self.crop_size = (crop_size,) * 3 if isinstance(crop_size, int) else crop_size
        self.multiple, self.min_foreground, self.slices = multiple, min_foreground, slices
        self.augmentation, self.seed = augmentation, seed
        self.having = {
            name: [case for case in self.data if self.usable(case, name)]
            for name in self.modalities
        }
        wanted = dict.fromkeys(self.modalities, 1.0) if target_weights is None else target_weights
        unknown = sorted(set(wanted) - set(self.modalities))
        if unknown:
            raise ValueError(
                f"target_weights names {unknown}, but the modalities are {self.modalities}"
            )
        weights = np.array(
            [wanted.get(name, 0.0) * bool(self.having[name]) for name in self.modalities]
        )
        if weights.sum() <= 0:
            raise NoInputError(
                f"none of {len(self.data)} cases can be used for training",
                self.advice,
                code="E_NO_CASES",
            )
        self.probabilities = weights / weights.sum()
        self.case_weights = dict(case_weights or {})

    advice = "give cases that have one of the modalities with a positive weight"

    def usable(self, case: PreparedCase, modality: str) -> bool:
        """Whether the case can show a modality."""
        return modality in case.volumes

    def __len__(self) -> int:
        return len(self.data)

    def draw_target(self, rng: np.random.Generator) -> tuple[PreparedCase, int]:
        """A modality by its weight, then one of the cases that have it."""
        target = int(rng.choice(len(self.modalities), p=self.probabilities))
        cases = self.having[self.modalities[target]]
        weights = np.array([self.case_weight(case.case_id) for case in cases])
        return cases[int(rng.choice(len(cases), p=weights / weights.sum()))], target

    def case_weight(self, case_id: str) -> float:
        """The weight of the last pattern that fits; 1 if none does."""
        fitting = [w for pattern, w in self.case_weights.items() if fnmatch(case_id, pattern)]
        return fitting[-1] if fitting else 1.0

    def draw_view(self, case: PreparedCase, rng: np.random.Generator) -> View:
        """A place in the case and the way it is turned."""
        mask = case.foreground()
        if self.slices is not None:
            mask = middle_slices(mask, self.slices)
        if self.crop_size is None:
            view = whole_view(mask, self.multiple)
        else:
            view = random_view(mask, self.crop_size, self.min_foreground, rng)
        return view if self.augmentation is None else self.augmentation.turn(view, rng)

    def jitter(self, volume: Tensor, rng: np.random.Generator) -> Tensor:
        """Vary intensities, if augmented."""
        return volume if self.augmentation is None else self.augmentation.jitter(volume, rng)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (1, x, y, z) in [-1, 1], ``modality`` (its index) and ``case``."""
        rng = np.random.default_rng([self.seed, index])
        case, modality = self.draw_target(rng)
        view = self.draw_view(case, rng)
        image = read_view([case.volume(self.modalities[modality])], view)
        return {"image": self.jitter(image, rng), "modality": modality, "case": case.case_id}


class PairDataset(CropDataset):
    """The same crop of two contrasts of a case, source and target, for the prior and the denoiser.

    The target is drawn first (so that a rare contrast is wanted as often as a common one), then a
    case that has it, then the source among the case's other contrasts; with ``identity_share`` the
    source is the target itself. Intensity jitter falls on the source alone. The other arguments are
    ``CropDataset``'s.

    Args:
        identity_share: Share of samples whose source is the target.
        source_weights: How often each of a case's other contrasts is the source; None draws them
            alike.
    """

    advice = "give cases that have at least two contrasts, one of them with a positive weight"

    def __init__(
        self,
        data: Sequence[PreparedCase],
        modalities: Sequence[str],
        *,
        identity_share: float = 0.0,
        source_weights: Mapping[str, float] | None = None,
        **crops: Any,
    ) -> None:
        self.identity_share = identity_share
        self.source_weights = dict.fromkeys(modalities, 1.0) | dict(source_weights or {})
        super().__init__(data, modalities, **crops)

    def usable(self, case: PreparedCase, modality: str) -> bool:
        """Whether the case has the modality and something to make it from."""
        return modality in case.volumes and bool(self.sources(case, modality))

    def sources(self, case: PreparedCase, target: str) -> list[int]:
        """The case's other contrasts that are ever a source, as indices."""
        return [
            index
            for index, name in enumerate(self.modalities)
            if name in case.volumes and name != target and self.source_weights[name] > 0
        ]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``source``, ``target`` (1, x, y, z), their indices, ``available`` (m,), ``case``."""
        rng = np.random.default_rng([self.seed, index])
        return self.show(*self.draw_pair(rng), rng)

    def draw_pair(self, rng: np.random.Generator) -> tuple[PreparedCase, int, int]:
        """A case, and the indices of its source and its target."""
        case, target = self.draw_target(rng)
        others = self.sources(case, self.modalities[target])
        weights = np.array([self.source_weights[self.modalities[other]] for other in others])
        source = int(rng.choice(others, p=weights / weights.sum()))
        if rng.random() < self.identity_share:
            source = target
        return case, source, target

    def show(
        self, case: PreparedCase, source: int, target: int, rng: np.random.Generator
    ) -> dict[str, Any]:
        """A pair of a case, in a view and a variation that are drawn."""
        view = self.draw_view(case, rng)
        names = [self.modalities[source], self.modalities[target]]
        crops = read_view([case.volume(name) for name in names], view)
        return pair(
            self.jitter(crops[:1].clone(), rng),
            crops[1:],
            source,
            target,
            len(self.modalities),
            case,
        )


class StepSampler(Sampler[list[int]]):
    """Batches of sample numbers, for ever.

    Step s of rank r has the numbers from (s * ranks + r) * batch_size on.

    Args:
        batch_size: Samples a batch, on each rank.
        first_step: Where to start; a resumed run sets it.
    """

    def __init__(self, batch_size: int, *, first_step: int = 0) -> None:
        self.batch_size, self.first_step = batch_size, first_step

    def __iter__(self) -> Iterator[list[int]]:
        rank, count = ranks()
        step = self.first_step
        while True:
            first = (step * count + rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            step += 1


class Crops(Protocol):
    """A training set, by number; ``crop_size`` is None where samples differ in size."""

    crop_size: Sequence[int] | None

    def __getitem__(self, index: int) -> dict[str, Any]: ...
    def __len__(self) -> int: ...


def training_loader(dataset: Crops, batch_size: int, *, num_workers: int = 0) -> DataLoader:
    """Endless batches of a training set; a trainer starts it at its own step.

    Raises:
        ValueError: Batches of whole volumes, whose sizes differ.
    """
    if dataset.crop_size is None and batch_size > 1:
        raise ValueError(f"whole volumes differ in size: batch_size must be 1, got {batch_size}")
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=StepSampler(batch_size),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
    )
