"""What the tensors of ALDM's published checkpoints are called, and where they go here."""

import logging
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .attention import SelfAttention
from .denoiser import Denoiser
from .ms_spade import MSSpadeGenerator
from .state_dicts import Source, Weights, shorten, sources_by_layer
from .transformer import SpatialTransformer

logger = logging.getLogger(__name__)

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
        raise ValueError(f"missing keys: one ending in {anchor} (found {found}, keys are {first})")
    prefix = found[0].removesuffix(anchor)
    starts = tuple(prefix + name for name in own)
    beside = [key for key in state_dict if not key.startswith(starts)]
    unknown = [key for key in beside if not is_known(key)]
    if unknown:
        raise ValueError(f"unmapped keys: {shorten(unknown)}")
    if beside:
        groups = ", ".join(sorted({key.split(".")[0] for key in beside}))
        logger.info("left out %d keys of other parts: %s", len(beside), groups)
    return {
        key.removeprefix(prefix): value
        for key, value in state_dict.items()
        if key.startswith(starts)
    }


def is_known(key: str) -> bool:
    """Whether a key belongs to some part of the reference's checkpoints."""
    name = key.removeprefix("first_stage_model.")
    return name in SCHEDULE_TABLES or name.startswith((*AUTOENCODER_PARTS, *OTHER_PARTS))


def vqgan_layers(num_res_blocks: int, attention: Sequence[bool]) -> dict[str, str]:
    """Our layer names of the VQGAN to the reference's."""
    layers = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    sides = (("encoder", "down", "downsample"), ("decoder", "up", "upsample"))
    for side, levels, resample in sides:
        layers |= {
            f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "norm_out", "conv_out")
        }
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
    names = ("norm1", "conv1", "norm2", "conv2")
    same = {f"{ours}.{name}": f"{theirs}.{name}" for name in names}
    return same | {f"{ours}.shortcut": f"{theirs}.nin_shortcut"}


def ms_spade_sources(generator: MSSpadeGenerator) -> dict[str, Source]:
    """Sources of the generator, whose banks hold all modalities, and gamma with beta, as one."""
    layers, sources = {}, {}
    for index in range(len(generator.blocks)):
        ours, theirs = f"blocks.{index}", f"block.{index}"
        for name, renamed in (("conv1", "conv_0"), ("conv2", "conv_1"), ("shortcut", "conv_s")):
            layers[f"{ours}.{name}"] = f"{theirs}.{renamed}"
        for norm, renamed in (("norm1", "norm_0"), ("norm2", "norm_1")):
            spades = [
                f"{theirs}.{renamed}.spades.{target}" for target in range(generator.num_modalities)
            ]
            for leaf in ("weight", "bias"):
                shared = tuple(f"{spade}.mlp_shared.0.{leaf}" for spade in spades)
                pairs = tuple(
                    f"{spade}.mlp_{part}.{leaf}" for spade in spades for part in ("gamma", "beta")
                )
                sources[f"{ours}.{norm}.shared.{leaf}"] = Source(shared, torch.stack)
                sources[f"{ours}.{norm}.modulation.{leaf}"] = Source(pairs, stack_pairs)
    return sources | sources_by_layer(generator, layers)


def stack_pairs(tensors: list[Tensor]) -> Tensor:
    """Join each gamma with its beta along the output channels, and stack the pairs."""
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return torch.stack([torch.cat(pair) for pair in pairs])


def denoiser_sources(denoiser: Denoiser, *, heads_first: bool) -> dict[str, Source]:
    """Sources of the denoiser.

    Args:
        denoiser: Gives our names.
        heads_first: The reference's rows of queries, keys and values are ordered (head, qkv,
            channel), its default; else (qkv, head, channel), as ours are.
    """
    layers = {"time_mlp.0": "time_embed.0", "time_mlp.2": "time_embed.2"}
    layers |= {"modality_embedding": "label_emb", "conv_in": "input_blocks.0.0"}
    layers |= {"norm_out": "out.0", "conv_out": "out.2"}
    sources: dict[str, Source] = {}

    def add(ours: str, layer: nn.Module, res: str, attention: str) -> None:
        layers.update({f"{ours}.res.{mine}": f"{res}.{name}" for mine, name in RES_BLOCK.items()})
        if isinstance(layer.attention, SelfAttention):
            head = f"{ours}.attention"
            layers[f"{head}.norm"] = f"{attention}.norm"
            qkv_first = QKVFirst(layer.attention.heads if heads_first else 1)
            for leaf in ("weight", "bias"):
                sources[f"{head}.qkv.{leaf}"] = Source((f"{attention}.qkv.{leaf}",), qkv_first)
                sources[f"{head}.out.{leaf}"] = Source((f"{attention}.proj_out.{leaf}",), linear)
        if isinstance(layer.cross_attention, SpatialTransformer):
            for mine, name in SPATIAL_TRANSFORMER.items():
                layers[f"{ours}.cross_attention.{mine}"] = f"{attention}.{name}"

    count = 1
    for level_index, level in enumerate(denoiser.down):
        for index, layer in enumerate(cast(nn.ModuleList, level.layers)):
            theirs = f"input_blocks.{count}"
            add(f"down.{level_index}.layers.{index}", layer, f"{theirs}.0", f"{theirs}.1")
            count += 1
        layers[f"down.{level_index}.resample.conv"] = f"input_blocks.{count}.0.op"
        count += 1
    add("middle.0", denoiser.middle[0], "middle_block.0", "middle_block.1")
    add("middle.1", denoiser.middle[1], "middle_block.2", "")
    count = 0
    for level_index, level in enumerate(denoiser.up):
        for index, layer in enumerate(cast(nn.ModuleList, level.layers)):
            theirs = f"output_blocks.{count}"
            add(f"up.{level_index}.layers.{index}", layer, f"{theirs}.0", f"{theirs}.1")
            attends = layer.attention is not None or layer.cross_attention is not None
            layers[f"up.{level_index}.resample.conv"] = f"{theirs}.{1 + attends}.conv"
            count += 1
    return sources | sources_by_layer(denoiser, layers)


RES_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "embedding": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "shortcut": "skip_connection",
}
SPATIAL_TRANSFORMER = {
    "norm": "norm",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    **{f"block.norm{i}": f"transformer_blocks.0.norm{i}" for i in (1, 2, 3)},
    **{
        f"block.{mine}.{layer}": f"transformer_blocks.0.{theirs}.{name}"
        for mine, theirs in (("self_attention", "attn1"), ("context_attention", "attn2"))
        for layer, name in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("out", "to_out.0"))
    },
    "block.gated": "transformer_blocks.0.ff.net.0.proj",
    "block.out": "transformer_blocks.0.ff.net.2",
}


def linear(tensors: list[Tensor]) -> Tensor:
    """A 1x1 convolution over tokens as a linear layer: (out, in, 1) to (out, in); a bias as is."""
    return tensors[0].flatten(1) if tensors[0].dim() == 3 else tensors[0]


class QKVFirst:
    """Reorder the rows of a 1x1 convolution from (head, qkv, channel) to (qkv, head, channel)."""

    def __init__(self, heads: int) -> None:
        self.heads = heads

    def __call__(self, tensors: list[Tensor]) -> Tensor:
        """(3 * c, c, 1) to (3 * c, c), or a bias (3 * c,) to the same shape."""
        rows = linear(tensors).unflatten(0, (self.heads, 3, -1))
        return rows.transpose(0, 1).flatten(0, 2)
