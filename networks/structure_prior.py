"""A prior from any subset of contrasts: their shared structure, and a first guess of the target."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .availability import check_available, mask_channels, mask_missing
from .blocks import check_modality, conv, crop_like, group_norm, zero
from .path_mixture import PathMixture
from .prior import PriorOutput
from .resnet import TimeResBlock
from .structure import SharedStructure

STRUCTURE_CONCAT = ("structure", "available", "mask", "target_like")


class StructureCondition(nn.Module):
    """Bring F_s and the fused scales to the latent's grid: one 1x1 projection each, then the sum.

    Finer scales are averaged over blocks, coarser ones interpolated. F_s alone is what MSG-LDM
    conditions on; in 3D it is coarser than the latent, and the finer scales say what it cannot.

    Args:
        structure: Whose scales they are.
        condition_channels: Channels of the condition.
        downsampling: Of the latent against the volume.
        use_scales: Add the fused scales to F_s.

    Raises:
        ValueError: The coarsest scale's size is no multiple of the latent's.
    """

    def __init__(
        self,
        structure: SharedStructure,
        condition_channels: int,
        *,
        downsampling: int,
        use_scales: bool,
    ) -> None:
        super().__init__()
        if structure.multiple % downsampling:
            raise ValueError(
                f"structure of {structure.multiple} voxels does not fit latents of {downsampling}"
            )
        dims, widths = structure.spatial_dims, structure.channels
        self.per_coarse = structure.multiple // downsampling
        self.linear = "trilinear" if dims == 3 else "bilinear"
        self.shared = conv(dims, widths[-1], condition_channels, 1)
        self.scales = nn.ModuleList(
            conv(dims, width, condition_channels, 1) for width in (widths if use_scales else ())
        )

    def forward(self, shared: Tensor, scales: list[Tensor]) -> Tensor:
        """F_s and F_1 ... F_L to (b, condition_channels, *latent size, padded)."""
        grid = [length * self.per_coarse for length in shared.shape[2:]]
        total = self.enlarge(self.shared(shared), grid)
        for index, project in enumerate(self.scales):
            features = scales[index]
            if features.shape[2] > grid[0]:
                total = total + project(F.interpolate(features, grid, mode="area"))
            else:
                total = total + self.enlarge(project(features), grid)
        return total

    def enlarge(self, x: Tensor, grid: list[int]) -> Tensor:
        """Interpolate to a grid that is finer or the same."""
        return x if x.shape[2] == grid[0] else F.interpolate(x, grid, mode=self.linear)


class StructurePrior(nn.Module):
    """MSG-LDM as a prior: what any given contrasts say about any wanted one.

    ``encode_case`` finds the shared structure once per case, whatever the number of targets;
    ``forward`` then answers each target. The answer ``start`` is

        sum_j p_j path(z_j) + correction,  p = softmax over the given j of a learned (target, j)
        table,

    with the correction made by residual blocks from the structure, the given latents and the mask,
    modulated by the target. It starts at zero and the table at equal weights: untrained, the start
    is the mean of what each given contrast alone would say. ``PathMixture`` says more.

    Args:
        structure: The encoder of the shared structure.
        latent_channels: Channels of the latent.
        downsampling: Of the latent against the volume.
        condition_channels: Channels that the structure has in the condition.
        features: Width of the correction's blocks.
        num_blocks: How many blocks.
        concat: What the denoiser sees beside x_t, in this order: ``"structure"`` (MSG-LDM's own),
            ``"available"`` (the given latents, zeros where missing), ``"mask"`` (one channel a
            contrast) and ``"target_like"``, the start, last where a denoiser refines it.
        use_scales: See ``StructureCondition``.
        path: A first guess ``path(latent, source, target)`` from one contrast, such as
            ``RidgePath``. None hands over the given latent itself.
        finetune: Let gradients into the structure; else it stays as its own stage left it.
        norm_groups: Most groups of the norms in the blocks.
        own_share: None adds the correction to the paths' guess. A share in [0, 1] mixes two answers
            instead, (1 - own_share) guess + own_share correction, where the correction is the whole
            target. At 1, as it is then trained, no path is asked: what it learned to correct of the
            cases that the paths were fitted to would be too little for any others.

    Raises:
        ValueError: ``concat`` repeats a name or has an unknown one, the share is out of range, or
            (call, outside TorchScript) an argument does not fit.
    """

    concat: list[str]
    own_share: float | None

    def __init__(
        self,
        structure: SharedStructure,
        latent_channels: int,
        *,
        downsampling: int = 4,
        condition_channels: int = 64,
        features: int = 64,
        num_blocks: int = 2,
        concat: Sequence[str] = STRUCTURE_CONCAT,
        use_scales: bool = True,
        path: nn.Module | None = None,
        finetune: bool = False,
        norm_groups: int = 16,
        own_share: float | None = None,
    ) -> None:
        super().__init__()
        if own_share is not None and not 0 <= own_share <= 1:
            raise ValueError(f"own_share must be in [0, 1], got {own_share}")
        if len(set(concat)) != len(concat) or not set(concat) <= set(STRUCTURE_CONCAT):
            raise ValueError(
                f"concat takes each of {STRUCTURE_CONCAT} at most once, got {tuple(concat)}"
            )
        count, dims = structure.num_modalities, structure.spatial_dims
        self.num_modalities, self.downsampling, self.finetune = count, downsampling, finetune
        self.structure, self.concat = structure, list(concat)
        self.guess = PathMixture(count, path)
        self.own_share = own_share
        self.condition = StructureCondition(
            structure, condition_channels, downsampling=downsampling, use_scales=use_scales
        )
        self.embedding = nn.Embedding(count, features)
        seen = condition_channels + count * (latent_channels + 1)
        self.conv_in = conv(dims, seen, features, 3)
        self.blocks = nn.ModuleList(
            TimeResBlock(
                dims, features, features, features, scale_shift=True, norm_groups=norm_groups
            )
            for _ in range(num_blocks)
        )
        self.norm_out = group_norm(features, norm_groups)
        self.conv_out = zero(conv(dims, features, latent_channels, 3))
        widths = {
            "structure": condition_channels,
            "available": count * latent_channels,
            "mask": count,
            "target_like": latent_channels,
        }
        self.concat_channels = sum(widths[name] for name in concat)

    def train(self, mode: bool = True) -> "StructurePrior":
        """Switch to training; a structure that is not fine-tuned stays as in use."""
        super().train(mode)
        if not self.finetune:
            self.structure.eval()
        return self

    def encode_case(self, volumes: Tensor, available: Tensor) -> Tensor:
        """Find what a case's contrasts share, once, for every target.

        Args:
            volumes: One slot for each contrast, (b, m, *size) in [-1, 1]; slots that are not
                available may hold anything.
            available: (b, m) bool, at least one a sample.

        Returns:
            (b, condition_channels, *ceil(size / downsampling)).
        """
        if self.finetune:
            found = self.structure(volumes, available)
        else:
            with torch.no_grad():
                found = self.structure(volumes, available)
        condition = self.condition(found.shared, found.scales)
        for axis in range(2, condition.dim()):
            length = -(-volumes.shape[axis] // self.downsampling)
            condition = condition.narrow(axis, 0, length)
        return condition

    def forward(
        self, latents: Tensor, available: Tensor, target: Tensor, case: Tensor
    ) -> PriorOutput:
        """Answer one target for each sample.

        Args:
            latents: Scaled latents, one slot for each contrast in order, (b, m, c, *size). Slots
                that are not available may hold anything.
            available: (b, m) bool, at least one a sample.
            target: Wanted contrast, (b,) int64.
            case: What ``encode_case`` gave, (b, condition_channels, *size).

        Returns:
            The condition and the start, see ``PriorOutput``.
        """
        if not torch.jit.is_scripting():
            check_available(available, latents)
            check_modality(target, self.num_modalities, latents.shape[0])
        latents = mask_missing(latents, available)
        case = crop_like(case.to(latents.dtype), latents[:, 0])
        given = latents.flatten(1, 2)
        mask = mask_channels(available, latents)
        h = self.conv_in(torch.cat([case, given, mask], dim=1))
        embedding = self.embedding(target)
        for block in self.blocks:
            h = block(h, embedding)
        start = self.conv_out(F.silu(self.norm_out(h)))
        share = self.own_share
        if share is None:
            start = self.guess(latents, available, target) + start
        elif share < 1:
            guess = self.guess(latents, available, target)
            start = guess + share * (start - guess)
        parts = [case[:, :0]]
        for name in self.concat:
            if name == "structure":
                parts.append(case)
            elif name == "available":
                parts.append(given)
            elif name == "mask":
                parts.append(mask)
            else:
                parts.append(start)
        return PriorOutput(torch.cat(parts, dim=1), start)
