"""Contrasts taken apart into shared structure and styles, and put together again (MSG-LDM)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .availability import mask_missing
from .structure import SharedStructure
from .structure_decoders import Reconstruction, ReconstructionDecoder, SegmentationDecoder
from .style import StyleBank, StyleEncoder


class Disentangled(NamedTuple):
    """What the structure stage computes of a batch.

    ``styles`` (b, m, d) are the contrasts' own where they were seen, learned ones elsewhere;
    ``made`` holds, for each contrast, a reconstruction of the rows where it was wanted, None where
    no row wanted it; ``logits`` (b, k, *size) are None without a segmentation decoder.
    """

    styles: Tensor
    made: list[Reconstruction | None]
    logits: Tensor | None


class Disentanglement(nn.Module):
    """The networks of the structure stage around a ``SharedStructure``, which alone is used later.

    X_j = D_j(F_s, S_j) with S_j = E_j(X_j). Where a contrast's style is not to be seen, a learned
    style of that contrast stands in for it, so that a missing contrast can be made without it.

    Args:
        structure: What is to be trained.
        style_channels: Length of a style.
        style_widths: See ``StyleEncoder``.
        num_res_blocks: See ``ReconstructionDecoder``.
        up_kernel_size: Likewise.
        out_kernel_size: Likewise.
        num_classes: Of the segmentation; 0 for none.
    """

    def __init__(
        self,
        structure: SharedStructure,
        *,
        style_channels: int = 8,
        style_widths: Sequence[int] = (32, 64, 128, 128, 128),
        num_res_blocks: int = 4,
        up_kernel_size: int = 5,
        out_kernel_size: int = 7,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        dims, stem, widths = structure.spatial_dims, structure.stem_levels, structure.channels
        count = structure.num_modalities
        self.structure = structure
        self.style_encoders = nn.ModuleList(
            StyleEncoder(
                dims, channels=style_widths, style_channels=style_channels, stem_levels=stem
            )
            for _ in range(count)
        )
        self.bank = StyleBank(count, style_channels)
        self.decoders = nn.ModuleList(
            ReconstructionDecoder(
                dims,
                widths[-1],
                style_channels=style_channels,
                num_res_blocks=num_res_blocks,
                up_levels=len(widths) - 1,
                up_kernel_size=up_kernel_size,
                out_kernel_size=out_kernel_size,
                stem_levels=stem,
            )
            for _ in range(count)
        )
        self.segmentation = (
            SegmentationDecoder(dims, num_classes, channels=widths, stem_levels=stem)
            if num_classes
            else None
        )

    def forward(
        self, volumes: Tensor, available: Tensor, seen: Tensor, wanted: Tensor
    ) -> Disentangled:
        """Take apart and put together.

        Args:
            volumes: One slot for each contrast, (b, m, *size) in [-1, 1], every size a multiple of
                the structure's.
            available: Whose voxels the structure may see, (b, m) bool, at least one a sample.
            seen: Whose style may be seen, (b, m) bool.
            wanted: What to make, (b, m) bool.
        """
        found = self.structure(volumes, available)
        visible = mask_missing(volumes, seen, self.structure.background)
        styles = torch.stack(
            [
                encoder(visible[:, slot : slot + 1])
                for slot, encoder in enumerate(self.style_encoders)
            ],
            dim=1,
        )
        styles = self.bank(styles, seen)
        made: list[Reconstruction | None] = []
        for slot, decoder in enumerate(self.decoders):
            rows = wanted[:, slot]
            some = bool(rows.any())
            made.append(decoder(found.shared[rows], styles[rows, slot]) if some else None)
        logits = None if self.segmentation is None else self.segmentation(found.scales)
        return Disentangled(styles, made, logits)
