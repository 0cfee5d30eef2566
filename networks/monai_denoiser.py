"""MONAI's diffusion U-Net behind the denoiser seam."""

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional as F

from .autoencoder import crop_to, pad_to_multiple


class MonaiDenoiser(nn.Module):
    """Call MONAI's ``DiffusionModelUNet`` as a denoiser.

    The modality is its class label where it has ``num_class_embeds``, else its one-hot as the only
    context token where it has cross-attention. A latent of any size goes in: its last voxels are
    repeated up to the next multiple of the network's downsampling, and the result is cropped.

    Args:
        network: The U-Net; its ``in_channels`` are those of x_t and the condition.
        num_modalities: Number of target modalities, the context's width; 0 for none.
        noisy_first: Concatenate as (x_t, concat); else (concat, x_t).

    Raises:
        ValueError: The network cannot take a modality, or (call) needs one and gets none.
    """

    def __init__(
        self, network: DiffusionModelUNet, *, num_modalities: int = 0, noisy_first: bool = True
    ) -> None:
        super().__init__()
        self.network, self.num_modalities, self.noisy_first = network, num_modalities, noisy_first
        self.multiple = 2 ** (len(network.block_out_channels) - 1)
        self.labels = network.num_class_embeds is not None
        if num_modalities > 0 and not (self.labels or network.with_conditioning):
            raise ValueError("the network has neither class labels nor cross-attention")

    def forward(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        concat: Tensor | None = None,
        modality: Tensor | None = None,
    ) -> Tensor:
        """Predict from a noisy latent.

        Args:
            x_t: Noisy latent (b, c, *size).
            timesteps: (b,) or ().
            concat: The prior's condition (b, k * c, *size), or None.
            modality: Target, (b,) int64, or None where there are none.

        Returns:
            The prediction, (b, c, *size).
        """
        if (modality is None) != (self.num_modalities == 0):
            raise ValueError(
                f"this denoiser knows {self.num_modalities} modalities, got {modality}"
            )
        h = x_t
        if concat is not None:
            h = torch.cat([x_t, concat] if self.noisy_first else [concat, x_t], dim=1)
        labels = context = None
        if modality is not None and self.labels:
            labels = modality
        elif modality is not None:
            context = F.one_hot(modality, self.num_modalities).to(h.dtype).unsqueeze(1)
        h = pad_to_multiple(h, self.multiple)
        h = self.network(h, timesteps.expand(len(h)), context=context, class_labels=labels)
        return crop_to(h, x_t.shape[2:])
