"""Structure: the reference's numbers, the printed equation, and missing contrasts as NaN."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from voxlate.networks.structure import SharedStructure
from voxlate.networks.structure_encoder import StructureEncoder
from voxlate.networks.structure_enhancement import StructureEnhancement

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def vectors(folder: Path, name: str) -> dict[str, Tensor]:
    with np.load(folder / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def small(dims: int = 2, stem_levels: int = 0, **options: object) -> SharedStructure:
    torch.manual_seed(0)
    return SharedStructure(
        3,
        spatial_dims=dims,
        channels=(4, 8, 12, 16),
        stem_levels=stem_levels,
        **options,  # type: ignore[arg-type]
    ).eval()


def volumes(*size: int) -> Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


AVAILABLE = torch.tensor([[True, False, True], [False, True, False]])


def test_encoder_is_the_references(vectors_dir: Path) -> None:
    arrays = vectors(vectors_dir, "msg_parts")
    encoder = StructureEncoder(2, channels=(8, 16, 32, 64), high_frequency="one_sigma").eval()
    state = {}
    for index in range(4):
        theirs, ours = f"w_ce/unit{index + 1}", f"scales.{index}"
        edge = f"w_ce/edge_s{index + 1}"
        for leaf in ("weight", "bias"):
            state[f"{ours}.enter.conv.{leaf}"] = arrays[f"{theirs}_0.unit.0.{leaf}"]
            for part in (0, 1):
                state[f"{ours}.body.{part}.conv.{leaf}"] = arrays[f"{theirs}.{part}.unit.0.{leaf}"]
            state[f"{ours}.inject.conv.{leaf}"] = arrays[f"{edge}.conv.{leaf}"]
        state[f"{ours}.inject.sigma"] = arrays[f"{edge}.edge_extractor.gaussian.sigma"]
    encoder.load_state_dict(state)
    for index, found in enumerate(encoder(arrays["in/x"])):
        torch.testing.assert_close(found, arrays[f"out/s{index + 1}"], **TOLERANCE)


def test_enhancement_is_the_references(vectors_dir: Path) -> None:
    arrays = vectors(vectors_dir, "msg_msse")
    enhancement = StructureEnhancement((4, 8, 16, 32), spatial_dims=2, resize="linear")
    state = {"alpha": torch.tensor(0.5)}
    for leaf in ("weight", "bias"):
        state[f"norm.{leaf}"] = arrays[f"w/norm.{leaf}"]
        for index in range(3):
            state[f"project.{index}.{leaf}"] = arrays[f"w/proj{index + 1}.{leaf}"]
        for name in ("q", "k", "v", "out"):
            state[f"{name}.{leaf}"] = arrays[f"w/{name}.{leaf}"].squeeze(-1).squeeze(-1)
    enhancement.load_state_dict(state)
    maps = [arrays[f"in/f{index}"] for index in (1, 2, 3, 4)]
    torch.testing.assert_close(enhancement.structure(maps), arrays["out/structure"], **TOLERANCE)
    torch.testing.assert_close(enhancement(maps), arrays["out/Fs"], **TOLERANCE)


@pytest.mark.parametrize("dims", [2, 3])
def test_enhancement_is_the_printed_equation(dims: int) -> None:
    """Area pooling and softmax attention written out, in float64."""
    torch.manual_seed(0)
    enhancement = StructureEnhancement((2, 4, 8), spatial_dims=dims, num_heads=2).double()
    with torch.no_grad():
        enhancement.alpha.fill_(0.3)
    maps = [
        torch.randn(2, width, *[side] * dims, dtype=torch.float64)
        for width, side in ((2, 8), (4, 4), (8, 2))
    ]
    pool = F.avg_pool3d if dims == 3 else F.avg_pool2d
    context = sum(
        project(pool(m, factor)).flatten(2).mT
        for project, m, factor in zip(enhancement.project, maps[:2], (4, 2), strict=True)
    )
    tokens = maps[2].flatten(2).mT
    q, k, v = (
        part.unflatten(2, (2, 4)).transpose(1, 2)
        for part in (
            enhancement.q(F.layer_norm(tokens, [8])),
            enhancement.k(context),
            enhancement.v(context),
        )
    )
    mixed = (torch.softmax(q @ k.mT / 2, dim=-1) @ v).transpose(1, 2).flatten(2)
    expected = maps[2] + 0.3 * enhancement.out(mixed).mT.reshape(maps[2].shape)
    torch.testing.assert_close(enhancement(maps), expected, rtol=1e-10, atol=1e-10)


def test_alpha_is_learned_and_starts_at_a_half() -> None:
    enhancement = StructureEnhancement((2, 4), spatial_dims=2)
    assert enhancement.alpha.item() == 0.5
    enhancement([torch.randn(1, 2, 4, 4), torch.randn(1, 4, 2, 2)]).square().sum().backward()
    assert enhancement.alpha.grad is not None and enhancement.alpha.grad.abs() > 0


@pytest.mark.parametrize("options", [{}, {"fusion": "concat"}, {"fusion": "mean"}])
@pytest.mark.parametrize(("dims", "stem"), [(2, 0), (3, 1)])
def test_a_missing_contrast_influences_nothing(
    dims: int, stem: int, options: dict[str, str]
) -> None:
    """Its voxels as NaN: bit for bit the same structure, and the same gradients in training."""
    network = small(dims, stem, **options)
    given = volumes(*[16] * dims)
    damaged = given.clone()
    damaged[~AVAILABLE] = float("nan")
    for training in (False, True):
        network.train(training)
        found, clean = network(damaged, AVAILABLE), network(given, AVAILABLE)
        for one, other in zip(
            [*found.scales, found.shared], [*clean.scales, clean.shared], strict=True
        ):
            assert torch.equal(one, other)
    weights = [p for p in network.parameters() if p.requires_grad]
    grads = [
        torch.autograd.grad(x.shared.square().sum(), weights, allow_unused=True)
        for x in (found, clean)
    ]
    for one, other in zip(*grads, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)  # type: ignore[arg-type]


def test_a_batch_is_its_samples_one_by_one() -> None:
    network = small(3, 1).double()
    given = volumes(16, 16, 32).double()
    together = network(given, AVAILABLE).shared
    for row in range(2):
        alone = network(given[row : row + 1], AVAILABLE[row : row + 1]).shared
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-10, atol=1e-10)


def test_each_given_contrast_matters() -> None:
    network, given = small(), volumes(16, 24)
    every = torch.ones(2, 3, dtype=torch.bool)
    whole = network(given, every).shared
    for slot in range(3):
        without = every.clone()
        without[:, slot] = False
        assert not torch.allclose(network(given, without).shared, whole, atol=1e-3)


@pytest.mark.parametrize("stem", [0, 1, 2])
def test_scales_halve_and_odd_sizes_are_padded(stem: int) -> None:
    network = small(3, stem)
    found = network(volumes(17, 30, 9), AVAILABLE)
    coarse = [-(-side // network.multiple) for side in (17, 30, 9)]
    for index, width in enumerate((4, 8, 12, 16)):
        assert found.scales[index].shape == (2, width, *[c << (3 - index) for c in coarse])
    assert found.shared.shape == found.scales[-1].shape


def test_without_enhancement_the_structure_is_the_coarsest_scale() -> None:
    found = small(enhance=False)(volumes(16, 16), AVAILABLE)
    assert found.shared is found.scales[-1]


def test_the_same_call_gives_the_same_bits() -> None:
    network, given = small(3, 1, dropout=0.3), volumes(16, 16, 16)
    first = network(given, AVAILABLE).shared
    assert torch.equal(first, network(given, AVAILABLE).shared)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SharedStructure(3, fusion="sum"), "fusion must be in"),
        (lambda: SharedStructure(3, high_frequency="yes"), "high_frequency must be in"),
        (lambda: SharedStructure(3, resize="cubic"), "resize must be in"),
        (lambda: SharedStructure(3, num_heads=3), "no multiple of num_heads 3"),
        (lambda: small()(volumes(16, 16), AVAILABLE[:, :2]), "available must be bool"),
        (lambda: small()(volumes(16, 16), AVAILABLE.long()), "available must be bool"),
        (lambda: small()(volumes(16, 16), AVAILABLE & False), "every sample needs a contrast"),
    ],
)
def test_what_does_not_fit_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
