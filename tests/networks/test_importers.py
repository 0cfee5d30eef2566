"""Importers against the reference's numbers, a plain forward by its names, and bad checkpoints."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from voxlate.networks.importers import (
    denoiser_from_aldm,
    ema_weights,
    ms_spade_from_aldm,
    vqgan_from_aldm,
)


def vectors(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    path = folder / f"{name}.npz"
    arrays = {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(path).items()}
    return arrays, json.loads(path.with_suffix(".json").read_text())["config"]


def group(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): value for k, value in arrays.items() if k.startswith(prefix)}


class Plain:
    """The reference's layers by name, each written out; weights are drawn when first asked for."""

    def __init__(self, dims: int, seed: int) -> None:
        self.dims, self.weights = dims, {}
        self.generator = torch.Generator().manual_seed(seed)

    def get(self, name: str, *shape: int) -> Tensor:
        if name not in self.weights:
            spread = 1.0 if len(shape) == 1 else 1.5 / np.sqrt(np.prod(shape[1:]))
            self.weights[name] = torch.randn(*shape, generator=self.generator) * spread
        return self.weights[name]

    def conv(
        self, name: str, x: Tensor, out: int, kernel: int, *, bias: bool = True, **how
    ) -> Tensor:
        weight = self.get(f"{name}.weight", out, x.shape[1], *[kernel] * self.dims)
        how.setdefault("padding", kernel // 2)
        run = F.conv3d if self.dims == 3 else F.conv2d
        return run(x, weight, self.get(f"{name}.bias", out) if bias else None, **how)

    def linear(self, name: str, x: Tensor, out: int, *, bias: bool = True) -> Tensor:
        weight = self.get(f"{name}.weight", out, x.shape[-1])
        return F.linear(x, weight, self.get(f"{name}.bias", out) if bias else None)

    def norm(self, name: str, x: Tensor, groups: int, eps: float) -> Tensor:
        weight, bias = (self.get(f"{name}.{leaf}", x.shape[1]) for leaf in ("weight", "bias"))
        return F.group_norm(x, groups, weight, bias, eps)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(n, c) queries to (m, c) keys and values, one head, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    return (torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=1) @ v).float()


# ---------------------------------------------------------------- the autoencoder

DDCONFIG = {
    "double_z": False,
    "z_channels": 4,
    "resolution": 8,
    "in_channels": 1,
    "out_ch": 1,
    "ch": 8,
    "ch_mult": [1, 2, 2],
    "num_res_blocks": 2,
    "attn_resolutions": [4],
    "dropout": 0.0,
    "num_groups": 4,
}


def vqgan_block(net: Plain, name: str, x: Tensor, out: int) -> Tensor:
    h = net.conv(f"{name}.conv1", F.silu(net.norm(f"{name}.norm1", x, 4, 1e-6)), out, 3)
    h = net.conv(f"{name}.conv2", F.silu(net.norm(f"{name}.norm2", h, 4, 1e-6)), out, 3)
    return h + (x if x.shape[1] == out else net.conv(f"{name}.nin_shortcut", x, out, 1))


def vqgan_attention(net: Plain, name: str, x: Tensor) -> Tensor:
    h = net.norm(f"{name}.norm", x, 4, 1e-6)
    q, k, v = (net.conv(f"{name}.{part}", h, h.shape[1], 1).flatten(2) for part in "qkv")
    rows = [softmax_attention(q[i].T, k[i].T, v[i].T).T for i in range(len(x))]
    return x + net.conv(f"{name}.proj_out", torch.stack(rows).reshape(x.shape), x.shape[1], 1)


def plain_encode(net: Plain, x: Tensor, config: dict[str, Any]) -> Tensor:
    h, size = net.conv("encoder.conv_in", x, config["ch"], 3), config["resolution"]
    for level, multiplier in enumerate(config["ch_mult"]):
        for block in range(config["num_res_blocks"]):
            name = f"encoder.down.{level}"
            h = vqgan_block(net, f"{name}.block.{block}", h, config["ch"] * multiplier)
            if size in config["attn_resolutions"]:
                h = vqgan_attention(net, f"{name}.attn.{block}", h)
        if level < len(config["ch_mult"]) - 1:
            padded = F.pad(h, [0, 1] * net.dims)
            h = net.conv(f"{name}.downsample.conv", padded, h.shape[1], 3, stride=2, padding=0)
            size //= 2
    h = vqgan_block(net, "encoder.mid.block_1", h, h.shape[1])
    h = F.silu(net.norm("encoder.norm_out", h, 4, 1e-6))
    return net.conv("quant_conv", net.conv("encoder.conv_out", h, config["z_channels"], 3), 3, 1)


def plain_decode(net: Plain, z: Tensor, config: dict[str, Any]) -> Tensor:
    levels = len(config["ch_mult"])
    size = config["resolution"] // 2 ** (levels - 1)
    h = net.conv("post_quant_conv", z, config["z_channels"], 1)
    h = net.conv("decoder.conv_in", h, config["ch"] * config["ch_mult"][-1], 3)
    h = vqgan_block(net, "decoder.mid.block_1", h, h.shape[1])
    for level in reversed(range(levels)):
        name = f"decoder.up.{level}"
        for block in range(config["num_res_blocks"] + 1):
            width = config["ch"] * config["ch_mult"][level]
            h = vqgan_block(net, f"{name}.block.{block}", h, width)
            if size in config["attn_resolutions"]:
                h = vqgan_attention(net, f"{name}.attn.{block}", h)
        if level > 0:
            h = net.conv(f"{name}.upsample.conv", F.interpolate(h, scale_factor=2), width, 3)
            size *= 2
    h = F.silu(net.norm("decoder.norm_out", h, 4, 1e-6))
    return net.conv("decoder.conv_out", h, config["out_ch"], 3)


def vqgan_case(dims: int = 3) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor]:
    """A whole VQModel state dict, a volume, its continuous latent, a latent, its decoding."""
    net, generator = Plain(dims, seed=1), torch.Generator().manual_seed(2)
    volume = torch.randn(2, 1, *[8] * dims, generator=generator)
    latent = torch.randn(2, 3, *[2] * dims, generator=generator)
    encoded, decoded = plain_encode(net, volume, DDCONFIG), plain_decode(net, latent, DDCONFIG)
    net.get("quantize.embedding.weight", 16, 3)
    return net.weights, volume, encoded, latent, decoded


def test_vqgan_equals_the_reference(vectors_dir: Path) -> None:
    arrays, config = vectors(vectors_dir, "aldm_autoencoder_3d")
    identity = torch.eye(3)[..., None, None, None]
    weights = {f"encoder.{key}": value for key, value in group(arrays, "w_enc/").items()}
    weights |= {f"decoder.{key}": value for key, value in group(arrays, "w_dec/").items()}
    for name in ("quant_conv", "post_quant_conv"):
        weights |= {f"{name}.weight": identity, f"{name}.bias": torch.zeros(3)}
    weights["quantize.embedding.weight"] = torch.randn(8, 3)
    model = vqgan_from_aldm(weights, ddconfig=config, n_embed=8, embed_dim=3)
    with torch.no_grad():
        continuous = model.encode(arrays["in/x"]).continuous
        decoded = model.decode(arrays["in/z"])
    torch.testing.assert_close(continuous, arrays["out/h"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoded, arrays["out/x"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_vqgan_with_attention_equals_the_plain_forward(dims: int) -> None:
    weights, volume, encoded, latent, decoded = vqgan_case(dims)
    model = vqgan_from_aldm(weights, ddconfig=DDCONFIG, n_embed=16, embed_dim=3)
    with torch.no_grad():
        found = model.encode(volume)
        torch.testing.assert_close(found.continuous, encoded, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.decode(latent), decoded, rtol=1e-4, atol=1e-4)
    codes = weights["quantize.embedding.weight"]
    nearest = torch.cdist(encoded.movedim(1, -1).flatten(0, -2), codes).argmin(1)
    assert torch.equal(found.indices.flatten(), nearest)


def test_vqgan_keeps_the_reference_placement_of_beta() -> None:
    model = vqgan_from_aldm(vqgan_case()[0], ddconfig=DDCONFIG, n_embed=16, embed_dim=3)
    assert model.quantizer.legacy
    assert model.quantizer.beta == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"double_z": True}, "double_z"),
        ({"out_ch": 2}, "out_ch 2"),
        ({"resamp_with_conv": False}, "resamp_with_conv"),
        ({"colour": 1}, "unknown \\['colour'\\]"),
    ],
)
def test_ddconfig_without_counterpart_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vqgan_from_aldm({}, ddconfig=DDCONFIG | change, n_embed=16, embed_dim=3)


# ---------------------------------------------------------------- MS-SPADE


def plain_generator(net: Plain, z: Tensor, target: int, nf: int) -> Tensor:
    def spade(name: str, x: Tensor) -> Tensor:
        hidden = F.relu(net.conv(f"{name}.mlp_shared.0", x, 64, 3))
        gamma, beta = (
            net.conv(f"{name}.mlp_{part}", hidden, x.shape[1], 3) for part in ("gamma", "beta")
        )
        return F.instance_norm(x) * (1 + gamma) + beta

    h, widths = z, [nf, 2 * nf, nf, z.shape[1]]
    for index, out in enumerate(widths):
        name, middle = f"block.{index}", min(h.shape[1], out)
        skip = h if h.shape[1] == out else net.conv(f"{name}.conv_s", h, out, 1, bias=False)
        d = F.leaky_relu(spade(f"{name}.norm_0.spades.{target}", h), 0.2)
        d = net.conv(f"{name}.conv_0", d, middle, 3)
        d = F.leaky_relu(spade(f"{name}.norm_1.spades.{target}", d), 0.2)
        h = skip + net.conv(f"{name}.conv_1", d, out, 3)
    return h


@pytest.mark.parametrize("prefix", ["", "spade.", "first_stage_model.spade."])
def test_generator_equals_the_plain_forward_on_a_mixed_batch(prefix: str) -> None:
    net = Plain(3, seed=3)
    latent = torch.randn(4, 3, 3, 4, 5, generator=torch.Generator().manual_seed(4))
    rows = [(0, 2), (1, 0), (2, 1), (3, 2)]
    expected = torch.cat([plain_generator(net, latent[i : i + 1], t, 6) for i, t in rows])
    weights = {prefix + key: value for key, value in net.weights.items()}
    generator = ms_spade_from_aldm(weights, num_classes=3, z_dim=3, nf=6)
    with torch.no_grad():
        found = generator(latent, torch.tensor([target for _, target in rows]))
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-5)


def test_generator_with_fewer_classes_than_the_checkpoint_is_refused() -> None:
    net, latent = Plain(3, seed=3), torch.randn(1, 3, 2, 2, 2)
    for target in range(3):
        plain_generator(net, latent, target, 4)
    with pytest.raises(ValueError, match=r"unmapped keys: block\.0\.norm_0\.spades\.2"):
        ms_spade_from_aldm(net.weights, num_classes=2, z_dim=3, nf=4)


# ---------------------------------------------------------------- the denoiser

UNET = {
    "image_size": 8,
    "in_channels": 12,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "dims": 3,
    "num_head_channels": 16,
}


def unet_block(net: Plain, name: str, x: Tensor, emb: Tensor, out: int, film: bool) -> Tensor:
    h = net.conv(
        f"{name}.in_layers.2", F.silu(net.norm(f"{name}.in_layers.0", x, 32, 1e-5)), out, 3
    )
    e = net.linear(f"{name}.emb_layers.1", F.silu(emb), out * (1 + film))
    e = e.reshape(*e.shape, *[1] * net.dims)
    if film:
        h = net.norm(f"{name}.out_layers.0", h, 32, 1e-5) * (1 + e[:, :out]) + e[:, out:]
    else:
        h = net.norm(f"{name}.out_layers.0", h + e, 32, 1e-5)
    h = net.conv(f"{name}.out_layers.3", F.silu(h), out, 3)
    return h + (x if x.shape[1] == out else net.conv(f"{name}.skip_connection", x, out, 1))


def unet_attention(net: Plain, name: str, x: Tensor, heads: int, heads_first: bool) -> Tensor:
    """Rows (head, qkv, channel), or (qkv, head, channel); 1x1 convolutions over tokens."""
    b, c = x.shape[:2]
    h = net.norm(f"{name}.norm", x, 32, 1e-5).flatten(2)
    h = F.conv1d(h, net.get(f"{name}.qkv.weight", 3 * c, c, 1), net.get(f"{name}.qkv.bias", 3 * c))
    shape = (b, heads, 3, c // heads, -1) if heads_first else (b, 3, heads, c // heads, -1)
    h = h.reshape(shape) if heads_first else h.reshape(shape).transpose(1, 2)
    mixed = [
        torch.cat([softmax_attention(*(part.T for part in h[i, j])).T for j in range(heads)])
        for i in range(b)
    ]
    weight, bias = net.get(f"{name}.proj_out.weight", c, c, 1), net.get(f"{name}.proj_out.bias", c)
    return x + F.conv1d(torch.stack(mixed), weight, bias).reshape(x.shape)


def unet_transformer(net: Plain, name: str, x: Tensor, token: Tensor, heads: int) -> Tensor:
    def attend(part: str, tokens: Tensor, context: Tensor) -> Tensor:
        q = net.linear(f"{part}.to_q", tokens, c, bias=False)
        k = net.linear(f"{part}.to_k", context, c, bias=False)
        v = net.linear(f"{part}.to_v", context, c, bias=False)
        cut = [[softmax_attention(*(y[i].chunk(heads, -1)[j] for y in (q, k, v)))
                for j in range(heads)] for i in range(len(x))]  # fmt: skip
        return net.linear(f"{part}.to_out.0", torch.stack([torch.cat(r, -1) for r in cut]), c)

    def layer_norm(part: str, y: Tensor) -> Tensor:
        return F.layer_norm(y, (c,), net.get(f"{part}.weight", c), net.get(f"{part}.bias", c))

    c, block = x.shape[1], f"{name}.transformer_blocks.0"
    h = net.conv(f"{name}.proj_in", net.norm(f"{name}.norm", x, 32, 1e-6), c, 1)
    h = h.flatten(2).transpose(1, 2)
    normalized = layer_norm(f"{block}.norm1", h)
    h = h + attend(f"{block}.attn1", normalized, normalized)
    h = h + attend(f"{block}.attn2", layer_norm(f"{block}.norm2", h), token)
    value, gate = net.linear(
        f"{block}.ff.net.0.proj", layer_norm(f"{block}.norm3", h), 8 * c
    ).chunk(2, -1)
    h = h + net.linear(f"{block}.ff.net.2", value * F.gelu(gate), c)
    return x + net.conv(f"{name}.proj_out", h.transpose(1, 2).reshape(x.shape), c, 1)


def plain_unet(net: Plain, x: Tensor, t: Tensor, y: Tensor, args: dict[str, Any]) -> Tensor:
    """The two-level UNet of ``UNET``, attention at the second level."""
    width, film = args["model_channels"], args.get("use_scale_shift_norm", False)
    heads = args.get("num_heads", -1)
    heads = heads if heads > 0 else 2 * width // args["num_head_channels"]
    angles = t[:, None] * 10000.0 ** (-torch.arange(width // 2) / (width // 2))
    emb = torch.cat([angles.cos(), angles.sin()], 1)
    emb = F.silu(net.linear("time_embed.0", emb, 4 * width))
    emb = net.linear("time_embed.2", emb, 4 * width)
    if "num_classes" in args:
        emb = emb + net.get("label_emb.weight", args["num_classes"], 4 * width)[y]

    def attend(name: str, h: Tensor) -> Tensor:
        if args.get("use_spatial_transformer"):
            token = F.one_hot(y, args["context_dim"]).float()[:, None]
            return unet_transformer(net, name, h, token, heads)
        return unet_attention(net, name, h, heads, not args.get("use_new_attention_order", False))

    skips = [net.conv("input_blocks.0.0", x, width, 3)]
    skips.append(unet_block(net, "input_blocks.1.0", skips[-1], emb, width, film))
    skips.append(net.conv("input_blocks.2.0.op", skips[-1], width, 3, stride=2))
    h = unet_block(net, "input_blocks.3.0", skips[-1], emb, 2 * width, film)
    skips.append(attend("input_blocks.3.1", h))
    h = unet_block(net, "middle_block.0", skips[-1], emb, 2 * width, film)
    h = unet_block(net, "middle_block.2", attend("middle_block.1", h), emb, 2 * width, film)
    for index in range(4):
        name, out = f"output_blocks.{index}", 2 * width if index < 2 else width
        h = unet_block(net, f"{name}.0", torch.cat([h, skips.pop()], 1), emb, out, film)
        h = attend(f"{name}.1", h) if index < 2 else h
        if index == 1:
            h = net.conv(f"{name}.2.conv", F.interpolate(h, scale_factor=2), out, 3)
    h = F.silu(net.norm("out.0", h, 32, 1e-5))
    return net.conv("out.2", h, args["out_channels"], 3)


def unet_case(args: dict[str, Any], noisy_first: bool = True) -> tuple[dict[str, Tensor], ...]:
    net, generator = Plain(args["dims"], seed=5), torch.Generator().manual_seed(6)
    size = (4, 2, 6)[: args["dims"]]
    x_t = torch.randn(2, 4, *size, generator=generator)
    concat = torch.randn(2, 8, *size, generator=generator)
    t, y = torch.tensor([3, 900]), torch.tensor([2, 0])
    whole = torch.cat([x_t, concat] if noisy_first else [concat, x_t], 1)
    expected = plain_unet(net, whole, t, y, args)
    return net.weights, {"x_t": x_t, "timesteps": t, "concat": concat, "modality": y}, expected


@pytest.mark.parametrize(
    ("change", "noisy_first"),
    [
        ({"num_classes": 4}, True),
        ({"num_classes": 4, "dims": 2}, False),
        ({"num_classes": 4, "use_scale_shift_norm": True}, True),
        ({"num_classes": 4, "num_head_channels": -1, "num_heads": 2}, True),
        ({"num_classes": 4, "use_new_attention_order": True}, True),
        ({"use_spatial_transformer": True, "context_dim": 4}, False),
        ({"use_spatial_transformer": True, "context_dim": [4], "dims": 2}, True),
    ],
)
def test_denoiser_equals_the_plain_forward(change: dict[str, Any], noisy_first: bool) -> None:
    args = UNET | change
    plain_args = args | ({"context_dim": 4} if "context_dim" in args else {})
    weights, inputs, expected = unet_case(plain_args, noisy_first)
    denoiser = denoiser_from_aldm(weights, **args, noisy_first=noisy_first)
    with torch.no_grad():
        found = denoiser(**inputs)
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-5)


def test_denoiser_without_classes_takes_no_modality() -> None:
    weights, inputs, expected = unet_case(UNET)
    denoiser = denoiser_from_aldm(weights, **UNET)
    with torch.no_grad():
        found = denoiser(inputs["x_t"], inputs["timesteps"], concat=inputs["concat"])
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resblock_updown": True}, "resblock_updown"),
        ({"conv_resample": False}, "conv_resample"),
        ({"channel_mult": [2, 2]}, "channel_mult"),
        ({"num_head_channels": -1}, "num_heads"),
        ({"context_dim": 4}, "context_dim"),
        ({"use_spatial_transformer": True, "context_dim": 4, "transformer_depth": 2}, "depth"),
    ],
)
def test_unet_argument_without_counterpart_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        denoiser_from_aldm({}, **UNET | change)


# ---------------------------------------------------------------- checkpoints as they are found


def whole_checkpoint() -> dict[str, Tensor]:
    """A LatentDiffusion state dict: U-Net, autoencoder, generator, schedule, shadow weights."""
    unet = unet_case(UNET | {"num_classes": 4})[0]
    net = Plain(3, seed=7)
    for target in range(4):
        plain_generator(net, torch.randn(1, 3, 2, 2, 2), target, 4)
    whole = {f"model.diffusion_model.{key}": value for key, value in unet.items()}
    shadows = {
        "model_ema.diffusion_model" + key.replace(".", ""): value + 1 for key, value in unet.items()
    }
    whole |= shadows | {"model_ema.decay": torch.tensor(0.9999)}
    whole |= {f"first_stage_model.{key}": value for key, value in vqgan_case()[0].items()}
    whole |= {f"first_stage_model.spade.{key}": value for key, value in net.weights.items()}
    whole["first_stage_model.loss.discriminator.main.0.weight"] = torch.zeros(1)
    return whole | {"betas": torch.zeros(1000), "scale_factor": torch.tensor(1.0)}


def test_every_part_is_found_in_a_whole_checkpoint(caplog: pytest.LogCaptureFixture) -> None:
    whole = whole_checkpoint()
    before = dict(whole)
    with caplog.at_level(logging.INFO):
        vqgan_from_aldm(whole, ddconfig=DDCONFIG, n_embed=16, embed_dim=3)
        ms_spade_from_aldm(whole, num_classes=4, z_dim=3, nf=4)
        denoiser_from_aldm(whole, **UNET, num_classes=4)
    assert len(caplog.records) == 3
    assert "betas" in caplog.text and "model_ema" in caplog.text
    assert list(whole) == list(before)
    assert all(whole[key] is before[key] for key in whole)


def test_shadow_weights_replace_the_last_steps() -> None:
    whole = whole_checkpoint()
    last = denoiser_from_aldm(whole, **UNET, num_classes=4)
    shadow = denoiser_from_aldm(ema_weights(whole), **UNET, num_classes=4)
    for ours, theirs in zip(shadow.parameters(), last.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs + 1)


def test_checkpoint_without_shadow_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no shadow weights"):
        ema_weights({"model.diffusion_model.out.0.weight": torch.zeros(1)})


def test_shadow_of_no_weight_is_refused() -> None:
    whole = whole_checkpoint() | {"model_ema.nothing": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"unmapped keys: model_ema\.nothing"):
        ema_weights(whole)


@pytest.mark.parametrize(
    "key", ["encoder.mid.attn_1.q.weight", "decoder.up.3.block.0.conv1.weight", "colorize"]
)
def test_unmapped_key_is_refused_by_name(key: str) -> None:
    weights = vqgan_case()[0] | {key: torch.zeros(1)}
    with pytest.raises(ValueError, match=f"unmapped keys: {key}"):
        vqgan_from_aldm(weights, ddconfig=DDCONFIG, n_embed=16, embed_dim=3)


@pytest.mark.parametrize("key", ["encoder.conv_in.weight", "quant_conv.bias"])
def test_missing_key_is_refused_by_name(key: str) -> None:
    weights = {name: value for name, value in vqgan_case()[0].items() if name != key}
    with pytest.raises(ValueError, match=f"missing keys: .*{key}"):
        vqgan_from_aldm(weights, ddconfig=DDCONFIG, n_embed=16, embed_dim=3)


def test_each_denoiser_key_is_needed() -> None:
    weights = unet_case(UNET | {"num_classes": 4})[0]
    for key in list(weights)[::7]:
        without = {name: value for name, value in weights.items() if name != key}
        with pytest.raises(ValueError, match=f"missing keys: .*{key}"):
            denoiser_from_aldm(without, **UNET, num_classes=4)


def test_wrong_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"quantize\.embedding\.weight: \(16, 3\) instead of"):
        vqgan_from_aldm(vqgan_case()[0], ddconfig=DDCONFIG, n_embed=17, embed_dim=3)
