"""Structure enhancement (MSG-LDM's MSSE): the coarsest scale asks the finer ones, giving F_s."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend, to_tokens, to_volume
from .blocks import conv

RESIZE = ("area", "linear")


class StructureEnhancement(nn.Module):
    """F_s = F_L + alpha * Attn(F_L, sum over l < L of Proj_l(Resize(F_l))).

    Queries come from the layer-normalised F_L; keys and values from the sum; both of F_L's size.
    The 1x1 projections follow the resizing, which for linear operations is the same as preceding
    it (as printed) and needs no wide map at full resolution.

    Args:
        channels: Width of each scale, finest first; the last is F_L's.
        spatial_dims: 2 or 3.
        num_heads: Attention heads.
        alpha: What the learned weight of the attention starts at.
        resize: ``"area"`` averages all voxels of a finer map; ``"linear"`` reads a few of them
            between grid points, as the published code does.

    Raises:
        ValueError: ``resize`` is unknown, or the heads do not divide the channels.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        spatial_dims: int = 3,
        num_heads: int = 4,
        alpha: float = 0.5,
        resize: str = "area",
    ) -> None:
        super().__init__()
        *finer, width = channels
        if resize not in RESIZE:
            raise ValueError(f"resize must be in {RESIZE}, got {resize!r}")
        if width % num_heads:
            raise ValueError(f"channels {width} is no multiple of num_heads {num_heads}")
        linear = "trilinear" if spatial_dims == 3 else "bilinear"
        self.mode = "area" if resize == "area" else linear
        self.num_heads = num_heads
        self.project = nn.ModuleList(conv(spatial_dims, c, width, 1) for c in finer)
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.alpha = nn.Parameter(torch.tensor(alpha))

    def structure(self, features: list[Tensor]) -> Tensor:
        """The sum that keys and values come from, of the last map's shape."""
        total = torch.zeros_like(features[-1])
        size = list(features[-1].shape[2:])
        for index, project in enumerate(self.project):
            total = total + project(F.interpolate(features[index], size, mode=self.mode))
        return total

    def forward(self, features: list[Tensor]) -> Tensor:
        """Fused maps F_1 ... F_L, (b, channels[l], *size_l) each, to F_s of F_L's shape."""
        coarsest = features[-1]
        context = to_tokens(self.structure(features))
        q = self.q(self.norm(to_tokens(coarsest)))
        mixed = attend(q, self.k(context), self.v(context), self.num_heads)
        return coarsest + self.alpha * to_volume(self.out(mixed), coarsest)
