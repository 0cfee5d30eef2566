"""The structure prior: what it starts from, what is concatenated, what cannot influence it."""

import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.path_mixture import MixturePrior
from voxlate.networks.ridge import RidgePath
from voxlate.networks.structure import SharedStructure
from voxlate.networks.structure_prior import STRUCTURE_CONCAT, StructureCondition, StructurePrior

AVAILABLE = torch.tensor([[True, False, True], [False, True, False]])
TARGET = torch.tensor([1, 2])


class AddPair(nn.Module):
    """A path whose effect can be read off: latent + 10 * source + target."""

    def forward(self, latent: Tensor, source: Tensor, target: Tensor) -> Tensor:
        return latent + (10 * source + target).view(-1, *[1] * (latent.dim() - 1))


def prior(dims: int = 3, stem: int = 1, **options: object) -> StructurePrior:
    torch.manual_seed(0)
    structure = SharedStructure(3, spatial_dims=dims, channels=(4, 8, 8, 8), stem_levels=stem)
    return StructurePrior(
        structure,
        2,
        condition_channels=4,
        features=8,
        norm_groups=4,
        **options,  # type: ignore[arg-type]
    ).eval()


def trained(net: StructurePrior) -> StructurePrior:
    """With a correction that does something."""
    torch.manual_seed(5)
    nn.init.normal_(net.conv_out.weight, std=0.3)
    nn.init.normal_(net.guess.shares)
    return net


def case(dims: int = 3, side: int = 16) -> tuple[Tensor, Tensor]:
    """Volumes and latents, NaN where nothing is given."""
    generator = torch.Generator().manual_seed(1)
    volumes = torch.rand(2, 3, *[side] * dims, generator=generator) * 2 - 1
    latents = torch.randn(2, 3, 2, *[-(-side // 4)] * dims, generator=generator)
    volumes[~AVAILABLE] = float("nan")
    latents[~AVAILABLE] = float("nan")
    return volumes, latents


@pytest.mark.parametrize("path", [None, AddPair()])
def test_untrained_start_is_the_mean_of_what_each_given_contrast_says(
    path: nn.Module | None,
) -> None:
    net = prior(path=path)
    volumes, latents = case()
    start = net(latents, AVAILABLE, TARGET, net.encode_case(volumes, AVAILABLE)).start
    added = (10 * 0 + 1 + 10 * 2 + 1) / 2, 10 * 1 + 2
    first = (latents[0, 0] + latents[0, 2]) / 2 + (added[0] if path else 0)
    second = latents[1, 1] + (added[1] if path else 0)
    torch.testing.assert_close(start, torch.stack([first, second]))


def test_shares_are_learned_for_each_pair_and_kept_to_what_is_given() -> None:
    net = prior()
    with torch.no_grad():
        net.guess.shares[1] = torch.tensor([0.0, 50.0, 1.0])  # contrast 1, the target, is not given
    volumes, latents = case()
    start = net(latents, AVAILABLE, TARGET, net.encode_case(volumes, AVAILABLE)).start
    share = torch.tensor([0.0, 1.0]).softmax(0)
    torch.testing.assert_close(start[0], share[0] * latents[0, 0] + share[1] * latents[0, 2])


def test_paths_weigh_by_the_inverse_square_of_what_they_miss() -> None:
    net = prior()
    inf = float("inf")
    net.guess.weigh_paths(torch.tensor([[inf, 0.1, inf], [0.3, inf, inf], [0.6, 0.4, inf]]))
    volumes, latents = case()
    start = net(latents, AVAILABLE, TARGET, net.encode_case(volumes, AVAILABLE)).start
    share = 100 / (100 + 1 / 0.16)  # of contrast 0 in contrast 1, beside contrast 2
    torch.testing.assert_close(start[0], share * latents[0, 0] + (1 - share) * latents[0, 2])
    assert net.guess.shares[1, 1] == net.guess.shares[1, 2]  # unknown: the worst
    assert bool((net.guess.shares[2] == 0).all())  # nothing is known of this target


@pytest.mark.parametrize("path", [None, "ridge"])
def test_mixture_alone_is_the_untrained_structure_priors_guess(path: str | None) -> None:
    net = prior(path=RidgePath(2, 3, features=8) if path else None)
    nn.init.normal_(net.guess.shares)
    alone = MixturePrior(3, 2, path=RidgePath(2, 3, features=8) if path else None)
    alone.guess.load_state_dict(net.guess.state_dict())
    volumes, latents = case()
    found = alone(latents, AVAILABLE, TARGET, alone.encode_case(volumes, AVAILABLE))
    expected = net(latents, AVAILABLE, TARGET, net.encode_case(volumes, AVAILABLE))
    assert torch.equal(found.start, expected.start)
    assert torch.equal(found.concat, expected.concat[:, 4:])  # but for the structure
    assert found.concat.shape[1] == alone.concat_channels
    with pytest.raises(ValueError, match="modalities must lie in 0..2"):
        alone(latents, AVAILABLE, TARGET + 1, volumes[:, :0])
    with pytest.raises(ValueError, match="every sample needs a contrast"):
        alone(latents, AVAILABLE & False, TARGET, volumes[:, :0])


def test_own_share_mixes_the_guess_with_an_answer_of_the_blocks_own() -> None:
    volumes, latents = case()

    def start(share: float | None) -> Tensor:
        net = trained(prior(path=AddPair(), own_share=share))
        return net(latents, AVAILABLE, TARGET, net.encode_case(volumes, AVAILABLE)).start

    guess, own = start(0.0), start(1.0)
    torch.testing.assert_close(start(None), guess + own)
    torch.testing.assert_close(start(0.25), 0.75 * guess + 0.25 * own)


@pytest.mark.parametrize("path", [None, "ridge"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_missing_contrast_influences_nothing(dims: int, path: str | None) -> None:
    """Voxels and latents of missing contrasts as NaN: bit for bit the same as with zeros."""
    made = RidgePath(2, 3, features=8, spatial_dims=dims) if path else None
    net = trained(prior(dims, 1, path=made))
    damaged = case(dims)
    found = net(damaged[1], AVAILABLE, TARGET, net.encode_case(damaged[0], AVAILABLE))
    volumes, latents = (torch.nan_to_num(x, 0.5) for x in damaged)
    clean = net(latents, AVAILABLE, TARGET, net.encode_case(volumes, AVAILABLE))
    assert torch.equal(found.start, clean.start) and torch.equal(found.concat, clean.concat)
    assert found.start.isfinite().all() and found.concat.isfinite().all()


def test_concat_holds_its_parts_in_order_and_ends_with_the_start() -> None:
    net = trained(prior())
    volumes, latents = case()
    shared = net.encode_case(volumes, AVAILABLE)
    concat, start = net(latents, AVAILABLE, TARGET, shared)
    assert concat.shape[1] == net.concat_channels == 4 + 6 + 3 + 2
    structure, available, mask, target_like = concat.split([4, 6, 3, 2], dim=1)
    assert torch.equal(structure, shared) and torch.equal(target_like, start)
    assert torch.equal(available.unflatten(1, (3, 2)), torch.nan_to_num(latents, 0.0))
    assert torch.equal(mask[:, :, 0, 0, 0].bool(), AVAILABLE)


@pytest.mark.parametrize("names", [(), ("structure",), ("mask", "target_like")])
def test_concat_can_leave_parts_out(names: tuple[str, ...]) -> None:
    net = prior(concat=names)
    volumes, latents = case()
    found = net(latents, AVAILABLE, TARGET, net.encode_case(volumes, AVAILABLE))
    assert found.concat.shape == (2, net.concat_channels, 4, 4, 4)


def test_many_targets_of_a_case_are_its_targets_one_by_one() -> None:
    net = trained(prior())
    volumes, latents = (x[:1] for x in case())
    shared = net.encode_case(volumes, AVAILABLE[:1])
    together = net(
        latents.expand(3, -1, -1, -1, -1, -1),
        AVAILABLE[:1].expand(3, -1),
        torch.arange(3),
        shared.expand(3, -1, -1, -1, -1),
    )
    for target in range(3):
        alone = net(latents, AVAILABLE[:1], torch.tensor([target]), shared)
        torch.testing.assert_close(together.start[target], alone.start[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together.start[0], together.start[1], atol=1e-2)


@pytest.mark.parametrize("side", [16, 18, 21])
@pytest.mark.parametrize("stem", [0, 1, 2])
def test_condition_has_the_latents_size(stem: int, side: int) -> None:
    net = prior(3, stem)
    volumes, latents = case(3, side)
    assert net.encode_case(volumes, AVAILABLE).shape == (2, 4, *latents.shape[3:])


def test_condition_pools_fine_scales_and_interpolates_coarse_ones() -> None:
    """With projections to the mean, a constant of each scale adds up exactly."""
    structure = SharedStructure(2, spatial_dims=2, channels=(4, 4, 4), stem_levels=1)
    condition = StructureCondition(structure, 1, downsampling=4, use_scales=True)
    with torch.no_grad():
        for layer in (condition.shared, *condition.scales):
            layer.weight.fill_(0.25)
            layer.bias.zero_()
    fine = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 4, 4, 4)
    scales = [fine, torch.full((1, 4, 2, 2), 100.0), torch.full((1, 4, 1, 1), 1000.0)]
    found = condition(torch.full((1, 4, 1, 1), 10000.0), scales)
    expected = torch.tensor([[2.5, 4.5], [10.5, 12.5]]) + 11100
    torch.testing.assert_close(found[0, 0], expected)


def test_structure_is_only_trained_where_asked() -> None:
    volumes, latents = case()
    for finetune in (False, True):
        net = trained(prior(finetune=finetune)).train()
        assert net.structure.training == finetune
        shared = net.encode_case(volumes, AVAILABLE)
        net(latents, AVAILABLE, TARGET, shared).start.square().sum().backward()
        grads = [p.grad for p in net.structure.parameters() if p.grad is not None]
        assert bool(grads) == finetune and all(g.isfinite().all() for g in grads)
        assert net.condition.shared.weight.grad is not None


@pytest.mark.parametrize("share", [None, 0.3])
def test_script_agrees(share: float | None) -> None:
    net = trained(prior(path=RidgePath(2, 3, features=8), own_share=share))
    scripted = torch.jit.script(net.structure)
    volumes, latents = case()
    torch.testing.assert_close(
        scripted(volumes, AVAILABLE).shared, net.structure(volumes, AVAILABLE).shared
    )
    shared = net.encode_case(volumes, AVAILABLE)
    found = torch.jit.script(net)(latents, AVAILABLE, TARGET, shared)
    expected = net(latents, AVAILABLE, TARGET, shared)
    torch.testing.assert_close(tuple(found), tuple(expected))


@pytest.mark.parametrize("names", [("structure", "structure"), ("source",)])
def test_concat_that_makes_no_sense_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=f"concat takes each of .*{STRUCTURE_CONCAT[0]}"):
        prior(concat=names)


def test_share_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="own_share must be in .0, 1., got 1.5"):
        prior(own_share=1.5)


def test_what_does_not_fit_is_refused() -> None:
    net = prior()
    volumes, latents = case()
    shared = net.encode_case(volumes, AVAILABLE)
    with pytest.raises(ValueError, match="every sample needs a contrast"):
        net(latents, AVAILABLE & False, TARGET, shared)
    with pytest.raises(ValueError, match="modalities must lie in 0..2"):
        net(latents, AVAILABLE, TARGET + 1, shared)
    with pytest.raises(ValueError, match="structure of 16 voxels does not fit latents of 32"):
        prior(downsampling=32)
