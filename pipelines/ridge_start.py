"""Before stage 2: fit the prior's ridge path to the training cases, in closed form."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from voxlate.networks.translation import TranslationNetwork

from .crops import read_view, whole_view
from .training_data import PreparedCase

logger = logging.getLogger(__name__)


@torch.no_grad()
def fit_ridge_path(
    network: TranslationNetwork,
    cases: Sequence[PreparedCase],
    *,
    weight: Callable[[str], float],
    ridge: float,
) -> None:
    """Fit ``network.prior.path`` to the scaled latents of whole heads; see ``RidgePath.fit``.

    A prior that mixes several paths is told what each of them misses. Without such a path nothing
    happens.

    Args:
        network: Its autoencoder is trained and its latent scale measured.
        cases: For training only.
        weight: Of a case, by its id.
        ridge: Penalty, see ``RidgePath.fit``.
    """
    if getattr(network.prior, "path", None) is None:
        return
    device = network.scale_factor.device
    autoencoder: Any = network.autoencoder
    prior: Any = network.prior
    encoded = []
    for case in cases:
        view = whole_view(case.foreground(), autoencoder.downsampling)
        latents = {}
        for modality in case.volumes:
            volume = read_view([case.volume(modality)], view).unsqueeze(0).to(device)
            latents[network.modalities.index(modality)] = network.encode(volume)[0]
        encoded.append((latents, weight(case.case_id)))
    missed = prior.path.fit(encoded, ridge=ridge)
    if hasattr(prior, "weigh_paths"):
        prior.weigh_paths(missed)
    logger.info(f"ridge path fitted to {len(encoded)} cases")
