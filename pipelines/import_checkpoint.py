"""Import a published checkpoint: its weights under our names, and the network's description."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from torch import Tensor

from voxlate.data_prep import (
    DEFAULT_MODALITIES,
    OutputError,
    UsageError,
    WeightsError,
    write_atomically,
)
from voxlate.networks import TranslationNetwork

from .checkpoint import read_checkpoint, save_weights
from .import_parts import Parts, aldm_parts, generative_parts

ORIGINS = {"aldm": aldm_parts, "monai-generative": generative_parts}
SAMPLING_STEPS = 200  # of ALDM's sampling script
GRID = [144, 192, 144]  # of its data loader, right, anterior, superior
CONCAT = {1: ["target_like"], 2: ["source", "target_like"]}  # by the latents beside x_t


def import_checkpoint(
    checkpoint: Path, *, origin: str, output: Path, config: Path | None = None
) -> Path:
    """Convert a checkpoint.

    Args:
        checkpoint: The published file; read without executing anything.
        origin: ``aldm`` or ``monai-generative``.
        output: New weights file, safetensors by suffix, else torch's. The description lies beside
            it (``.yaml``) or, if it is ``DIR/models/NAME``, is ``DIR/configs/network.yaml``: where
            autoencoder, generator and U-Net are all in the checkpoint, ``DIR/models/model.pt``
            makes DIR a bundle.
        config: YAML with the constructor arguments. For ``aldm`` the configuration that came with
            the checkpoint, or sections ``vqgan`` (ddconfig, n_embed, embed_dim), ``unet`` (and
            ``noisy_first``) and ``modalities``; for ``monai-generative`` one section of
            ``autoencoder_kl``, ``vqvae`` and ``diffusion_unet``.

    Returns:
        The description's path.

    Raises:
        VoxlateError: A file cannot be read or written, or the checkpoint does not fit.
    """
    if origin not in ORIGINS:
        raise UsageError(f"no origin {origin!r}", f"use {' or '.join(ORIGINS)}", code="E_ORIGIN")
    if config is None:
        raise UsageError(
            "the constructor arguments are not in a checkpoint",
            "name the YAML file that has them with --config",
            code="E_NO_CONFIG",
            file=checkpoint,
        )
    description_file = description_beside(output)
    for file in (output, description_file):
        if file.exists():
            raise OutputError("it exists", "name another file", code="E_EXISTS", file=file)
    settings, state = read_settings(config), read_state_dict(checkpoint)
    try:
        parts = ORIGINS[origin](state, settings)
        description = describe(parts, state, settings)
        weights = weights_of(parts, description)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise WeightsError(
            f"it cannot be imported with {config}: {' '.join(why.split())}",
            "use the configuration it was trained with",
            code="E_IMPORT",
            file=checkpoint,
        ) from None
    try:
        for file in (output, description_file):
            file.parent.mkdir(parents=True, exist_ok=True)
        save_weights(weights, output)
    except OSError as error:
        why = f"it cannot be written ({error.strerror or error})"
        todo = "check the folder, its permissions and the free space"
        raise OutputError(why, todo, code="E_OUTPUT", file=output) from None
    with write_atomically(description_file) as stream:
        stream.write(yaml.safe_dump(description, sort_keys=False).encode())
    return description_file


def read_settings(path: Path) -> dict[str, Any]:
    """Read the YAML file of constructor arguments.

    Raises:
        UsageError: It is missing or no YAML mapping.
    """
    try:
        settings = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise UsageError(
            f"the configuration cannot be read ({why})", "check it", code="E_CONFIG", file=path
        ) from None
    if not isinstance(settings, dict):
        raise UsageError("it is no YAML mapping", "check it", code="E_CONFIG", file=path)
    return settings


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, plain or under Lightning's ``state_dict``.

    Raises:
        WeightsError: The file is missing or damaged, needs code, or has other things inside.
    """
    state = read_checkpoint(path)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            "there is no state dict of tensors in it",
            "save the network's state_dict() alone",
            code="E_WEIGHTS_DAMAGED",
            file=path,
        )
    return state


def description_beside(output: Path) -> Path:
    """Where the description of a weights file lies: see ``import_checkpoint``."""
    if output.parent.name == "models":
        return output.parent.parent / "configs" / "network.yaml"
    return output.with_suffix(".yaml")


def describe(
    parts: Parts, state: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The parts' descriptions or, where all of ALDM is there, a bundle's network file.

    Preprocessing is voxlate's own: ALDM's took its percentiles over the background too and did not
    clip. The sampler is ALDM's, DDIM with fresh noise.

    Raises:
        ValueError: The parts do not fit each other.
    """
    found = {name: description for name, (_, description) in parts.items()}
    if set(found) != {"autoencoder", "prior.generator", "denoiser"}:
        return found
    if float(state.get("scale_factor", 1.0)) != 1.0:
        raise ValueError("scale_factor is not 1: the generator was trained on unscaled latents")
    denoiser, modalities = found["denoiser"], list(settings.get("modalities", DEFAULT_MODALITIES))
    if len(modalities) != denoiser["num_modalities"]:
        raise ValueError(
            f"{len(modalities)} modalities {modalities}, the U-Net has {denoiser['num_modalities']}"
        )
    beside = denoiser["concat_channels"] / denoiser["latent_channels"]
    if beside not in CONCAT:
        raise ValueError(f"the U-Net takes {beside} latents beside x_t, expected 1 or 2")
    params = settings.get("model", {}).get("params", settings)
    schedule = {
        "num_train_timesteps": params.get("timesteps", 1000),
        "beta_start": params.get("linear_start", 0.0015),
        "beta_end": params.get("linear_end", 0.0195),
        "prediction_type": "epsilon",
    }
    normalization = {"spacing": [1.0, 1.0, 1.0], "percentiles": [0.5, 99.5]}
    return {
        "preprocessing_def": {
            "_target_": "voxlate.data_prep.Preprocessing",
            **normalization,
            "size": GRID,
        },
        "scheduler_def": {
            "_target_": "voxlate.networks.ddim.DDIMScheduler",
            **schedule,
            "eta": 1.0,
            "final_alpha_bar": 1.0 - schedule["beta_start"],
            "spacing": "leading_plus_one",
        },
        "steps": SAMPLING_STEPS,
        "network_def": {
            "_target_": "voxlate.networks.TranslationNetwork",
            "modalities": modalities,
            "quantized": True,
            "normalization": normalization,
            "schedule": schedule,
            "autoencoder": found["autoencoder"],
            "prior": {
                "_target_": "voxlate.networks.MSSpadePrior",
                "generator": found["prior.generator"],
                "concat": CONCAT[int(beside)],
            },
            "denoiser": denoiser,
        },
    }


def weights_of(parts: Parts, description: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parts' weights under their names in the network; with its contract where it is whole."""
    weights = {
        f"{name}.{key}": value
        for name, (module, _) in parts.items()
        for key, value in module.state_dict().items()
    }
    if "network_def" not in description:
        return weights
    network: TranslationNetwork = ConfigParser(dict(description)).get_parsed_content("network_def")
    own = {"scale_factor": network.scale_factor, "contract": network.contract}
    network.load_state_dict(weights | own)
    return network.state_dict()
