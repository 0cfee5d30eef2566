"""VQGAN: the autoencoder of ALDM, in 2D and 3D, with an optional Haar stem for speed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .haar import haar_merge, haar_split
from .quantizer import VectorQuantizer

NORM_EPS = 1e-6


class Encoding(NamedTuple):
    """A volume's latent, before and after quantisation.

    ``continuous`` and ``quantized`` are (b, c, *size / f); ``indices`` (b, *size / f, g); ``loss``
    is a scalar.
    """

    continuous: Tensor
    quantized: Tensor
    indices: Tensor
    loss: Tensor


def conv(
    spatial_dims: int, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
) -> nn.Conv2d | nn.Conv3d:
    """A convolution that keeps the size at stride 1."""
    kind = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
    return kind(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2 if stride == 1 else 0,
    )


def norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group norm with at most ``groups`` groups, fewer where there are fewer channels."""
    return nn.GroupNorm(min(groups, channels), channels, eps=NORM_EPS)


class ResBlock(nn.Module):
    """norm - SiLU - conv, twice, plus the input (1x1 convolution if the channels change)."""

    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, *, norm_groups: int = 32
    ) -> None:
        super().__init__()
        self.norm1 = norm(in_channels, norm_groups)
        self.conv1 = conv(spatial_dims, in_channels, out_channels, 3)
        self.norm2 = norm(out_channels, norm_groups)
        self.conv2 = conv(spatial_dims, out_channels, out_channels, 3)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else conv(spatial_dims, in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, *size) to (b, out, *size)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


class AttentionBlock(nn.Module):
    """Single-head self-attention over all voxels of a (small) feature map, plus the input."""

    def __init__(self, spatial_dims: int, channels: int, *, norm_groups: int = 32) -> None:
        super().__init__()
        self.norm = norm(channels, norm_groups)
        self.q = conv(spatial_dims, channels, channels, 1)
        self.k = conv(spatial_dims, channels, channels, 1)
        self.v = conv(spatial_dims, channels, channels, 1)
        self.proj_out = conv(spatial_dims, channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to the same shape."""
        h = self.norm(x)
        q = self.q(h).flatten(2).transpose(1, 2)
        k = self.k(h).flatten(2).transpose(1, 2)
        v = self.v(h).flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed.transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halve the size: one voxel of zeros at the end of each axis, then a stride-2 convolution."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.padding = [0, 1] * spatial_dims
        self.conv = conv(spatial_dims, channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to (b, c, *size / 2)."""
        return self.conv(F.pad(x, self.padding))


class Upsample(nn.Module):
    """Double the size: nearest neighbour, then a convolution."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(spatial_dims, channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to (b, c, *size * 2)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def blocks(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    count: int,
    attention: bool,
    norm_groups: int,
) -> nn.Sequential:
    """``count`` residual blocks of one level, each with self-attention if the level has it."""
    layers: list[nn.Module] = []
    for index in range(count):
        width = in_channels if index == 0 else out_channels
        layers.append(ResBlock(spatial_dims, width, out_channels, norm_groups=norm_groups))
        if attention:
            layers.append(AttentionBlock(spatial_dims, out_channels, norm_groups=norm_groups))
    return nn.Sequential(*layers)


def skip_around(
    branch: nn.Module, spatial_dims: int, in_channels: int, out_channels: int
) -> nn.Conv2d | nn.Conv3d:
    """A linear path around ``branch``, which is zeroed: training starts from the linear code."""
    for parameter in branch.parameters():
        nn.init.zeros_(parameter)
    return conv(spatial_dims, in_channels, out_channels, 1)


class Encoder(nn.Module):
    """Haar stem, then residual blocks (ALDM, Table A): (b, in, *size) to (b, z, *size / f)."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int],
        num_res_blocks: int,
        attention_levels: Sequence[bool],
        norm_groups: int,
        stem_levels: int,
        linear_skip: bool,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.stem_levels = spatial_dims, stem_levels
        stem_channels = in_channels * 2 ** (spatial_dims * stem_levels)
        self.conv_in = conv(spatial_dims, stem_channels, channels[0], 3)
        width = channels[0]
        levels: list[nn.Module] = []
        for level, out in enumerate(channels):
            part = blocks(
                spatial_dims, width, out, num_res_blocks, attention_levels[level], norm_groups
            )
            width = out
            if level < len(channels) - 1:
                part.append(Downsample(spatial_dims, width))
            levels.append(part)
        self.levels = nn.Sequential(*levels)
        self.mid = ResBlock(spatial_dims, width, width, norm_groups=norm_groups)
        self.norm_out = norm(width, norm_groups)
        self.conv_out = conv(spatial_dims, width, out_channels, 3)
        self.skip = (
            skip_around(self.conv_out, spatial_dims, stem_channels, out_channels)
            if linear_skip
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Encode; see the class."""
        for _ in range(self.stem_levels):
            x = haar_split(x, self.spatial_dims)
        h = self.mid(self.levels(self.conv_in(x)))
        h = self.conv_out(F.silu(self.norm_out(h)))
        return h if self.skip is None else h + self.skip(x)


class Decoder(nn.Module):
    """The encoder's mirror, one block more a level: (b, z, *size / f) to (b, out, *size)."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int],
        num_res_blocks: int,
        attention_levels: Sequence[bool],
        norm_groups: int,
        stem_levels: int,
        linear_skip: bool,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.stem_levels = spatial_dims, stem_levels
        width = channels[-1]
        self.conv_in = conv(spatial_dims, in_channels, width, 3)
        self.mid = ResBlock(spatial_dims, width, width, norm_groups=norm_groups)
        levels: list[nn.Module] = []
        for level in reversed(range(len(channels))):
            out = channels[level]
            part = blocks(
                spatial_dims, width, out, num_res_blocks + 1, attention_levels[level], norm_groups
            )
            width = out
            if level > 0:
                part.append(Upsample(spatial_dims, width))
            levels.append(part)
        self.levels = nn.Sequential(*levels)
        self.norm_out = norm(width, norm_groups)
        stem_channels = out_channels * 2 ** (spatial_dims * stem_levels)
        self.conv_out = conv(spatial_dims, width, stem_channels, 3)
        self.skip = (
            skip_around(self.conv_out, spatial_dims, in_channels, stem_channels)
            if linear_skip
            else None
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Decode; see the class."""
        h = self.levels(self.mid(self.conv_in(latent)))
        h = self.conv_out(F.silu(self.norm_out(h)))
        if self.skip is not None:
            h = h + self.skip(latent)
        for _ in range(self.stem_levels):
            h = haar_merge(h, self.spatial_dims)
        return h


class VQGAN(nn.Module):
    """Vector-quantised autoencoder (ALDM section 3.1 and Table A; taming-transformers in 3D).

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the volume.
        channels: Width of each level; every level but the last halves the size.
        num_res_blocks: Residual blocks a level in the encoder (the decoder has one more).
        latent_channels: Channels of the latent (``embed_dim``).
        z_channels: Channels between encoder and the 1x1 convolution to the latent;
            ``latent_channels`` if None.
        num_codes: Codebook size.
        code_dim: Length of a code; ``latent_channels`` if None.
        beta: Commitment weight, see ``VectorQuantizer``.
        legacy_beta: Put beta on the codebook term, as ALDM's code does.
        attention_levels: Which levels have self-attention; none if None.
        norm_groups: Groups of the group norms, at most the channels.
        stem_levels: Haar levels in place of full-resolution convolutions (0, 1 or 2). Each halves
            the size.
        decoder_channels: Width of each level of the decoder; ``channels`` if None.
        decoder_res_blocks: As ``num_res_blocks``, for the decoder; ``num_res_blocks`` if None.
        linear_skip: Add a linear path from the stem's bands to the latent and back, around the
            convolutions, which then learn only what a linear code misses. Set it to principal
            components with ``fit_linear_skip``.

    Raises:
        ValueError: ``latent_channels`` is no multiple of ``code_dim``, the two level lists differ
            in length, or ``linear_skip`` is asked for with more than one level (the path would have
            to change size).
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        *,
        channels: Sequence[int] = (64, 64, 128),
        num_res_blocks: int = 1,
        latent_channels: int = 4,
        z_channels: int | None = None,
        num_codes: int = 8192,
        code_dim: int | None = None,
        beta: float = 0.25,
        legacy_beta: bool = False,
        attention_levels: Sequence[bool] | None = None,
        norm_groups: int = 32,
        stem_levels: int = 0,
        decoder_channels: Sequence[int] | None = None,
        decoder_res_blocks: int | None = None,
        linear_skip: bool = False,
    ) -> None:
        super().__init__()
        code_dim = code_dim or latent_channels
        if latent_channels % code_dim:
            raise ValueError(
                f"latent_channels {latent_channels} is no multiple of code_dim {code_dim}"
            )
        decoder_channels = decoder_channels or channels
        if len(decoder_channels) != len(channels):
            raise ValueError(
                f"decoder_channels {decoder_channels} and channels {channels} differ in length"
            )
        if linear_skip and len(channels) > 1:
            raise ValueError(f"linear_skip needs a single level, got channels {channels}")
        z_channels = z_channels or latent_channels
        attention_levels = attention_levels or [False] * len(channels)
        self.spatial_dims, self.latent_channels = spatial_dims, latent_channels
        self.downsampling = 2 ** (stem_levels + len(channels) - 1)
        self.encoder = Encoder(
            spatial_dims,
            in_channels,
            z_channels,
            channels=channels,
            num_res_blocks=num_res_blocks,
            attention_levels=attention_levels,
            norm_groups=norm_groups,
            stem_levels=stem_levels,
            linear_skip=linear_skip,
        )
        self.quant_conv = conv(spatial_dims, z_channels, latent_channels, 1)
        self.quantizer = VectorQuantizer(num_codes, code_dim, beta=beta, legacy=legacy_beta)
        self.post_quant_conv = conv(spatial_dims, latent_channels, z_channels, 1)
        self.decoder = Decoder(
            spatial_dims,
            z_channels,
            in_channels,
            channels=decoder_channels,
            num_res_blocks=num_res_blocks if decoder_res_blocks is None else decoder_res_blocks,
            attention_levels=attention_levels,
            norm_groups=norm_groups,
            stem_levels=stem_levels,
            linear_skip=linear_skip,
        )

    def pad(self, volume: Tensor) -> Tensor:
        """Repeat the last voxel at the end of each axis up to a multiple of the downsampling."""
        padding: list[int] = []
        for length in volume.shape[2:]:
            padding = [0, -length % self.downsampling] + padding
        return F.pad(volume, padding, mode="replicate") if max(padding) > 0 else volume

    def encode_continuous(self, volume: Tensor) -> Tensor:
        """The latent before quantisation, without the codebook search: (b, c, *ceil(size / f))."""
        return self.quant_conv(self.encoder(self.pad(volume)))

    def encode(self, volume: Tensor) -> Encoding:
        """Encode a volume of any size.

        Args:
            volume: (b, in_channels, *size), intensities in [-1, 1].

        Returns:
            Its latents at size ceil(size / f), continuous and quantised, indices and loss.
        """
        continuous = self.encode_continuous(volume)
        quantized, indices, loss = self.quantizer(continuous)
        return Encoding(continuous, quantized, indices, loss)

    def decode(self, latent: Tensor) -> Tensor:
        """Decode a latent (b, c, *size), quantised or not, to (b, in_channels, *size * f)."""
        return self.decoder(self.post_quant_conv(latent))

    def forward(self, volume: Tensor) -> Tensor:
        """Reconstruct (b, in_channels, *size) from its quantised latent; the same shape."""
        decoded = self.decode(self.encode(volume).quantized)
        for axis, length in enumerate(volume.shape[2:]):
            decoded = decoded.narrow(axis + 2, 0, length)
        return decoded

    @torch.no_grad()
    def fit_linear_skip(
        self, volumes: Iterable[Tensor], *, whitening: float = 0.0, background: float = -1.0
    ) -> Tensor:
        """Set the linear paths to principal components, so that decode(encode) projects.

        They are those of the stem's bands, taken about the background, which thereby gets the
        latent 0, over the places that are not background.

        Args:
            volumes: Batches (b, in_channels, *size) of training volumes.
            whitening: Divide each component by its standard deviation to this power: 0 keeps the
                orthonormal code, 1 gives every latent channel unit variance.
            background: Intensity of the background.

        Returns:
            (bands,) variance along every component, largest first: what a linear code of k channels
            loses is the sum from the k-th on.

        Raises:
            ValueError: The network has no linear skip, or its 1x1 convolutions change the number of
                channels.
        """
        encode, decode = self.encoder.skip, self.decoder.skip
        if encode is None or decode is None:
            raise ValueError("the VQGAN was built without linear_skip")
        if self.quant_conv.weight.shape[0] != self.quant_conv.weight.shape[1]:
            raise ValueError("linear_skip needs z_channels equal to latent_channels")
        bands_count = encode.weight.shape[1]
        moment, count = torch.zeros(bands_count, bands_count, dtype=torch.float64), 0
        origin = torch.zeros(bands_count, dtype=torch.float64)
        for volume in volumes:
            bands = self.pad(volume).double().cpu()
            flat = torch.full_like(bands[:1], background)
            for _ in range(self.encoder.stem_levels):
                bands, flat = (
                    haar_split(bands, self.spatial_dims),
                    haar_split(flat, self.spatial_dims),
                )
            origin = flat.flatten(2)[0, :, 0]
            tokens = bands.movedim(1, -1).reshape(-1, bands_count) - origin
            tokens = tokens[tokens.abs().amax(1) > 1e-6]
            moment, count = moment + tokens.t() @ tokens, count + len(tokens)
        variance, components = torch.linalg.eigh(moment / max(count, 1))
        basis = components.flip(1)[:, : encode.weight.shape[0]].t()
        spread = variance.flip(0)[: len(basis), None].clamp(min=1e-8).sqrt() ** whitening
        analysis, synthesis = basis / spread, (basis * spread).t()
        ones = [1] * self.spatial_dims
        encode.weight.copy_(analysis.reshape(list(analysis.shape) + ones))
        encode.bias.copy_(-analysis @ origin)  # type: ignore[union-attr]
        decode.weight.copy_(synthesis.reshape(list(synthesis.shape) + ones))
        decode.bias.copy_(origin)  # type: ignore[union-attr]
        for layer in (self.quant_conv, self.post_quant_conv):
            nn.init.dirac_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return variance.flip(0)

    @property
    def last_layer_weight(self) -> Tensor:
        """Weight of the last convolution, on which the adversarial loss is balanced."""
        return self.decoder.conv_out.weight


PRESETS: dict[str, dict[str, object]] = {
    "paper": {"channels": (256, 512, 512), "num_res_blocks": 2, "latent_channels": 3},
    "repo": {
        "channels": (64, 64, 128),
        "num_res_blocks": 1,
        "latent_channels": 4,
        "legacy_beta": True,
    },
}
"""ALDM's sizes: ``paper`` is Table A, ``repo`` the public code's configuration (64, [1, 1, 2])."""


def aldm_vqgan(preset: str, spatial_dims: int = 3) -> VQGAN:
    """A VQGAN of one of the published sizes.

    Raises:
        ValueError: No such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"no VQGAN preset {preset!r}; there are {', '.join(PRESETS)}")
    return VQGAN(spatial_dims, **PRESETS[preset])  # type: ignore[arg-type]
