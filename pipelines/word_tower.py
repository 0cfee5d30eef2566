"""A text tower that knows words apart and nothing else: seeded, random, a few kB.

    python -m voxlate.pipelines.word_tower bundles/NAME/configs/prompts.yaml TOWER
    voxlate text-cache --bundle bundles/NAME --encoder local-dir:TOWER

It stands in where no trained encoder can be fetched. Its tokens say which word stands where; that
"cerebrospinal fluid is dark" tells it no more than any other five words.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from voxlate.data_prep import VoxlateError

from .checkpoint import save_weights
from .prompts import read_prompts
from .text_encoder import require_text_extra

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
IMAGE_TOWER = {"image_size": 8, "patch_size": 8, "width": 16, "layers": 1, "head_width": 16}


def words_of(texts: Iterable[str]) -> list[str]:
    """Every word and sign of the texts, once, in lower case and alphabetical order."""
    found = {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    return sorted(found)


def write_word_tower(
    folder: Path,
    vocabulary: Sequence[str],
    *,
    width: int = 32,
    layers: int = 1,
    context_length: int = 128,
    seed: int = 0,
) -> None:
    """Write an open_clip folder (``local-dir:``) with a random BERT over a vocabulary.

    Args:
        folder: Where to; made if absent.
        vocabulary: Word pieces (``##`` continues a word); the special ones are added.
        width: Of a token.
        layers: Of the transformer.
        context_length: Most tokens of a prompt, the two special ones included.
        seed: Of the weights.

    Raises:
        UsageError: The extra ``text`` is not installed.
    """
    open_clip = require_text_extra()
    from transformers import BertConfig

    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*SPECIAL, *vocabulary]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    BertConfig(
        vocab_size=len(pieces),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 16),
        intermediate_size=2 * width,
        max_position_embeddings=context_length,
    ).save_pretrained(folder)
    text_tower = {
        "hf_model_name": str(folder.resolve()),
        "hf_tokenizer_name": folder.name,
        "hf_proj_type": "linear",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "hf_model_pretrained": False,
        "context_length": context_length,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CustomTextCLIP(width, dict(IMAGE_TOWER), dict(text_tower))
    text_tower["hf_model_name"] = folder.name
    config = {"embed_dim": width, "vision_cfg": IMAGE_TOWER, "text_cfg": text_tower}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}}, indent=2), encoding="utf-8"
    )
    save_weights(model.state_dict(), folder / "open_clip_model.safetensors")


def main(arguments: list[str] | None = None) -> int:
    """Build a tower from a file of prompts."""
    prompts, folder = sys.argv[1:] if arguments is None else arguments
    try:
        write_word_tower(Path(folder), words_of(read_prompts(prompts).values()))
    except VoxlateError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
