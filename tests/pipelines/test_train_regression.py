"""The regression's samples, its loss, and its share in what is translated."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from voxlate.data_prep import NoInputError, Preprocessing, UsageError
from voxlate.data_prep.cases import find_cases
from voxlate.data_prep.phantom import write_phantom_case
from voxlate.networks import TranslationNetwork
from voxlate.networks.path_mixture import MixturePrior
from voxlate.networks.volume_regression import VolumeRegression
from voxlate.pipelines.crops import Augmentation
from voxlate.pipelines.one_to_many import OneToMany
from voxlate.pipelines.source_data import SourceDataset
from voxlate.pipelines.train_regression import RegressionTrainer
from voxlate.pipelines.training_data import PreparedCase, prepare_cases, training_loader

MODALITIES = ["t1", "t1ce", "t2", "flair"]
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "sample",
}
SOURCES = {"t1": 3.0, "flair": 0.0}


class Constant(nn.Module):
    """A regression whose answer is known; counts how often it is asked."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.register_buffer("share", torch.tensor(share))
        self.asked: list[tuple[tuple[int, ...], int]] = []

    def forward(self, volume: Tensor, source: Tensor) -> Tensor:
        self.asked.append((tuple(volume.shape), int(source)))
        answers = torch.linspace(-0.75, 2.0, 4).view(1, 4, 1, 1, 1)
        return answers.expand(1, 4, *volume.shape[2:])


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[PreparedCase]:
    """Patient a has every contrast, b lacks t1ce, c has T1 alone."""
    folder = tmp_path_factory.mktemp("patients")
    contrasts = {"a": MODALITIES, "b": ["t1", "t2", "flair"], "c": ["t1"]}
    for seed, (name, has) in enumerate(contrasts.items()):
        write_phantom_case(
            folder / "scans" / name, (38, 46, 36), seed=seed, spacing=4.0, modalities=has
        )
    preprocessing = Preprocessing(spacing=(4, 4, 4), size=(36, 44, 36), multiple_of=4)
    found = find_cases(folder / "scans", MODALITIES)
    return prepare_cases(found, preprocessing, folder / "cache")


def samples(cases: list[PreparedCase], **options: Any) -> SourceDataset:
    return SourceDataset(cases, MODALITIES, crop_size=16, **options)


def test_samples_show_a_source_and_all_that_its_case_has_beside_it(
    cases: list[PreparedCase],
) -> None:
    data = samples(cases, source_weights=SOURCES)
    counted: Counter[str] = Counter()
    for number in range(60):
        sample = data[number]
        name = MODALITIES[sample["source_index"]]
        counted[name] += 1
        has = {"a": {"t1", "t1ce", "t2", "flair"}, "b": {"t1", "t2", "flair"}}[sample["case"]]
        wanted = {other for other, is_wanted in zip(MODALITIES, sample["wanted"]) if is_wanted}  # noqa: B905
        assert wanted == has - {name}
        assert torch.equal(sample["source"][0], sample["volumes"][sample["source_index"]])
        for slot, other in enumerate(MODALITIES):
            assert (sample["volumes"][slot].max() > -1) == (other in has)
    assert counted["flair"] == 0 and counted["t1"] > counted["t2"] > 0 and counted["t1ce"] > 0
    assert all(torch.equal(data[7][key], data[7][key]) for key in ("source", "volumes"))
    with pytest.raises(NoInputError, match="at least two contrasts"):
        samples([case for case in cases if case.case_id == "c"])


def test_intensities_vary_in_the_source_alone(cases: list[PreparedCase]) -> None:
    turned = Augmentation(flip_probability=[0, 0, 0], affine_probability=0, jitter_probability=1)
    sample, plain = samples(cases, augmentation=turned)[3], samples(cases)[3]
    assert (sample["source"] - plain["source"]).abs().max() > 0.01
    assert torch.equal(sample["volumes"], plain["volumes"])


def trainer(network: Any, data: Any, **options: Any) -> RegressionTrainer:
    weights = network.regression.parameters() if network.regression else [torch.zeros(1)]
    return RegressionTrainer(
        network,
        device="cpu",
        max_epochs=1,
        epoch_length=30,
        train_data_loader=data,
        optimizer=torch.optim.AdamW(weights, 3e-3),
        precision="float32",
        **{"share": 0.25, **options},
    )


def test_loss_is_l1_over_what_is_wanted_and_training_lowers_it(
    cases: list[PreparedCase], known: SimpleNamespace
) -> None:
    torch.manual_seed(0)
    network = known.network
    network.regression = VolumeRegression(4, widths=(8, 8, 8, 8, 8, 8), norm_groups=2)
    stage = trainer(network, training_loader(samples(cases), batch_size=2))
    assert network.regression.share == 0.25
    batch = next(iter(stage.data_loader))
    answer = network.regression(batch["source"], batch["source_index"]).double()
    missed = [
        (answer[row, slot] - batch["volumes"][row, slot]).abs().mean()
        for row, slot in batch["wanted"].nonzero().tolist()
    ]
    loss = stage.losses(batch, torch.Generator())["loss"]
    torch.testing.assert_close(loss.double(), torch.stack(missed).mean(), rtol=1e-5, atol=1e-6)
    stage.run()
    assert stage.losses(batch, torch.Generator())["loss"] < 0.85 * loss


def test_what_cannot_be_trained_is_refused(known: SimpleNamespace) -> None:
    with pytest.raises(UsageError, match="no regression to train"):
        trainer(known.network, [])
    known.network.regression = VolumeRegression(4, widths=(8,) * 6, norm_groups=2)
    with pytest.raises(UsageError, match="share is 1.5"):
        trainer(known.network, [], share=1.5)


def test_regression_beside_a_prior_of_several_sources_is_refused() -> None:
    with pytest.raises(ValueError, match="one source, this prior takes several"):
        TranslationNetwork(
            nn.Identity(),
            MixturePrior(4, 2),
            nn.Identity(),
            modalities=MODALITIES,
            quantized=False,
            normalization={},
            schedule=SCHEDULE,
            regression=VolumeRegression(4, widths=(8,) * 6, norm_groups=2),
        )


def test_every_answer_is_shared_and_a_share_of_zero_asks_nothing(known: SimpleNamespace) -> None:
    volume = torch.full((1, 1, 24, 24, 24), -1.0)
    volume[..., 8:16, 8:16, 8:16] = torch.rand(8, 8, 8) - 0.6
    translate = OneToMany(known.network, known.scheduler, steps=1)
    asked = {"source": "t1ce", "targets": ["flair", "t1"], "seeds": (3, 4)}
    alone = translate.samples(volume, **asked)
    known.network.regression = Constant(0.0)
    assert torch.equal(translate.samples(volume, **asked), alone)
    assert known.network.regression.asked == []
    known.network.regression = Constant(0.25)
    shared = translate.samples(volume, **asked)
    assert known.network.regression.asked == [((1, 1, 16, 16, 16), 1)]  # the head and its margin
    shown = (..., slice(4, 20), slice(4, 20), slice(4, 20))
    answers = torch.tensor([1.0, -0.75]).view(1, 2, 1, 1, 1, 1)  # flair's 2.0 is clipped
    torch.testing.assert_close(shared[shown], 0.75 * alone[shown] + 0.25 * answers)
    outside = torch.ones_like(shared, dtype=torch.bool)
    outside[shown] = False
    assert (shared[outside] == -1).all()
