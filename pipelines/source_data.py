"""Samples of one contrast of a case and all its others: for what answers every target at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .prepared_cases import PreparedCase
from .subset_data import present_indices, read_contrasts
from .training_data import CropDataset


class SourceDataset(CropDataset):
    """The same crop of a source and of every other contrast that its case has.

    The source is drawn first, then a case that has it and something else. Intensity jitter falls on
    the source alone. The other arguments are ``CropDataset``'s.

    Args:
        source_weights: How often each contrast is the source, beside 1 for those not named.
    """

    advice = "give cases that have at least two contrasts, one of them with a positive weight"

    def __init__(
        self,
        data: Sequence[PreparedCase],
        modalities: Sequence[str],
        *,
        source_weights: Mapping[str, float] | None = None,
        **crops: Any,
    ) -> None:
        weights = dict.fromkeys(modalities, 1.0) | dict(source_weights or {})
        super().__init__(data, modalities, target_weights=weights, **crops)

    def usable(self, case: PreparedCase, modality: str) -> bool:
        """Whether the case has the modality and something to make of it."""
        return modality in case.volumes and len(present_indices(case, self.modalities)) > 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        """See the class.

        Returns:
            ``source`` (1, x, y, z) and ``source_index``; ``volumes`` (m, x, y, z), background where
            the case has none; ``wanted`` (m,) bool, what it has beside the source; ``case``.
        """
        rng = np.random.default_rng([self.seed, index])
        case, source = self.draw_target(rng)
        view = self.draw_view(case, rng)
        there = present_indices(case, self.modalities)
        volumes = read_contrasts(case, self.modalities, there, view)
        wanted = torch.zeros(len(self.modalities), dtype=torch.bool)
        wanted[[other for other in there if other != source]] = True
        return {
            "source": self.jitter(volumes[source : source + 1].clone(), rng),
            "source_index": source,
            "volumes": volumes,
            "wanted": wanted,
            "case": case.case_id,
        }
