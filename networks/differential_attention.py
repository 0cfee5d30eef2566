"""Differential attention: the difference of two softmax maps, so that what both attend to cancels.

Source: Ye et al. 2024, "Differential Transformer", as DFBK takes it over (eq. 6, 7 and 10).
"""

import math

import torch
from torch import Tensor, nn

from .attention import attend, check_width


class DifferentialAttention(nn.Module):
    """out = (softmax(q1 k1^T / sqrt(d)) - lambda softmax(q2 k2^T / sqrt(d))) v, head by head.

    lambda = exp(lq1 . lk1) - exp(lq2 . lk2) + lambda_init, learned, one for all heads. Each head's
    answer is then divided by its root mean square and multiplied by 1 - lambda_init, which keeps
    the scale of gradients whatever lambda is; DFBK prints the form without (``head_norm=False``).

    The two products with v are one fused attention over twice the heads, so no map of all queries
    times all keys is ever held: 10,368 tokens cost tens of megabytes, not gigabytes. Rows of ``q``
    and ``k`` are (head, map, channel), as in the reference code.

    Args:
        channels: Of the tokens in and out.
        context_channels: Of the tokens that keys and values come from: of the tokens themselves for
            self-attention.
        heads: Of the attention, each with two maps.
        width: Channels of the values, all heads together; ``channels`` if not given.
        key_channels: Of one map's queries and keys in one head; half those of the head's values if
            not given.
        lambda_init: What lambda starts from; ``lambda_of_depth`` is the reference's choice.
        head_norm: Normalize and scale each head's answer.
        project: Map the heads' answers back by a linear layer; else they are the answer.

    Raises:
        ValueError: See ``TokenAttention``.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        heads: int,
        *,
        width: int | None = None,
        key_channels: int | None = None,
        lambda_init: float = 0.8,
        head_norm: bool = True,
        project: bool = True,
    ) -> None:
        super().__init__()
        width = width or channels
        check_width(width, channels, heads, project)
        value_channels = width // heads
        key_channels = key_channels or max(1, value_channels // 2)
        self.heads, self.lambda_init = heads, float(lambda_init)
        self.q = nn.Linear(channels, 2 * heads * key_channels, bias=False)
        self.k = nn.Linear(context_channels, 2 * heads * key_channels, bias=False)
        self.v = nn.Linear(context_channels, width, bias=False)
        # rows: queries of map 1 and 2, keys of map 1 and 2
        self.lambdas = nn.Parameter(0.1 * torch.randn(4, key_channels))
        self.norm = nn.RMSNorm(value_channels, eps=1e-5) if head_norm else None
        self.out = nn.Linear(width, channels, bias=False) if project else nn.Identity()

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            tokens: (b, n, channels).
            context: (b, m, context_channels); the tokens again for self-attention.
            mask: True for keys to attend to, (b, m) bool; None for all.

        Returns:
            (b, n, channels).
        """
        q, k = self.q(tokens), self.k(context)
        v = self.v(context).unflatten(2, [self.heads, 1, -1]).expand(-1, -1, -1, 2, -1).flatten(2)
        both = attend(q, k, v, 2 * self.heads, mask).unflatten(2, [self.heads, 2, -1])
        out = both[:, :, :, 0] - self.weight().to(both) * both[:, :, :, 1]
        if self.norm is not None:
            out = self.norm(out.to(self.norm.weight)) * (1 - self.lambda_init)  # not half
        return self.out(out.flatten(2))

    def weight(self) -> Tensor:
        """Lambda (eq. 7), a scalar."""
        q1, q2, k1, k2 = self.lambdas.unbind(0)
        return (q1 * k1).sum().exp() - (q2 * k2).sum().exp() + self.lambda_init


def lambda_of_depth(depth: int) -> float:
    """0.8 - 0.6 exp(-0.3 depth), the reference's lambda_init of its layer ``depth``, from 0."""
    return 0.8 - 0.6 * math.exp(-0.3 * depth)
