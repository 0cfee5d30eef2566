"""Encoded prompts: made by a real tower, read without one, refused with other prompts."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from voxlate.data_prep import OutputError, WeightsError
from voxlate.pipelines.cli import app
from voxlate.pipelines.prompts import read_prompts
from voxlate.pipelines.text_cache import (
    TextCache,
    build_text_cache,
    text_knowledge,
    write_text_cache,
)
from voxlate.pipelines.word_tower import main as word_tower

ROOT = Path(__file__).parents[2]
PROMPTS = {"t1": "fluid is dark", "t2": "fluid is bright, very bright", "ct": "bone is white"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_prompts(tmp_path / "my bundle", PROMPTS)
    return tmp_path / "my bundle"


def write_prompts(bundle: Path, prompts: dict[str, str]) -> None:
    (bundle / "configs").mkdir(parents=True, exist_ok=True)
    (bundle / "configs/prompts.yaml").write_text(yaml.safe_dump({"prompts": prompts}))


def random_cache(bundle: Path, prompts: dict[str, str] = PROMPTS, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(5)[None] < torch.tensor([[3], [5], [4]])
    tokens = torch.randn(3, 5, 8, generator=generator) * mask[..., None]
    cache = TextCache(prompts, "local-dir:tiny", "00", tokens, mask)
    write_text_cache(cache, bundle / "models/text_cache.safetensors")


def test_command_encodes_and_the_rows_are_the_modalities(bundle: Path) -> None:
    pytest.importorskip("open_clip", reason="the extra 'text' is not installed")
    tower = bundle.parent / "tower"
    assert word_tower([str(bundle / "configs/prompts.yaml"), str(tower)]) == 0
    run = CliRunner().invoke(
        app, ["text-cache", "--bundle", str(bundle), "--encoder", f"local-dir:{tower}"]
    )
    assert run.exit_code == 0, run.output
    assert run.stdout.strip() == str(bundle / "models/text_cache.safetensors")
    every = text_knowledge(bundle, ["t1", "t2", "ct"])
    assert every.mask.sum(dim=1).tolist() == [5, 8, 5]
    one = text_knowledge(bundle, ["ct", "t1"])
    assert one.tokens.shape == (2, 5, 32)
    torch.testing.assert_close(one.tokens[1], every.tokens[0, :5])
    assert one.key != every.key
    assert str(bundle.parent) not in (bundle / "models/text_cache.safetensors").read_bytes().decode(
        errors="ignore"
    )


def test_key_depends_on_encoder_weights_and_the_prompts_used_alone(bundle: Path) -> None:
    random_cache(bundle)
    key = text_knowledge(bundle, ["t1", "t2"]).key
    changed = {**PROMPTS, "ct": "air is black"}
    write_prompts(bundle, changed)
    assert text_knowledge(bundle, ["t1", "t2"]).key == key  # ct is not among them
    random_cache(bundle, changed)
    assert text_knowledge(bundle, ["t1", "t2"]).key == key
    assert text_knowledge(bundle, ["t2", "t1"]).key != key
    cache = TextCache(PROMPTS, "e", "w", torch.zeros(3, 1, 1), torch.ones(3, 1, dtype=torch.bool))
    others = [
        TextCache(PROMPTS, "f", "w", cache.tokens, cache.mask),
        TextCache(PROMPTS, "e", "v", cache.tokens, cache.mask),
        TextCache({**PROMPTS, "t1": "-"}, "e", "w", cache.tokens, cache.mask),
    ]
    assert len({c.key(["t1"]) for c in (cache, *others)}) == 4


def test_absent_cache_names_the_command_that_makes_it(bundle: Path) -> None:
    with pytest.raises(WeightsError) as refused:
        text_knowledge(bundle, ["t1"])
    assert f"voxlate text-cache --bundle '{bundle}'" in str(refused.value)
    other = bundle / "else where.safetensors"
    with pytest.raises(WeightsError) as refused:
        text_knowledge(bundle, ["t1"], cache=other)
    assert str(refused.value).endswith(f"--bundle '{bundle}' --output '{other}'")


def test_cache_of_other_prompts_is_refused_with_the_command(bundle: Path) -> None:
    random_cache(bundle)
    write_prompts(bundle, {**PROMPTS, "t2": "fluid is black"})
    with pytest.raises(WeightsError, match=r"other prompts .*\(t2\)") as refused:
        text_knowledge(bundle, ["t1", "t2"])
    assert "voxlate text-cache --bundle" in str(refused.value)
    assert "local-dir:tiny" in str(refused.value)
    text_knowledge(bundle, ["t1"])


@pytest.mark.parametrize("damage", ["short", "no header", "no tensors", "other rows", "text"])
def test_damaged_caches_are_refused(damage: str, bundle: Path) -> None:
    random_cache(bundle)
    path = bundle / "models/text_cache.safetensors"
    tensors = load_file(path)
    facts = {"prompts": json.dumps(PROMPTS), "encoder": "e", "weights_sha256": "0"}
    if damage == "short":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "no header":
        save_file(tensors, path)
    elif damage == "no tensors":
        save_file({"tokens": tensors["tokens"]}, path, metadata=facts)
    elif damage == "other rows":
        save_file({name: t[:2].clone() for name, t in tensors.items()}, path, metadata=facts)
    else:
        path.write_text("prompts")
    with pytest.raises(WeightsError, match="damaged or holds no encoded prompts") as refused:
        text_knowledge(bundle, ["t1"])
    assert "voxlate text-cache" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such file"),
        ("prompts: [", "cannot be read"),
        ("- t1", "has no prompts"),
        ("prompts: {}", "has no prompts"),
        ("prompts: {t1: 3}", "the prompt of 't1' is no text"),
        ("prompts: {t1: '  '}", "the prompt of 't1' is no text"),
    ],
)
def test_files_without_prompts_are_refused(content: str | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(WeightsError, match=why):
        read_prompts(path)


def test_modality_without_a_prompt_is_refused(bundle: Path) -> None:
    with pytest.raises(WeightsError, match="no prompt for pd, dwi"):
        text_knowledge(bundle, ["t1", "pd", "dwi"])


def test_command_refuses_in_one_line_and_writes_nothing(bundle: Path) -> None:
    pytest.importorskip("open_clip", reason="the extra 'text' is not installed")
    run = CliRunner().invoke(
        app, ["text-cache", "--bundle", str(bundle), "--encoder", "local-dir:/nowhere"]
    )
    assert run.exit_code == WeightsError.exit_code
    assert len(run.stderr.strip().splitlines()) == 1
    assert not (bundle / "models").exists()
    tower = bundle.parent / "tower"
    assert word_tower([str(bundle / "configs/prompts.yaml"), str(tower)]) == 0
    (bundle / "models").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        build_text_cache(bundle, encoder=f"local-dir:{tower}")


@pytest.mark.parametrize("name", ["brain_mri_translation", "dfbk_brats"])
def test_shipped_caches_are_of_the_shipped_prompts(name: str) -> None:
    root = ROOT / "bundles" / name
    prompts = read_prompts(root / "configs/prompts.yaml")
    text = text_knowledge(root, list(prompts))
    assert bool(text.tokens.isfinite().all())
    assert (root / "models/text_cache.safetensors").stat().st_size < 100_000


def test_bundles_ship_the_same_words_and_encoding() -> None:
    folders = [ROOT / "bundles" / name for name in ("brain_mri_translation", "dfbk_brats")]
    for file in ("configs/prompts.yaml", "models/text_cache.safetensors"):
        assert len({(folder / file).read_bytes() for folder in folders}) == 1


def test_shipped_cache_comes_out_of_its_recipe(tmp_path: Path) -> None:
    pytest.importorskip("open_clip", reason="the extra 'text' is not installed")
    root = ROOT / "bundles/brain_mri_translation"
    tower = tmp_path / "words"
    assert word_tower([str(root / "configs/prompts.yaml"), str(tower)]) == 0
    made = build_text_cache(root, encoder=f"local-dir:{tower}", output=tmp_path / "made")
    shipped = load_file(root / "models/text_cache.safetensors")
    torch.testing.assert_close(load_file(made), shipped, atol=1e-4, rtol=1e-4)


def test_word_tower_refuses_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert word_tower([str(tmp_path / "none.yaml"), str(tmp_path)]) == WeightsError.exit_code
    assert "no such file" in capsys.readouterr().err
