import pytest
import torch
from torch import nn

from voxlate.networks.slabs import decode_in_slabs, encode_in_slabs
from voxlate.networks.vqgan import VQGAN

NETWORKS = {
    "3d": {"channels": (8, 12, 8), "num_res_blocks": 1},
    "2d": {"spatial_dims": 2, "channels": (8, 12), "num_res_blocks": 2},
    "stem and skip": {"channels": (8,), "stem_levels": 1, "linear_skip": True},
    "attention": {"channels": (8, 8), "attention_levels": (False, True)},
}


def network(name: str) -> VQGAN:
    torch.manual_seed(0)
    made = VQGAN(latent_channels=4, num_codes=16, norm_groups=4, **NETWORKS[name]).double().eval()
    for parameter in made.parameters():  # nothing left at its zero or one
        nn.init.normal_(parameter, std=0.3)
    return made


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("name", NETWORKS)
def test_slabs_give_the_numbers_of_the_whole(name: str, rows: int) -> None:
    autoencoder = network(name)
    size = (13, 12, 10)[: autoencoder.spatial_dims]
    volume = torch.randn(2, 1, *size, dtype=torch.float64)
    with torch.no_grad():
        latent = autoencoder.encode_continuous(volume)
        decoded = autoencoder.decode(latent)
    found = encode_in_slabs(autoencoder, volume, rows=rows, dtype=torch.float64)
    assert torch.allclose(found, latent, rtol=1e-9, atol=1e-9)
    found = decode_in_slabs(autoencoder, latent, rows=rows, dtype=torch.float64)
    assert torch.allclose(found, decoded, rtol=1e-9, atol=1e-9)


def test_bfloat16_maps_leave_the_weights_alone_and_stay_close() -> None:
    autoencoder = VQGAN(channels=(8, 12), norm_groups=4, num_codes=16).eval()
    latent = torch.randn(1, 4, 6, 5, 4)
    with torch.no_grad():
        expected = autoencoder.decode(latent)
    found = decode_in_slabs(autoencoder, latent, rows=4)
    assert found.dtype == torch.bfloat16
    assert float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
    assert {p.dtype for p in autoencoder.parameters()} == {torch.float32}


def test_slabs_need_a_row() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        decode_in_slabs(network("3d"), torch.zeros(1, 4, 4, 4, 4), rows=0)
