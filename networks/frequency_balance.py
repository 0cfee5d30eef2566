"""Dynamic frequency balance: strengthen what is low, keep what is useful of what is high."""

from torch import Tensor, nn

from .band_attention import BandAttention, BandOptions


class FrequencyBalance(nn.Module):
    """Self-attention in the low band, differential self-attention among the high bands.

    z_s = IWT(softmax(Q_L K_L^T / sqrt(d)) V_L, (softmax_1 - lambda softmax_2) V_H), where the high
    bands (3 in 2D, 7 in 3D) are one sequence of tokens: a token is a place, with the bands'
    channels side by side. What both maps attend to alike, as noise does, cancels. Added to z
    through projections that start at zero. DFBK places it on the decoder's features before each
    skip joins them.

    Source: DFBK (arXiv 2504.09441), eq. 5 to 8, in 2D; 3D is ours, and so are the norms and the sum
    with z, which ``BandOptions.paper_exact`` leaves out.

    Args:
        channels: Of the features.
        options: See ``BandOptions``.
        spatial_dims: 1, 2 or 3.
        norm_groups: Most groups of a band's norm.
        depth: Number of the block in its network, for ``lambda_init`` by depth.
    """

    def __init__(
        self,
        channels: int,
        options: BandOptions | None = None,
        *,
        spatial_dims: int = 3,
        norm_groups: int = 32,
        depth: int = 0,
    ) -> None:
        super().__init__()
        self.bands = BandAttention(
            channels,
            0,
            options or BandOptions(),
            spatial_dims=spatial_dims,
            norm_groups=norm_groups,
            depth=depth,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to the same shape, any size."""
        return self.bands(x)
