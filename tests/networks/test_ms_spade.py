"""MS-SPADE: the reference's numbers, a branch a sample, and what only plain convolutions can."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.haar import haar_merge, haar_split
from voxlate.networks.ms_spade import MSSpade, MSSpadeGenerator, MSSpadeResBlock, TableBGenerator

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def vectors(folder: Path, name: str) -> dict[str, Tensor]:
    with np.load(folder / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def load_spade(spade: MSSpade, arrays: dict[str, Tensor], prefix: str) -> None:
    """Stack the reference's modules, one for each modality, and join its gamma and beta."""
    count = len(spade.shared.weight)
    for leaf in ("weight", "bias"):
        parts = [
            [arrays[f"{prefix}spades.{k}.{name}.{leaf}"] for k in range(count)]
            for name in ("mlp_shared.0", "mlp_gamma", "mlp_beta")
        ]
        shared, gamma, beta = (torch.stack(part) for part in parts)
        getattr(spade.shared, leaf).data = shared
        getattr(spade.modulation, leaf).data = torch.cat([gamma, beta], dim=1)


def test_ms_spade_and_its_gradient_are_the_references(vectors_dir: Path) -> None:
    arrays = vectors(vectors_dir, "aldm_spade_multimodal")
    spade = MSSpade(6, 3)
    load_spade(spade, arrays, "w/")
    x = arrays["in/x"].requires_grad_()
    out = spade(x, arrays["in/y"])
    torch.testing.assert_close(out, arrays["out/x"], **TOLERANCE)
    out.square().sum().backward()
    torch.testing.assert_close(x.grad, arrays["grad/x"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "widths"), [("learned", (3, 5)), ("identity", (4, 4))])
def test_res_block_is_the_references(vectors_dir: Path, kind: str, widths: tuple[int, int]) -> None:
    arrays = vectors(vectors_dir, "aldm_spade_resnet_block")
    block = MSSpadeResBlock(*widths, 3)
    load_spade(block.norm1, arrays, f"w_{kind}/norm_0.")
    load_spade(block.norm2, arrays, f"w_{kind}/norm_1.")
    for ours, theirs in (("conv1", "conv_0"), ("conv2", "conv_1"), ("shortcut", "conv_s")):
        for leaf, _ in getattr(block, ours).named_parameters():
            getattr(getattr(block, ours), leaf).data = arrays[f"w_{kind}/{theirs}.{leaf}"]
    out = block(arrays[f"in/x_{kind}"], arrays["in/y"])
    torch.testing.assert_close(out, arrays[f"out/x_{kind}"], **TOLERANCE)


@pytest.mark.parametrize("dims", [2, 3])
def test_each_sample_is_modulated_by_its_own_branch(dims: int) -> None:
    """Against eq. 1 written with torch's own modules in float64, sample by sample."""
    torch.manual_seed(0)
    spade = MSSpade(3, 4, spatial_dims=dims, hidden=5).double()
    norm = (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(3)
    x = torch.randn(5, 3, *(4, 6, 5)[:dims], dtype=torch.float64)
    target = torch.tensor([2, 0, 3, 2, 1])
    expected = []
    for sample, k in zip(x, target, strict=True):
        first = (nn.Conv2d if dims == 2 else nn.Conv3d)(3, 5, 3, padding=1).double()
        second = (nn.Conv2d if dims == 2 else nn.Conv3d)(5, 6, 3, padding=1).double()
        for module, bank in ((first, spade.shared), (second, spade.modulation)):
            module.weight.data, module.bias.data = bank.weight[k].data, bank.bias[k].data
        gamma, beta = second(first(sample[None]).relu()).chunk(2, dim=1)
        expected.append(norm(sample[None]) * (1 + gamma) + beta)
    torch.testing.assert_close(spade(x, target), torch.cat(expected))


@pytest.mark.parametrize(
    "generator",
    [
        MSSpadeGenerator(2, 4, features=6, hidden=4),
        MSSpadeGenerator(2, 4, features=6, hidden=4, spatial_dims=2),
        MSSpadeGenerator(2, 4, features=6, hidden=4, stem_levels=1),
        TableBGenerator(2, 4, stem_channels=4, res_channels=(6,), spade_channels=(5, 4), hidden=3),
    ],
    ids=["repo", "repo 2D", "stem", "Table B"],
)
def test_mixed_batch_equals_one_by_one_in_any_order(generator: nn.Module) -> None:
    torch.manual_seed(0)
    dims = 2 if any(isinstance(part, nn.Conv2d) for part in generator.modules()) else 3
    latent = torch.randn(4, 2, *(5, 4, 6)[:dims])
    target = torch.tensor([3, 0, 0, 2])
    together = generator(latent, target)
    alone = torch.cat([generator(latent[i : i + 1], target[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, **TOLERANCE)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(generator(latent[order], target[order]), alone[order], **TOLERANCE)
    assert not torch.allclose(together[1], generator(latent[1:2], target[:1])[0], atol=1e-3)


def test_only_the_modalities_of_the_batch_learn() -> None:
    generator = MSSpadeGenerator(2, 4, features=4, hidden=4)
    generator(torch.randn(2, 2, 4, 4, 4), torch.tensor([1, 3])).square().sum().backward()
    grad = generator.blocks[0].norm1.shared.weight.grad.flatten(1).abs().sum(1)
    assert (grad > 0).tolist() == [False, True, False, True]


def test_a_constant_map_shifts_the_style_evenly() -> None:
    """Where the features are flat, y = beta: flat, not zero, different for each target."""
    torch.manual_seed(0)
    spade = MSSpade(2, 2)
    flat = torch.full((2, 2, 9, 9, 9), 0.7)
    inner = spade(flat, torch.tensor([0, 1]))[:, :, 2:-2, 2:-2, 2:-2]  # out of reach of the border
    style = inner.mean(dim=(2, 3, 4), keepdim=True)
    torch.testing.assert_close(inner, style.expand_as(inner), rtol=0, atol=1e-6)
    assert style.abs().min() > 1e-3
    assert (style[0] - style[1]).abs().max() > 1e-2


def test_residual_generator_starts_as_the_identity_and_still_learns() -> None:
    torch.manual_seed(0)
    generator = MSSpadeGenerator(4, 3, features=4, hidden=4, residual=True)
    latent = torch.randn(2, 4, 4, 4, 4)
    out = generator(latent, torch.tensor([0, 2]))
    torch.testing.assert_close(out, latent, rtol=0, atol=0)
    out.square().sum().backward()
    assert generator.difference.weight.grad.abs().min() > 0


@pytest.mark.parametrize("residual", [False, True])
def test_stem_runs_the_blocks_on_sub_bands_of_any_size(residual: bool) -> None:
    torch.manual_seed(0)
    options = {"features": 4, "hidden": 4, "residual": residual}
    stem = MSSpadeGenerator(2, 3, **options, stem_levels=1)
    if residual:
        nn.init.normal_(stem.difference.weight)
    inner = MSSpadeGenerator(16, 3, **options)
    inner.load_state_dict(stem.state_dict())
    latent, target = torch.randn(2, 2, 5, 4, 7), torch.tensor([2, 0])
    padded = torch.nn.functional.pad(latent, (0, 1, 0, 0, 0, 1), mode="replicate")
    expected = haar_merge(inner(haar_split(padded), target))[:, :, :5, :, :7]
    torch.testing.assert_close(stem(latent, target), expected, **TOLERANCE)


def test_generators_have_the_published_widths() -> None:
    with torch.device("meta"):
        repo, table = MSSpadeGenerator(4, 4), TableBGenerator(3, 4)
    assert [block.conv2.out_channels for block in repo.blocks] == [128, 256, 128, 4]
    assert [block.norm1.shared.weight.shape[1] for block in repo.blocks] == [64] * 4
    assert table.conv_in.weight.shape == (128, 3, 7, 7, 7)
    assert [block.conv1.out_channels for block in table.res_blocks] == [256, 256]
    assert [block.conv.out_channels for block in table.spade_blocks] == [256, 256, 256, 128]
    assert table.conv_out.weight.shape == (3, 128, 7, 7, 7)


@pytest.mark.parametrize(
    "generator",
    [
        MSSpadeGenerator(2, 3, features=4, hidden=4),
        MSSpadeGenerator(2, 3, features=4, hidden=4, residual=True, stem_levels=1),
        TableBGenerator(2, 3, stem_channels=4, res_channels=(6,), spade_channels=(4,), hidden=3),
    ],
    ids=["repo", "residual stem", "Table B"],
)
def test_script_trace_and_export_follow_the_target(generator: nn.Module) -> None:
    generator.eval()
    latent, seen, new = torch.randn(2, 2, 4, 5, 6), torch.tensor([0, 1]), torch.tensor([2, 0])
    with torch.no_grad():
        expected = generator(latent, new)
        torch.testing.assert_close(torch.jit.script(generator)(latent, new), expected)
        torch.testing.assert_close(
            torch.jit.trace(generator, (latent, seen))(latent, new), expected
        )
        exported = torch.export.export(generator, (latent, seen)).module()
        torch.testing.assert_close(exported(latent, new), expected)


def test_bfloat16_stays_close_to_float32() -> None:
    torch.manual_seed(0)
    generator = MSSpadeGenerator(4, 3, features=16, hidden=16).eval()
    latent, target = torch.randn(2, 4, 8, 8, 8), torch.tensor([0, 2])
    with torch.no_grad():
        expected = generator(latent, target)
        with torch.autocast("cpu", torch.bfloat16):
            out = generator(latent, target).float()
    assert (out - expected).norm() < 2e-2 * expected.norm()


def test_channels_last_changes_nothing() -> None:
    torch.manual_seed(0)
    generator = MSSpadeGenerator(4, 3, features=8, hidden=8)
    latent, target = torch.randn(2, 4, 6, 5, 4), torch.tensor([0, 2])
    expected = generator(latent, target)
    generator = generator.to(memory_format=torch.channels_last_3d)
    out = generator(latent.to(memory_format=torch.channels_last_3d), target)
    torch.testing.assert_close(out, expected, **TOLERANCE)


@pytest.mark.parametrize("target", [[0, 3], [-1, 0]])
@pytest.mark.parametrize("kind", [MSSpadeGenerator, TableBGenerator])
def test_target_without_a_branch_is_refused(kind: type[nn.Module], target: list[int]) -> None:
    with torch.device("meta"):
        generator = kind(2, 3)
    with pytest.raises(ValueError, match=r"must lie in 0\.\.2, got \["):
        generator(torch.zeros(2, 2, 4, 4, 4), torch.tensor(target))


@pytest.mark.parametrize("target", [torch.tensor(0), torch.tensor([0]), torch.tensor([0.0, 1.0])])
def test_target_that_does_not_fit_the_batch_is_refused(target: Tensor) -> None:
    with pytest.raises(ValueError, match="for each of 2 samples"):
        MSSpadeGenerator(2, 3, features=2, hidden=2)(torch.zeros(2, 2, 4, 4, 4), target)


def test_a_single_voxel_is_modulated_too() -> None:
    spade = MSSpade(3, 2, hidden=4)
    out = spade(torch.randn(1, 3, 1, 1, 1), torch.tensor([1]))  # norm(x) = 0 leaves beta
    assert out.isfinite().all()
    assert out.any()
