"""The scale of latents: one over their standard deviation, measured once over the training set."""

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from voxlate.networks.translation import TranslationNetwork

from .training import autocast, precision_dtype

logger = logging.getLogger(__name__)


@torch.no_grad()
def measure_latent_scale(
    network: TranslationNetwork, volumes: Iterable[Tensor], *, precision: str = "float32"
) -> float:
    """One over the standard deviation of the latents that the network diffuses.

    Over all voxels and channels; background within the volumes counts: the denoiser sees it
    too. The sums are float64.

    Args:
        network: Its autoencoder is trained; whether latents are quantised is its own setting.
        volumes: Batches (b, 1, *size) in [-1, 1]: the training volumes as the denoiser will see
            them.
        precision: Of the encoder.

    Returns:
        The scale, a positive number.

    Raises:
        ValueError: No volume, or latents that are all the same.
    """
    device = network.scale_factor.device
    dtype = precision_dtype(precision, device)
    count, total, squares = 0, 0.0, 0.0
    was_training = network.training
    network.eval()
    for volume in volumes:
        with autocast(device, dtype):
            latent = network.encode(volume.to(device)) / network.scale_factor
        latent = latent.double()
        count += latent.numel()
        total += float(latent.sum())
        squares += float(latent.square().sum())
    network.train(was_training)
    if count == 0:
        raise ValueError("no volumes to measure the latent scale on")
    variance = squares / count - (total / count) ** 2
    if not variance > 0:
        raise ValueError(f"latents do not vary (variance {variance}), is the autoencoder trained?")
    return variance**-0.5


def set_latent_scale(
    network: TranslationNetwork, dataset: Iterable[Any], *, precision: str = "float32"
) -> float:
    """Measure the scale on a data set's ``image``s and store it in the network.

    Args:
        network: Gets the scale.
        dataset: Such as ``ValidationVolumes`` over the training cases; samples with ``image`` (1,
            *size).
        precision: Of the encoder.

    Returns:
        The scale.
    """
    scale = measure_latent_scale(
        network, (sample["image"][None] for sample in dataset), precision=precision
    )
    network.scale_factor.fill_(scale)
    logger.info(
        f"latent scale {scale:.5f} (one over the standard deviation of the training latents)"
    )
    return scale
