"""The VQGAN: any size, its stem, its linear code, and the same numbers however it is exported."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxlate.networks import VQGAN, aldm_vqgan, haar_merge, haar_split
from voxlate.networks.vqgan import Downsample, Upsample

TINY: dict[str, Any] = {
    "channels": (8, 16),
    "num_res_blocks": 1,
    "latent_channels": 3,
    "num_codes": 16,
    "norm_groups": 4,
}
VARIANTS = [
    {"spatial_dims": 3},
    {"spatial_dims": 2},
    {"spatial_dims": 3, "stem_levels": 1},
    {"spatial_dims": 3, "attention_levels": (False, True)},
    {"spatial_dims": 3, "channels": (8,), "stem_levels": 1, "linear_skip": True},
]


def tiny(**change: Any) -> VQGAN:
    """A VQGAN whose codes are where its latents are, so that neighbours differ."""
    torch.manual_seed(0)
    model = VQGAN(**TINY | change).eval()
    nn.init.normal_(model.quantizer.codebook, std=0.3)
    return model


def volume(dims: int, *size: int) -> Tensor:
    return torch.rand(2, 1, *size[:dims], generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_resampling_equals_the_reference(vectors_dir: Path) -> None:
    arrays = {
        key: torch.from_numpy(v)
        for key, v in np.load(vectors_dir / "aldm_autoencoder_3d.npz").items()
    }
    for layer, name, out in (
        (Downsample(3, 8), "w_enc/down.0.downsample.conv", "down"),
        (Upsample(3, 16), "w_dec/up.2.upsample.conv", "up"),
    ):
        with torch.no_grad():
            layer.conv.weight.copy_(arrays[f"{name}.weight"])
            layer.conv.bias.copy_(arrays[f"{name}.bias"])
            found = layer(arrays[f"out/{out}_in"])
        torch.testing.assert_close(found, arrays[f"out/{out}sample"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 4, 6), (7, 5, 9), (3, 4, 1)])
@pytest.mark.parametrize("dims", [2, 3])
def test_any_size_is_encoded_and_comes_back(size: tuple[int, ...], dims: int) -> None:
    model, x = tiny(spatial_dims=dims, stem_levels=1), volume(dims, *size)
    assert model.downsampling == 4
    with torch.no_grad():
        found = model.encode(x)
        assert found.continuous.shape == (2, 3, *[-(-length // 4) for length in x.shape[2:]])
        assert found.indices.shape == (2, *found.continuous.shape[2:], 1)
        assert torch.equal(model.encode_continuous(x), found.continuous)
        padding = [p for length in reversed(x.shape[2:]) for p in (0, -length % 4)]
        padded = F.pad(x, padding, mode="replicate")
        torch.testing.assert_close(model.encode(padded).continuous, found.continuous)
        decoded = model.decode(found.quantized)
        corner = tuple(slice(0, length) for length in x.shape[2:])
        assert torch.equal(model(x), decoded[(..., *corner)])


def test_stem_is_a_haar_split_in_front_of_the_encoder() -> None:
    with_stem = tiny(stem_levels=2, channels=(8,))
    bare = VQGAN(**TINY | {"channels": (8,)}, in_channels=64).eval()
    bare.load_state_dict(with_stem.state_dict())
    x = volume(3, 8, 4, 8)
    bands = haar_split(haar_split(x))
    with torch.no_grad():
        torch.testing.assert_close(with_stem.encode_continuous(x), bare.encode_continuous(bands))
        latent = torch.randn(1, 3, 2, 1, 2)
        decoded = haar_split(haar_split(with_stem.decode(latent)))
        torch.testing.assert_close(decoded, bare.decode(latent), rtol=1e-4, atol=1e-5)


def test_each_sample_is_encoded_alone() -> None:
    model, x = tiny(attention_levels=(False, True)), volume(3, 4, 6, 4)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(sample[None]) for sample in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_gradient_passes_straight_through_to_encoder_and_codebook() -> None:
    model, x = tiny().train(), volume(3, 4, 4, 4)
    found = model.encode(x)
    (model.decode(found.quantized).square().mean() + found.loss).backward()
    for weight in (
        model.encoder.conv_in.weight,
        model.quantizer.codebook,
        model.last_layer_weight,
    ):
        assert weight.grad is not None and weight.grad.abs().sum() > 0
    assert model.last_layer_weight is model.decoder.conv_out.weight


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("change", VARIANTS, ids=str)
def test_script_and_trace_equal_eager(change: dict[str, Any]) -> None:
    model = tiny(**change)
    dims = change["spatial_dims"]
    x, odd = volume(dims, 8, 8, 8), volume(dims, 6, 7, 5)
    with torch.no_grad():
        scripted = torch.jit.script(model)
        for given in (x, odd):
            torch.testing.assert_close(scripted(given), model(given))
        torch.testing.assert_close(scripted.encode(x).indices, model.encode(x).indices)
        traced = torch.jit.trace(model, x, check_trace=False)
        torch.testing.assert_close(traced(x), model(x))


@pytest.mark.parametrize("change", VARIANTS, ids=str)
def test_exported_program_equals_eager(change: dict[str, Any]) -> None:
    model = tiny(**change)
    x = volume(change["spatial_dims"], 8, 8, 8)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- the linear code


def low_rank_volumes(model: VQGAN, rank: int) -> list[Tensor]:
    """Background volumes, and some whose stem bands lie on ``rank`` directions about it."""
    generator = torch.Generator().manual_seed(2)
    directions = torch.linalg.qr(torch.randn(8, rank, generator=generator))[0]
    spread = torch.tensor([3.0, 1.0, 0.3])[:rank]
    made = []
    for _ in range(3):
        weights = torch.randn(2, 64, rank, generator=generator) * spread
        bands = (weights @ directions.T).transpose(1, 2).reshape(2, 8, 4, 4, 4)
        made.append(haar_merge(bands) - 1)
    return [*made, torch.full((1, 1, 8, 8, 8), -1.0)]


@pytest.mark.parametrize("whitening", [0.0, 1.0])
def test_linear_code_is_exact_on_volumes_of_its_rank(whitening: float) -> None:
    model = tiny(channels=(8,), stem_levels=1, linear_skip=True)
    volumes = low_rank_volumes(model, 3)
    variance = model.fit_linear_skip(volumes, whitening=whitening)
    assert variance.diff().max() <= 1e-9 and variance[3:].abs().max() < 1e-6
    with torch.no_grad():
        latents = [model.encode_continuous(x) for x in volumes]
        for x, latent in zip(volumes, latents, strict=True):
            torch.testing.assert_close(model.decode(latent), x, rtol=1e-4, atol=1e-4)
    assert latents[-1].abs().max() < 1e-5  # the background is 0
    tokens = torch.cat([latent.movedim(1, -1).reshape(-1, 3) for latent in latents[:-1]])
    moments = tokens.double().T @ tokens.double() / len(tokens)
    expected = torch.eye(3).double() if whitening else torch.diag(variance[:3])
    torch.testing.assert_close(moments, expected, rtol=1e-3, atol=1e-3)


def test_linear_code_needs_its_path_and_equal_channels() -> None:
    with pytest.raises(ValueError, match="without linear_skip"):
        tiny(channels=(8,)).fit_linear_skip([])
    other = tiny(channels=(8,), stem_levels=1, linear_skip=True, z_channels=4)
    with pytest.raises(ValueError, match="z_channels equal"):
        other.fit_linear_skip([])


# ---------------------------------------------------------------- sizes


def test_presets_have_the_published_sizes() -> None:
    with torch.device("meta"):
        paper, repo = aldm_vqgan("paper"), aldm_vqgan("repo")
        latent = paper.encode_continuous(torch.empty(1, 1, 192, 192, 144))
    assert latent.shape == (1, 3, 48, 48, 36)
    assert (paper.encoder.conv_in.out_channels, paper.encoder.norm_out.num_channels) == (256, 512)
    assert sum(weight.numel() for weight in repo.parameters()) == pytest.approx(6.5e6, rel=0.01)
    for model, length in ((paper, 3), (repo, 4)):
        assert model.quantizer.codebook.shape == (8192, length)
        assert model.downsampling == 4
    assert repo.quantizer.legacy and not paper.quantizer.legacy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"code_dim": 2}, "no multiple of code_dim 2"),
        ({"decoder_channels": (8,)}, "differ in length"),
        ({"linear_skip": True}, "single level"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VQGAN(**TINY | change)


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="no VQGAN preset 'large'; there are paper, repo"):
        aldm_vqgan("large")
