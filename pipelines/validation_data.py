"""What training is validated on: every contrast, or every pair, of every case, whole, in order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from .crops import View, read_view, whole_view
from .prepared_cases import PreparedCase, pair


class ValidationVolumes(Dataset):
    """Every contrast of every case, whole, in order: ``image``, ``mask``, ``modality``, ``case``.

    Args:
        data: Prepared cases.
        modalities: Names in one-hot order.
        multiple: Of every side, the autoencoder's downsampling.
        least: Smallest size shown, see ``TranslationNetwork``; none by default.
    """

    def __init__(
        self,
        data: Sequence[PreparedCase],
        modalities: Sequence[str],
        *,
        multiple: int = 4,
        least: Sequence[int] = (),
    ) -> None:
        self.data, self.modalities = list(data), list(modalities)
        self.multiple, self.least = multiple, least
        self.items = [
            (case, index)
            for case in self.data
            for index, name in enumerate(self.modalities)
            if name in case.volumes
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See the class."""
        case, modality = self.items[index]
        mask = case.foreground()
        view = whole_view(mask, self.multiple, least=self.least)
        image = read_view([case.volume(self.modalities[modality])], view)
        return {
            "image": image,
            "mask": read_mask(mask, view),
            "modality": modality,
            "case": case.case_id,
        }


class ValidationPairs(Dataset):
    """Every (source, target) of every case, whole: a ``PairDataset``'s sample and its ``mask``.

    Args:
        data: Prepared cases.
        modalities: Names in one-hot order.
        multiple: Of every side, the autoencoder's downsampling.
        sources: Only these sources; all if None.
        targets: Only these targets; all if None.
        least: Smallest size shown, see ``TranslationNetwork``; none by default.
    """

    def __init__(
        self,
        data: Sequence[PreparedCase],
        modalities: Sequence[str],
        *,
        multiple: int = 4,
        sources: Sequence[str] | None = None,
        targets: Sequence[str] | None = None,
        least: Sequence[int] = (),
    ) -> None:
        self.data, self.modalities = list(data), list(modalities)
        self.multiple, self.least = multiple, least
        self.items = [
            (case, source, target)
            for case in self.data
            for source, source_name in enumerate(self.modalities)
            for target, target_name in enumerate(self.modalities)
            if source != target
            and source_name in case.volumes
            and target_name in case.volumes
            and (sources is None or source_name in sources)
            and (targets is None or target_name in targets)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See the class."""
        case, source, target = self.items[index]
        mask = case.foreground()
        view = whole_view(mask, self.multiple, least=self.least)
        names = [self.modalities[source], self.modalities[target]]
        crops = read_view([case.volume(name) for name in names], view)
        sample = pair(crops[:1], crops[1:], source, target, len(self.modalities), case)
        return {**sample, "mask": read_mask(mask, view)}


def read_mask(mask: np.ndarray, view: View) -> Tensor:
    """The foreground (1, x, y, z) in a view, bool."""
    return read_view([mask.astype(np.float32) * 2 - 1], view) > 0
