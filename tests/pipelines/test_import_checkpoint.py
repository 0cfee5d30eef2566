"""Importing published checkpoints from the command line: files, bundles and refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.networks.nets import VQVAE, AutoencoderKL, DiffusionModelUNet
from torch import Tensor, nn
from typer.testing import CliRunner

from voxlate.networks import VQGAN, Denoiser, MSSpadeGenerator
from voxlate.networks.aldm_names import (
    QKVFirst,
    denoiser_sources,
    linear,
    ms_spade_sources,
    stack_pairs,
    vqgan_layers,
)
from voxlate.networks.importers import UNetConfig, vqgan_arguments
from voxlate.networks.state_dicts import Source, sources_by_layer
from voxlate.pipelines.bundle import read_bundle
from voxlate.pipelines.checkpoint import read_weights
from voxlate.pipelines.cli import app

VQ = {
    "ddconfig": {
        "double_z": False,
        "z_channels": 3,
        "resolution": 8,
        "in_channels": 1,
        "out_ch": 1,
        "ch": 8,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "num_groups": 4,
    },
    "n_embed": 16,
    "embed_dim": 3,
}
UNET: dict[str, Any] = {
    "image_size": 8,
    "in_channels": 9,
    "out_channels": 3,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_head_channels": 16,
    "num_classes": 4,
}


def published(module: nn.Module, sources: dict[str, Source], prefix: str) -> dict[str, Tensor]:
    """A module's weights under the reference's names: the importers' combinations undone."""
    found: dict[str, Tensor] = {}
    for ours, (names, combine) in sources.items():
        value = module.state_dict()[ours]
        tensors = [value]
        if combine is torch.stack:
            tensors = list(value)
        elif combine is stack_pairs:
            tensors = [half for pair in value for half in pair.chunk(2)]
        elif combine is linear and value.dim() == 2:
            tensors = [value.unsqueeze(-1)]
        elif isinstance(combine, QKVFirst):
            rows = value.unflatten(0, (3, combine.heads, -1)).transpose(0, 1).flatten(0, 2)
            tensors = [rows.unsqueeze(-1) if rows.dim() == 2 else rows]
        found |= {prefix + name: t.clone() for name, t in zip(names, tensors, strict=True)}
    return found


@pytest.fixture
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    parts = {
        "autoencoder": VQGAN(**vqgan_arguments(3, **VQ)),
        "generator": MSSpadeGenerator(3, 4, features=8, hidden=6),
        "denoiser": Denoiser(**UNetConfig(**UNET).denoiser_arguments()),
    }
    for parameter in parts["denoiser"].parameters():
        nn.init.normal_(parameter, std=0.1)
    return parts


@pytest.fixture
def checkpoint(networks: dict[str, nn.Module], tmp_path: Path) -> Path:
    """A LatentDiffusion checkpoint as Lightning writes it."""
    vqgan = networks["autoencoder"]
    sources = sources_by_layer(vqgan, vqgan_layers(1, [False, False]))
    sources["quantizer.codebook"] = Source(("quantize.embedding.weight",))
    state = published(vqgan, sources, "first_stage_model.")
    generator, denoiser = networks["generator"], networks["denoiser"]
    state |= published(generator, ms_spade_sources(generator), "first_stage_model.spade.")
    unet = denoiser_sources(denoiser, heads_first=True)
    state |= published(denoiser, unet, "model.diffusion_model.")
    state["betas"] = torch.zeros(1000)
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": state, "callbacks": {"best": 1.0}}, path)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration file that comes with such a checkpoint."""
    first_stage = {"target": "ldm.models.vqgan.VQModel", "params": VQ | {"num_classes": 4}}
    unet = {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": UNET}
    params = {
        "linear_start": 0.0015,
        "linear_end": 0.0195,
        "timesteps": 1000,
        "unet_config": unet,
        "first_stage_config": first_stage,
    }
    return write_yaml(tmp_path / "aldm.yaml", {"model": {"params": params}})


def write_yaml(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["import-checkpoint", *map(str, arguments)])


def refusal(result: Any, code: int) -> str:
    """The one line of a refusal."""
    lines = [text for text in result.stderr.splitlines() if text.startswith("voxlate: ")]
    assert result.exit_code == code, result.output
    assert len(lines) == 1 and "Traceback" not in result.output, result.output
    return lines[0]


def test_whole_checkpoint_becomes_a_bundle(
    checkpoint: Path, config: Path, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    output = tmp_path / "new" / "models" / "model.pt"
    result = run(checkpoint, "--from", "aldm", "--config", config, "--output", output)
    assert result.exit_code == 0, result.output
    description = tmp_path / "new" / "configs" / "network.yaml"
    assert result.stdout.split() == [str(output), str(description)]
    parts, _ = read_bundle(tmp_path / "new")
    network = parts.network.eval()
    assert network.facts()["schedule"]["prediction_type"] == "epsilon"
    assert (parts.steps, parts.scheduler.eta) == (200, 1.0)
    latent, target = torch.randn(2, 3, 4, 4, 4), torch.tensor([3, 1])
    concat, t = torch.randn(2, 6, 4, 4, 4), torch.tensor([7, 800])
    with torch.no_grad():
        for mine, theirs, inputs in (
            (network.autoencoder.decode, networks["autoencoder"].eval().decode, (latent,)),
            (network.prior.generator, networks["generator"], (latent, target)),
            (network.denoiser, networks["denoiser"], (latent, t, concat, target)),
        ):
            torch.testing.assert_close(mine(*inputs), theirs(*inputs))


def test_shadow_weights_are_taken(
    checkpoint: Path, config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    for key in [key for key in state if key.startswith("model.")]:
        state["model_ema." + key.removeprefix("model.").replace(".", "")] = state[key] + 1
    torch.save(state, checkpoint)
    output = tmp_path / "out.safetensors"
    result = run(checkpoint, "--from", "aldm", "--config", config, "--output", output)
    assert result.exit_code == 0 and "shadow weights" in caplog.text
    bias = read_weights(output)["denoiser.conv_out.bias"]
    torch.testing.assert_close(bias, state["model.diffusion_model.out.2.bias"] + 1)


def test_parts_that_are_there_are_described(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    stage = {
        key.removeprefix("first_stage_model."): value
        for key, value in state.items()
        if key.startswith("first_stage_model.")
    }
    torch.save(stage, tmp_path / "stage2.ckpt")
    config = write_yaml(tmp_path / "stage2.yaml", {"model": {"params": VQ}})
    output = tmp_path / "out.safetensors"
    result = run(tmp_path / "stage2.ckpt", "--from", "aldm", "--config", config, "--output", output)
    assert result.exit_code == 0, result.output
    described = yaml.safe_load((tmp_path / "out.yaml").read_text())
    assert set(described) == {"autoencoder", "prior.generator"}
    for name, content in described.items():
        module = ConfigParser(content).get_parsed_content()
        weights = read_weights(output)
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if name in key}
        module.load_state_dict(own)


@pytest.mark.parametrize("section", ["autoencoder_kl", "vqvae", "diffusion_unet"])
def test_monai_network_is_imported_with_its_description(section: str, tmp_path: Path) -> None:
    shared = {"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "channels": [8, 16]}
    groups = {"num_res_blocks": 1, "attention_levels": [False, True], "norm_num_groups": 4}
    steps = {"downsample_parameters": [2, 4, 1, 1], "upsample_parameters": [2, 4, 1, 1, 0]}
    kinds = {
        "autoencoder_kl": (AutoencoderKL, shared | groups),
        "vqvae": (VQVAE, shared | steps | {"num_res_channels": 8, "embedding_dim": 4}),
        "diffusion_unet": (DiffusionModelUNet, shared | groups | {"num_class_embeds": 4}),
    }
    kind, arguments = kinds[section]
    original = kind(**arguments)
    torch.save(original.state_dict(), tmp_path / "old.pt")
    config = write_yaml(tmp_path / "old.yaml", {section: arguments})
    output = tmp_path / "new.pt"
    result = run(
        tmp_path / "old.pt", "--from", "monai-generative", "--config", config, "--output", output
    )
    assert result.exit_code == 0, result.output
    ((name, content),) = yaml.safe_load((tmp_path / "new.yaml").read_text()).items()
    module = ConfigParser(content).get_parsed_content()
    weights = {key.removeprefix(f"{name}."): v for key, v in read_weights(output).items()}
    module.load_state_dict(weights)
    torch.testing.assert_close(dict(module.network.state_dict()), dict(original.state_dict()))


# ---------------------------------------------------------------- refusals


class Code:
    """Something a checkpoint must not need."""


def test_checkpoint_that_needs_code_is_refused(config: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "callbacks": {Code: 1}}, tmp_path / "code.ckpt")
    result = run(tmp_path / "code.ckpt", "--from", "aldm", "--config", config, "--output",
                 tmp_path / "out.pt")  # fmt: skip
    line = refusal(result, 5)
    assert line.startswith(f"voxlate: {tmp_path}/code.ckpt: it holds more than tensors")
    assert not (tmp_path / "out.pt").exists()


def test_unmapped_key_is_named(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    state["first_stage_model.encoder.mid.attn_1.q.weight"] = torch.zeros(1)
    torch.save(state, checkpoint)
    output = tmp_path / "out" / "model.pt"
    result = run(checkpoint, "--from", "aldm", "--config", config, "--output", output)
    assert "unmapped keys: encoder.mid.attn_1.q.weight" in refusal(result, 5)
    assert not output.parent.exists()


def test_configuration_of_another_network_is_refused(
    checkpoint: Path, config: Path, tmp_path: Path
) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["model"]["params"]["unet_config"]["params"]["num_res_blocks"] = 2
    write_yaml(config, settings)
    result = run(checkpoint, "--from", "aldm", "--config", config, "--output", tmp_path / "o.pt")
    assert "keys: " in refusal(result, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ["t1", "t2"]}, "2 modalities"),
        ({"unet": UNET | {"num_classes": None}}, "unmapped keys: label_emb.weight"),
        ({"unet": UNET | {"colour": 1}}, "colour"),
        ({"vqgan": VQ | {"ddconfig": {"ch": 8}}}, "ddconfig: unknown"),
        ({"vqgan": {}}, "missing 3 required"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    change: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    config = write_yaml(tmp_path / "own.yaml", {"vqgan": VQ, "unet": UNET} | change)
    result = run(checkpoint, "--from", "aldm", "--config", config, "--output", tmp_path / "o.pt")
    assert message in refusal(result, 5)


def test_scaled_latents_are_refused(checkpoint: Path, config: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["state_dict"] | {
        "scale_factor": torch.tensor(0.5)
    }
    torch.save(state, checkpoint)
    result = run(checkpoint, "--from", "aldm", "--config", config, "--output", tmp_path / "o.pt")
    assert "scale_factor is not 1" in refusal(result, 5)


def test_options_that_cannot_work_are_refused(
    checkpoint: Path, config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "o.pt"
    without = run(checkpoint, "--from", "aldm", "--output", output)
    assert "--config" in refusal(without, 2)
    other = run(checkpoint, "--from", "diffusers", "--config", config, "--output", output)
    assert "use aldm or monai-generative" in refusal(other, 2)
    config.write_text("model: [")
    broken = run(checkpoint, "--from", "aldm", "--config", config, "--output", output)
    assert "the configuration cannot be read" in refusal(broken, 2)
    absent = run(tmp_path / "no.ckpt", "--from", "aldm", "--config",
                 write_yaml(config, {}), "--output", output)  # fmt: skip
    assert "no such weights file" in refusal(absent, 5)
    output.write_text("mine")
    existing = run(checkpoint, "--from", "aldm", "--config", config, "--output", output)
    assert "it exists" in refusal(existing, 4)
    assert output.read_text() == "mine"
