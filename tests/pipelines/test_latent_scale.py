"""The latent scale against its closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voxlate.networks import Encoding, TranslationNetwork
from voxlate.pipelines.latent_scale import measure_latent_scale, set_latent_scale

SCHEDULE = {
    "num_train_timesteps": 10,
    "beta_start": 0.001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
}


class Affine(nn.Module):
    """A latent of two channels, 3 x and x - 1; its quantised form is rounded."""

    def encode_continuous(self, volume: Tensor) -> Tensor:
        return torch.cat([3 * volume, volume - 1], dim=1)

    def encode(self, volume: Tensor) -> Encoding:
        latent = self.encode_continuous(volume)
        return Encoding(latent, latent.round(), torch.zeros(1), torch.zeros(()))


def network(quantized: bool) -> TranslationNetwork:
    return TranslationNetwork(
        Affine(),
        nn.Identity(),
        nn.Identity(),
        modalities=["t1"],
        quantized=quantized,
        normalization={},
        schedule=SCHEDULE,
    )


@pytest.mark.parametrize("quantized", [False, True])
def test_scale_is_one_over_the_deviation_of_all_latents(quantized: bool) -> None:
    rng = np.random.default_rng(0)
    volumes = [rng.uniform(-1, 1, (1, 1, *size)) for size in ((3, 4, 5), (6, 2, 2), (4, 4, 4))]
    flat = np.concatenate([volume.ravel() for volume in volumes])
    latent = np.concatenate([3 * flat, flat - 1])
    expected = 1 / (np.rint(latent) if quantized else latent).std()
    tensors = [torch.from_numpy(volume) for volume in volumes]
    assert measure_latent_scale(network(quantized), tensors) == pytest.approx(expected, rel=1e-6)


def test_measuring_again_gives_the_same_scale_and_it_is_stored() -> None:
    net = network(False)
    data = [{"image": torch.rand(1, 4, 4, 4) * 2 - 1} for _ in range(3)]
    first = set_latent_scale(net, data)
    assert float(net.scale_factor) == pytest.approx(first)
    assert set_latent_scale(net, data) == pytest.approx(first)
    assert float(net.state_dict()["scale_factor"]) == pytest.approx(first)
    scaled = torch.cat([net.encode(sample["image"][None]).flatten() for sample in data])
    assert float(scaled.std(correction=0)) == pytest.approx(1.0, rel=1e-5)


def test_no_volumes_and_constant_latents_are_refused() -> None:
    with pytest.raises(ValueError, match="no volumes"):
        measure_latent_scale(network(False), [])
    flat = torch.full((1, 1, 2, 2, 2), -0.5)  # where 3 x = x - 1
    with pytest.raises(ValueError, match="do not vary"):
        measure_latent_scale(network(False), [flat, flat])
