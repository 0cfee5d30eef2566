"""A text tower of open_clip: prompts in, their token sequences out.

The towers are written for images and pooled vectors; here their last hidden states are wanted, and
the image half is never called. Names are open_clip's:

- ``hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224``: a repository on the hub;
- ``ViT-B-32:laion2b_s34b_b79k``: an architecture and the tag (or file) of its weights;
- ``local-dir:PATH``: a folder, read without network.
"""

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from torch import Tensor

from voxlate.data_prep import UsageError, WeightsError

logger = logging.getLogger(__name__)

BIOMEDCLIP = "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
LOCAL, HUB = "local-dir:", "hf-hub:"
CONFIG = "open_clip_config.json"
LOADING_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    pickle.UnpicklingError,
    SafetensorError,
)


class EncodedText(NamedTuple):
    """Token sequences of texts and where they are not padding; padding is zero."""

    tokens: Float[Tensor, "m n d"]
    mask: Bool[Tensor, "m n"]


class TextEncoder:
    """The text tower of an open_clip model, with its tokenizer.

    Args:
        name: See the module. Anything but ``local-dir:`` may be fetched from the network, unless
            it was before.

    Raises:
        UsageError: The extra ``text`` is not installed, or the name is no name.
        WeightsError: The tower cannot be found, fetched or read.
    """

    def __init__(self, name: str = BIOMEDCLIP) -> None:
        open_clip = require_text_extra()
        self.name = public_name(name)
        with towers_own_words(name), offline(name.startswith(LOCAL)):
            model = open_clip.create_model(
                **model_arguments(name), force_custom_text=True, require_pretrained=True
            )
            architecture = name.partition(":")[0]
            schema = name.startswith((LOCAL, HUB))
            self.tokenizer = open_clip.get_tokenizer(name if schema else architecture)
        self.tower: Any = model.text.eval().requires_grad_(False)
        self.tower.output_tokens = True
        self.weights_sha256 = sha256_of_state(self.tower.state_dict())

    def __call__(self, texts: Sequence[str]) -> EncodedText:
        """Encode texts, cut to the longest.

        Raises:
            UsageError: A text has more tokens than the tower reads.
        """
        ids = self.tokenizer(list(texts))
        mask = self.is_text(ids)
        for text, row in zip(texts, mask, strict=True):
            if bool(row.all()):
                raise UsageError(
                    f"a prompt fills the {ids.shape[1]} tokens that {self.name} reads "
                    f"({text[:40]!r}...)",
                    "shorten it",
                    code="E_PROMPTS",
                )
        with torch.no_grad():
            _, tokens = self.tower(ids)
        mask = mask[:, ids.shape[1] - tokens.shape[1] :]  # some towers keep the first for pooling
        mask = mask[:, : int(mask.sum(dim=1).max())]
        return EncodedText((tokens[:, : mask.shape[1]] * mask[..., None]).float(), mask)

    def is_text(self, ids: Tensor) -> Tensor:
        """Which of the tokenizer's ids (m, n) are no padding, bool."""
        inner = getattr(self.tokenizer, "tokenizer", None)
        padding = getattr(inner, "pad_token_id", None)
        if padding is not None:
            return ids != padding
        # CLIP's own pads with 0, which is also a word: what counts ends with the end-of-text token
        last = (ids == self.tokenizer.eot_token_id).int().argmax(dim=1, keepdim=True)
        return torch.arange(ids.shape[1]) <= last


def require_text_extra() -> Any:
    """Return open_clip.

    Raises:
        UsageError: It, or transformers, is not installed.
    """
    try:
        import open_clip
        import transformers  # noqa: F401  (open_clip asks for it when it builds a tower)
    except ImportError as error:
        raise UsageError(
            f"text towers need open_clip and transformers ({error})",
            "pip install 'voxlate[text]'",
            code="E_EXTRA",
        ) from None
    return open_clip


def public_name(name: str) -> str:
    """The name without the path of a folder: where a tower lies is not what it is."""
    return LOCAL + Path(name[len(LOCAL) :]).resolve().name if name.startswith(LOCAL) else name


def model_arguments(name: str) -> dict[str, Any]:
    """What open_clip's ``create_model`` is to be called with for a name.

    A folder's configuration names the text transformer as on the hub, where open_clip would then
    look for its description; here that is taken from the folder too.

    Raises:
        UsageError: An architecture without weights.
        WeightsError: The folder lacks a file.
    """
    if name.startswith(HUB):
        return {"model_name": name}
    if not name.startswith(LOCAL):
        architecture, _, weights = name.partition(":")
        if not weights:
            raise UsageError(
                f"{name!r} names no weights",
                f"write {name}:TAG, {HUB}OWNER/NAME or {LOCAL}FOLDER",
                code="E_TEXT_ENCODER",
            )
        return {"model_name": architecture, "pretrained": weights}
    folder = Path(name[len(LOCAL) :])
    config = _read_json(folder / CONFIG).get("model_cfg", {})
    text = dict(config.get("text_cfg", {}))
    if not text.get("hf_model_name"):
        return {"model_name": name}
    transformer = text["hf_model_name"]
    for place in (folder, folder / Path(transformer).name, Path(transformer)):
        if "model_type" in _read_json(place / "config.json", missing_ok=True):
            text |= {"hf_model_name": os.fspath(place), "hf_model_pretrained": False}
            return {"model_name": name, "text_cfg": text}
    raise WeightsError(
        f"the text transformer's description is missing ({transformer})",
        f"put the config.json of {transformer} into the folder",
        code="E_TEXT_ENCODER",
        file=folder,
    )


def sha256_of_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name, type, shape and content, whatever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def offline(wanted: bool) -> Iterator[None]:
    """Within this context the hub's client fetches nothing, if so wanted."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def towers_own_words(name: str) -> Iterator[None]:
    """Turn what open_clip and the hub's client raise into a refusal; silence their progress."""
    if not name.startswith(LOCAL):
        logger.info(f"fetching {name}, unless it is here already")
    noisy = [logging.getLogger(), logging.getLogger("huggingface_hub")]
    levels = [each.level for each in noisy]
    for each in noisy:
        each.setLevel(logging.ERROR)
    try:
        yield
    except LOADING_ERRORS as error:
        why = " ".join(str(error).split())[:240]
        todo = (
            "check the folder"
            if name.startswith(LOCAL)
            else f"go online, or name a folder that has it ({LOCAL}FOLDER)"
        )
        raise WeightsError(
            f"the text tower {name} cannot be loaded ({why})", todo, code="E_TEXT_ENCODER"
        ) from None
    finally:
        for each, level in zip(noisy, levels, strict=True):
            each.setLevel(level)


def _read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """A JSON object.

    Raises:
        WeightsError: The file is missing or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise WeightsError(
            "there is no such file",
            f"{LOCAL} needs a folder as open_clip saves it",
            code="E_TEXT_ENCODER",
            file=path,
        ) from None
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise WeightsError(
            "it is no JSON object", "fetch it again", code="E_TEXT_ENCODER", file=path
        )
    return content
