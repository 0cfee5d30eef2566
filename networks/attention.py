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


class TokenAttention(nn.Module):
    """Multi-head attention between tokens, without the norm and the sum around it.

    Queries, keys and values have no bias.

    Args:
        channels: Of the tokens in and out.
        context_channels: Of the tokens that keys and values come from.
        heads: Of the attention.
        width: Channels of the values, all heads together; ``channels`` if not given.
        key_channels: Of a head's queries and keys; those of its values if not given.
        project: Map the heads' answers back by a linear layer; else they are the answer.

    Raises:
        ValueError: The width does not divide into the heads, or is not ``channels`` though nothing
            maps it back.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        heads: int,
        *,
        width: int | None = None,
        key_channels: int | None = None,
        project: bool = True,
    ) -> None:
        super().__init__()
        width = width or channels
        check_width(width, channels, heads, project)
        keys = heads * (key_channels or width // heads)
        self.heads = heads
        self.q = nn.Linear(channels, keys, bias=False)
        self.k = nn.Linear(context_channels, keys, bias=False)
        self.v = nn.Linear(context_channels, width, bias=False)
        self.out = nn.Linear(width, channels) if project else nn.Identity()

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            tokens: (b, n, channels).
            context: (b, m, context_channels); the tokens again for self-attention.
            mask: True for keys to attend to, (b, m) bool; None for all.

        Returns:
            (b, n, channels).
        """
        q, k, v = self.q(tokens), self.k(context), self.v(context)
        return self.out(attend(q, k, v, self.heads, mask))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention of queries to keys and values.

    Queries and keys may be narrower than values; zeros then widen them, since the fused kernels
    take a single width.

    Args:
        q: (b, n, heads * key_channels).
        k: (b, m, heads * key_channels).
        v: (b, m, heads * value_channels).
        heads: Of the attention.
        mask: True for keys to attend to, (b, m) bool. A sample without any gets zeros.

    Returns:
        (b, n, heads * value_channels).
    """
    q = q.unflatten(2, [heads, q.shape[2] // heads]).transpose(1, 2)
    k = k.unflatten(2, [heads, k.shape[2] // heads]).transpose(1, 2)
    v = v.unflatten(2, [heads, v.shape[2] // heads]).transpose(1, 2)
    narrow, wide = q.shape[3], v.shape[3]
    if narrow < wide:
        q, k = F.pad(q, [0, wide - narrow]), F.pad(k, [0, wide - narrow])
    elif wide < narrow:
        v = F.pad(v, [0, narrow - wide])
    seen: Tensor | None = None
    if mask is not None:  # all keys where there are none: a softmax over nothing is not a number
        seen = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=narrow**-0.5)
    out = out[..., :wide].transpose(1, 2).flatten(2)
    return out if mask is None else out * mask.any(dim=1)[:, None, None].to(out)


def to_tokens(x: Tensor) -> Tensor:
    """(b, c, *size) to (b, n, c); a view where x is channels-last."""
    return x.flatten(2).transpose(1, 2)


def to_volume(tokens: Tensor, like: Tensor) -> Tensor:
    """(b, n, c) to the shape of ``like`` (b, c, *size), channels-last in memory."""
    return tokens.transpose(1, 2).reshape(like.shape)


def check_width(width: int, channels: int, heads: int, project: bool) -> None:
    """Refuse an attention whose heads cannot be cut or joined.

    Raises:
        ValueError: See ``TokenAttention``.
    """
    if width % heads:
        raise ValueError(f"width {width} does not divide into {heads} heads")
    if not project and width != channels:
        raise ValueError(f"without a projection the width must be {channels}, got {width}")


def count_heads(channels: int, head_channels: int) -> int:
    """How many heads the channels make.

    Raises:
        ValueError: They do not divide.
    """
    if channels % head_channels:
        raise ValueError(f"channels {channels} is no multiple of head_channels {head_channels}")
    return channels // head_channels
