"""Descriptions of the modalities: rows, contract, scripting, refusals."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.prior import MSSpadePrior
from voxlate.networks.text_knowledge import TextKnowledge
from voxlate.networks.translation import TranslationNetwork

SCHEDULE = {
    "num_train_timesteps": 10,
    "beta_start": 0.1,
    "beta_end": 0.2,
    "prediction_type": "sample",
}


def knowledge(key: str = "a", modalities: int = 2) -> TextKnowledge:
    tokens = torch.arange(float(modalities * 12)).reshape(modalities, 3, 4)
    return TextKnowledge(
        tokens, torch.tensor([[True, True, i > 0] for i in range(modalities)]), key
    )


class Encoded(NamedTuple):
    quantized: Tensor


class Halving(nn.Module):
    def encode(self, volume: Tensor) -> Encoded:
        return Encoded(volume / 2)

    def encode_continuous(self, volume: Tensor) -> Tensor:
        return volume / 2

    def decode(self, latent: Tensor) -> Tensor:
        return latent * 2


def network(text: TextKnowledge | None) -> TranslationNetwork:
    return TranslationNetwork(
        Halving(),
        MSSpadePrior(None, concat=["source"]),
        nn.Identity(),
        modalities=["t1", "t2"],
        quantized=False,
        normalization={},
        schedule=SCHEDULE,
        text=text,
    )


def test_each_sample_gets_the_description_of_its_target() -> None:
    text = knowledge()
    assert text.channels == 4
    told = network(text).text_of(torch.tensor([1, 0, 1]))
    torch.testing.assert_close(told["text"], text.tokens[[1, 0, 1]])
    assert told["text_mask"].tolist() == [[True] * 3, [True, True, False], [True] * 3]
    assert network(None).text_of(torch.tensor([1])) == {}


def test_weights_are_refused_with_any_other_text() -> None:
    weights = network(knowledge("a")).state_dict()
    assert not any("tokens" in name for name in weights)  # the table is the bundle's, not a weight
    network(knowledge("a")).load_state_dict(weights)
    for other in (knowledge("b"), None):
        with pytest.raises(RuntimeError, match="text: weights a"):
            network(other).load_state_dict(weights)


def test_network_with_text_scripts() -> None:
    image = torch.rand(1, 1, 4, 4)
    net = network(knowledge())
    torch.testing.assert_close(torch.jit.script(net)(image), net(image))


def test_table_moves_with_the_network() -> None:
    told = network(knowledge()).to("meta").text_of(torch.tensor([0], device="meta"))
    assert told["text"].device.type == told["text_mask"].device.type == "meta"


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="3 descriptions for 2 modalities"):
        network(knowledge(modalities=3))
    with pytest.raises(ValueError, match="mask"):
        TextKnowledge(torch.zeros(2, 3, 4), torch.ones(3, 2, dtype=torch.bool), "")
    with pytest.raises(ValueError, match=r"needs a token, got counts \[3, 0\]"):
        TextKnowledge(torch.zeros(2, 3, 4), torch.tensor([[True] * 3, [False] * 3]), "")
