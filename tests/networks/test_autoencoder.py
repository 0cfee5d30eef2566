"""MONAI's autoencoders behind the seam, and old checkpoints proven against monai-generative."""

from collections.abc import Callable
from typing import Any

import monai.config
import monai.utils
import pytest
import torch
from monai.networks.nets import VQVAE, AutoencoderKL, DiffusionModelUNet
from torch import Tensor, nn

from voxlate.networks.autoencoder import KLAutoencoder, VQVAEAutoencoder
from voxlate.networks.generative_importers import (
    autoencoder_kl_from_generative,
    diffusion_unet_from_generative,
    vqvae_from_generative,
)
from voxlate.networks.monai_denoiser import MonaiDenoiser

KL: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "channels": (8, 16),
    "num_res_blocks": 1,
    "attention_levels": (False, True),
    "latent_channels": 3,
    "norm_num_groups": 4,
}
VQ: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "channels": (8, 16),
    "num_res_layers": 1,
    "num_res_channels": (8, 16),
    "downsample_parameters": ((2, 4, 1, 1), (2, 4, 1, 1)),
    "upsample_parameters": ((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
    "num_embeddings": 16,
    "embedding_dim": 4,
}
UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 6,
    "out_channels": 3,
    "channels": (8, 16),
    "num_res_blocks": 1,
    "attention_levels": (False, True),
    "norm_num_groups": 4,
    "num_head_channels": 8,
}


def scatter(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight a value that matters, also those that start at zero."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        with torch.no_grad():
            weight.normal_(generator=generator).mul_(1 / max(1, weight[0].numel()) ** 0.5)
    return network.eval()


def volume(*size: int, channels: int = 1) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(9))


# ---------------------------------------------------------------- the seam


def test_kl_autoencoder_encodes_to_the_mean() -> None:
    autoencoder = KLAutoencoder(scatter(AutoencoderKL(**KL))).eval()
    x = volume(4, 6, 8)
    found = autoencoder.encode(x)
    mean, std = autoencoder.network.encode(x)
    assert torch.equal(found.continuous, mean)
    assert torch.equal(found.quantized, mean)
    assert torch.equal(autoencoder.encode_continuous(x), mean)
    assert torch.equal(autoencoder.decode(mean), autoencoder.network.decode(mean))
    assert found.indices.shape == (2, 2, 3, 4, 0)
    normal = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(std))
    divergence = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), normal)
    torch.testing.assert_close(found.loss, 1e-6 * divergence.sum() / 2)


def test_kl_sample_has_the_posteriors_moments_and_the_generators_draw() -> None:
    autoencoder = KLAutoencoder(scatter(AutoencoderKL(**KL))).eval()
    x = volume(4, 4, 4)
    mean, std = autoencoder.posterior(x)
    drawn = autoencoder.sample(x, generator=torch.Generator().manual_seed(3))
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close((drawn - mean) / std, noise)


def test_kl_autoencoder_trains_on_samples_and_keeps_the_mean() -> None:
    autoencoder = KLAutoencoder(scatter(AutoencoderKL(**KL))).train()
    x = volume(4, 4, 4)
    first, second = autoencoder.encode(x), autoencoder.encode(x)
    torch.testing.assert_close(first.continuous, second.continuous)
    assert not torch.equal(first.quantized, second.quantized)
    first.loss.backward()
    assert autoencoder.network.encoder.blocks[0].conv.weight.grad.abs().sum() > 0


def test_vqvae_finds_monais_codes_in_evaluation() -> None:
    autoencoder = VQVAEAutoencoder(scatter(VQVAE(**VQ), seed=4)).eval()
    x = volume(8, 8, 12)
    with torch.no_grad():
        latent = autoencoder.network.encode(x)
        codebook = autoencoder.network.quantizer.quantizer.embedding.weight
        codebook.copy_(latent.movedim(1, -1).flatten(0, -2)[:16])
    found = autoencoder.encode(x)
    with torch.no_grad():
        quantized, loss = autoencoder.network.quantize(latent)
        indices = autoencoder.network.index_quantize(x)
    assert torch.equal(found.continuous, latent)
    assert torch.equal(found.indices.squeeze(-1), indices)
    torch.testing.assert_close(found.quantized, quantized)
    torch.testing.assert_close(found.loss, loss)
    assert len(indices.unique()) > 4
    torch.testing.assert_close(autoencoder(x), autoencoder.network(x)[0])


def test_vqvae_moves_its_codebook_only_in_training() -> None:
    autoencoder = VQVAEAutoencoder(VQVAE(**VQ)).eval()
    codebook = autoencoder.network.quantizer.quantizer.embedding.weight
    before = codebook.clone()
    autoencoder.encode(volume(8, 8, 8))
    assert torch.equal(codebook, before)
    found = autoencoder.train().encode(volume(8, 8, 8))
    assert not torch.equal(codebook, before)
    assert found.indices.shape == (2, 2, 2, 2, 1)
    found.quantized.sum().backward()  # straight through
    assert autoencoder.network.encoder.blocks[0].conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("autoencoder", "factor", "channels"),
    [
        (KLAutoencoder(AutoencoderKL(**KL)), 2, 3),
        (VQVAEAutoencoder(VQVAE(**VQ)), 4, 4),
    ],
    ids=["kl", "vqvae"],
)
def test_any_size_goes_through(autoencoder: nn.Module, factor: int, channels: int) -> None:
    autoencoder.eval()
    assert (autoencoder.downsampling, autoencoder.latent_channels) == (factor, channels)
    assert autoencoder.spatial_dims == 3
    x = volume(5, 8, 7)
    latent = autoencoder.encode_continuous(x)
    assert latent.shape == (2, channels, *[-(-size // factor) for size in x.shape[2:]])
    assert autoencoder(x).shape == x.shape
    whole = autoencoder.encode_continuous(volume(8, 8, 8)).shape[2:]
    assert whole == (8 // factor,) * 3


def test_last_layer_weight_is_the_last_convolutions() -> None:
    kl, vq = KLAutoencoder(AutoencoderKL(**KL)), VQVAEAutoencoder(VQVAE(**VQ))
    assert kl.last_layer_weight is kl.network.decoder.blocks[-1].conv.weight
    assert vq.last_layer_weight is vq.network.decoder.blocks[-1].conv.weight


@pytest.mark.parametrize("noisy_first", [True, False])
def test_monai_denoiser_concatenates_and_conditions(noisy_first: bool) -> None:
    network = scatter(DiffusionModelUNet(**UNET | {"num_class_embeds": 4}))
    denoiser = MonaiDenoiser(network, num_modalities=4, noisy_first=noisy_first)
    x_t, concat = volume(4, 4, 4, channels=3), -volume(4, 4, 4, channels=3)
    t, y = torch.tensor([5, 5]), torch.tensor([3, 1])
    whole = torch.cat([x_t, concat] if noisy_first else [concat, x_t], 1)
    expected = network(whole, t, class_labels=y)
    torch.testing.assert_close(denoiser(x_t, torch.tensor(5), concat=concat, modality=y), expected)
    assert denoiser(volume(3, 4, 5, channels=3), t, concat=volume(3, 4, 5, channels=3),
                    modality=y).shape == (2, 3, 3, 4, 5)  # fmt: skip


def test_monai_denoiser_gives_cross_attention_the_one_hot() -> None:
    network = scatter(
        DiffusionModelUNet(**UNET | {"with_conditioning": True, "cross_attention_dim": 4})
    )
    denoiser = MonaiDenoiser(network, num_modalities=4)
    x_t, concat, t = volume(4, 4, 4, channels=3), volume(4, 4, 4, channels=3), torch.tensor([5, 9])
    one_hot = torch.eye(4)[[2, 0]].unsqueeze(1)
    expected = network(torch.cat([x_t, concat], 1), t, context=one_hot)
    found = denoiser(x_t, t, concat=concat, modality=torch.tensor([2, 0]))
    torch.testing.assert_close(found, expected)


def test_monai_denoiser_refuses_what_it_cannot_condition_on() -> None:
    with pytest.raises(ValueError, match="neither class labels nor cross-attention"):
        MonaiDenoiser(DiffusionModelUNet(**UNET), num_modalities=4)
    denoiser = MonaiDenoiser(DiffusionModelUNet(**UNET))
    with pytest.raises(ValueError, match="knows 0 modalities"):
        denoiser(volume(4, 4, 4, channels=6), torch.tensor(1), modality=torch.tensor([0, 0]))


# ---------------------------------------------------------------- old checkpoints


@pytest.fixture(scope="module")
def generative() -> Any:
    """monai-generative's networks; it expects a name that core has moved since."""
    monai.config.IgniteInfo = monai.utils.IgniteInfo
    return pytest.importorskip("generative.networks.nets", reason="needs the extra 'generative'")


def old_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    return {{"channels": "num_channels"}.get(name, name): v for name, v in arguments.items()}


def check_untouched(state: dict[str, Tensor], load: Callable[[], nn.Module]) -> nn.Module:
    keys = list(state)
    network = load()
    assert list(state) == keys, "the caller's dict was changed"
    return network


@pytest.mark.parametrize("dims", [2, 3])
def test_autoencoder_kl_equals_monai_generative(generative: Any, dims: int) -> None:
    arguments = KL | {"spatial_dims": dims}
    old = scatter(generative.AutoencoderKL(**old_arguments(arguments)))
    state = old.state_dict()
    new = check_untouched(
        state, lambda: autoencoder_kl_from_generative(state, **old_arguments(arguments))
    )
    x = volume(*(8, 4, 6)[:dims])
    with torch.no_grad():
        mean, std = old.encode(x)
        found = KLAutoencoder(new).eval()
        torch.testing.assert_close(found.posterior(x), (mean, std))
        torch.testing.assert_close(found.decode(mean), old.decode(mean))


def test_vqvae_equals_monai_generative_also_while_training(generative: Any) -> None:
    old = scatter(generative.VQVAE(**old_arguments(VQ)), seed=4)
    state = old.state_dict()
    new = check_untouched(state, lambda: vqvae_from_generative(state, **old_arguments(VQ)))
    autoencoder, x = VQVAEAutoencoder(new), volume(8, 8, 8)
    torch.testing.assert_close(autoencoder.eval()(x), old(x)[0])
    autoencoder.train(), old.train()
    for _ in range(3):
        torch.testing.assert_close(autoencoder.encode(x).loss, old(x)[1])
    torch.testing.assert_close(dict(new.state_dict()), dict(old.state_dict()))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"num_class_embeds": 4, "resblock_updown": True},
        {"with_conditioning": True, "cross_attention_dim": 4, "transformer_num_layers": 2},
    ],
    ids=["self-attention", "labels", "cross-attention"],
)
def test_diffusion_unet_equals_monai_generative(generative: Any, change: dict[str, Any]) -> None:
    arguments = UNET | change
    old = scatter(generative.DiffusionModelUNet(**old_arguments(arguments)))
    state = old.state_dict()
    new = check_untouched(
        state, lambda: diffusion_unet_from_generative(state, **old_arguments(arguments))
    )
    x, t = volume(4, 4, 6, channels=6), torch.tensor([3, 700])
    context = volume(5, channels=4).transpose(1, 2) if "with_conditioning" in change else None
    labels = torch.tensor([3, 1]) if "num_class_embeds" in change else None
    with torch.no_grad():
        expected = old(x, t, context=context, class_labels=labels)
        torch.testing.assert_close(new(x, t, context=context, class_labels=labels), expected)


@pytest.mark.parametrize(
    "how",
    [
        {"include_fc": True, "use_combined_linear": False},
        {"include_fc": True, "use_combined_linear": True},
        {"include_fc": False, "use_combined_linear": False},
    ],
)
def test_core_checkpoint_chooses_its_own_attention(how: dict[str, bool]) -> None:
    core = scatter(AutoencoderKL(**KL, **how))
    new = autoencoder_kl_from_generative(core.state_dict(), **KL)
    x = volume(4, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(new.reconstruct(x), core.reconstruct(x))


def test_unmapped_and_missing_keys_are_refused_by_name() -> None:
    state = AutoencoderKL(**KL).state_dict()
    with pytest.raises(ValueError, match=r"unmapped keys: encoder\.extra\.weight"):
        autoencoder_kl_from_generative(state | {"encoder.extra.weight": torch.zeros(1)}, **KL)
    del state["encoder.blocks.0.conv.bias"]
    with pytest.raises(ValueError, match=r"missing keys: encoder\.blocks\.0\.conv\.bias"):
        autoencoder_kl_from_generative(state, **KL)


def test_unused_output_layer_is_left_out_only_in_the_old_layout() -> None:
    state = AutoencoderKL(**KL, include_fc=False).state_dict()
    state["encoder.blocks.4.proj_attn.weight"] = torch.zeros(16, 16)
    with pytest.raises(ValueError, match="unmapped keys: .*proj_attn"):
        autoencoder_kl_from_generative(state, **KL)
