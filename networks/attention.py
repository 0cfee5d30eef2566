"""Attention over the voxels of a feature map, always by ``scaled_dot_product_attention``."""

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import group_norm, zero


class SelfAttention(nn.Module):
    """Multi-head self-attention over all voxels, plus the input.

    Group norm, one linear layer to queries, keys and values (in this order, each head after head),
    attention scaled by 1 / sqrt(head_channels), and an output layer that starts at zero.

    ALDM's code (LDM's "legacy" order) has the same rows grouped by head first: its row ``(head,
    qkv, channel)`` is this layer's row ``(qkv, head, channel)``, and its 1x1 convolutions are these
    linear layers.

    Args:
        channels: Channels of the features, a multiple of ``head_channels``.
        head_channels: Channels of one head.
        norm_groups: Most groups of the norm.

    Raises:
        ValueError: ``channels`` is no multiple of ``head_channels``.
    """

    def __init__(self, channels: int, *, head_channels: int = 32, norm_groups: int = 32) -> None:
        super().__init__()
        self.heads = count_heads(channels, head_channels)
        self.norm = group_norm(channels, norm_groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to the same shape."""
        tokens = to_tokens(self.norm(x))
        q, k, v = self.qkv(tokens).chunk(3, dim=2)
        mixed = attend(q, k, v, self.heads)
        return x + to_volume(self.out(mixed), x)


class CrossAttention(nn.Module):
    """Multi-head attention from every voxel to a few context tokens, plus the input.

    Queries come from the normalized features; keys and values from the context, without bias; the
    output layer starts at zero. With a single token the weights are all one, so every voxel gets
    the same ``out(v(token))``: a learned bias for each class and nothing else (ALDM eq. 3 with its
    one-hot token).

    Args:
        channels: Channels of the features, a multiple of ``head_channels``.
        context_channels: Channels of a context token.
        head_channels: Channels of one head.
        norm_groups: Most groups of the norm.

    Raises:
        ValueError: ``channels`` is no multiple of ``head_channels``.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        *,
        head_channels: int = 32,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        self.heads = count_heads(channels, head_channels)
        self.norm = group_norm(channels, norm_groups)
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(context_channels, channels, bias=False)
        self.v = nn.Linear(context_channels, channels, bias=False)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(b, c, *size) and context (b, n, context_channels) to the shape of x."""
        q = self.q(to_tokens(self.norm(x)))
        mixed = attend(q, self.k(context), self.v(context), self.heads)
        return x + to_volume(self.out(mixed), x)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention of (b, n, c) queries to (b, m, c) keys and values: (b, n, c)."""
    q = q.unflatten(2, [heads, q.shape[2] // heads]).transpose(1, 2)
    k = k.unflatten(2, [heads, k.shape[2] // heads]).transpose(1, 2)
    v = v.unflatten(2, [heads, v.shape[2] // heads]).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def to_tokens(x: Tensor) -> Tensor:
    """(b, c, *size) to (b, n, c); a view where x is channels-last."""
    return x.flatten(2).transpose(1, 2)


def to_volume(tokens: Tensor, like: Tensor) -> Tensor:
    """(b, n, c) to the shape of ``like`` (b, c, *size), channels-last in memory."""
    return tokens.transpose(1, 2).reshape(like.shape)


def count_heads(channels: int, head_channels: int) -> int:
    """How many heads the channels make.

    Raises:
        ValueError: They do not divide.
    """
    if channels % head_channels:
        raise ValueError(f"channels {channels} is no multiple of head_channels {head_channels}")
    return channels // head_channels
