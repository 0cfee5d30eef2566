"""Noise belongs to (seed, case, target): fixed for ever, and independent of company and order."""

import hashlib

import torch

from voxlate.pipelines.seeds import case_generator, case_noise


def test_seed_is_the_hash_of_seed_case_and_target() -> None:
    digest = hashlib.sha256(b'[7, "case-1", "flair"]').digest()
    assert case_generator(7, "case-1", "flair").initial_seed() == int.from_bytes(digest[:8], "big")


def test_parts_do_not_run_into_each_other() -> None:
    names = [(1, "a", "bt2"), (1, "ab", "t2"), (11, "a", "t2"), (1, "1a", "t2"), (1, 'a","b', "t2")]
    assert len({case_generator(*name).initial_seed() for name in names}) == len(names)


def noise(*targets: str) -> torch.Tensor:
    return case_noise(0, "case", targets, (2, 3, 4, 5))


def test_noise_of_a_target_does_not_depend_on_its_company() -> None:
    together, alone = noise("t2", "flair"), noise("flair")
    assert together.shape == (2, 2, 3, 4, 5) and together.dtype is torch.float32
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    noise("t2")
    assert torch.equal(torch.rand(1), expected)
