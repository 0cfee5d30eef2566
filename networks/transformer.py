"""The spatial transformer of latent diffusion: self-attention, context and a gated feed-forward."""

from torch import Tensor, nn
from torch.nn import functional as F

from .attention import TokenAttention, count_heads, to_tokens, to_volume
from .blocks import conv, zero


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, GEGLU feed-forward; each normalized and added."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.self_attention = TokenAttention(channels, channels, heads)
        self.context_attention = TokenAttention(channels, context_channels, heads)
        self.gated = nn.Linear(channels, 2 * 4 * channels)
        self.out = nn.Linear(4 * channels, channels)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """(b, n, channels) and context (b, m, context_channels) to (b, n, channels)."""
        normalized = self.norm1(tokens)
        tokens = tokens + self.self_attention(normalized, normalized)
        tokens = tokens + self.context_attention(self.norm2(tokens), context)
        value, gate = self.gated(self.norm3(tokens)).chunk(2, dim=2)
        return tokens + self.out(value * F.gelu(gate))


class SpatialTransformer(nn.Module):
    """A transformer block over the voxels of a feature map, plus the input (Rombach et al. 2022).

    The older code of ALDM conditions on the modality this way, with its one-hot as the only context
    token. The last convolution starts at zero.

    Args:
        spatial_dims: 2 or 3.
        channels: Channels of the features, a multiple of 32 and of ``head_channels``.
        context_channels: Channels of a context token.
        head_channels: Channels of one head.

    Raises:
        ValueError: ``channels`` is no multiple of 32 or of ``head_channels``.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        context_channels: int,
        *,
        head_channels: int = 32,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = conv(spatial_dims, channels, channels, 1)
        self.block = TransformerBlock(
            channels, context_channels, count_heads(channels, head_channels)
        )
        self.proj_out = zero(conv(spatial_dims, channels, channels, 1))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(b, c, *size) and context (b, m, context_channels) to the shape of x."""
        tokens = self.block(to_tokens(self.proj_in(self.norm(x))), context)
        return x + self.proj_out(to_volume(tokens, x))
