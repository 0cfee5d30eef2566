"""One process among several: who it is, and gradients averaged over all."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def ranks() -> tuple[int, int]:
    """This process's rank and how many there are; (0, 1) outside torchrun."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def over_ranks(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with its gradients averaged over the ranks; the module itself on a single one."""
    if ranks()[1] == 1 or not any(p.requires_grad for p in module.parameters()):
        return module
    ids = [device.index] if device.type == "cuda" else None
    # a batch without some modality leaves that modality's MS-SPADE branch without a gradient
    return DistributedDataParallel(module, device_ids=ids, find_unused_parameters=True)
