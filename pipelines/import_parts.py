"""The networks inside a published checkpoint, each with the description that rebuilds it."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from voxlate.networks.autoencoder import KLAutoencoder, VQVAEAutoencoder
from voxlate.networks.generative_importers import (
    attention_of,
    autoencoder_kl_from_generative,
    diffusion_unet_from_generative,
    in_core_terms,
    vqvae_from_generative,
)
from voxlate.networks.importers import (
    UNetConfig,
    denoiser_from_aldm,
    ema_weights,
    ms_spade_from_aldm,
    vqgan_arguments,
    vqgan_from_aldm,
)
from voxlate.networks.monai_denoiser import MonaiDenoiser

logger = logging.getLogger(__name__)

Parts = dict[str, tuple[nn.Module, dict[str, Any]]]
"""Module and description, by the module's name in ``TranslationNetwork``."""

GENERATIVE_SECTIONS = ("autoencoder_kl", "vqvae", "diffusion_unet")


def aldm_parts(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Parts:
    """What an ALDM checkpoint holds of autoencoder, generator and U-Net."""
    sections = aldm_sections(settings)
    parts: Parts = {}
    if any(key.endswith("encoder.conv_in.weight") for key in state):
        vqgan = vqgan_from_aldm(state, **sections["vqgan"])
        arguments = vqgan_arguments(vqgan.spatial_dims, **sections["vqgan"])
        parts["autoencoder"] = vqgan, {"_target_": "voxlate.networks.VQGAN", **arguments}
    if any(".spade." in f".{key}" for key in state):
        parts["prior.generator"] = aldm_generator(state)
    if any(key.endswith("input_blocks.0.0.weight") for key in state):
        unet = dict(sections["unet"])
        noisy_first = unet.pop("noisy_first", True)
        if any(key.startswith("model_ema.") for key in state):
            logger.info("taking the shadow weights (model_ema), with which the reference samples")
            state = ema_weights(state)
        denoiser = denoiser_from_aldm(state, noisy_first=noisy_first, **unet)
        arguments = UNetConfig(**unet).denoiser_arguments() | {"noisy_first": noisy_first}
        parts["denoiser"] = denoiser, {"_target_": "voxlate.networks.Denoiser", **arguments}
    if not parts:
        raise ValueError("there is no part of ALDM in it")
    return parts


def aldm_sections(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections ``vqgan`` and ``unet``, also out of the reference's own configuration file."""
    if "model" not in settings:
        return dict(settings)
    params = settings["model"]["params"]
    first_stage = params.get("first_stage_config", {}).get("params", params)
    sections = {"vqgan": {name: first_stage[name] for name in ("ddconfig", "n_embed", "embed_dim")}}
    if "unet_config" in params:
        unet = dict(params["unet_config"]["params"])
        # the generation that conditioned by transformers concatenated x_t last
        sections["unet"] = {"noisy_first": not unet.get("use_spatial_transformer", False)} | unet
    return sections


def aldm_generator(state: Mapping[str, Tensor]) -> tuple[nn.Module, dict[str, Any]]:
    """The MS-SPADE generator; its sizes are those of its weights."""
    names = {key.rpartition("spade.")[2]: key for key in state if ".spade." in f".{key}"}
    for name in ("block.0.conv_0.weight", "block.1.conv_0.weight"):
        if name not in names:
            raise ValueError(f"missing keys: spade.{name} (an older generator has no counterpart)")
    classes = {int(name.split(".")[4]) for name in names if ".spades." in name}
    first, second = (state[names[f"block.{index}.conv_0.weight"]] for index in (0, 1))
    z_dim, width = first.shape[1], second.shape[1]
    generator = ms_spade_from_aldm(state, num_classes=len(classes), z_dim=z_dim, nf=width)
    hidden = state[names["block.0.norm_0.spades.0.mlp_shared.0.weight"]].shape[0]
    return generator, {
        "_target_": "voxlate.networks.MSSpadeGenerator",
        "latent_channels": z_dim,
        "num_modalities": len(classes),
        "features": width,
        "hidden": hidden,
        "spatial_dims": first.dim() - 2,
    }


def generative_parts(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Parts:
    """The one network of monai-generative or early core that the settings name."""
    named = [name for name in GENERATIVE_SECTIONS if name in settings]
    if len(named) != 1:
        raise ValueError(f"the configuration needs one section of {', '.join(GENERATIVE_SECTIONS)}")
    arguments = in_core_terms(dict(settings[named[0]]))
    if named == ["vqvae"]:
        vqvae = vqvae_from_generative(state, **arguments)
        network = {"_target_": "monai.networks.nets.VQVAE", **arguments}
        seam = {"_target_": "voxlate.networks.autoencoder.VQVAEAutoencoder", "network": network}
        return {"autoencoder": (VQVAEAutoencoder(vqvae), seam)}
    described = arguments | attention_of(state)
    if named == ["autoencoder_kl"]:
        autoencoder = autoencoder_kl_from_generative(state, **arguments)
        network = {"_target_": "monai.networks.nets.AutoencoderKL", **described}
        seam = {"_target_": "voxlate.networks.autoencoder.KLAutoencoder", "network": network}
        return {"autoencoder": (KLAutoencoder(autoencoder), seam)}
    unet = diffusion_unet_from_generative(state, **arguments)
    count = arguments.get("num_class_embeds") or arguments.get("cross_attention_dim") or 0
    target: dict[str, Any] = {
        "_target_": "voxlate.networks.monai_denoiser.MonaiDenoiser",
        "num_modalities": count,
        "network": {"_target_": "monai.networks.nets.DiffusionModelUNet", **described},
    }
    return {"denoiser": (MonaiDenoiser(unet, num_modalities=count), target)}
