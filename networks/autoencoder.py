"""MONAI's own autoencoders behind the autoencoder seam that the VQGAN has.

Both offer ``encode``, ``encode_continuous`` and ``decode`` on volumes of any size, and the
attributes ``spatial_dims``, ``latent_channels``, ``downsampling`` and ``last_layer_weight``.
"""

import torch
from monai.networks.nets import VQVAE, AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from .quantizer import nearest_code
from .vqgan import Encoding


def pad_to_multiple(volume: Tensor, multiple: int) -> Tensor:
    """Repeat the last voxel at the end of each axis of (b, c, *size) up to a multiple."""
    padding: list[int] = []
    for length in volume.shape[2:]:
        padding = [0, -length % multiple] + padding
    return F.pad(volume, padding, mode="replicate") if max(padding) > 0 else volume


def crop_to(volume: Tensor, size: torch.Size) -> Tensor:
    """The first voxels of (b, c, *larger) along each axis: (b, c, *size)."""
    for axis, length in enumerate(size):
        volume = volume.narrow(axis + 2, 0, length)
    return volume


class KLAutoencoder(nn.Module):
    """MONAI's ``AutoencoderKL`` as autoencoder: nothing is quantised (ALDM Table 3, "KL").

    ``continuous`` is the mean of the posterior. ``quantized`` is the mean too, but in training mode
    a sample, drawn like dropout from torch's global generator. ``indices`` is empty. ``loss`` is

        kl_weight * mean over b of sum (mean^2 + std^2 - log std^2 - 1) / 2.

    Args:
        network: The autoencoder.
        kl_weight: 1e-6 in latent diffusion, which sums over a latent's entries as here.
    """

    def __init__(self, network: AutoencoderKL, *, kl_weight: float = 1e-6) -> None:
        super().__init__()
        self.network, self.kl_weight = network, kl_weight
        self.spatial_dims: int = network.encoder.spatial_dims
        self.latent_channels: int = network.latent_channels
        self.downsampling = 2 ** (len(network.encoder.channels) - 1)

    def encode_continuous(self, volume: Tensor) -> Tensor:
        """The posterior's mean: (b, c, *ceil(size / f))."""
        return self.posterior(volume)[0]

    def posterior(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent of a volume (b, in_channels, *size)."""
        mean, std = self.network.encode(pad_to_multiple(volume, self.downsampling))
        return mean, std

    def sample(self, volume: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw a latent from the posterior.

        Args:
            volume: (b, in_channels, *size) in [-1, 1].
            generator: A CPU generator: the draw is the same on every device.

        Returns:
            (b, c, *ceil(size / f)).
        """
        mean, std = self.posterior(volume)
        noise = torch.randn(mean.shape, generator=generator)
        return mean + std * noise.to(mean)

    def encode(self, volume: Tensor) -> Encoding:
        """Encode a volume of any size, (b, in_channels, *size) in [-1, 1]; see the class."""
        mean, std = self.posterior(volume)
        latent = mean + std * torch.randn_like(std) if self.training else mean
        mean32, std32 = mean.float(), std.float()
        divergence = (mean32.square() + std32.square() - 2 * std32.log() - 1) / 2
        loss = self.kl_weight * divergence.flatten(1).sum(1).mean()
        no_codes = torch.empty(
            (len(mean), *mean.shape[2:], 0), dtype=torch.int64, device=mean.device
        )
        return Encoding(mean, latent, no_codes, loss)

    def decode(self, latent: Tensor) -> Tensor:
        """Volume (b, out_channels, *size * f) of a latent (b, c, *size)."""
        return self.network.decode(latent)

    def forward(self, volume: Tensor) -> Tensor:
        """Reconstruct a volume (b, in_channels, *size)."""
        return crop_to(self.decode(self.encode(volume).quantized), volume.shape[2:])

    @property
    def last_layer_weight(self) -> Tensor:
        """Weight of the last convolution, on which the adversarial loss is balanced."""
        return last_weight(self.network.decoder)


class VQVAEAutoencoder(nn.Module):
    """MONAI's ``VQVAE`` as autoencoder.

    In evaluation the codes are found by ``nearest_code`` (the same, in little memory); in training
    by MONAI's quantiser, which also moves its codebook by running averages. ``loss`` is MONAI's
    commitment term.

    Args:
        network: The autoencoder; every downsampling convolution's stride counts.
    """

    def __init__(self, network: VQVAE) -> None:
        super().__init__()
        self.network = network
        self.spatial_dims: int = network.spatial_dims
        self.latent_channels: int = network.embedding_dim
        self.downsampling = 1
        for layer in network.encoder.modules():
            if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
                self.downsampling *= layer.stride[0]

    def encode_continuous(self, volume: Tensor) -> Tensor:
        """The latent before quantisation, without the codebook search: (b, c, *ceil(size / f))."""
        return self.network.encode(pad_to_multiple(volume, self.downsampling))

    def encode(self, volume: Tensor) -> Encoding:
        """Encode a volume of any size, (b, in_channels, *size) in [-1, 1]; see the class."""
        continuous = self.encode_continuous(volume)
        quantizer = self.network.quantizer.quantizer
        if self.training:
            quantized, loss, indices = quantizer(continuous)
            return Encoding(continuous, quantized, indices.unsqueeze(-1), loss)
        codebook = quantizer.embedding.weight
        tokens = continuous.movedim(1, -1)
        indices = nearest_code(tokens.flatten(0, -2), codebook).reshape(tokens.shape[:-1])
        codes = F.embedding(indices, codebook).movedim(-1, 1)
        loss = quantizer.commitment_cost * F.mse_loss(codes, continuous.to(codes))
        return Encoding(continuous, codes, indices.unsqueeze(-1), loss)

    def decode(self, latent: Tensor) -> Tensor:
        """Volume (b, out_channels, *size * f) of a latent (b, c, *size), quantised or not."""
        return self.network.decode(latent)

    def forward(self, volume: Tensor) -> Tensor:
        """Reconstruct a volume (b, in_channels, *size) from its quantised latent."""
        return crop_to(self.decode(self.encode(volume).quantized), volume.shape[2:])

    @property
    def last_layer_weight(self) -> Tensor:
        """Weight of the last convolution, on which the adversarial loss is balanced."""
        return last_weight(self.network.decoder)


def last_weight(module: nn.Module) -> Tensor:
    """The last convolution's weight."""
    return [weight for weight in module.parameters() if weight.dim() > 2][-1]
