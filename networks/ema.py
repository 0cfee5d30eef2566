"""Exponential moving average of a network's weights, with warm-up."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """Average of a module's parameters over its training; buffers are copied, not averaged.

    average += (1 - d_n) * (parameter - average), d_n = min(decay, (1 + n) / (10 + n)) at the nth
    update, n from 1, so that the first steps do not linger. Averages are kept in float32 at
    least, whatever the parameters are in, and begin at the parameters' values.

    Args:
        module: The network in training; it is referred to, not copied.
        decay: In [0, 1); 0.9999 in ALDM.

    Raises:
        ValueError: The decay is out of range.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.module = module
        self.decay = decay
        self.num_updates = 0
        self._applied = False
        self.average = {
            name: value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
            for name, value in module.named_parameters()
        }
        self.buffers = {name: value.clone() for name, value in module.named_buffers()}

    def decay_at(self, update: int) -> float:
        """The decay of the nth update, n from 1."""
        return min(self.decay, (1 + update) / (10 + update))

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's present weights into the average; call it after each optimiser step.

        Raises:
            RuntimeError: The averages are in the module at the moment.
        """
        self._refuse_while_applied()
        self.num_updates += 1
        rate = 1 - self.decay_at(self.num_updates)
        for name, value in self.module.named_parameters():
            average = self.average[name].to(value.device)  # follows a module that was moved
            self.average[name] = average.lerp_(value.to(average.dtype), rate)
        for name, buffer in self.module.named_buffers():
            self.buffers[name] = buffer.clone()

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """Put the averages into the module for the time of a ``with`` block.

        Raises:
            RuntimeError: They are in it already.
        """
        self._refuse_while_applied()
        current = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        kept = {name: value.detach().clone() for name, value in current.items()}
        self._applied = True
        try:
            _copy({**self.average, **self.buffers}, into=current)
            yield self.module
        finally:
            _copy(kept, into=current)
            self._applied = False

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs; tensors and numbers only."""
        return {
            "decay": self.decay,
            "num_updates": self.num_updates,
            "parameters": {name: value.clone() for name, value in self.average.items()},
            "buffers": {name: value.clone() for name, value in self.buffers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, exactly.

        Raises:
            ValueError: It is of a module with other weights.
        """
        for kind, ours in (("parameters", self.average), ("buffers", self.buffers)):
            theirs = state[kind]
            differ = sorted(set(ours) ^ set(theirs)) or sorted(
                name for name in ours if ours[name].shape != theirs[name].shape
            )
            if differ:
                raise ValueError(f"the average's {kind} are of another network: {differ[:5]}")
        self.decay = state["decay"]
        self.num_updates = state["num_updates"]
        for kind, ours in (("parameters", self.average), ("buffers", self.buffers)):
            for name, value in state[kind].items():
                ours[name] = value.detach().to(ours[name], copy=True)

    def _refuse_while_applied(self) -> None:
        if self._applied:
            raise RuntimeError("the averages are in the module: leave the applied() block first")


@torch.no_grad()
def _copy(values: dict[str, Tensor], *, into: dict[str, Tensor]) -> None:
    for name, value in values.items():
        into[name].copy_(value)
