"""Losses of the structure stage on styles and lesions (MSG-LDM)."""

import math

import torch
from jaxtyping import Bool, Float
from monai.losses import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

MAX_SCALE = 100.0


class StyleConsistencyLoss(nn.Module):
    """L_sc: styles of one contrast attract each other, styles of different contrasts repel.

    Mean over all pairs (p, q) of given contrasts in the batch, a contrast with itself included, of
    BCE(sigmoid(cos(S_p, S_q) / tau), [same modality]). The temperature tau is learned, through s =
    log(1 / tau) clamped to [0, log 100]; the loss is a module so that its parameter reaches the
    optimizer.

    Args:
        temperature: What tau starts at.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))

    def forward(
        self, styles: Float[Tensor, "b m d"], given: Bool[Tensor, "b m"]
    ) -> Float[Tensor, ""]:
        """Styles of which only those given count."""
        modality = torch.arange(styles.shape[1], device=styles.device).expand(given.shape)[given]
        rows = F.normalize(styles[given], dim=1)
        scale = self.log_scale.clamp(0, math.log(MAX_SCALE)).exp()
        same = (modality[:, None] == modality).to(rows.dtype)
        return F.binary_cross_entropy_with_logits(scale * rows @ rows.T, same)


class SegmentationLoss(nn.Module):
    """``bce_weight`` * binary cross-entropy + Dice, a sigmoid for each class.

    Args:
        bce_weight: Beside 1 for Dice (0.5 in the published code).
        joint: One Dice over the voxels of all classes together, as published; else the mean of each
            class's own, in which a small lesion counts as much as the background.
    """

    def __init__(self, *, bce_weight: float = 0.5, joint: bool = False) -> None:
        super().__init__()
        self.bce_weight, self.joint = bce_weight, joint
        self.dice = DiceLoss(sigmoid=True, smooth_nr=1e-5, smooth_dr=1e-5)

    def forward(
        self, logits: Float[Tensor, "b k *size"], labels: Float[Tensor, "b k *size"]
    ) -> Float[Tensor, ""]:
        """Logits against labels of 0 and 1; classes may overlap."""
        bce = F.binary_cross_entropy_with_logits(logits, labels)
        if self.joint:
            logits, labels = logits.flatten(1).unsqueeze(1), labels.flatten(1).unsqueeze(1)
        return self.bce_weight * bce + self.dice(logits, labels)


def kl_loss(
    mean: Float[Tensor, "b c"], std: Float[Tensor, "b c"], *, eps: float = 1e-8
) -> Float[Tensor, ""]:
    """Divergence of N(mean, std^2) from N(0, 1), summed over c, mean over b.

    0.5 * sum(mean^2 + std^2 - 1 - log(std^2 + eps)); eps keeps it finite where std is 0.
    """
    square = std.square()
    return 0.5 * (mean.square() + square - 1 - (square + eps).log()).sum(1).mean()
