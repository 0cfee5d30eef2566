"""Before stage 1: start an autoencoder with a linear skip from the principal components of the training volumes."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from voxlate.networks.translation import TranslationNetwork

from .crops import read_view, whole_view
from .training_data import PreparedCase

logger = logging.getLogger(__name__)


def whole_volumes(cases: Sequence[PreparedCase], multiple: int) -> Iterator[Tensor]:
    """Every contrast of every case, its whole foreground, as (1, 1, x, y, z) in [-1, 1]."""
    for case in cases:
        view = whole_view(case.foreground(), multiple)
        for modality in case.volumes:
            yield read_view([case.volume(modality)], view).unsqueeze(0)


def start_from_linear_code(
    network: TranslationNetwork, cases: Sequence[PreparedCase], *, whitening: float
) -> TranslationNetwork:
    """Fit the autoencoder's linear skip to the training volumes; see ``VQGAN.fit_linear_skip``.

    Args:
        network: With a ``VQGAN`` built with ``linear_skip``.
        cases: For training only.
        whitening: 0 keeps the orthonormal code, 1 gives every latent channel unit variance.

    Returns:
        The same network.
    """
    autoencoder = network.autoencoder
    with torch.no_grad():
        variance = autoencoder.fit_linear_skip(
            whole_volumes(cases, autoencoder.downsampling), whitening=whitening
        )
    kept = float(variance[: autoencoder.latent_channels].sum() / variance.sum())
    loss_db = -10 * np.log10(max(1 - kept, 1e-12))
    logger.info(f"linear code: {100 * kept:.2f} % of the bands' energy kept ({loss_db:.1f} dB below it lost)")
    return network
