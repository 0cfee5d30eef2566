"""The patch discriminator of ALDM's autoencoder, in 2D or 3D."""

from monai.networks.nets import PatchDiscriminator

NORM_GROUPS = 32


def patch_discriminator(
    spatial_dims: int,
    in_channels: int,
    *,
    channels: int = 32,
    num_layers: int = 3,
    out_channels: int = 1,
) -> PatchDiscriminator:
    """Build the PatchGAN discriminator with group normalization.

    Convolutions of kernel 4, padding 1: ``num_layers`` with stride 2, two with stride 1; between
    them GroupNorm of 32 groups (no bias before it) and LeakyReLU 0.2, widths doubling from
    ``channels``. Convolutions begin at N(0, 0.02). Its output is a list of every layer's
    features; the last entry holds the logits, (b, out_channels, *patches).

    ALDM's stops doubling at 8 times ``channels``, which its three layers just reach.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of a volume (1) or, to judge latents, of a latent.
        channels: Width of the first layer, a multiple of 16.
        num_layers: Layers with stride 2; a patch sees 70 voxels a side at 3.
        out_channels: 1 for real or fake; classes where it tells modalities apart.

    Raises:
        ValueError: The groups do not divide the widths.
    """
    if channels % (NORM_GROUPS // 2):
        raise ValueError(f"channels must be a multiple of {NORM_GROUPS // 2}, got {channels}")
    return PatchDiscriminator(
        spatial_dims=spatial_dims,
        channels=channels,
        in_channels=in_channels,
        out_channels=out_channels,
        num_layers_d=num_layers,
        norm=("GROUP", {"num_groups": NORM_GROUPS}),
    )
