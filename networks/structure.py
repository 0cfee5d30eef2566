"""Shared structure of whatever contrasts a case has (MSG-LDM): encode, fuse, enhance."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .availability import check_available, mask_missing
from .blocks import pad_to_multiple, recording
from .fusion import ConcatFusion, GatedFusion, MeanFusion
from .structure_encoder import StructureEncoder
from .structure_enhancement import StructureEnhancement

BACKGROUND = -1.0
FUSIONS = {"gated": GatedFusion, "concat": ConcatFusion}


class Structure(NamedTuple):
    """What a case's contrasts share.

    ``scales`` are the fused maps F_1 ... F_L, finest first, (b, channels[l], *size_l); ``shared``
    is F_s, of the last one's shape.
    """

    scales: list[Tensor]
    shared: Tensor


class SharedStructure(nn.Module):
    """From any non-empty subset of a case's contrasts to their shared structure F_s.

    Each given contrast goes through its own encoder; at each scale the given ones are fused; the
    finer scales then enhance the coarsest. Missing contrasts are masked in the volumes (by
    background) and again in the features, and their encoders do not run where no sample of the
    batch needs them.

    Args:
        num_modalities: Contrasts m.
        spatial_dims: 2 or 3.
        channels: Width of each scale, finest first.
        stem_levels: Haar levels before the first scale. In 3D, one or two keep whole volumes
            affordable.
        high_frequency: See ``StructureEncoder``.
        fusion: ``"gated"`` (the paper), ``"concat"`` (the published code) or ``"mean"`` (the
            ablation).
        enhance: Enhance the coarsest scale; else F_s is the coarsest scale as fused (the ablation).
        resize: See ``StructureEnhancement``.
        num_heads: Likewise.
        dropout: See ``StructureEncoder``.

    Raises:
        ValueError: An option is unknown, or (call) ``available`` does not fit.
    """

    def __init__(
        self,
        num_modalities: int,
        *,
        spatial_dims: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256),
        stem_levels: int = 1,
        high_frequency: str = "adaptive",
        fusion: str = "gated",
        enhance: bool = True,
        resize: str = "area",
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if fusion not in (*FUSIONS, "mean"):
            raise ValueError(f"fusion must be in {(*FUSIONS, 'mean')}, got {fusion!r}")
        self.num_modalities, self.channels = num_modalities, list(channels)
        self.spatial_dims, self.stem_levels = spatial_dims, stem_levels
        self.background = BACKGROUND
        self.multiple = 2 ** (stem_levels + len(channels) - 1)
        self.encoders = nn.ModuleList(
            StructureEncoder(
                spatial_dims,
                channels=channels,
                high_frequency=high_frequency,
                stem_levels=stem_levels,
                dropout=dropout,
            )
            for _ in range(num_modalities)
        )
        self.fusions = nn.ModuleList(
            MeanFusion()
            if fusion == "mean"
            else FUSIONS[fusion](num_modalities, width, spatial_dims=spatial_dims)
            for width in channels
        )
        self.enhancement = (
            StructureEnhancement(
                channels, spatial_dims=spatial_dims, num_heads=num_heads, resize=resize
            )
            if enhance
            else None
        )

    def forward(self, volumes: Tensor, available: Tensor) -> Structure:
        """Find the shared structure.

        Args:
            volumes: One slot for each contrast in order, (b, m, *size) in [-1, 1], background -1.
                Slots that are not available may hold anything. The last voxels of a size that is
                no multiple of ``multiple`` are repeated up to it.
            available: (b, m) bool, at least one a sample.

        Returns:
            See ``Structure``; scale l has size ceil(size / multiple) * 2 ** (L - l).
        """
        if not torch.jit.is_scripting():
            check_available(available, volumes)
        volumes = pad_to_multiple(mask_missing(volumes, available, self.background), self.multiple)
        encoded: list[list[Tensor]] = []
        some: list[Tensor] = []
        for slot, encoder in enumerate(self.encoders):
            maps: list[Tensor] = []
            if self._wanted(available[:, slot]):
                maps = encoder(volumes[:, slot : slot + 1])
                some = maps
            encoded.append(maps)
        fused: list[Tensor] = []
        for index, fusion in enumerate(self.fusions):
            nothing = torch.zeros_like(some[index])
            here = torch.stack([maps[index] if maps else nothing for maps in encoded], dim=1)
            fused.append(fusion(here, available))
        shared = fused[-1]
        if self.enhancement is not None:
            shared = self.enhancement(fused)
        return Structure(fused, shared)

    def _wanted(self, given: Tensor) -> bool:
        """Whether to run the encoder of a contrast that samples (b,) have or have not."""
        if not torch.jit.is_scripting() and recording():
            return True
        return self.training or bool(given.any())
