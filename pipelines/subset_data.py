"""Samples of cases with any of their contrasts given: which ones is drawn, seeded by the number."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .crops import BACKGROUND, View, read_view, whole_view
from .prepared_cases import PreparedCase
from .training_data import CropDataset
from .validation_data import read_mask


def draw_subset(candidates: Sequence[int], count: int, rng: np.random.Generator) -> Tensor:
    """A random non-empty subset of indices, as a mask (count,): its size first, uniformly."""
    size = int(rng.integers(1, len(candidates) + 1))
    given = torch.zeros(count, dtype=torch.bool)
    given[rng.choice(candidates, size, replace=False).tolist()] = True
    return given


def present_indices(case: PreparedCase, modalities: Sequence[str]) -> list[int]:
    """Which of the modalities a case has, as indices."""
    return [index for index, name in enumerate(modalities) if name in case.volumes]


def read_contrasts(
    case: PreparedCase, modalities: Sequence[str], indices: Sequence[int], view: View
) -> Tensor:
    """Contrasts of a case in their slots, (m, x, y, z); background where there is none."""
    crops = read_view([case.volume(modalities[index]) for index in indices], view)
    volumes = crops.new_full((len(modalities), *crops.shape[1:]), BACKGROUND)
    volumes[list(indices)] = crops
    return volumes


class SubsetDataset(CropDataset):
    """All contrasts that a case has, and which of them are given: for the structure stage.

    A contrast is drawn by its weight, then a case that has it; cases may lack any others. How many
    contrasts are given is uniform from one to all that the case has, then which. Every contrast has
    an intensity jitter of its own, the same in what is seen and in what is to be made. The other
    arguments are ``CropDataset``'s.

    Args:
        labels: Case id to its file of labels, uint8 (k, x, y, z) of 0 and 1, such as
            ``prepare_labels`` writes; None for none. Cases without count as unlabelled.
        num_classes: Classes k in those files.
    """

    def __init__(
        self,
        data: Sequence[PreparedCase],
        modalities: Sequence[str],
        *,
        labels: Mapping[str, Path] | None = None,
        num_classes: int = 0,
        **crops: Any,
    ) -> None:
        super().__init__(data, modalities, **crops)
        self.labels, self.num_classes = dict(labels or {}), num_classes

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``volumes`` (m, x, y, z), ``present`` and ``available`` (m,), ``case``, labels if any."""
        rng = np.random.default_rng([self.seed, index])
        case, _ = self.draw_target(rng)
        view = self.draw_view(case, rng)
        indices = present_indices(case, self.modalities)
        volumes = read_contrasts(case, self.modalities, indices, view)
        for slot in indices:
            volumes[slot : slot + 1] = self.jitter(volumes[slot : slot + 1].clone(), rng)
        present = torch.zeros(len(self.modalities), dtype=torch.bool)
        present[indices] = True
        sample = {
            "volumes": volumes,
            "present": present,
            "available": draw_subset(indices, len(self.modalities), rng),
            "case": case.case_id,
        }
        if self.num_classes:
            sample |= self.read_labels(case, view, volumes.shape[1:])
        return sample

    def read_labels(self, case: PreparedCase, view: View, size: Sequence[int]) -> dict[str, Any]:
        """``labels`` (k, x, y, z) of 0 and 1, and whether the case is ``labelled``."""
        if case.case_id not in self.labels:
            labels = torch.zeros(self.num_classes, *size)
            return {"labels": labels, "labelled": False}
        classes = np.load(self.labels[case.case_id], mmap_mode="r")
        return {"labels": (read_view(list(classes), view) > 0.5).float(), "labelled": True}


class SubsetPairDataset(CropDataset):
    """Some contrasts of a case and another one to make of them, for the prior and the denoiser.

    The target is drawn first, then a case that has it and something else; then how many of its
    other contrasts are given, uniformly, and which. Intensity jitter falls on what is given alone.
    """

    advice = "give cases that have at least two contrasts, one of them with a positive weight"

    def usable(self, case: PreparedCase, modality: str) -> bool:
        """Whether the case has the modality and something to make it from."""
        return modality in case.volumes and bool(
            set(case.volumes) & set(self.modalities) - {modality}
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See ``subset_sample``; in a view and a variation that are drawn."""
        rng = np.random.default_rng([self.seed, index])
        case, target = self.draw_target(rng)
        others = [i for i in present_indices(case, self.modalities) if i != target]
        available = draw_subset(others, len(self.modalities), rng)
        view = self.draw_view(case, rng)
        sample = subset_sample(case, self.modalities, available, target, view)
        volumes = sample["volumes"]
        for slot in available.nonzero().flatten().tolist():
            volumes[slot : slot + 1] = self.jitter(volumes[slot : slot + 1].clone(), rng)
        sample["source"] = volumes[available][:1].clone()
        return sample


def subset_sample(
    case: PreparedCase, modalities: Sequence[str], available: Tensor, target: int, view: View
) -> dict[str, Any]:
    """A sample of several given contrasts.

    ``volumes`` (m, x, y, z), background where not given; ``available`` (m,); ``target`` (1, x, y,
    z) and ``target_index``; ``source``, the first given one, to look at; ``case``.
    """
    given = available.nonzero().flatten().tolist()
    volumes = read_contrasts(case, modalities, [*given, target], view)
    wanted = volumes[target : target + 1].clone()
    volumes[target] = BACKGROUND
    return {
        "volumes": volumes,
        "available": available,
        "source": volumes[given[:1]],
        "target": wanted,
        "target_index": target,
        "case": case.case_id,
    }


class ValidationSubsets(Dataset):
    """Whole cases: every target of every case from 1, 2, ... given contrasts, and the ``mask``.

    For each number of given contrasts one subset is drawn, always the same, so that a mean over all
    shows every number alike.

    Args:
        data: Prepared cases; what a case lacks is neither given nor a target.
        modalities: Names in one-hot order.
        multiple: Of every side.
        seed: Of the subsets.
    """

    def __init__(
        self,
        data: Sequence[PreparedCase],
        modalities: Sequence[str],
        *,
        multiple: int = 4,
        seed: int = 0,
    ) -> None:
        self.modalities, self.multiple = list(modalities), multiple
        self.items: list[tuple[PreparedCase, Tensor, int]] = []
        for number, case in enumerate(data):
            present = present_indices(case, self.modalities)
            for target in present:
                rng = np.random.default_rng([seed, number, target])
                order = rng.permutation([index for index in present if index != target])
                for size in range(1, len(order) + 1):
                    given = torch.zeros(len(self.modalities), dtype=torch.bool)
                    given[order[:size].tolist()] = True
                    self.items.append((case, given, target))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See ``subset_sample``."""
        case, available, target = self.items[index]
        mask = case.foreground()
        view = whole_view(mask, self.multiple)
        sample = subset_sample(case, self.modalities, available, target, view)
        return {**sample, "mask": read_mask(mask, view)}
