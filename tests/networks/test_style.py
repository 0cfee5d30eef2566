"""Style: the reference's numbers, AdaIN in closed form, and what would be NaN there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from voxlate.networks.structure_decoders import ReconstructionDecoder, SegmentationDecoder
from voxlate.networks.style import (
    AdaptiveResBlock,
    StyleBank,
    StyleEncoder,
    StyleModulation,
    adaptive_instance_norm,
)

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def arrays(vectors_dir: Path) -> dict[str, Tensor]:
    with np.load(vectors_dir / "msg_parts.npz") as found:
        return {key: torch.from_numpy(found[key]) for key in found.files}


def part(arrays: dict[str, Tensor], prefix: str, names: dict[str, str]) -> dict[str, Tensor]:
    """A state dict: our parameter names to the reference's."""
    return {
        f"{ours}.{leaf}": arrays[f"{prefix}/{theirs}.{leaf}"]
        for ours, theirs in names.items()
        for leaf in ("weight", "bias")
    }


MODULATION = {
    "hidden1": "unit.0.unit.1",
    "hidden2": "unit.2.unit.1",
    "scale": "get_mu.unit.1",  # the reference hands mu over as the scale
    "shift": "get_sigma.unit.1",
}


def test_style_encoder_is_the_references(arrays: dict[str, Tensor]) -> None:
    encoder = StyleEncoder(2, channels=(4, 8, 16, 16, 16))
    state = part(arrays, "w_se", {f"units.{i}.conv": f"unit.{i}.unit.0" for i in range(5)})
    state["out.weight"] = arrays["w_se/unit2.unit.0.weight"].flatten(1)
    state["out.bias"] = arrays["w_se/unit2.unit.0.bias"]
    encoder.load_state_dict(state)
    units = encoder.units(arrays["in/x"])
    torch.testing.assert_close(units, arrays["out/style_pre"], **TOLERANCE)
    style = encoder(arrays["in/x"])
    torch.testing.assert_close(style, arrays["out/style"].flatten(1), **TOLERANCE)


def test_modulation_and_block_are_the_references(arrays: dict[str, Tensor]) -> None:
    modulation = StyleModulation(8, 16)
    modulation.load_state_dict(part(arrays, "w_mlp", MODULATION))
    scale, shift = modulation(arrays["in/style"].flatten(1))
    torch.testing.assert_close(scale, arrays["out/mlp_mu"].flatten(1), **TOLERANCE)
    torch.testing.assert_close(shift, arrays["out/mlp_sigma"].flatten(1), **TOLERANCE)
    block = AdaptiveResBlock(2, 16)
    names = {f"unit{i}.conv": f"conv{i}.unit.0" for i in (1, 2)}
    block.load_state_dict(part(arrays, "w_ar", names))
    out = block(arrays["in/content"], arrays["in/mu"].flatten(1), arrays["in/sigma"].flatten(1))
    torch.testing.assert_close(out, arrays["out/adaptive_resblock"], rtol=1e-4, atol=1e-4)


def test_reconstruction_decoder_is_the_references(arrays: dict[str, Tensor]) -> None:
    decoder = ReconstructionDecoder(2, 16)
    names = {f"modulation.{ours}": f"mlp.{theirs}" for ours, theirs in MODULATION.items()}
    for i in range(4):
        for u in (1, 2):
            names[f"blocks.{i}.unit{u}.conv"] = f"ar{i + 1}.conv{u}.unit.0"
    names |= {f"up.{i}.conv": f"features.convblock{i + 1}" for i in range(3)}
    decoder.load_state_dict(part(arrays, "w_dec", {**names, "conv_out": "conv_final"}))
    out = decoder(arrays["in/content"], arrays["in/style"].flatten(1))
    torch.testing.assert_close(out.volume, arrays["out/image"], rtol=1e-3, atol=2e-4)


def test_segmentation_decoder_is_the_references_but_for_its_last_norm(
    arrays: dict[str, Tensor],
) -> None:
    decoder = SegmentationDecoder(2, 4, channels=(8, 16, 32, 64))
    names = {"conv_out": "conv_seg.unit.0"}
    for i in range(3):
        names[f"enter.{i}.conv"] = f"features.convblock1{i + 1}.unit.0"
        names[f"merge.{i}.0.conv"] = f"features.convblock2{i + 1}.unit.0"
        names[f"merge.{i}.1.conv"] = f"features.convblock3{i + 1}.unit.0"
    decoder.load_state_dict(part(arrays, "w_mask", names))
    logits = decoder([arrays[f"in/e{i}"] for i in (1, 2, 3, 4)])
    as_coded = F.leaky_relu(F.instance_norm(logits), 0.01)
    torch.testing.assert_close(as_coded, arrays["out/seg_as_coded"], **TOLERANCE)


@pytest.mark.parametrize("dims", [2, 3])
def test_adain_gives_channels_their_mean_and_deviation(dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *[5] * dims, generator=generator, dtype=torch.float64) * 4 - 2
    scale = torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.0, -1.0]], dtype=torch.float64)
    shift = torch.tensor([[0.0, 5.0, -1.0], [2.0, 7.0, 0.5]], dtype=torch.float64)
    out = adaptive_instance_norm(x, scale, shift, eps=0.0).flatten(2)
    torch.testing.assert_close(out.mean(2), shift)
    torch.testing.assert_close(out.std(2), scale.abs())


@pytest.mark.parametrize("side", [1, 4])
def test_a_constant_channel_becomes_its_shift(side: int) -> None:
    x = torch.full((1, 2, side, side), 3.0, requires_grad=True)
    out = adaptive_instance_norm(x, torch.tensor([[2.0, 1.0]]), torch.tensor([[0.5, -4.0]]))
    assert torch.equal(out[0, :, 0, 0], torch.tensor([0.5, -4.0]))
    out.sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_an_untrained_modulation_is_close_to_neutral() -> None:
    torch.manual_seed(0)
    scale, shift = StyleModulation(8, 32)(torch.zeros(1, 8))
    assert (scale - 1).abs().max() < 0.5 and shift.abs().max() < 0.5


def test_style_bank_fills_what_is_not_seen_and_ignores_its_content() -> None:
    bank = StyleBank(3, 2)
    with torch.no_grad():
        bank.styles.copy_(torch.arange(6.0).reshape(3, 2))
    seen = torch.tensor([[True, False, True]])
    styles = torch.full((1, 3, 2), 9.0)
    styles[~seen] = float("nan")
    filled = bank(styles, seen)
    assert filled.tolist() == [[[9, 9], [2, 3], [9, 9]]]
    filled.sum().backward()
    assert bank.styles.grad is not None and bank.styles.grad.tolist() == [[0, 0], [1, 1], [0, 0]]


@pytest.mark.parametrize(("dims", "stem", "levels"), [(2, 0, 3), (3, 1, 2), (3, 2, 1)])
def test_decoders_end_at_the_volumes_size(dims: int, stem: int, levels: int) -> None:
    size = [16] * dims
    channels = (4, 8, 16, 32)[: levels + 1]
    scales = [
        torch.randn(1, width, *[s >> (stem + index) for s in size])
        for index, width in enumerate(channels)
    ]
    logits = SegmentationDecoder(dims, 3, channels=channels, stem_levels=stem)(scales)
    assert logits.shape == (1, 3, *size)
    decoder = ReconstructionDecoder(
        dims, channels[-1], up_levels=levels, stem_levels=stem, up_kernel_size=3, out_kernel_size=3
    )
    made = decoder(scales[-1], torch.randn(1, 8))
    assert made.volume.shape == (1, 1, *size) and made.volume.abs().max() <= 1
    assert StyleEncoder(dims, stem_levels=stem)(made.volume).shape == (1, 8)


def test_any_class_probability_can_be_said() -> None:
    """The published last layer (norm and LeakyReLU) never says less than 0.48."""
    decoder = SegmentationDecoder(2, 2, channels=(4, 8))
    with torch.no_grad():
        decoder.conv_out.bias.copy_(torch.tensor([-50.0, 50.0]))
    probability = decoder([torch.randn(1, 4, 4, 4), torch.randn(1, 8, 2, 2)]).sigmoid()
    assert probability[:, 0].max() < 1e-6 and probability[:, 1].min() > 1 - 1e-6
