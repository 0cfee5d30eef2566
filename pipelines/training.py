"""What the three training stages share: the step, precision, averaging over ranks, exact resume, learning rates."""

import hashlib
import json
import logging
import math
import os
import random
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines import Trainer
from monai.engines.workflow import Workflow
from monai.inferers import Inferer, SimpleInferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.optimizer import Optimizer

from voxlate.data_prep import Preprocessing, UsageError, WeightsError
from voxlate.networks.ema import ExponentialMovingAverage
from voxlate.networks.noise_scheduler import NoiseScheduler
from voxlate.networks.translation import TranslationNetwork

from .checkpoint import load_weights, save_weights
from .device import autocast_dtype
from .training_data import StepSampler

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The number format of the forward pass: a name, or ``auto`` for bfloat16 where the device computes in it.

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
    """Autocast on this very device (MONAI's ``amp`` speaks to CUDA only and leaves a CPU in float32)."""
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype=dtype)


def warmup_cosine(
    optimizer: Optimizer, *, max_steps: int, warmup_steps: int = 0, final: float = 0.0
) -> LambdaLR:
    """Linear warm-up, then a half cosine down to ``final`` times the optimizer's rate at ``max_steps``.

    With ``final`` 1 the rate is constant after the warm-up. It is never scaled by batch size or ranks.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """A CPU generator of one step on one rank: a run resumed there draws what the straight run drew."""
    key = json.dumps(["training step", seed, step, rank]).encode()
    number = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    return torch.Generator().manual_seed(number)


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
    """One stage of training as a MONAI trainer; the stages say what is trained and what the losses are.

    A step: draw from the step's own generator, forward in autocast, backward, clip, optimizer, learning rate, EMA.
    The output of a step is a dictionary of scalars with ``loss`` in it. An epoch is ``epoch_length`` steps.

    Args:
        network: The whole network. All but the trained part is frozen and set to evaluation.
        trained: The part that learns.
        device: Where to compute.
        max_epochs: Epochs in all.
        epoch_length: Steps an epoch.
        train_data_loader: From ``training_loader``.
        optimizer: Of the trained part.
        lr_scheduler: Stepped after every step; None for a constant rate.
        ema: Averages the trained part; its weights are validated and saved. None uses the weights themselves.
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
            deep = any(p.dim() == 5 for p in network.parameters())
            network.to(memory_format=torch.channels_last_3d if deep else torch.channels_last)
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
            return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

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
            "random": random_state(),
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
        set_random_state(state["random"])


def random_state() -> dict[str, Any]:
    """States of the global generators (for networks with dropout), in types that load with ``weights_only``."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Take back ``random_state``."""
    random.setstate(state["python"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


class NetworkParts(NamedTuple):
    """What network files describe. ``steps`` are those of sampling."""

    network: TranslationNetwork
    preprocessing: Preprocessing
    scheduler: NoiseScheduler
    steps: int


def config_parts(files: Sequence[str | os.PathLike[str]]) -> NetworkParts:
    """Build network, preprocessing and scheduler from network files; later files override earlier ones."""
    parser = ConfigParser()
    parser.read_config([os.fspath(file) for file in files])
    keys = ("network_def", "preprocessing_def", "scheduler_def", "steps")
    return NetworkParts(*(parser.get_parsed_content(key) for key in keys))


def load_network(
    network: TranslationNetwork,
    weights: str | os.PathLike[str] | None,
    device: torch.device | str = "cpu",
) -> TranslationNetwork:
    """The network on a device, with the weights of a file; without a file, as it is."""
    if weights is not None:
        load_weights(network, weights)
    return network.to(device)


def prepare_process(seed: int, *, threads: int | None = None) -> None:
    """Log to the terminal, seed the network's initial weights, join the other ranks under torchrun.

    Args:
        seed: Of Python, NumPy and torch.
        threads: Of the CPU; None for torch's choice.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("voxlate").setLevel(logging.INFO)
    if threads is not None:
        torch.set_num_threads(threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Checkpointing:
    """Write a run's checkpoint and its weights, and go on from the checkpoint if there is one.

    Args:
        checkpoint_path: Of the whole state, for resuming.
        weights_path: Of the network's (averaged) weights alone.
        every: Steps between writings; the last step is always written.
        resume: Go on from ``checkpoint_path`` if it is there; else start afresh and replace it.
    """

    def __init__(
        self,
        checkpoint_path: str | os.PathLike[str],
        weights_path: str | os.PathLike[str],
        *,
        every: int = 1000,
        resume: bool = True,
    ) -> None:
        self.checkpoint_path, self.weights_path = Path(checkpoint_path), Path(weights_path)
        self.every, self.resume = every, resume
        self.written = -1

    def attach(self, engine: StageTrainer) -> None:
        """Restore when the run starts; write while it goes on and when it ends."""
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.write)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def restore(self, engine: StageTrainer) -> None:
        """Read the checkpoint, if it is there."""
        if not self.checkpoint_path.is_file():
            return
        engine.restore(torch.load(self.checkpoint_path, map_location="cpu", weights_only=True))
        self.written = engine.state.iteration
        logger.info(f"resumed {self.checkpoint_path} at step {engine.state.iteration}")

    def write(self, engine: StageTrainer) -> None:
        """Write both files, on the first rank."""
        if ranks()[0] > 0 or self.written == engine.state.iteration:
            return
        save_weights(engine.weights(), self.weights_path)
        self.checkpoint_path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint_path.with_name(f".{self.checkpoint_path.name}.{os.getpid()}.tmp")
        try:
            torch.save(engine.checkpoint(), temporary)
            os.replace(temporary, self.checkpoint_path)
        finally:
            temporary.unlink(missing_ok=True)
        self.written = engine.state.iteration
