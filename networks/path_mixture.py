"""What several given contrasts say of a wanted one, each by its own path, weighed and added."""

import torch
from torch import Tensor, nn

from .availability import check_available, mask_channels, mask_missing
from .blocks import check_modality
from .prior import PriorOutput


class PathMixture(nn.Module):
    """The guess sum_j p_j path(z_j), p = softmax over the given j of a (target, j) table.

    The table starts at equal shares; ``weigh_paths`` sets it from what the paths are known to miss,
    and it can be learned.

    Args:
        num_modalities: Contrasts m.
        path: ``path(latent, source, target)``, an answer from one contrast, such as ``RidgePath``.
            None hands over the given latent itself.
    """

    def __init__(self, num_modalities: int, path: nn.Module | None = None) -> None:
        super().__init__()
        self.num_modalities, self.path = num_modalities, path
        self.shares = nn.Parameter(torch.zeros(num_modalities, num_modalities))

    @torch.no_grad()
    def weigh_paths(self, missed: Tensor) -> None:
        """Give each path its share by what it misses: p_j in proportion to missed_j ** -2.

        The power of -1 would be right for errors that do not depend on each other.

        Args:
            missed: (sources, targets), the mean square error of each path, as ``RidgePath.fit``
                returns it. A pair without a number counts as the target's worst.
        """
        table = missed.t().to(self.shares).log()
        known = table.isfinite()
        worst = table.masked_fill(~known, float("-inf")).amax(dim=1, keepdim=True)
        table = torch.where(known, table, worst.expand_as(table)).mul(-2)
        self.shares.copy_(torch.where(table.isfinite(), table, torch.zeros_like(table)))

    def forward(self, latents: Tensor, available: Tensor, target: Tensor) -> Tensor:
        """Answer one target for each sample: (b, c, *size).

        Args:
            latents: (b, m, c, *size), zeros where not available.
            available: (b, m) bool, at least one a sample.
            target: (b,) int64.
        """
        shares = self.shares[target].masked_fill(~available, float("-inf")).softmax(dim=1)
        total = torch.zeros_like(latents[:, 0])
        for slot in range(self.num_modalities):
            latent = latents[:, slot]
            if self.path is not None:
                if not bool(available[:, slot].any()):
                    continue
                source = torch.full_like(target, slot)
                latent = mask_missing(
                    self.path(latent, source, target).unsqueeze(1), available[:, slot : slot + 1]
                ).squeeze(1)
            share = shares[:, slot]
            for _ in range(latent.dim() - 1):
                share = share.unsqueeze(-1)
            total = total + share.to(latent.dtype) * latent
        return total


class MixturePrior(nn.Module):
    """The mixture of paths as a prior from any subset of contrasts, and nothing else.

    ``concat`` holds the given latents (zeros where missing), the mask (one channel a contrast) and
    the start.

    Args:
        num_modalities: Contrasts m.
        latent_channels: Channels of the latent.
        path: See ``PathMixture``.
    """

    def __init__(
        self, num_modalities: int, latent_channels: int, *, path: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.num_modalities = num_modalities
        self.guess = PathMixture(num_modalities, path)
        self.concat_channels = num_modalities * (latent_channels + 1) + latent_channels

    def encode_case(self, volumes: Tensor, available: Tensor) -> Tensor:
        """Nothing is found in the volumes: (b, 0, *size)."""
        return volumes[:, :0]

    def forward(
        self, latents: Tensor, available: Tensor, target: Tensor, case: Tensor
    ) -> PriorOutput:
        """Answer one target for each sample.

        Args:
            latents: Scaled latents, one slot for each contrast in order, (b, m, c, *size). Slots
                that are not available may hold anything.
            available: (b, m) bool, at least one a sample.
            target: Wanted contrast, (b,) int64.
            case: What ``encode_case`` gave.

        Raises:
            ValueError: (outside TorchScript) an argument does not fit.
        """
        if not torch.jit.is_scripting():
            check_available(available, latents)
            check_modality(target, self.num_modalities, latents.shape[0])
        latents = mask_missing(latents, available)
        mask = mask_channels(available, latents)
        start = self.guess(latents, available, target)
        return PriorOutput(torch.cat([latents.flatten(1, 2), mask, start], dim=1), start)
