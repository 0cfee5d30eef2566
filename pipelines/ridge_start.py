"""Before stage 2: fit the prior's ridge path to the training cases, in closed form."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from voxlate.networks.translation import TranslationNetwork

from .crops import read_view, whole_view
from .training import autocast, precision_dtype
from .training_data import PreparedCase

logger = logging.getLogger(__name__)


@torch.no_grad()
def fit_ridge_path(
    network: TranslationNetwork,
    cases: Sequence[PreparedCase],
    *,
    weight: Callable[[str], float],
    ridge: float,
    precision: str = "float32",
) -> None:
    """Fit the prior's ``path`` to the scaled latents of whole heads; see ``RidgePath.fit``.

    A mixture of several paths (``prior.guess``) is told what each of them misses. Without a path
    nothing happens.

    Args:
        network: Its autoencoder is trained and its latent scale measured.
        cases: For training only.
        weight: Of a case, by its id.
        ridge: Penalty, see ``RidgePath.fit``.
        precision: Of the encoding, as a trainer's; the fit itself is in float64.
    """
    holder: Any = getattr(network.prior, "guess", network.prior)
    if getattr(holder, "path", None) is None:
        return
    device = network.scale_factor.device
    autoencoder: Any = network.autoencoder
    encoded = []
    for case in cases:
        view = whole_view(case.foreground(), autoencoder.downsampling)
        latents = {}
        for modality in case.volumes:
            volume = read_view([case.volume(modality)], view).unsqueeze(0).to(device)
            with autocast(device, precision_dtype(precision, device)):
                latent = network.encode(volume)[0].float()
            latents[network.modalities.index(modality)] = latent
        encoded.append((latents, weight(case.case_id)))
    missed = holder.path.fit(encoded, ridge=ridge)
    if hasattr(holder, "weigh_paths"):
        holder.weigh_paths(missed)
    logger.info(f"ridge path fitted to {len(encoded)} cases")
