"""Text towers through open_clip's own loading code, from folders and without a network."""

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from voxlate.data_prep import UsageError, WeightsError
from voxlate.pipelines.text_encoder import TextEncoder
from voxlate.pipelines.word_tower import words_of, write_word_tower

pytest.importorskip("open_clip", reason="the extra 'text' is not installed")
PIECES = ["hyper", "##intense", "fluid", "is", "dark", "bright", ",", "a"]


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towers") / "tiny"
    write_word_tower(folder, PIECES, width=16, context_length=12)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_tokens_are_hidden_states_of_the_real_tower(tower: Path) -> None:
    encoder = TextEncoder(f"local-dir:{tower}")
    tokens, mask = encoder(["Fluid is dark", "hyperintense fluid is bright, a"])
    # [CLS] fluid is dark [SEP]; [CLS] hyper ##intense fluid is bright , a [SEP]
    assert mask.sum(dim=1).tolist() == [5, 9]
    assert tokens.shape == (2, 9, 16)
    assert tokens.dtype is torch.float32
    assert not tokens[~mask].any()
    bert = encoder.tower.transformer
    ids = encoder.tokenizer(["Fluid is dark"])[:, :5]
    with torch.no_grad():
        alone = bert(input_ids=ids).last_hidden_state
    torch.testing.assert_close(tokens[:1, :5], alone)  # padding is not attended to


def test_same_tower_elsewhere_has_the_same_name_and_hash(tower: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "tiny"
    shutil.copytree(tower, moved)
    one, other = TextEncoder(f"local-dir:{tower}"), TextEncoder(f"local-dir:{moved}")
    assert one.name == other.name == "local-dir:tiny"
    assert one.weights_sha256 == other.weights_sha256
    write_word_tower(moved, PIECES, width=16, context_length=12, seed=1)
    assert TextEncoder(f"local-dir:{moved}").weights_sha256 != one.weights_sha256


def test_folder_naming_its_transformer_as_on_the_hub_needs_no_hub(
    tower: Path, tmp_path: Path
) -> None:
    shutil.copytree(tower, tmp_path / "tiny")
    config = json.loads((tower / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "someone/bert"
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/bert"
    (tmp_path / "tiny" / "open_clip_config.json").write_text(json.dumps(config))
    name = f"local-dir:{tmp_path / 'tiny'}"
    assert TextEncoder(name).weights_sha256 == TextEncoder(f"local-dir:{tower}").weights_sha256
    (tmp_path / "tiny" / "config.json").unlink()
    with pytest.raises(WeightsError, match="put the config.json of someone/bert into the folder"):
        TextEncoder(name)


def test_clips_own_tower_gives_its_tokens_up_to_the_end_of_text(tmp_path: Path) -> None:
    import open_clip

    text = {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 8, "patch_size": 8, "width": 16, "layers": 1, "head_width": 8},
        "text_cfg": text,
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    model = open_clip.CLIP(**config)
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    tokens, mask = TextEncoder(f"local-dir:{tmp_path}")(["fluid!", "fluid is dark"])
    assert mask.sum(dim=1).tolist() == [4, 5]  # with start and end; "!" is id 0, as padding is
    assert tokens.shape == (2, 5, 16)


def test_prompts_beyond_what_the_tower_reads_are_refused(tower: Path) -> None:
    with pytest.raises(UsageError, match="fills the 12 tokens"):
        TextEncoder(f"local-dir:{tower}")(["fluid is dark " * 5])


@pytest.mark.parametrize("damage", ["absent", "no config", "no weights", "short", "no json"])
def test_folders_that_are_no_tower_are_refused_in_a_line(
    damage: str, tower: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny"
    if damage != "absent":
        shutil.copytree(tower, folder)
    if damage == "no config":
        (folder / "open_clip_config.json").unlink()
    if damage == "no weights":
        (folder / "open_clip_model.safetensors").unlink()
    if damage == "short":
        data = (tower / "open_clip_model.safetensors").read_bytes()
        (folder / "open_clip_model.safetensors").write_bytes(data[:-100])
    if damage == "no json":
        (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(WeightsError) as refused:
        TextEncoder(f"local-dir:{folder}")
    assert refused.value.code == "E_TEXT_ENCODER"
    assert len(str(refused.value).splitlines()) == 1


def test_name_without_weights_and_absent_extra_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="write ViT-B-32:TAG"):
        TextEncoder("ViT-B-32")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UsageError, match=r"pip install 'voxlate\[text\]'"):
        TextEncoder()


def test_hub_names_that_cannot_be_fetched_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="go online, or name a folder that has it"):
        TextEncoder("hf-hub:nobody/nothing")


def test_random_tower_knows_words_apart_and_is_the_same_each_time(tmp_path: Path) -> None:
    assert words_of(["Fluid: dark.", "fluid bright"]) == [".", ":", "bright", "dark", "fluid"]
    for name in ("one", "two"):
        write_word_tower(tmp_path / name, words_of(["fluid is dark"]), width=16, context_length=12)
    files = [
        (tmp_path / name / "open_clip_model.safetensors").read_bytes() for name in ("one", "two")
    ]
    assert files[0] == files[1]
    tokens, _ = TextEncoder(f"local-dir:{tmp_path / 'one'}")(["fluid is dark"])
    apart = torch.cdist(tokens[0], tokens[0]) + 10 * torch.eye(5)
    assert float(apart.min()) > 1.0
