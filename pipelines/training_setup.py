"""What a training configuration builds first: process, network, weights, learning rate."""

import logging
import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import Optimizer

from voxlate.data_prep import WeightsError
from voxlate.networks.translation import TranslationNetwork, decode_contract, differing_facts

from .checkpoint import read_weights
from .plain_errors import refuse_plainly

logger = logging.getLogger(__name__)

FREE_FACTS = {"denoiser": {"schedule", "text"}, "prior": {"quantized"}, "regression": set[str]()}
"""What of the contract a stage may still change while a part is untrained."""


def load_network(
    network: TranslationNetwork,
    weights: str | os.PathLike[str] | None,
    device: torch.device | str = "cpu",
    *,
    fresh: Sequence[str] = (),
) -> TranslationNetwork:
    """The network on a device, with the weights of a file but for parts that start afresh.

    Args:
        network: To be filled.
        weights: File of the stage before; None leaves the whole network as it is.
        device: Where to.
        fresh: Of ``prior``, ``denoiser`` and ``regression``, what is yet to be trained: the file's
            may be of another size, made for another schedule or another kind of latent, and is not
            used.

    Raises:
        WeightsError: The file is unreadable, or the rest of it does not fit.
    """
    if weights is None:
        return network.to(device)
    free = set().union(*(FREE_FACTS[part] for part in fresh))
    kept = {
        name: value
        for name, value in read_weights(weights).items()
        if name.partition(".")[0] not in fresh
    }
    own = network.state_dict()
    needed = {name for name in own if name.partition(".")[0] not in fresh}
    differ = sorted(needed ^ set(kept)) or sorted(
        name for name in needed - {"contract"} if own[name].shape != kept[name].shape
    )
    if differ:
        raise WeightsError(
            f"does not fit the network ({len(differ)} weights, the first {differ[0]})",
            "use the network file that the stage before was trained with",
            code="E_WEIGHTS",
            file=weights,
        )
    theirs, ours = decode_contract(kept["contract"]), network.facts()
    for fact in differing_facts(theirs, ours):
        if fact in ours and fact not in free:
            raise WeightsError(
                f"made for {fact} {theirs.get(fact)}, the network file says {ours[fact]}",
                "use the network file that the stage before was trained with",
                code="E_CONTRACT",
                file=weights,
            )
    network.load_state_dict({**own, **kept, "contract": network.contract})
    return network.to(device)


def start_from_linear_code(
    network: TranslationNetwork, dataset: Iterable[Mapping[str, Any]], *, whitening: float = 0.0
) -> None:
    """Begin an autoencoder that has a linear skip at its training volumes' components.

    Without a linear skip nothing happens. To be called before anything copies the weights.

    Args:
        network: Its autoencoder is untrained.
        dataset: Samples with ``image`` (1, *size), such as ``ValidationVolumes`` over training
            cases.
        whitening: See ``VQGAN.fit_linear_skip``.
    """
    autoencoder: Any = network.autoencoder
    if getattr(getattr(autoencoder, "encoder", None), "skip", None) is None:
        return
    volumes = (sample["image"][None] for sample in dataset)
    variance = autoencoder.fit_linear_skip(volumes, whitening=whitening)
    kept = float(variance[: autoencoder.latent_channels].sum() / variance.sum())
    logger.info(
        f"linear code of {autoencoder.latent_channels} channels: {kept:.2%} of the variance"
    )


def prepare_process(seed: int, *, threads: int | None = None) -> None:
    """Log to the terminal, refuse plainly, seed the initial weights, join the other ranks.

    Ranks are torchrun's. See ``refuse_plainly`` for what happens to errors.

    Args:
        seed: Of Python, NumPy and torch.
        threads: Of the CPU; None for torch's choice.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("voxlate").setLevel(logging.INFO)
    refuse_plainly()
    if threads is not None:
        torch.set_num_threads(threads)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def warmup_cosine(
    optimizer: Optimizer, *, max_steps: int, warmup_steps: int = 0, final: float = 0.0
) -> LambdaLR:
    """Linear warm-up, then a half cosine down to ``final`` times the rate at ``max_steps``.

    With ``final`` 1 the rate is constant after the warm-up. It is never scaled by batch size or
    ranks.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
