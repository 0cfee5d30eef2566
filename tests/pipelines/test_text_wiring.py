"""The denoiser hears about its own target, wherever it is called."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from voxlate.networks import TextKnowledge, TranslationNetwork
from voxlate.pipelines.one_to_many import OneToMany
from voxlate.pipelines.train_denoiser import DenoiserTrainer, TranslateBySampling

TOKENS = torch.arange(4.0).reshape(4, 1, 1).expand(4, 3, 2).contiguous()  # row m says m
MASK = torch.tensor([[True, True, row > 1] for row in range(4)])


class Listener(nn.Module):
    """A denoiser that keeps what it was told, and answers with its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.heard: list[tuple[list[int], list[int], list[int]]] = []

    def forward(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        *,
        concat: Tensor,
        modality: Tensor,
        text: Tensor,
        text_mask: Tensor,
    ) -> Tensor:
        said = text[:, 0, 0].int().tolist()
        self.heard.append((modality.tolist(), said, text_mask.sum(1).tolist()))
        return concat * self.gain


def listening(known: SimpleNamespace) -> TranslationNetwork:
    known.network.text = TextKnowledge(TOKENS, MASK, "key")
    known.network.denoiser = Listener()
    return known.network


def test_targets_of_one_scan_are_each_described(known: SimpleNamespace) -> None:
    network = listening(known)
    volume = torch.full((1, 1, 8, 8, 8), 0.5)
    targets = ["flair", "t1ce"]
    OneToMany(network, known.scheduler, steps=2)(volume, source="t1", targets=targets)
    assert network.denoiser.heard == [([3, 1], [3, 1], [3, 2])] * 2


def sample_of(target: list[int]) -> dict[str, Any]:
    count = len(target)
    available = torch.zeros(count, 4, dtype=torch.bool)
    available[:, 0] = True
    return {
        "source": torch.full((count, 1, 8, 8, 8), 0.5),
        "target": torch.full((count, 1, 8, 8, 8), 0.25),
        "target_index": torch.tensor(target),
        "available": available,
        "case": [f"case{number}" for number in range(count)],
    }


def test_validation_describes_each_sample(known: SimpleNamespace) -> None:
    network = listening(known)
    TranslateBySampling(known.scheduler, steps=1)(sample_of([2, 1, 3]), network)
    assert network.denoiser.heard == [([2, 1, 3], [2, 1, 3], [3, 2, 3])]


def test_training_describes_each_sample(known: SimpleNamespace) -> None:
    network = listening(known)
    trainer = DenoiserTrainer(
        network,
        scheduler=known.scheduler,
        device="cpu",
        max_epochs=1,
        epoch_length=1,
        train_data_loader=[sample_of([1, 2])],
        optimizer=torch.optim.SGD(network.denoiser.parameters(), lr=0.1),
        precision="float32",
    )
    trainer.run()
    assert network.denoiser.heard == [([1, 2], [1, 2], [2, 3])]
