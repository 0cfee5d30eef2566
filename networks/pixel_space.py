"""Diffusion of intensities, slice by slice: what a 2D model in pixel space needs to see volumes."""

import torch
from torch import Tensor, nn

from .vqgan import Encoding


class IdentityAutoencoder(nn.Module):
    """An autoencoder whose latent is the volume itself (DFBK: diffusion in pixel space)."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_channels = 1
        self.downsampling = 1

    def encode_continuous(self, volume: Tensor) -> Tensor:
        """The volume (b, 1, *size)."""
        return volume

    def encode(self, volume: Tensor) -> Encoding:
        """The volume as both latents; no codes, no loss."""
        no_codes = torch.empty(
            [volume.shape[0], *volume.shape[2:], 0], dtype=torch.int64, device=volume.device
        )
        return Encoding(volume, volume, no_codes, volume.new_zeros(()))

    def decode(self, latent: Tensor) -> Tensor:
        """The latent (b, 1, *size)."""
        return latent


class SliceDenoiser(nn.Module):
    """A 2D denoiser on every axial slice of a volume, with all of its sample's conditions.

    Slices know nothing of their neighbours. A volume of one slice is what the 2D denoiser sees.

    Args:
        network: A denoiser of images (b, c, x, y).
        at_once: Slices denoised together outside training, which bounds the memory.
    """

    def __init__(self, network: nn.Module, *, at_once: int = 16) -> None:
        super().__init__()
        self.network, self.at_once = network, at_once

    def forward(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        concat: Tensor | None = None,
        modality: Tensor | None = None,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """Predict from noisy volumes.

        Args:
            x_t: (b, c, x, y, z).
            timesteps: (b,) or ().
            concat: The prior's condition (b, k, x, y, z), or None.
            modality: Target, (b,) indices or (b, m) weights, or None.
            text: Tokens (b, n, d), or None.
            text_mask: (b, n), or None.

        Returns:
            The prediction, (b, c, x, y, z).
        """
        batch, depth = x_t.shape[0], x_t.shape[4]
        timesteps = timesteps.expand(batch)
        images = as_slices(x_t)
        beside = None if concat is None else as_slices(concat)
        sample_of = torch.arange(batch * depth, device=x_t.device) // depth
        at_once = len(images) if self.training else self.at_once
        made: list[Tensor] = []
        for first in range(0, len(images), at_once):
            last = min(first + at_once, len(images))
            rows = sample_of[first:last]
            made.append(
                self.network(
                    images[first:last],
                    timesteps[rows],
                    None if beside is None else beside[first:last],
                    None if modality is None else modality[rows],
                    None if text is None else text[rows],
                    None if text_mask is None else text_mask[rows],
                )
            )
        predicted = torch.cat(made).reshape(batch, depth, -1, x_t.shape[2], x_t.shape[3])
        return predicted.permute(0, 2, 3, 4, 1)


def as_slices(volume: Tensor) -> Tensor:
    """(b, c, x, y, z) to (b * z, c, x, y)."""
    return volume.permute(0, 4, 1, 2, 3).flatten(0, 1)
