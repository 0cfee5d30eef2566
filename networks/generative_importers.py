"""Load checkpoints made with monai-generative, or early MONAI core, into MONAI's own networks.

MONAI's ``load_old_state_dict`` leaves ``include_fc`` and ``use_combined_linear`` to the caller, is
silently wrong for some choices, and empties the caller's dict. Here the checkpoint decides:

- monai-generative's self-attention has an output layer ``proj_attn`` that was created, saved and
  never applied: it is left out, and there is no output layer (``include_fc=False``);
- a core checkpoint has an output layer, and joint or separate queries, keys and values, as its
  keys say.

Attention is always ``scaled_dot_product_attention``. Every other key must be met, or a
``ValueError`` names it.
"""

import logging
from typing import Any

from monai.networks.nets import VQVAE, AutoencoderKL, DiffusionModelUNet
from torch import nn

from .state_dicts import Module, Source, Weights, load_from_sources

logger = logging.getLogger(__name__)


def vqvae_from_generative(state_dict: Weights, **arguments: Any) -> VQVAE:
    """MONAI's VQVAE with a checkpoint's weights.

    Args:
        state_dict: The checkpoint's tensors; not changed.
        **arguments: Constructor arguments of either library (``num_channels`` or ``channels``).

    Raises:
        ValueError: A key is unmapped or missing, or a shape differs.
    """
    return load_old(VQVAE(**in_core_terms(arguments)), state_dict)


def autoencoder_kl_from_generative(state_dict: Weights, **arguments: Any) -> AutoencoderKL:
    """MONAI's AutoencoderKL with a checkpoint's weights; as ``vqvae_from_generative``."""
    arguments = in_core_terms(arguments)
    if "use_checkpointing" in arguments:
        arguments["use_checkpoint"] = arguments.pop("use_checkpointing")
    return load_old(AutoencoderKL(**arguments | attention_of(state_dict)), state_dict)


def diffusion_unet_from_generative(state_dict: Weights, **arguments: Any) -> DiffusionModelUNet:
    """MONAI's DiffusionModelUNet with a checkpoint's weights; as ``vqvae_from_generative``."""
    arguments = in_core_terms(arguments)
    return load_old(DiffusionModelUNet(**arguments | attention_of(state_dict)), state_dict)


def in_core_terms(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments under core's names; what concerns the attention is for the checkpoint to say."""
    decided = {"use_flash_attention", "include_fc", "use_combined_linear"}
    names = {"num_channels": "channels"}
    return {names.get(name, name): v for name, v in arguments.items() if name not in decided}


def attention_of(state_dict: Weights) -> dict[str, bool]:
    """The attention settings with which core computes what the checkpoint was trained as."""
    return {
        "include_fc": any(".out_proj." in key or ".to_out.0." in key for key in state_dict),
        "use_combined_linear": any(".qkv." in key for key in state_dict),
        "use_flash_attention": True,
    }


def load_old(network: Module, state_dict: Weights) -> Module:
    """Load a checkpoint whose names may be older than the network's."""
    unused = [key for key in state_dict if is_never_applied(key, state_dict)]
    if unused:
        logger.info("left out %d keys of proj_attn, which was never applied", len(unused))
    weights = {key: value for key, value in state_dict.items() if key not in unused}
    return load_from_sources(network, weights, old_sources(network, weights))


def is_never_applied(key: str, state_dict: Weights) -> bool:
    """Whether a key is monai-generative's unused output layer, beside queries of the old layout."""
    block, _, layer = key.rpartition(".proj_attn.")
    return layer in ("weight", "bias") and f"{block}.to_q.weight" in state_dict


def old_sources(network: nn.Module, weights: Weights) -> dict[str, Source]:
    """Where each of the network's tensors is: under its own name, else under the older one."""
    sources = {}
    for name in network.state_dict():
        older = (
            name.replace(".attn.to_", ".to_")
            .replace(".postconv.", ".conv.")
            .replace(".out_proj.", ".to_out.0.")
        )
        sources[name] = Source((name if name in weights or older not in weights else older,))
    return sources
