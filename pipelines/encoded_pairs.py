"""Pairs of latents that are computed once: what the last stage learns from, without re-encoding."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from voxlate.networks.translation import TranslationNetwork

from .device import inference_context
from .prepared_cases import PreparedCase
from .train_prior import case_volumes
from .training import precision_dtype
from .training_data import PairDataset

NAMES = ("clean", "concat", "start")


def encode_pair(network: TranslationNetwork, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """What the denoiser is taught from a batch of pairs.

    Returns:
        float32 ``clean``, the target's latent, and the prior's ``concat`` and ``start`` for it.
    """
    if all(name in batch for name in NAMES):
        return {name: batch[name].float() for name in NAMES}
    case = network.encode_case(case_volumes(batch), batch["available"])
    clean = network.encode(batch["target"])
    prior = network.ask_prior(case, batch["target_index"])
    found = {"clean": clean, "concat": prior.concat, "start": prior.start}
    return {name: latent.float() for name, latent in found.items()}


class EncodedPairs(Dataset):
    """The pairs of a ``PairDataset``, encoded by the frozen autoencoder and prior and kept on disk.

    Each case is shown in ``variants`` views and variations, drawn once; a pair in one of them is
    encoded when it is first asked for, and read (float16) from then on. Which pair and variant
    sample ``index`` is depends on (seed, index) alone, so a run resumes exactly. Files are named by
    a hash of all they depend on, weights included.

    Args:
        pairs: What to show.
        network: Its autoencoder and prior are trained and no longer change.
        variants: Views of a case.
        cache_dir: Where the latents go; about 15 MB for each pair and variant of a whole head.
        precision: Of the encoding, as the trainer's.

    Raises:
        ValueError: There is no variant.
    """

    def __init__(
        self,
        pairs: PairDataset,
        network: TranslationNetwork,
        *,
        variants: int,
        cache_dir: str | os.PathLike[str],
        precision: str = "auto",
    ) -> None:
        if variants < 1:
            raise ValueError(f"variants must be 1 or more, got {variants}")
        self.pairs, self.network, self.variants = pairs, network, variants
        self.crop_size = pairs.crop_size
        self.device = network.scale_factor.device
        self.dtype = precision_dtype(precision, self.device)
        self.folder = Path(cache_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.common = [
            weights_digest(network),
            repr(pairs.augmentation),
            repr((pairs.crop_size, pairs.multiple, pairs.min_foreground, pairs.slices)),
            str(self.dtype),
            pairs.seed,
        ]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``clean``, ``concat``, ``start`` (c, *size), ``target_index`` and ``case``."""
        rng = np.random.default_rng([self.pairs.seed, index])
        case, source, target = self.pairs.draw_pair(rng)
        variant = int(rng.integers(self.variants))
        tensors = self.encoded(case, source, target, variant)
        return {**tensors, "target_index": target, "case": case.case_id}

    def encoded(
        self, case: PreparedCase, source: int, target: int, variant: int
    ) -> dict[str, Tensor]:
        """The latents of a pair, from its file, which is made if it is not there."""
        facts = [*self.common, str(case.mask), case.case_id, source, target, variant]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]
        file = self.folder / f"{name}.safetensors"
        if not file.is_file():
            # all pairs of a case's variant share one draw, so its view, wherever the case lies
            drawn = hashlib.sha256(f"{case.case_id} {variant}".encode()).digest()
            rng = np.random.default_rng([self.pairs.seed, *drawn])
            sample = self.pairs.show(case, source, target, rng)
            batch = {
                name: torch.as_tensor(value)[None].to(self.device)
                for name, value in sample.items()
                if name != "case"
            }
            with inference_context(self.device, self.dtype):
                found = encode_pair(self.network, batch)
            building = file.with_suffix(f".{os.getpid()}.tmp")
            save_file({k: v[0].half().contiguous().cpu() for k, v in found.items()}, building)
            building.rename(file)
        return load_file(file)


def weights_digest(network: TranslationNetwork) -> str:
    """SHA-256 of everything that decides a latent: autoencoder, prior, scale, and which latent."""
    digest = hashlib.sha256(bytes([network.quantized]))
    for name, value in sorted(network.state_dict().items()):
        if not name.startswith("denoiser.") and name != "contract":
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(name.encode() + raw.numpy().tobytes())
    return digest.hexdigest()
