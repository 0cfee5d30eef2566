"""A plain regression of volumes: every contrast from one, by a U-Net, without a latent."""

from collections.abc import Sequence

import torch
from monai.networks.nets.basic_unet import BasicUNet, UpCat
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import crop_like

BACKGROUND = -1.0
MULTIPLE = 16  #: of every side, for four halvings
WIDTHS = (24, 24, 48, 96, 96, 24)


class VolumeRegression(nn.Module):
    """MONAI's ``BasicUNet`` from a volume and the name of its contrast to all contrasts' volumes.

    It errs in other places than what passes the latent, so it has a ``share`` in the mean of both
    (docs/decisions/0009). An addition of ours to ALDM. A new one has a share of zero, so that
    nothing is asked of it; its training sets it.

    Args:
        num_modalities: Number of contrasts m.
        spatial_dims: 2 or 3.
        widths: ``BasicUNet``'s features.
        norm_groups: Of its group norms.
    """

    share: Tensor

    def __init__(
        self,
        num_modalities: int,
        *,
        spatial_dims: int = 3,
        widths: Sequence[int] = WIDTHS,
        norm_groups: int = 8,
    ) -> None:
        super().__init__()
        self.num_modalities = num_modalities
        self.multiple, self.background = MULTIPLE, BACKGROUND
        self.unet = BasicUNet(
            spatial_dims,
            1 + num_modalities,
            num_modalities,
            features=widths,
            norm=("group", {"num_groups": norm_groups}),
            upsample="nontrainable",
        )
        for part in self.unet.modules():
            if isinstance(part, UpCat):  # sizes fit already; its padding would copy to float32
                part.is_pad = False
        if spatial_dims == 3:  # on CPUs much faster than channels first
            self.unet.to(memory_format=torch.channels_last_3d)
        self.register_buffer("share", torch.zeros(()))

    def forward(self, volume: Tensor, source: Tensor) -> Tensor:
        """Answer all contrasts of each sample, the source itself among them.

        Args:
            volume: (b, 1, *size) in [-1, 1].
            source: Which contrast it is, (b,) int64.

        Returns:
            (b, m, *size), not clipped.
        """
        padding: list[int] = []
        for length in volume.shape[2:]:
            padding = [0, -length % self.multiple] + padding
        padded = F.pad(volume, padding, value=self.background)
        names = F.one_hot(source, self.num_modalities).to(volume.dtype)
        planes = names.view(list(names.shape) + [1] * (volume.dim() - 2))
        planes = planes.expand([-1, -1] + list(padded.shape[2:]))
        seen = torch.cat([padded, planes], dim=1)
        if seen.dim() == 5:
            seen = seen.contiguous(memory_format=torch.channels_last_3d)
        return crop_like(self.unet(seen), volume)
