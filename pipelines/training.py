"""What the three training stages share: the step, its precision and its state."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.engines.workflow import Workflow
from monai.inferers import Inferer, SimpleInferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from voxlate.data_prep import UsageError, WeightsError
from voxlate.networks.ema import ExponentialMovingAverage
from voxlate.networks.translation import TranslationNetwork

from .device import autocast_dtype
from .ranks import ranks
from .training_data import StepSampler

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The number format of the forward pass; ``auto`` is bfloat16 where the device has it.

    Raises:
        UsageError: No such precision.
    """
    if precision == "auto":
        return autocast_dtype(device)
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision {precision!r} is unknown",
            f"use auto or one of {', '.join(PRECISIONS)}",
            code="E_OPTION",
        )
    return PRECISIONS[precision]


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast | nullcontext[None]:
    """Autocast on this very device (MONAI's ``amp`` leaves a CPU in float32)."""
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype=dtype)


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """A CPU generator for one step on one rank: a resumed run draws what a straight one drew."""
    key = json.dumps(["training step", seed, step, rank]).encode()
    number = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    return torch.Generator().manual_seed(number)


def to_device(batch: Any, device: torch.device) -> Any:
    """The tensors of a batch on a device; other values as they are."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }


def scalars(output: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of a step's output, as MONAI's Stats and TensorBoard handlers want them."""
    return {
        name: float(value)
        for name, value in output.items()
        if not isinstance(value, Tensor) or value.numel() == 1
    }


class StageTrainer(Trainer):
    """One stage of training as a MONAI trainer; stages say what is trained, and by what losses.

    A step: draw from the step's own generator, forward in autocast, backward, clip, optimizer,
    learning rate, EMA. The output of a step is a dictionary of scalars with ``loss`` in it. An
    epoch is ``epoch_length`` steps.

    Args:
        network: The whole network. All but the trained part is frozen and set to evaluation.
        trained: The part that learns.
        device: Where to compute.
        max_epochs: Epochs in all.
        epoch_length: Steps an epoch.
        train_data_loader: From ``training_loader``.
        optimizer: Of the trained part.
        lr_scheduler: Stepped after every step; None for a constant rate.
        ema: Averages the trained part; its weights are validated and saved. None uses the weights
            themselves.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``, on the CPU too.
        clip_norm: Largest norm of the gradient; None for no limit.
        channels_last: Keep weights in channels-last order (faster convolutions on most devices).
        seed: Of noise, timesteps and the codebook's revival.
        inferer: How the trained module is called.
        train_handlers: Ignite handlers, each with ``attach``.
    """

    stage: str

    def __init__(
        self,
        network: TranslationNetwork,
        trained: nn.Module,
        *,
        device: torch.device | str,
        max_epochs: int,
        epoch_length: int,
        train_data_loader: Iterable[Any],
        optimizer: Optimizer,
        lr_scheduler: LRScheduler | None = None,
        ema: ExponentialMovingAverage | None = None,
        precision: str = "auto",
        clip_norm: float | None = 1.0,
        channels_last: bool = False,
        seed: int = 0,
        inferer: Inferer | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        device = torch.device(device)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            decollate=False,
        )
        self.network, self.trained = network, trained
        self.optimizer, self.lr_scheduler, self.ema = optimizer, lr_scheduler, ema
        self.dtype = precision_dtype(precision, device)
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.clip_norm, self.seed = clip_norm, seed
        self.inferer = inferer or SimpleInferer()
        if channels_last:
            keep_channels_last(network)
        network.requires_grad_(False)
        network.eval()
        trained.requires_grad_(True)
        self.add_event_handler(Events.EPOCH_STARTED, self.place_sampler)
        self._register_handlers(train_handlers or ())

    @abstractmethod
    def losses(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch, to be minimised under ``loss``; called in autocast."""

    def after_step(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """What follows the optimizer's step; its scalars are reported too."""
        return {}

    def extra_state(self) -> dict[str, Any]:
        """What a stage must keep, beside the common state, to resume exactly."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back ``extra_state``."""

    @property
    def max_steps(self) -> int:
        """Steps in all."""
        return int(self.state.max_epochs * self.state.epoch_length)

    def run(self) -> None:
        """Train up to the last step; a run that is already there does nothing."""
        Workflow.run(self)

    def place_sampler(self, engine: Engine) -> None:
        """Start the data where the run is (Ignite asks for it after the first epoch has begun)."""
        sampler = getattr(self.data_loader, "batch_sampler", None)
        if isinstance(sampler, StepSampler):
            sampler.first_step = engine.state.iteration

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Any]:
        device = self.state.device
        generator = step_generator(self.seed, engine.state.iteration - 1, ranks()[0])
        torch.manual_seed(generator.initial_seed())  # dropout, too, belongs to the step
        batch = to_device(batchdata, device)
        self.trained.train()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(device, self.dtype):
            terms = self.losses(batch, generator)
        self.grad_scaler.scale(terms[Keys.LOSS]).backward()
        self.descend(self.optimizer, self.trained.parameters())
        terms["lr"] = torch.tensor(self.optimizer.param_groups[0]["lr"])
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        if self.ema is not None:
            self.ema.update()
        terms.update(self.after_step(batch, generator))
        self.grad_scaler.update()
        return {name: value.detach() for name, value in terms.items()}

    def descend(self, optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
        """Clip the gradients and step."""
        if self.clip_norm is not None:
            self.grad_scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(parameters, self.clip_norm)
        self.grad_scaler.step(optimizer)

    def weights(self) -> dict[str, Tensor]:
        """The network's weights, averaged where there is an EMA: what is shipped."""
        with self.averaged():
            return {
                name: value.detach().clone() for name, value in self.network.state_dict().items()
            }

    def averaged(self) -> Any:
        """Within this context the network has its averaged weights."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def checkpoint(self) -> dict[str, Any]:
        """Everything that a run needs to go on as if it had never stopped."""
        return {
            "stage": self.stage,
            "step": self.state.iteration,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": None if self.lr_scheduler is None else self.lr_scheduler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "grad_scaler": self.grad_scaler.state_dict(),
            "extra": self.extra_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what ``checkpoint`` gave.

        Raises:
            WeightsError: It belongs to another stage.
        """
        if state.get("stage") != self.stage:
            raise WeightsError(
                f"the checkpoint is of stage {state.get('stage')!r}, this is {self.stage!r}",
                "use an output folder of its own for each stage",
                code="E_CHECKPOINT",
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.lr_scheduler is not None:
            self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.grad_scaler.load_state_dict(state["grad_scaler"])
        self.load_extra_state(state["extra"])
        self.state.iteration = state["step"]
        self.state.epoch = state["step"] // self.state.epoch_length


def keep_channels_last(network: nn.Module) -> None:
    """Order the weights of convolutions channels-last, in place; other tensors stay as they are.

    ``Module.to(memory_format=...)`` would refuse a network that has tensors of four and of five
    axes.
    """
    weights = [weight for weight in network.parameters() if weight.dim() in (4, 5)]
    axes = max((weight.dim() for weight in weights), default=4)
    order = torch.channels_last_3d if axes == 5 else torch.channels_last
    for weight in weights:
        if weight.dim() == axes:
            weight.data = weight.data.contiguous(memory_format=order)
