"""Encoded prompts on disk: made once by a text tower, then read by training and inference.

A cache is one safetensors file with ``tokens`` (m, n, d) and ``mask`` (m, n), and in its header the
modalities with their prompts, the encoder's name and the SHA-256 of its weights.
"""

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from voxlate.data_prep import OutputError, WeightsError
from voxlate.networks.text_knowledge import TextKnowledge

from .prompts import PROMPTS_FILE, prompts_for, read_prompts
from .text_encoder import BIOMEDCLIP, TextEncoder

CACHE_FILE = Path("models", "text_cache.safetensors")


@dataclass(frozen=True)
class TextCache:
    """Encoded prompts and where they come from.

    Attributes:
        prompts: By modality, in the order of the rows.
        encoder: Name of the tower.
        weights_sha256: Of the tower's weights.
        tokens: (m, n, d) float32, zero where there is padding.
        mask: (m, n) bool.
    """

    prompts: dict[str, str]
    encoder: str
    weights_sha256: str
    tokens: Tensor
    mask: Tensor

    def key(self, modalities: Sequence[str]) -> str:
        """Hash of what the rows of some modalities depend on: tower, weights and prompts."""
        facts = [self.encoder, self.weights_sha256, [self.prompts[name] for name in modalities]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def knowledge(self, modalities: Sequence[str]) -> TextKnowledge:
        """The rows of some modalities, cut to the longest of them."""
        rows = [list(self.prompts).index(name) for name in modalities]
        mask = self.mask[rows]
        longest = int(mask.sum(dim=1).max())
        return TextKnowledge(self.tokens[rows, :longest], mask[:, :longest], self.key(modalities))


def build_text_cache(
    bundle: str | os.PathLike[str],
    *,
    encoder: str = BIOMEDCLIP,
    output: str | os.PathLike[str] | None = None,
) -> Path:
    """Encode a bundle's prompts and write its cache, or replace it.

    Args:
        bundle: Folder with ``configs/prompts.yaml``.
        encoder: See ``TextEncoder``; a name on the hub may be fetched from the network.
        output: File to write; by default ``models/text_cache.safetensors`` of the bundle.

    Returns:
        The file.

    Raises:
        WeightsError: The prompts or the tower cannot be read.
        UsageError: The extra ``text`` is missing, or a prompt is too long for the tower.
        OutputError: The file cannot be written.
    """
    prompts = read_prompts(Path(bundle) / PROMPTS_FILE)
    tower = TextEncoder(encoder)
    tokens, mask = tower(list(prompts.values()))
    path = Path(bundle) / CACHE_FILE if output is None else Path(output)
    write_text_cache(TextCache(prompts, tower.name, tower.weights_sha256, tokens, mask), path)
    return path


def write_text_cache(cache: TextCache, path: Path) -> None:
    """Write a cache in one piece.

    Raises:
        OutputError: That is not possible.
    """
    facts = {
        "prompts": json.dumps(cache.prompts),
        "encoder": cache.encoder,
        "weights_sha256": cache.weights_sha256,
    }
    tensors = {"tokens": cache.tokens.contiguous(), "mask": cache.mask.contiguous()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(save(tensors, metadata=facts))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"the cache cannot be written ({error.strerror})",
            "name another file with --output",
            code="E_OUTPUT",
            file=path,
        ) from None


def read_text_cache(path: str | os.PathLike[str], *, command: str) -> TextCache:
    """Read a cache.

    Args:
        path: The file.
        command: What makes it, for the refusal.

    Raises:
        WeightsError: It is missing, or no cache.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            "the encoded prompts are missing",
            f"make them: {command}",
            code="E_TEXT_CACHE",
            file=path,
        )
    try:
        with safe_open(path, framework="pt") as file:
            facts: Mapping[str, str] = file.metadata() or {}
            prompts = json.loads(facts["prompts"])
            tokens, mask = file.get_tensor("tokens"), file.get_tensor("mask")
            cache = TextCache(prompts, facts["encoder"], facts["weights_sha256"], tokens, mask)
        fits = tokens.dim() == 3 and mask.dtype is torch.bool and mask.shape == tokens.shape[:2]
        if not fits or len(prompts) != len(tokens):
            raise ValueError
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        raise WeightsError(
            "it is damaged or holds no encoded prompts",
            f"make it again: {command}",
            code="E_TEXT_CACHE",
            file=path,
        ) from None
    return cache


def text_knowledge(
    bundle: str | os.PathLike[str],
    modalities: Sequence[str],
    *,
    cache: str | os.PathLike[str] | None = None,
) -> TextKnowledge:
    """A bundle's descriptions of its modalities, from its cache: no network, no text tower.

    Args:
        bundle: Folder with ``configs/prompts.yaml`` and the cache.
        modalities: Names in one-hot order.
        cache: Another file than ``models/text_cache.safetensors`` of the bundle.

    Raises:
        WeightsError: There is no prompt or no cache, or the cache is of other prompts.
    """
    bundle = Path(bundle)
    path = bundle / CACHE_FILE if cache is None else Path(cache)
    command = f"voxlate text-cache --bundle {shlex.quote(os.fspath(bundle))}"
    if cache is not None:
        command += f" --output {shlex.quote(os.fspath(path))}"
    prompts = prompts_for(read_prompts(bundle / PROMPTS_FILE), modalities, bundle / PROMPTS_FILE)
    found = read_text_cache(path, command=command)
    changed = [name for name in modalities if found.prompts.get(name) != prompts[name]]
    if changed:
        raise WeightsError(
            f"it was made of other prompts than {PROMPTS_FILE} has now ({', '.join(changed)})",
            f"make it again: {command} --encoder NAME (it was made with {found.encoder})",
            code="E_TEXT_CACHE",
            file=path,
        )
    return found.knowledge(modalities)
