"""Load published ALDM checkpoints: the reference's state dict and constructor arguments in, our module out.

Every key of the checkpoint is accounted for. What belongs to another part (the discriminator under ``loss.``, the
shadow weights under ``model_ema.``, the schedule tables, ...) is left out by name and logged; anything else that is
not mapped, and anything that is missing, is a ``ValueError`` naming it.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .ms_spade import MSSpadeGenerator
from .state_dicts import Source, Weights, load_from_sources, shorten, sources_by_layer
from .vqgan import VQGAN

logger = logging.getLogger(__name__)

DDCONFIG_REQUIRED = ("ch", "out_ch", "ch_mult", "num_res_blocks", "in_channels", "resolution", "z_channels")
DDCONFIG_OPTIONAL = ("attn_resolutions", "double_z", "dropout", "num_groups", "resamp_with_conv")
DEFAULT_NUM_GROUPS = 16  # of the reference's Normalize; its published configurations say 32

# what a checkpoint may hold beside the part that is asked for
AUTOENCODER_PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
OTHER_PARTS = ("spade.", "loss.", "model.diffusion_model.", "model_ema.", "cond_stage_model.")
SCHEDULE_TABLES = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "scale_factor",
)


def vqgan_from_aldm(
    state_dict: Weights, *, ddconfig: Mapping[str, Any], n_embed: int, embed_dim: int
) -> VQGAN:
    """The autoencoder of a VQModel or LatentDiffusion checkpoint, with its weights.

    2D or 3D as the weights are. The quantiser keeps the reference's placement of beta (``legacy_beta``).

    Args:
        state_dict: Reference names (``encoder.conv_in.weight``, ...), also under ``first_stage_model.``; not changed.
        ddconfig: The reference's keyword arguments of encoder and decoder. ``dropout`` has no part in inference.
        n_embed: Codebook size.
        embed_dim: Channels of the latent and length of a code.

    Raises:
        ValueError: A key is unmapped or missing, a shape differs, or ``ddconfig`` asks for what VQModel cannot be.
    """
    check_ddconfig(ddconfig)
    weights = part_of(state_dict, "encoder.conv_in.weight", own=AUTOENCODER_PARTS)
    multipliers = ddconfig["ch_mult"]
    sizes = [ddconfig["resolution"] // 2**level for level in range(len(multipliers))]
    attention = [size in ddconfig.get("attn_resolutions", ()) for size in sizes]
    vqgan = VQGAN(
        weights["encoder.conv_in.weight"].dim() - 2,
        ddconfig["in_channels"],
        channels=[ddconfig["ch"] * multiplier for multiplier in multipliers],
        num_res_blocks=ddconfig["num_res_blocks"],
        latent_channels=embed_dim,
        z_channels=ddconfig["z_channels"],
        num_codes=n_embed,
        legacy_beta=True,
        attention_levels=attention,
        norm_groups=ddconfig.get("num_groups", DEFAULT_NUM_GROUPS),
    )
    sources = sources_by_layer(vqgan, vqgan_layers(ddconfig["num_res_blocks"], attention))
    sources["quantizer.codebook"] = Source(("quantize.embedding.weight",))
    return load_from_sources(vqgan, weights, sources)


def check_ddconfig(ddconfig: Mapping[str, Any]) -> None:
    """Refuse a configuration that VQModel itself could not run, or that has no counterpart here.

    Raises:
        ValueError: A key is unknown or missing, or a value is impossible.
    """
    unknown = set(ddconfig) - set(DDCONFIG_REQUIRED) - set(DDCONFIG_OPTIONAL)
    missing = set(DDCONFIG_REQUIRED) - set(ddconfig)
    if unknown or missing:
        raise ValueError(f"ddconfig: unknown {sorted(unknown)}, missing {sorted(missing)}")
    if ddconfig.get("double_z", True):  # True is the reference's default, and does not fit its own quant_conv
        raise ValueError("ddconfig double_z must be False: a quantised latent has one set of z_channels")
    if ddconfig["out_ch"] != ddconfig["in_channels"]:
        raise ValueError(f"ddconfig out_ch {ddconfig['out_ch']} must be in_channels {ddconfig['in_channels']}")
    if not ddconfig.get("resamp_with_conv", True):
        raise ValueError("ddconfig resamp_with_conv must be True: resampling without convolutions is not mapped")


def vqgan_layers(num_res_blocks: int, attention: Sequence[bool]) -> dict[str, str]:
    """Our layer names of the VQGAN to the reference's."""
    layers = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side, levels, resample in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        layers |= {f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "norm_out", "conv_out")}
        layers |= vqgan_block_layers(f"{side}.mid", f"{side}.mid.block_1")
        blocks = num_res_blocks + (side == "decoder")
        for level, attends in enumerate(attention):
            # the reference numbers the decoder's levels from the volume, we in the order they run
            place = level if side == "encoder" else len(attention) - 1 - level
            ours, theirs = f"{side}.levels.{place}", f"{side}.{levels}.{level}"
            step = 2 if attends else 1  # attention follows each block
            for block in range(blocks):
                layers |= vqgan_block_layers(f"{ours}.{step * block}", f"{theirs}.block.{block}")
                for name in ("norm", "q", "k", "v", "proj_out") if attends else ():
                    layers[f"{ours}.{step * block + 1}.{name}"] = f"{theirs}.attn.{block}.{name}"
            layers[f"{ours}.{step * blocks}.conv"] = f"{theirs}.{resample}.conv"
    return layers


def vqgan_block_layers(ours: str, theirs: str) -> dict[str, str]:
    """The layers of one residual block of the autoencoder."""
    same = {f"{ours}.{name}": f"{theirs}.{name}" for name in ("norm1", "conv1", "norm2", "conv2")}
    return same | {f"{ours}.shortcut": f"{theirs}.nin_shortcut"}


def ms_spade_from_aldm(
    state_dict: Weights, *, num_classes: int, z_dim: int = 4, nf: int = 128
) -> MSSpadeGenerator:
    """The MS-SPADE generator of a VQModel or LatentDiffusion checkpoint, with its weights.

    2D or 3D, and the width between features and modulation, as the weights are.

    Args:
        state_dict: Reference names (``block.0.conv_0.weight``, ...), also under ``spade.`` or
            ``first_stage_model.spade.``; not changed.
        num_classes: Number of target modalities.
        z_dim: Channels of the latent.
        nf: Width of the outer blocks.

    Raises:
        ValueError: A key is unmapped or missing, or a shape differs.
    """
    weights = part_of(state_dict, "block.0.conv_0.weight")
    first = weights.get("block.0.norm_0.spades.0.mlp_shared.0.weight")
    generator = MSSpadeGenerator(
        z_dim,
        num_classes,
        features=nf,
        hidden=64 if first is None else first.shape[0],
        spatial_dims=weights["block.0.conv_0.weight"].dim() - 2,
    )
    layers, sources = {}, {}
    for index in range(len(generator.blocks)):
        ours, theirs = f"blocks.{index}", f"block.{index}"
        for name, their_name in (("conv1", "conv_0"), ("conv2", "conv_1"), ("shortcut", "conv_s")):
            layers[f"{ours}.{name}"] = f"{theirs}.{their_name}"
        for norm, their_norm in (("norm1", "norm_0"), ("norm2", "norm_1")):
            bank = [f"{theirs}.{their_norm}.spades.{target}" for target in range(num_classes)]
            for leaf in ("weight", "bias"):
                shared = tuple(f"{spade}.mlp_shared.0.{leaf}" for spade in bank)
                pairs = tuple(f"{spade}.mlp_{part}.{leaf}" for spade in bank for part in ("gamma", "beta"))
                sources[f"{ours}.{norm}.shared.{leaf}"] = Source(shared, torch.stack)
                sources[f"{ours}.{norm}.modulation.{leaf}"] = Source(pairs, stack_pairs)
    sources |= sources_by_layer(generator, layers)
    return load_from_sources(generator, weights, sources)


def stack_pairs(tensors: list[Tensor]) -> Tensor:
    """Join each gamma with its beta along the output channels, and stack the pairs."""
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return torch.stack([torch.cat(pair) for pair in pairs])


def part_of(state_dict: Weights, anchor: str, *, own: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    """The keys of one part of a checkpoint, without the prefix it is stored under.

    Args:
        state_dict: The whole checkpoint; not changed.
        anchor: A key every checkpoint of this part has; what stands before it is the prefix.
        own: How the part's keys begin, after the prefix.

    Raises:
        ValueError: There is no such key or more than one, or a key outside the part is not known.
    """
    found = [key for key in state_dict if f".{key}".endswith(f".{anchor}")]
    if len(found) != 1:
        first = shorten(state_dict, 3) or "none"
        raise ValueError(f"expected one key ending in {anchor}, found {len(found)}; the keys are {first}")
    prefix = found[0].removesuffix(anchor)
    starts = tuple(prefix + name for name in own)
    beside = [key for key in state_dict if not key.startswith(starts)]
    unknown = [key for key in beside if not is_known(key)]
    if unknown:
        raise ValueError(f"unmapped keys: {shorten(unknown)}")
    if beside:
        groups = ", ".join(sorted({key.split(".")[0] for key in beside}))
        logger.info("left out %d keys of other parts: %s", len(beside), groups)
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(starts)}


def is_known(key: str) -> bool:
    """Whether a key belongs to some part of the reference's checkpoints."""
    name = key.removeprefix("first_stage_model.")
    return name in SCHEDULE_TABLES or name.startswith((*AUTOENCODER_PARTS, *OTHER_PARTS))
