"""Load published ALDM checkpoints: the reference's state dict and arguments in, our module out.

Every key of the checkpoint is accounted for. What belongs to another part (the discriminator under
``loss.``, the shadow weights under ``model_ema.``, the schedule tables, ...) is left out by name
and logged; anything else that is not mapped, and anything missing, is a ``ValueError`` naming it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .aldm_names import (
    AUTOENCODER_PARTS,
    denoiser_sources,
    ms_spade_sources,
    part_of,
    vqgan_layers,
)
from .denoiser import Denoiser
from .ms_spade import MSSpadeGenerator
from .state_dicts import Source, Weights, load_from_sources, shorten, sources_by_layer
from .vqgan import VQGAN

DDCONFIG_REQUIRED = {
    "ch",
    "out_ch",
    "ch_mult",
    "num_res_blocks",
    "in_channels",
    "resolution",
    "z_channels",
}
DDCONFIG_OPTIONAL = {"attn_resolutions", "double_z", "dropout", "num_groups", "resamp_with_conv"}
DEFAULT_NUM_GROUPS = 16  # of the reference's Normalize; its published configurations say 32


def vqgan_from_aldm(
    state_dict: Weights, *, ddconfig: Mapping[str, Any], n_embed: int, embed_dim: int
) -> VQGAN:
    """The autoencoder of a VQModel or LatentDiffusion checkpoint, with its weights.

    2D or 3D as the weights are. The quantiser has beta where the reference has (``legacy_beta``).

    Args:
        state_dict: Reference names (``encoder.conv_in.weight``, ...), also under
            ``first_stage_model.``; not changed.
        ddconfig: The reference's keyword arguments of encoder and decoder; ``dropout`` has no part
            in inference.
        n_embed: Codebook size.
        embed_dim: Channels of the latent and length of a code.

    Raises:
        ValueError: A key is unmapped or missing, a shape differs, or ``ddconfig`` asks for what
            VQModel cannot be.
    """
    check_ddconfig(ddconfig)
    weights = part_of(state_dict, "encoder.conv_in.weight", own=AUTOENCODER_PARTS)
    dims = weights["encoder.conv_in.weight"].dim() - 2
    arguments = vqgan_arguments(dims, ddconfig=ddconfig, n_embed=n_embed, embed_dim=embed_dim)
    vqgan = VQGAN(**arguments)
    layers = vqgan_layers(arguments["num_res_blocks"], arguments["attention_levels"])
    sources = sources_by_layer(vqgan, layers)
    sources["quantizer.codebook"] = Source(("quantize.embedding.weight",))
    return load_from_sources(vqgan, weights, sources)


def vqgan_arguments(
    spatial_dims: int, *, ddconfig: Mapping[str, Any], n_embed: int, embed_dim: int
) -> dict[str, Any]:
    """The arguments of ``VQGAN`` that make it the reference's."""
    multipliers = ddconfig["ch_mult"]
    sizes = [ddconfig["resolution"] // 2**level for level in range(len(multipliers))]
    return {
        "spatial_dims": spatial_dims,
        "in_channels": ddconfig["in_channels"],
        "channels": [ddconfig["ch"] * multiplier for multiplier in multipliers],
        "num_res_blocks": ddconfig["num_res_blocks"],
        "latent_channels": embed_dim,
        "z_channels": ddconfig["z_channels"],
        "num_codes": n_embed,
        "legacy_beta": True,
        "attention_levels": [size in ddconfig.get("attn_resolutions", ()) for size in sizes],
        "norm_groups": ddconfig.get("num_groups", DEFAULT_NUM_GROUPS),
    }


def check_ddconfig(ddconfig: Mapping[str, Any]) -> None:
    """Refuse a configuration that VQModel itself could not run, or that has no counterpart here.

    Raises:
        ValueError: A key is unknown or missing, or a value is impossible.
    """
    unknown = set(ddconfig) - DDCONFIG_REQUIRED - DDCONFIG_OPTIONAL
    missing = DDCONFIG_REQUIRED - set(ddconfig)
    if unknown or missing:
        raise ValueError(f"ddconfig: unknown {sorted(unknown)}, missing {sorted(missing)}")
    if ddconfig.get("double_z", True):  # the reference's default, which fits no quant_conv
        raise ValueError("ddconfig double_z must be False: a quantised latent has no variance")
    if ddconfig["out_ch"] != ddconfig["in_channels"]:
        raise ValueError(
            f"ddconfig out_ch {ddconfig['out_ch']} must be in_channels {ddconfig['in_channels']}"
        )
    if not ddconfig.get("resamp_with_conv", True):
        raise ValueError("ddconfig resamp_with_conv must be True")


def ms_spade_from_aldm(
    state_dict: Weights, *, num_classes: int, z_dim: int = 4, nf: int = 128
) -> MSSpadeGenerator:
    """The MS-SPADE generator of a VQModel or LatentDiffusion checkpoint, with its weights.

    2D or 3D, and as wide between features and modulation, as the weights are.

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
    return load_from_sources(generator, weights, ms_spade_sources(generator))


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The reference's arguments of its U-Net, under its names and with its defaults.

    ``image_size``, ``use_fp16`` and ``legacy`` change nothing; ``num_heads_upsample`` and, with
    transformers, ``num_classes`` may not be set; the others without a counterpart have one value
    that is accepted.

    Attributes:
        model_channels: Width that ``channel_mult`` multiplies.
        in_channels: Channels of x_t and what is concatenated to it.
        out_channels: Channels of x_t and the prediction.
        num_res_blocks: Residual blocks a level on the way down.
        attention_resolutions: Downsampling factors at which there is attention.
        channel_mult: Width of each level; the first must be 1, as the reference needs too.
        dims: 2 or 3.
        num_classes: Modalities, by an embedding added to the timestep's; None for none.
        num_heads: Heads of each attention, where ``num_head_channels`` is -1.
        num_head_channels: Channels of a head.
        use_scale_shift_norm: Embeddings scale and shift.
        use_new_attention_order: Rows of queries, keys and values are not grouped by head.
        use_spatial_transformer: Modalities by transformer blocks that see their one-hot (ALDM's
            older code).
        context_dim: Number of modalities where there are transformers.
        dropout: Kept for further training.
        use_checkpoint: Kept for further training.

    Raises:
        ValueError: An argument has no counterpart here.
    """

    model_channels: int
    in_channels: int
    out_channels: int
    num_res_blocks: int
    attention_resolutions: Sequence[int]
    channel_mult: Sequence[int] = (1, 2, 4, 8)
    dims: int = 3
    num_classes: int | None = None
    num_heads: int = -1
    num_head_channels: int = -1
    num_heads_upsample: int = -1
    use_scale_shift_norm: bool = False
    use_new_attention_order: bool = False
    use_spatial_transformer: bool = False
    transformer_depth: int = 1
    context_dim: int | Sequence[int] | None = None
    conv_resample: bool = True
    resblock_updown: bool = False
    n_embed: int | None = None
    image_size: int | None = None
    dropout: float = 0.0
    use_checkpoint: bool = False
    use_fp16: bool = False
    legacy: bool = True

    def __post_init__(self) -> None:
        """Refuse what has no counterpart."""
        transformer = self.use_spatial_transformer
        refused = {
            "conv_resample": not self.conv_resample,
            "resblock_updown": self.resblock_updown,
            "n_embed": self.n_embed is not None,
            "transformer_depth": transformer and self.transformer_depth != 1,
            "channel_mult (its first must be 1)": self.channel_mult[0] != 1,
            "num_heads and num_head_channels (one is needed)": self.num_heads
            == self.num_head_channels
            == -1,
            "num_heads_upsample": self.num_heads_upsample not in (-1, self.num_heads),
            "num_classes with transformers": transformer and self.num_classes is not None,
            "context_dim": transformer != (self.context_dim is not None),
        }
        names = [name for name, refuse in refused.items() if refuse]
        if names:
            raise ValueError(f"no counterpart here for the values of: {', '.join(names)}")

    def denoiser_arguments(self) -> dict[str, Any]:
        """The arguments of ``Denoiser`` that make it the reference's, but for ``noisy_first``."""
        context = self.context_dim
        tokens = context[0] if isinstance(context, Sequence) else context
        widths = [self.model_channels * multiplier for multiplier in self.channel_mult]
        head_channels = self.num_head_channels
        factors = [2**level for level in range(len(widths))]
        return {
            "spatial_dims": self.dims,
            "latent_channels": self.out_channels,
            "concat_channels": self.in_channels - self.out_channels,
            "num_modalities": (tokens if self.use_spatial_transformer else self.num_classes) or 0,
            "channels": widths,
            "num_res_blocks": self.num_res_blocks,
            "attention_levels": [factor in self.attention_resolutions for factor in factors],
            "num_head_channels": [width // self.num_heads for width in widths]
            if head_channels == -1
            else head_channels,
            "modality_conditioning": "spatial_transformer"
            if self.use_spatial_transformer
            else "embedding",
            "dropout": self.dropout,
            "use_scale_shift_norm": self.use_scale_shift_norm,
            "use_checkpoint": self.use_checkpoint,
        }


def denoiser_from_aldm(state_dict: Weights, *, noisy_first: bool = True, **config: Any) -> Denoiser:
    """The U-Net of a LatentDiffusion checkpoint, with its weights.

    Args:
        state_dict: Reference names (``input_blocks.0.0.weight``, ...), also under
            ``model.diffusion_model.``; not changed. See ``ema_weights`` for the shadow weights,
            which the reference samples with.
        noisy_first: The order of concatenation is (x_t, concat), as in ALDM's present code; else
            (concat, x_t), as in the code before.
        **config: The reference's constructor arguments, see ``UNetConfig``.

    Raises:
        ValueError: A key is unmapped or missing, a shape differs, or an argument has no
            counterpart here.
        TypeError: An argument is unknown, or missing.
    """
    unet = UNetConfig(**config)
    weights = part_of(state_dict, "input_blocks.0.0.weight")
    denoiser = Denoiser(**unet.denoiser_arguments(), noisy_first=noisy_first)
    sources = denoiser_sources(denoiser, heads_first=not unet.use_new_attention_order)
    return load_from_sources(denoiser, weights, sources)


def ema_weights(state_dict: Weights) -> dict[str, Tensor]:
    """A LatentDiffusion checkpoint with its shadow weights in place of the last step's.

    The shadow of ``model.NAME`` is stored as ``model_ema.NAME`` without the dots of NAME.

    Raises:
        ValueError: There are no shadow weights, or one belongs to no weight.
    """
    shadows = {key for key in state_dict if key.startswith("model_ema.")}
    if not shadows:
        raise ValueError("the checkpoint has no shadow weights (model_ema.)")
    replaced = {key: value for key, value in state_dict.items() if key not in shadows}
    for key in replaced:
        shadow = "model_ema." + key.removeprefix("model.").replace(".", "")
        if key.startswith("model.") and shadow in shadows:
            replaced[key] = state_dict[shadow]
            shadows.discard(shadow)
    left = shadows - {"model_ema.decay", "model_ema.num_updates"}
    if left:
        raise ValueError(f"unmapped keys: {shorten(sorted(left))}")
    return replaced
