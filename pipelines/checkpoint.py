"""Weights on disk: read without executing anything, checked, and written in one piece."""

import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from voxlate.data_prep import WeightsError

SAFETENSORS = ".safetensors"
NOT_WEIGHTS = {
    b"<": ("it is a web page: the download failed", "fetch it again"),
    b"version https://git-lfs": ("it is a git-lfs pointer", "run 'git lfs pull'"),
}


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a flat state dict onto the CPU: safetensors by suffix, else torch's tensors alone.

    Raises:
        WeightsError: The file is missing, damaged, or holds something else.
    """
    state = read_checkpoint(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _damaged(Path(path), "it is no flat state dict", "save network.state_dict()")
    return state


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """Read whatever a file of weights holds onto the CPU, without executing anything.

    Raises:
        WeightsError: The file is missing, damaged, or needs code to be read.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            "there is no such weights file",
            "check the path, or train the bundle first",
            code="E_WEIGHTS_MISSING",
            file=path,
        )
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if not head:
        raise _damaged(path, "the file is empty", "fetch it again")
    for mark, (what, advice) in NOT_WEIGHTS.items():
        if head.startswith(mark):
            raise _damaged(path, what, advice)
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _damaged(
            path, "it holds more than tensors, or is damaged", "use a state dict of tensors"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, SafetensorError, zipfile.BadZipFile):
        raise _damaged(path, "it is damaged or no weights file", "fetch it again") from None


def _check_sums(path: Path) -> None:
    """Compare the checksums that torch.save writes and torch.load does not look at.

    Raises:
        WeightsError: One differs.
        zipfile.BadZipFile: What should be an archive is none.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise _damaged(path, f"the checksum of its part {bad} is wrong", "fetch it again")


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> str:
    """Load weights that fit exactly.

    Returns:
        SHA-256 of the file.

    Raises:
        WeightsError: Unreadable, or names, shapes or the contract do not fit the network.
    """
    state = read_weights(path)
    own = network.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        parts = [
            f"{len(names)} {kind} (first: {names[0]})"
            for kind, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise _misfit(path, ", ".join(parts))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise _misfit(path, " ".join(str(error).split())[:400]) from None
    return sha256_of(path)


def save_weights(state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write a flat state dict; a crash leaves the old file or the new one, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == SAFETENSORS:
            save_file(plain, temporary)
        else:
            torch.save(plain, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _damaged(path: Path, what: str, todo: str) -> WeightsError:
    return WeightsError(what, todo, code="E_WEIGHTS_DAMAGED", file=path)


def _misfit(path: str | os.PathLike[str], why: str) -> WeightsError:
    return WeightsError(
        f"the weights do not fit the network: {why}",
        "use the weights of this bundle",
        code="E_WEIGHTS_MISFIT",
        file=path,
    )
