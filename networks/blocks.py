"""Small parts that several networks share: convolutions, norms, zero starts, modality checks."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def conv(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    bias: bool = True,
) -> nn.Conv2d | nn.Conv3d:
    """A convolution with symmetric padding: it keeps the size at stride 1, halves it at 2.

    Raises:
        ValueError: ``spatial_dims`` is neither 2 nor 3.
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
    kind = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
    return kind(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=bias)


class GroupNorm(nn.GroupNorm):
    """Group norm that also takes a single value in a group, which torch's refuses: it is zero."""

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, *size) to the same shape; statistics in float32 whatever the input."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(channels: int, groups: int) -> GroupNorm:
    """Group norm with the most groups that divide the channels, at most ``groups``; eps 1e-5."""
    count = next(n for n in range(min(groups, channels), 0, -1) if channels % n == 0)
    return GroupNorm(count, channels, eps=1e-5)


def instance_norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance for each channel of each sample; (b, c, *size) to the same shape.

    As group norm with one channel a group: the same numbers as ``nn.InstanceNorm3d`` without affine
    weights, with float32 statistics under bfloat16 and defined for a single voxel (zero).
    """
    return torch.group_norm(x, x.shape[1], eps=1e-5)


def zero(module: AnyModule) -> AnyModule:
    """Zero a module's parameters, so that a new branch starts without effect."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last voxel at the end of each axis of (b, c, *size) up to a multiple."""
    padding: list[int] = []
    for length in x.shape[2:]:
        padding = [0, -length % multiple] + padding
    return F.pad(x, padding, mode="replicate") if max(padding) > 0 else x


def crop_like(x: Tensor, like: Tensor) -> Tensor:
    """Drop what is beyond the size of ``like`` at the end of each axis of (b, c, *size)."""
    for axis in range(2, x.dim()):
        x = x.narrow(axis, 0, like.shape[axis])
    return x


def recording() -> bool:
    """Whether a graph is being recorded, so that values cannot be looked at."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def check_modality(index: Tensor, num_modalities: int, batch: int) -> None:
    """Refuse modality indices that no weights belong to. Silent while a graph is being recorded.

    Raises:
        ValueError: ``index`` is not one integer in [0, num_modalities) for each sample.
    """
    if recording():
        return
    if index.shape != (batch,) or index.dtype != torch.int64:
        raise ValueError(
            f"expected one int64 modality for each of {batch} samples, "
            f"got {index.dtype} of shape {tuple(index.shape)}"
        )
    values = index.tolist()
    if any(not 0 <= value < num_modalities for value in values):
        raise ValueError(f"modalities must lie in 0..{num_modalities - 1}, got {values}")


def check_text(text: Tensor | None, mask: Tensor | None, channels: int, batch: int) -> None:
    """Refuse text that a network does not read, or none where it reads some.

    Args:
        text: (b, n, channels).
        mask: (b, n) bool.
        channels: Of the tokens that the network reads; 0 for a network that reads none.
        batch: Samples.

    Raises:
        ValueError: Text or mask do not fit.
    """
    shape = None if text is None else tuple(text.shape)
    if channels == 0:
        if text is not None:
            raise ValueError(f"this denoiser reads no text, got text of shape {shape}")
    elif text is None:
        raise ValueError(f"this denoiser reads text of {channels} channels, got None")
    elif text.dim() != 3 or text.shape[0] != batch or text.shape[2] != channels:
        raise ValueError(f"text must have shape {(batch, 'n', channels)}, got {shape}")
    wanted = None if text is None else tuple(text.shape[:2])
    if mask is not None and (tuple(mask.shape) != wanted or mask.dtype != torch.bool):
        raise ValueError(
            f"text_mask must be bool of shape {wanted}, got {mask.dtype} {tuple(mask.shape)}"
        )
