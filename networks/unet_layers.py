"""The layers and levels that the denoiser's U-Net is built of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import CrossAttention, SelfAttention
from .frequency_balance import FrequencyBalance
from .resnet import Downsample, TimeResBlock, Upsample
from .swin import SwinLayer
from .transformer import SpatialTransformer


class UNetLayer(nn.Module):
    """A residual block, then attention to itself and to the modality where the level has them."""

    def __init__(
        self,
        res: TimeResBlock,
        attention: SelfAttention | SwinLayer | None,
        cross_attention: CrossAttention | SpatialTransformer | None,
        use_checkpoint: bool,
    ) -> None:
        super().__init__()
        self.res, self.attention, self.cross_attention = res, attention, cross_attention
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor, embedding: Tensor, token: Tensor) -> Tensor:
        """(b, in, *size), embedding (b, e) and token (b, 1, m) to (b, out, *size)."""
        if not torch.jit.is_scripting() and self.use_checkpoint and self.training:
            return checkpoint(self.run, x, embedding, token, use_reentrant=False)
        return self.run(x, embedding, token)

    def run(self, x: Tensor, embedding: Tensor, token: Tensor) -> Tensor:
        """The layer itself, without checkpointing."""
        h = self.res(x, embedding)
        if self.attention is not None:
            h = self.attention(h)
        if self.cross_attention is not None:
            h = self.cross_attention(h, token)
        return h


@dataclass(frozen=True)
class LayerFactory:
    """What all layers of one U-Net have in common; builds them.

    ``conditioning`` is ``Denoiser``'s ``modality_conditioning``, or ``"none"``; ``swin`` has the
    options of the ``SwinLayer`` in place of each self-attention, or is None.
    """

    spatial_dims: int
    embedding_channels: int
    num_modalities: int
    conditioning: str
    scale_shift: bool
    norm_groups: int
    dropout: float
    use_checkpoint: bool
    swin: Mapping[str, Any] | None

    def build(self, in_channels: int, channels: int, head_channels: int, attend: bool) -> UNetLayer:
        """A layer of a level ``channels`` wide, with attention where asked."""
        itself: SelfAttention | SwinLayer | None = None
        token: CrossAttention | SpatialTransformer | None = None
        heads, groups = head_channels, self.norm_groups
        if attend and self.swin is not None:
            options = {"head_channels": heads, "norm_groups": groups, **self.swin}
            itself = SwinLayer(self.spatial_dims, channels, **options)
        elif attend and self.conditioning != "spatial_transformer":
            itself = SelfAttention(channels, head_channels=heads, norm_groups=groups)
        if attend and self.conditioning == "cross_attention":
            token = CrossAttention(
                channels, self.num_modalities, head_channels=heads, norm_groups=groups
            )
        if attend and self.conditioning == "spatial_transformer":
            token = SpatialTransformer(
                self.spatial_dims, channels, self.num_modalities, head_channels=heads
            )
        res = TimeResBlock(
            self.spatial_dims,
            in_channels,
            channels,
            self.embedding_channels,
            scale_shift=self.scale_shift,
            norm_groups=groups,
            dropout=self.dropout,
        )
        return UNetLayer(res, itself, token, self.use_checkpoint)


class DownLevel(nn.Module):
    """The layers of one resolution and, but for the last level, the step down."""

    def __init__(self, layers: Sequence[UNetLayer], resample: Downsample | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.resample = resample

    def forward(self, h: Tensor, embedding: Tensor, token: Tensor) -> list[Tensor]:
        """The features after every layer and after the step down: all of them are skips."""
        features: list[Tensor] = []
        for layer in self.layers:
            h = layer(h, embedding, token)
            features.append(h)
        if self.resample is not None:
            features.append(self.resample(h))
        return features


class UpLevel(nn.Module):
    """The layers of one resolution, each after its skip, and but for the last, the step up.

    What ``balances`` holds changes the features before each skip joins them.
    """

    def __init__(
        self,
        layers: Sequence[UNetLayer],
        balances: Sequence[FrequencyBalance | nn.Identity],
        resample: Upsample | None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.balances = nn.ModuleList(balances)
        self.resample = resample

    def forward(self, h: Tensor, skips: list[Tensor], embedding: Tensor, token: Tensor) -> Tensor:
        """The features after the level; takes its skips off the end of the list."""
        for balance, layer in zip(self.balances, self.layers):  # noqa: B905 (TorchScript)
            h = layer(torch.cat([balance(h), skips.pop()], dim=1), embedding, token)
        return h if self.resample is None else self.resample(h)
