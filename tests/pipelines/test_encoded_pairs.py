"""Pairs encoded once: the same latents as encoding them each time, again and after a restart."""

from pathlib import Path

import numpy as np
import pytest
import torch

from voxlate.data_prep import Preprocessing
from voxlate.data_prep.cases import find_cases
from voxlate.data_prep.phantom import write_phantom_case
from voxlate.networks import VQGAN, TranslationNetwork
from voxlate.networks.denoiser import Denoiser
from voxlate.networks.ms_spade import MSSpadeGenerator
from voxlate.networks.prior import MSSpadePrior
from voxlate.networks.resshift import ResShiftScheduler
from voxlate.networks.ridge import RidgePath
from voxlate.pipelines.crops import Augmentation
from voxlate.pipelines.encoded_pairs import EncodedPairs, encode_pair
from voxlate.pipelines.training import keep_channels_last
from voxlate.pipelines.training_data import PairDataset, prepare_cases, training_loader

MODALITIES = ["t1", "t1ce", "t2", "flair"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PairDataset:
    folder = tmp_path_factory.mktemp("patients")
    for seed, name in enumerate(("a", "b")):
        write_phantom_case(folder / "scans" / name, (38, 46, 36), seed=seed, spacing=4.0)
    preprocessing = Preprocessing(spacing=(4, 4, 4), size=(36, 44, 36), multiple_of=4)
    cases = prepare_cases(find_cases(folder / "scans", MODALITIES), preprocessing, folder / "cache")
    varied = Augmentation(affine_probability=1.0)
    return PairDataset(cases, MODALITIES, crop_size=None, augmentation=varied, seed=3)


def tiny_network(path: bool = False) -> TranslationNetwork:
    torch.manual_seed(0)
    network = TranslationNetwork(
        VQGAN(3, norm_groups=4, channels=(8,), stem_levels=1, latent_channels=4, num_codes=32),
        MSSpadePrior(
            MSSpadeGenerator(4, 4, features=4, hidden=4, residual=True),
            path=RidgePath(4, 4, features=8) if path else None,
        ),
        Denoiser(
            3,
            4,
            8,
            channels=(8, 8),
            attention_levels=(False, False),
            num_head_channels=8,
            norm_groups=4,
        ),
        modalities=MODALITIES,
        quantized=False,
        normalization={"percentiles": [0.5, 99.5]},
        schedule=ResShiftScheduler().facts(),
    )
    return network.eval().requires_grad_(False)


def test_a_pair_is_what_the_network_says_of_its_view(pairs: PairDataset, tmp_path: Path) -> None:
    network = tiny_network()
    encoded = EncodedPairs(pairs, network, variants=1, cache_dir=tmp_path, precision="float32")
    case, source, target = pairs.draw_pair(np.random.default_rng([3, 5]))
    shown = {}

    def show(*asked: object) -> dict:
        shown.update(PairDataset.show(pairs, *asked))  # type: ignore[arg-type]
        return shown

    pairs.show = show  # type: ignore[method-assign]
    try:
        sample = encoded[5]
    finally:
        del pairs.show  # type: ignore[method-assign]
    assert (sample["case"], sample["target_index"]) == (case.case_id, target)
    assert shown["source_index"] == source
    volumes = torch.full((1, 4, *shown["source"].shape[1:]), -1.0)
    volumes[:, source] = shown["source"]
    clean = network.encode(shown["target"][None])
    prior = network.prior(
        torch.stack([network.encode(volumes[:, i : i + 1]) for i in range(4)], dim=1),
        torch.arange(4)[None] == source,
        torch.tensor([target]),
    )
    for name, wanted in (("clean", clean), ("concat", prior.concat), ("start", prior.start)):
        torch.testing.assert_close(sample[name].float()[None], wanted, atol=2e-3, rtol=2e-3)


def test_a_pair_is_encoded_once_and_found_by_the_next_run(
    pairs: PairDataset, tmp_path: Path
) -> None:
    network = tiny_network()
    first = EncodedPairs(pairs, network, variants=2, cache_dir=tmp_path)
    samples = [first[index] for index in range(12)]
    files = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert all(file.suffix == ".safetensors" for file in files)
    again = EncodedPairs(pairs, network, variants=2, cache_dir=tmp_path)
    network.autoencoder.encode_continuous = None  # type: ignore[assignment]  # would be called
    for index, sample in enumerate(samples):
        for name in ("clean", "concat", "start"):
            assert torch.equal(again[index][name], sample[name])
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files


def test_there_are_no_more_views_than_variants(pairs: PairDataset, tmp_path: Path) -> None:
    encoded = EncodedPairs(pairs, tiny_network(), variants=3, cache_dir=tmp_path)
    case = pairs.data[0]
    seen = {encoded.encoded(case, 0, 2, variant)["clean"].sum().item() for variant in range(3)}
    assert len(seen) == 3
    with_other_target = encoded.encoded(case, 0, 1, 0)["concat"][:4]
    assert torch.equal(with_other_target, encoded.encoded(case, 0, 2, 0)["concat"][:4])


def test_other_weights_are_not_mixed_up(pairs: PairDataset, tmp_path: Path) -> None:
    network = tiny_network()
    before = EncodedPairs(pairs, network, variants=1, cache_dir=tmp_path)[0]["start"]
    network.scale_factor.mul_(2)
    after = EncodedPairs(pairs, network, variants=1, cache_dir=tmp_path)[0]["start"]
    assert not torch.equal(before, after)
    network.denoiser.conv_in.weight.data.mul_(2)  # type: ignore[union-attr]
    count = len(list(tmp_path.iterdir()))
    EncodedPairs(pairs, network, variants=1, cache_dir=tmp_path)[0]
    assert len(list(tmp_path.iterdir())) == count, "the denoiser decides no latent"


def test_batches_of_latents_are_taught_as_they_are(pairs: PairDataset, tmp_path: Path) -> None:
    network = tiny_network()
    encoded = EncodedPairs(pairs, network, variants=1, cache_dir=tmp_path)
    batch = next(iter(training_loader(encoded, 1)))
    known = encode_pair(network, batch)
    assert known["clean"].dtype is torch.float32
    torch.testing.assert_close(known["start"][0], encoded[0]["start"].float())


def test_no_variant_is_refused(pairs: PairDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="variants must be 1 or more, got 0"):
        EncodedPairs(pairs, tiny_network(), variants=0, cache_dir=tmp_path)


def test_weights_of_five_axes_go_channels_last_beside_tensors_of_four() -> None:
    network = tiny_network(path=True)
    before = network(torch.zeros(1, 1, 8, 8, 8))
    keep_channels_last(network)
    weight = network.denoiser.conv_in.weight  # type: ignore[union-attr]
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)  # type: ignore[union-attr,operator]
    assert network.prior.path.rounds[0].weights.is_contiguous()  # type: ignore[union-attr,operator]
    torch.testing.assert_close(network(torch.zeros(1, 1, 8, 8, 8)), before)
