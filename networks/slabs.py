"""A VQGAN's passes over a whole volume in slabs: the same numbers in a fraction of the memory.

A network of ALDM's paper size has 512 channels at full resolution: 5.4 GB a feature map of
192 x 192 x 144 in bfloat16, twice that wherever a norm computes in float32, and more elements than
some kernels count. Here only whole feature maps between convolutions exist (three at a time at
most); norm, activation, resampling and convolution run on a few rows and their neighbours. Group
norms use the statistics of the whole map, so there are no seams.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .haar import haar_merge, haar_split
from .vqgan import VQGAN, AttentionBlock, Downsample, ResBlock, Upsample

Prepare = Callable[[Tensor], Tensor]


@torch.no_grad()
def encode_in_slabs(
    autoencoder: VQGAN, volume: Tensor, *, rows: int = 16, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """``autoencoder.encode_continuous(volume)``, a few rows of the first spatial axis at a time.

    Args:
        autoencoder: Its weights stay as they are.
        volume: (b, in_channels, *size) in [-1, 1].
        rows: Computed at a time; fewer take less memory.
        dtype: Of feature maps and convolutions; statistics are float32 at least.

    Returns:
        The continuous latent (b, c, *size / f) in ``dtype``.

    Raises:
        ValueError: ``rows`` is not positive.
    """
    encoder: Any = autoencoder.encoder
    walk = _Walk(rows, dtype)
    x = autoencoder.pad(volume).to(dtype)
    for _ in range(encoder.stem_levels):
        x = haar_split(x, encoder.spatial_dims)
    with torch.autocast(x.device.type, enabled=False):
        h = walk.conv(encoder.conv_in, x)
        h = walk.res_block(encoder.mid, walk.levels(encoder.levels, h))
        h = walk.conv(encoder.conv_out, h, walk.norm_silu(encoder.norm_out, h))
        if encoder.skip is not None:
            h += walk.conv(encoder.skip, x)
        return walk.conv(autoencoder.quant_conv, h)


@torch.no_grad()
def decode_in_slabs(
    autoencoder: VQGAN, latent: Tensor, *, rows: int = 16, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """``autoencoder.decode(latent)`` likewise; see ``encode_in_slabs``.

    Args:
        autoencoder: Its weights stay as they are.
        latent: (b, c, *size).
        rows: Computed at a time.
        dtype: Of feature maps and convolutions.

    Returns:
        The volume (b, in_channels, *size * f) in ``dtype``.

    Raises:
        ValueError: ``rows`` is not positive.
    """
    decoder: Any = autoencoder.decoder
    walk = _Walk(rows, dtype)
    with torch.autocast(latent.device.type, enabled=False):
        latent = walk.conv(autoencoder.post_quant_conv, latent.to(dtype))
        h = walk.res_block(decoder.mid, walk.conv(decoder.conv_in, latent))
        h = walk.levels(decoder.levels, h)
        h = walk.conv(decoder.conv_out, h, walk.norm_silu(decoder.norm_out, h))
        if decoder.skip is not None:
            h += walk.conv(decoder.skip, latent)
        for _ in range(decoder.stem_levels):
            h = haar_merge(h, decoder.spatial_dims)
        return h


class _Walk:
    """Layers of a VQGAN on whole feature maps (b, c, *size), each computed slab by slab."""

    def __init__(self, rows: int, dtype: torch.dtype) -> None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        self.rows, self.dtype = rows, dtype

    def levels(self, levels: Any, h: Tensor) -> Tensor:
        """All levels of an encoder or decoder."""
        for level in levels:
            for layer in level:
                h = self.layer(layer, h)
        return h

    def layer(self, layer: nn.Module, h: Tensor) -> Tensor:
        """One layer by its kind; attention sees small maps and runs whole."""
        if isinstance(layer, ResBlock):
            return self.res_block(layer, h)
        if isinstance(layer, Upsample):
            return self.upsample(layer, h)
        if isinstance(layer, Downsample):
            return self.downsample(layer, h)
        if isinstance(layer, AttentionBlock):
            return layer(h.to(layer.norm.weight.dtype)).to(self.dtype)
        raise TypeError(f"no way to run {type(layer).__name__} in slabs")

    def res_block(self, block: ResBlock, x: Tensor) -> Tensor:
        """As ``ResBlock.forward``."""
        h = self.conv(block.conv1, x, self.norm_silu(block.norm1, x))
        h = self.conv(block.conv2, h, self.norm_silu(block.norm2, h))
        for first, last in self.slabs(x.shape[2]):
            part = x[:, :, first:last]
            if not isinstance(block.shortcut, nn.Identity):
                part = self.apply(block.shortcut, part)
            h[:, :, first:last] += part
        return h

    def conv(self, layer: Any, x: Tensor, prepare: Prepare | None = None) -> Tensor:
        """A convolution that keeps the size, of ``prepare(x)`` where that is given."""
        reach = layer.kernel_size[0] // 2
        out = self.empty(x, layer.out_channels, x.shape[2:])
        for first, last in self.slabs(x.shape[2]):
            low, high = max(0, first - reach), min(x.shape[2], last + reach)
            part = x[:, :, low:high]
            if prepare is not None:
                part = prepare(part)
            part = pad_rows(part, reach - (first - low), reach - (high - last))
            out[:, :, first:last] = self.apply(layer, part)
        return out

    def upsample(self, layer: Upsample, x: Tensor) -> Tensor:
        """As ``Upsample.forward``."""
        size = [2 * length for length in x.shape[2:]]
        out = self.empty(x, x.shape[1], size)
        for first, last in self.slabs(x.shape[2]):
            low, high = max(0, first - 1), min(x.shape[2], last + 1)
            part = F.interpolate(x[:, :, low:high], scale_factor=2.0, mode="nearest")
            part = part[
                :, :, first - low : part.shape[2] - (high - last)
            ]  # one row beyond the slab
            part = pad_rows(part, 1 - (first - low), 1 - (high - last))
            out[:, :, 2 * first : 2 * last] = self.apply(layer.conv, part)
        return out

    def downsample(self, layer: Downsample, x: Tensor) -> Tensor:
        """As ``Downsample.forward``."""
        size = [(length - 2) // 2 + 1 for length in x.shape[2:]]
        out = self.empty(x, x.shape[1], size)
        others = [0, 1] * (x.dim() - 3)
        for first, last in self.slabs(size[0]):
            part = x[:, :, 2 * first : 2 * last + 1]
            part = F.pad(part, [*others, 0, 2 * (last - first) + 1 - part.shape[2]])
            out[:, :, first:last] = self.apply(layer.conv, part)
        return out

    def norm_silu(self, norm: Any, x: Tensor) -> Prepare:
        """Group norm by the whole map's statistics, and SiLU, as a function of a slab."""
        precise = torch.promote_types(self.dtype, torch.float32)
        counts, means, variances = [], [], []
        for first, last in self.slabs(x.shape[2]):
            part = x[:, :, first:last].to(precise).unflatten(1, (norm.num_groups, -1))
            variance, mean = torch.var_mean(part.flatten(2), dim=2, correction=0)
            counts.append(last - first)
            means.append(mean.double())
            variances.append(variance.double())
        share = torch.tensor(counts, dtype=torch.float64, device=x.device) / x.shape[2]
        share, every = share[:, None, None], torch.stack(means)
        mean = (share * every).sum(0)
        variance = (share * (torch.stack(variances) + (every - mean) ** 2)).sum(0)
        each = x.shape[1] // norm.num_groups
        scale = (variance + norm.eps).rsqrt().repeat_interleave(each, 1) * norm.weight.double()
        shift = norm.bias.double() - mean.repeat_interleave(each, 1) * scale
        ones = [1] * (x.dim() - 2)
        scale, shift = (t.to(precise).reshape(*t.shape, *ones) for t in (scale, shift))

        def prepare(part: Tensor) -> Tensor:
            return F.silu(torch.addcmul(shift, part.to(precise), scale)).to(self.dtype)

        return prepare

    def apply(self, layer: Any, part: Tensor) -> Tensor:
        """A convolution whose slab axis is padded already."""
        kind = F.conv3d if part.dim() == 5 else F.conv2d
        bias = None if layer.bias is None else layer.bias.to(self.dtype)
        padding = (0, *layer.padding[1:])
        return kind(part, layer.weight.to(self.dtype), bias, layer.stride, padding)

    def slabs(self, length: int) -> Iterator[tuple[int, int]]:
        """First and one-past-last row of every slab."""
        for first in range(0, length, self.rows):
            yield first, min(first + self.rows, length)

    def empty(self, like: Tensor, channels: int, size: Any) -> Tensor:
        """A feature map to fill, channels last in memory: slabs of one sample are contiguous."""
        layout = torch.channels_last_3d if like.dim() == 5 else torch.channels_last
        shape = (like.shape[0], channels, *size)
        return torch.empty(shape, dtype=self.dtype, device=like.device, memory_format=layout)


def pad_rows(part: Tensor, before: int, after: int) -> Tensor:
    """Add rows of zeros to the first spatial axis."""
    if before == after == 0:
        return part
    return F.pad(part, [*[0] * (2 * (part.dim() - 3)), before, after])
