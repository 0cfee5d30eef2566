"""Perceptual loss from weights on disk: features of a ResNet-50, in 2D or on slices of a volume."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from monai.losses import PerceptualLoss as MonaiPerceptualLoss
from torch import Tensor, nn

SLICES = (  # each axis in turn becomes part of the batch
    "b c x y z -> (b x) c y z",
    "b c x y z -> (b y) c x z",
    "b c x y z -> (b z) c x y",
)


class PerceptualLoss(nn.Module):
    """Distance of ResNet-50 features, MONAI's, without its downloads (extra ``perceptual``).

    Squared difference of the last layer's features, each normalized over channels; for volumes
    the sum over sagittal, coronal and axial slices ("2.5D"). MONAI's own drawing of slices is
    left out: here the generator is an argument, and there is always at least one slice.

    Args:
        weights: File of torchvision's resnet50 state dictionary; nothing is ever downloaded.
        spatial_dims: 2 or 3.
        slice_ratio: Share of slices that is looked at, in (0, 1]; 3D only.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds other weights, or ``slice_ratio`` is out of range.
        OptionalImportError: torchvision is not installed.
    """

    def __init__(
        self, weights: str | Path, *, spatial_dims: int = 3, slice_ratio: float = 0.1
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        if not 0 < slice_ratio <= 1:
            raise ValueError(f"slice_ratio must be in (0, 1], got {slice_ratio}")
        if not Path(weights).is_file():
            raise FileNotFoundError(
                f"no perceptual weights at {weights}: save torchvision's resnet50 state there, "
                "or leave the perceptual loss off"
            )
        state = torch.load(weights, map_location="cpu", weights_only=True)
        network = MonaiPerceptualLoss(spatial_dims=2, network_type="resnet50", pretrained=False)
        features = network.perceptual_function.model
        wanted = {name: state[name] for name in features.state_dict() if name in state}
        if len(wanted) != len(features.state_dict()):
            lacking = sorted(set(features.state_dict()) - set(wanted))
            raise ValueError(f"{weights} is no resnet50 state: it lacks {lacking[:3]}")
        features.load_state_dict(wanted)
        self.spatial_dims = spatial_dims
        self.slice_ratio = slice_ratio
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "PerceptualLoss":
        """Stay in evaluation mode: the feature network's statistics are fixed."""
        return super().train(False)

    def forward(
        self,
        prediction: Float[Tensor, "b 1 *size"],
        target: Float[Tensor, "b 1 *size"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Compare two batches.

        Args:
            prediction: In [-1, 1].
            target: In [-1, 1].
            generator: Chooses the slices (a CPU generator); torch's own without one.
        """
        pair = [(prediction.float() + 1) / 2, (target.float() + 1) / 2]  # the network saw [0, 1]
        if self.spatial_dims == 2:
            return self.network(*pair)
        return torch.stack(
            [self._compare_slices(pair, pattern, generator) for pattern in SLICES]
        ).sum()

    def _compare_slices(
        self, pair: Sequence[Tensor], pattern: str, generator: torch.Generator | None
    ) -> Tensor:
        slices = [rearrange(volume, pattern) for volume in pair]
        count = slices[0].shape[0]
        shuffled = torch.randperm(count, generator=generator)
        chosen = shuffled[: max(1, round(count * self.slice_ratio))].to(slices[0].device)
        compared: Any = self.network(slices[0][chosen], slices[1][chosen])
        return compared
