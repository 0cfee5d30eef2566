"""Attention in the sub-bands of features: what frequency balance and knowledge guidance share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from .attention import TokenAttention, count_heads, to_tokens, to_volume
from .blocks import group_norm, zero
from .differential_attention import DifferentialAttention, lambda_of_depth
from .wavelets import Wavelet


@dataclass(frozen=True)
class BandOptions:
    """How the bands are attended to; the ablations of DFBK's Tables 3 to 5 are one option each.

    Args:
        bands: Which bands change: ("low", "high"), or one of them (+L, +H). For neither, leave the
            block out.
        differential: Differential attention for the high bands; else ordinary (NormAttn in
            frequency balance, CrossAttn in knowledge guidance).
        head_channels: Channels of an attention head; None for a single head.
        key_channels: Of a head's queries and keys (of one map, if differential). Those of its
            values if not given, half of them if differential.
        width: Channels of the attention among the high bands, of which there are 7c in 3D. As many
            as the features have if not given; ``paper_exact`` keeps all.
        lambda_init: Where lambda starts; None for the reference's choice by depth.
        wavelet: PyWavelets' name of the filter bank.
        paper_exact: Equations 5 to 11 as printed: the attention's answer replaces the bands,
            without norms, output projections or the sum with the features. An untrained block then
            destroys the features; without this option it changes nothing.

    Raises:
        ValueError: ``bands`` names none or something else.
    """

    bands: Sequence[str] = ("low", "high")
    differential: bool = True
    head_channels: int | None = 32
    key_channels: int | None = None
    width: int | None = None
    lambda_init: float | None = 0.8
    wavelet: str = "haar"
    paper_exact: bool = False

    def __post_init__(self) -> None:
        if not self.bands or not set(self.bands) <= {"low", "high"}:
            raise ValueError(f"bands must name low, high or both, got {list(self.bands)}")
        if self.paper_exact and self.width is not None:
            raise ValueError(f"paper_exact has no width of its own, got {self.width}")


def band_options(options: Mapping[str, Any]) -> BandOptions:
    """Read options from a configuration.

    Raises:
        ValueError: One is unknown, or does not fit.
    """
    known = [field.name for field in fields(BandOptions)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"no option {', '.join(unknown)}; there are {', '.join(known)}")
    return BandOptions(**options)


class BandAttention(nn.Module):
    """Attention from the low band, and from all high bands together, to themselves or to a context.

    z + IWT(A_L(DWT(z)_L), A_H(DWT(z)_H)), each attention after a group norm and before a projection
    that starts at zero. Any size: see ``Wavelet``.

    Args:
        channels: Of the features.
        context_channels: Of the context's tokens; 0 for attention of the bands to themselves.
        options: See ``BandOptions``.
        spatial_dims: 1, 2 or 3.
        norm_groups: Most groups of a band's norm.
        depth: Number of the block, for ``lambda_init`` by depth.

    Raises:
        ValueError: The channels do not divide into heads.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        options: BandOptions,
        *,
        spatial_dims: int = 3,
        norm_groups: int = 32,
        depth: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.residual = channels, not options.paper_exact
        self.wavelet = Wavelet(options.wavelet, spatial_dims=spatial_dims)
        many = self.wavelet.bands - 1
        low: TokenAttention | None = None
        high: TokenAttention | DifferentialAttention | None = None
        if "low" in options.bands:
            low = TokenAttention(
                channels,
                context_channels or channels,
                heads(channels, options),
                key_channels=options.key_channels,
                project=self.residual,
            )
        if "high" in options.bands:
            width = (options.width or channels) if self.residual else many * channels
            places = many * channels, context_channels or many * channels, heads(width, options)
            start = options.lambda_init
            high = (
                DifferentialAttention(
                    *places,
                    width=width,
                    key_channels=options.key_channels,
                    lambda_init=lambda_of_depth(depth) if start is None else start,
                    head_norm=self.residual,
                    project=self.residual,
                )
                if options.differential
                else TokenAttention(
                    *places,
                    width=width,
                    key_channels=options.key_channels,
                    project=self.residual,
                )
            )
        self.low, self.high = low, high
        self.norm_low: nn.Module = nn.Identity()
        self.norm_high: nn.Module = nn.Identity()
        if self.residual and low is not None:
            self.norm_low = group_norm(channels, norm_groups)
            zero(low.out)
        if self.residual and high is not None:
            self.norm_high = group_norm(many * channels, many * norm_groups)
            zero(high.out)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            x: Features (b, c, *size).
            context: (b, n, context_channels); None for attention of the bands to themselves.
            mask: True for the context's real tokens, (b, n) bool; None if all are.

        Returns:
            (b, c, *size).
        """
        bands = self.wavelet.split(x)
        low, high = bands[:, : self.channels], bands[:, self.channels :]
        if self.low is not None:
            tokens = to_tokens(self.norm_low(low))
            answer = self.low(tokens, tokens if context is None else context, mask)
            low = to_volume(answer, low)
        elif self.residual:
            low = torch.zeros_like(low)
        if self.high is not None:
            tokens = to_tokens(self.norm_high(high))
            answer = self.high(tokens, tokens if context is None else context, mask)
            high = to_volume(answer, high)
        elif self.residual:
            high = torch.zeros_like(high)
        merged = self.wavelet.merge(torch.cat([low, high], dim=1), like=x)
        return x + merged if self.residual else merged


def heads(width: int, options: BandOptions) -> int:
    """Heads of an attention so wide."""
    return 1 if options.head_channels is None else count_heads(width, options.head_channels)
