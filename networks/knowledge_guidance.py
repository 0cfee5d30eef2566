"""Knowledge guidance: features ask a text that describes the target, band by band."""

import torch
from torch import Tensor, nn

from .band_attention import BandAttention, BandOptions


class KnowledgeGuidance(nn.Module):
    """Cross-attention of the low band and differential cross-attention of the high bands to text.

    z_k = IWT(softmax(Q_L K^T / sqrt(d)) V, (softmax_1 - lambda softmax_2) V'), queries from the
    features' bands, keys and values from the tokens. Added to z through projections that start at
    zero. DFBK places it at the bottom of the network.

    It needs the token sequence: to a single token (a pooled vector) every softmax is 1, and z_k
    says nothing about places.

    Source: DFBK (arXiv 2504.09441), eq. 9 to 11, in 2D; 3D is ours, and so are the norms and the
    sum with z, which ``BandOptions.paper_exact`` leaves out.

    Args:
        channels: Of the features.
        text_channels: Of a token.
        options: See ``BandOptions``.
        spatial_dims: 1, 2 or 3.
        norm_groups: Most groups of a band's norm.
    """

    def __init__(
        self,
        channels: int,
        text_channels: int,
        options: BandOptions | None = None,
        *,
        spatial_dims: int = 3,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        self.bands = BandAttention(
            channels,
            text_channels,
            options or BandOptions(),
            spatial_dims=spatial_dims,
            norm_groups=norm_groups,
        )

    def forward(self, x: Tensor, text: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """Guide.

        Args:
            x: Features (b, c, *size), any size.
            text: Tokens (b, n, text_channels).
            text_mask: True for real tokens, (b, n) bool; None if all are. A sample without any is
                left as it is.

        Returns:
            (b, c, *size).
        """
        guided = self.bands(x, text.to(x.dtype), text_mask)
        if text_mask is None:
            return guided
        told = text_mask.any(dim=1).reshape([-1] + [1] * (x.dim() - 1))
        return torch.where(told, guided, x)
