"""Swin layers: attention within windows, every second time shifted, over maps of any size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import count_heads
from .blocks import conv, crop_like, group_norm

MOST_WEIGHTS = 2**24
"""Attention weights computed at once: 64 MB in float32."""


class SwinLayer(nn.Module):
    """1x1 embedding, window attention and shifted window attention in turn, 1x1 unembedding.

    Swin Transformer's blocks (Liu et al. 2021) as ResShift has them: group norm in place of layer
    norm, the perceptron of 1x1 convolutions, and no residual around the whole.

    Maps of any size: a window is no longer than the map, and a last window that sticks out sees
    only what is inside. Not for TorchScript.

    Args:
        spatial_dims: 2 or 3.
        channels: Channels of the features.
        embed_channels: Channels within, a multiple of ``head_channels``; 0 for ``channels``.
        window_size: Of a window along each axis.
        depth: Number of blocks; every second one is shifted by half a window.
        head_channels: Channels of one attention head.
        mlp_ratio: Width of the perceptron, in embedding channels.
        norm_groups: Most groups of the norms.
        resshift_mask: Mask shifted windows as ResShift's code does, for weights trained with it (2D
            only): it forgets the last axis, and takes rows for columns in the windows of the other.

    Raises:
        ValueError: ``window_size`` or ``depth`` is not positive, heads do not divide the channels,
            or ``resshift_mask`` is asked for in 3D.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        *,
        embed_channels: int = 0,
        window_size: int = 8,
        depth: int = 2,
        head_channels: int = 32,
        mlp_ratio: float = 4.0,
        norm_groups: int = 32,
        resshift_mask: bool = False,
    ) -> None:
        super().__init__()
        if resshift_mask and spatial_dims != 2:
            raise ValueError(f"resshift_mask is for 2 spatial axes, got {spatial_dims}")
        if window_size < 1 or depth < 1:
            raise ValueError(
                f"window_size and depth must be at least 1, got {window_size} and {depth}"
            )
        width = embed_channels or channels
        heads = count_heads(width, head_channels)
        self.embed = conv(spatial_dims, channels, width, 1)
        self.blocks = nn.ModuleList(
            SwinBlock(
                WindowAttention(spatial_dims, width, heads, window_size, resshift_mask),
                spatial_dims,
                width,
                shift=window_size // 2 if turn % 2 else 0,
                mlp_channels=int(mlp_ratio * width),
                norm_groups=norm_groups,
            )
            for turn in range(depth)
        )
        self.unembed = conv(spatial_dims, width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to the same shape."""
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.unembed(h)


class SwinBlock(nn.Module):
    """Attention within windows and a perceptron, each after a norm and added to its input."""

    def __init__(
        self,
        attention: "WindowAttention",
        spatial_dims: int,
        channels: int,
        *,
        shift: int,
        mlp_channels: int,
        norm_groups: int,
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, norm_groups)
        self.attention, self.shift = attention, shift
        self.norm2 = group_norm(channels, norm_groups)
        self.mlp = nn.Sequential(
            conv(spatial_dims, channels, mlp_channels, 1),
            nn.GELU(),
            conv(spatial_dims, mlp_channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to the same shape."""
        x = x + self.attention(self.norm1(x), self.shift)
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    """Multi-head self-attention within each window, with a learned bias for each relative position.

    Windows are cut after the map is rolled back by ``shift``; voxels that only the rolling brought
    together do not see each other, nor does any see padding. The bias table has a row for each
    offset, those of the last axis next to each other, as Swin's.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        heads: int,
        window_size: int,
        resshift_mask: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.window_size, self.resshift_mask = heads, window_size, resshift_mask
        self.bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** spatial_dims, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, shift: int = 0) -> Tensor:
        """(b, c, *size) to the same shape.

        Axes no longer than the window are one window, and are not shifted.
        """
        size = list(x.shape[2:])
        window = [min(self.window_size, length) for length in size]
        shifts = [shift if length > self.window_size else 0 for length in size]
        axes = list(range(2, x.dim()))
        missing = [-length % side for length, side in zip(size, window, strict=True)]
        padded = F.pad(x, [amount for pad in reversed(missing) for amount in (0, pad)])
        rolled = torch.roll(padded, [-amount for amount in shifts], axes)
        region: Tensor | None = None
        if max(missing + shifts) > 0 and not self.resshift_mask:
            region = regions(size, window, shifts)
        elif max(missing + shifts) > 0:
            region = regions(size, window, [shifts[0], 0]).unflatten(1, window).mT.flatten(1)
        mixed = self.within(to_windows(rolled, window), region, window)
        back = torch.roll(from_windows(mixed, window, rolled.shape), shifts, axes)
        return crop_like(back, x)

    def within(self, windows: Tensor, region: Tensor | None, window: Sequence[int]) -> Tensor:
        """Attention of (b, w, n, c) in each window and region (w, n), a few windows at once."""
        batch, _, tokens, _ = windows.shape
        bias = self.bias(window)
        at_once = max(1, MOST_WEIGHTS // (batch * self.heads * tokens**2))
        parts = []
        for turn, part in enumerate(windows.split(at_once, 1)):
            mask = bias[None]
            if region is not None:
                where = region[turn * at_once : (turn + 1) * at_once].to(bias.device)
                apart = where[:, None, :, None] != where[:, None, None, :]
                mask = mask.masked_fill(apart, -torch.inf).repeat(batch, 1, 1, 1)
            rows = self.qkv(part.flatten(0, 1)).unflatten(2, [3, self.heads, -1])
            q, k, v = rows.permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))
            mixed = self.out(mixed.transpose(1, 2).flatten(2))
            parts.append(mixed.unflatten(0, [batch, part.shape[1]]))
        return torch.cat(parts, dim=1)

    def bias(self, window: Sequence[int]) -> Tensor:
        """The bias of every pair of voxels in a window, (heads, n, n)."""
        device, rows = self.bias_table.device, 2 * self.window_size - 1
        index = torch.zeros(1, 1, dtype=torch.int64, device=device)
        for length in window:  # last axis fastest, in the voxels' order as in the table's
            place = torch.arange(length, device=device)
            offset = place[:, None] - place[None, :] + self.window_size - 1
            index = index[:, None, :, None] * rows + offset[None, :, None, :]
            index = index.flatten(2, 3).flatten(0, 1)
        return self.bias_table[index].permute(2, 0, 1)


def regions(size: Sequence[int], window: Sequence[int], shifts: Sequence[int]) -> Tensor:
    """Which voxels of each window belong together, (w, n) on the CPU: equal numbers do.

    A rolled map's windows hold what was apart before (a bit for each axis that wrapped around) and
    padding (one number of its own).
    """
    region = torch.zeros([1] * len(size), dtype=torch.int64)
    padding = torch.zeros([1] * len(size), dtype=torch.bool)
    for axis, (length, side, shift) in enumerate(zip(size, window, shifts, strict=True)):
        whole = math.ceil(length / side) * side
        before = torch.arange(whole) + shift  # where the voxel was before the roll
        shape = [-1 if other == axis else 1 for other in range(len(size))]
        region = region + ((before >= whole) * 2**axis).view(shape)
        padding = padding | (before % whole >= length).view(shape)
    region = region.masked_fill(padding, 2 ** len(size))
    return to_windows(region[None, None], window)[0, :, :, 0]


def to_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """(b, c, *size) to (b, w, n, c): the tokens of each window."""
    dims = len(window)
    for axis in range(dims):  # each axis becomes (windows, voxels of a window)
        x = x.unflatten(2 + 2 * axis, [-1, window[axis]])
    order = [0, *range(2, 2 + 2 * dims, 2), *range(3, 3 + 2 * dims, 2), 1]
    return x.permute(order).flatten(1 + dims, 2 * dims).flatten(1, dims)


def from_windows(windows: Tensor, window: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Undo ``to_windows`` for a map of ``shape`` (b, c, *size)."""
    dims = len(window)
    counts = [length // side for length, side in zip(shape[2:], window, strict=True)]
    x = windows.reshape(shape[0], *counts, *window, windows.shape[-1])
    order = [0, 2 * dims + 1]
    for axis in range(dims):
        order += [1 + axis, 1 + dims + axis]
    return x.permute(order).reshape(shape[0], windows.shape[-1], *shape[2:])
