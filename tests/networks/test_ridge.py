"""The ridge path: exact where the relation is linear, elsewhere the textbook's solution."""

import pytest
import torch
from torch.nn import functional as F

from voxlate.networks.ridge import RidgePath


def latents(seed: int, size: tuple[int, ...] = (7, 6, 5)) -> torch.Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(seed))


def test_new_path_returns_the_source() -> None:
    path = RidgePath(3, 2, features=8)
    z = latents(0)[None]
    torch.testing.assert_close(path(z, torch.tensor([0]), torch.tensor([1])), z)


def test_linear_relation_is_found_and_used_on_new_latents() -> None:
    mix = torch.tensor([[0.5, -1.0, 0.0], [2.0, 0.1, 0.3], [0.0, 0.0, -1.0]])
    change = lambda z: torch.einsum("oc,cxyz->oxyz", mix, z) + 0.7  # noqa: E731
    path = RidgePath(3, 2, features=8)
    path.fit([({0: latents(s), 1: change(latents(s))}, 1.0) for s in range(4)], ridge=1e-9)
    new = latents(9)
    answer = path(new[None], torch.tensor([0]), torch.tensor([1]))[0]
    torch.testing.assert_close(answer, change(new), rtol=1e-3, atol=1e-3)


def test_fit_solves_the_weighted_normal_equations() -> None:
    cases = [({0: latents(1), 1: latents(2)}, 1.0), ({0: latents(3), 1: latents(4)}, 2.5)]
    path = RidgePath(3, 2, features=16)
    path.fit(cases, ridge=0.1)
    phi = [path.rounds[0].features(path.inputs(case[0])) for case, _ in cases]
    moment = sum(w * p.t() @ p for p, (_, w) in zip(phi, cases, strict=True))
    product = sum(
        w * p.t() @ case[1].double().flatten(1).t() for p, (case, w) in zip(phi, cases, strict=True)
    )
    penalty = 0.1 * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    expected = torch.linalg.solve(moment + penalty, product)
    torch.testing.assert_close(
        path.rounds[0].weights[0, 1].double(), expected, rtol=1e-5, atol=1e-6
    )


def test_fit_says_what_each_regression_misses() -> None:
    cases = [({0: latents(1), 1: latents(2)}, 1.0), ({0: latents(3), 1: latents(4)}, 2.5)]
    path = RidgePath(3, 3, features=16)
    missed = path.fit(cases, ridge=0.1)
    total = sum(
        w * (path(case[0][None], torch.tensor([0]), torch.tensor([1]))[0] - case[1]).square().sum()
        for case, w in cases
    )
    expected = float(total) / (3.5 * latents(1).numel())
    assert float(missed[0, 1]) == pytest.approx(expected, rel=1e-5)
    assert missed[2].isinf().all() and missed[:, 2].isinf().all() and missed[0, 0].isinf()


def test_pair_that_no_case_has_keeps_its_weights_and_incomplete_cases_are_used() -> None:
    path = RidgePath(3, 3, features=8)
    before = path.rounds[0].weights.clone()
    path.fit([({0: latents(1), 1: latents(2)}, 1.0), ({0: latents(3)}, 1.0)])
    assert not torch.equal(path.rounds[0].weights[0, 1], before[0, 1])
    assert torch.equal(path.rounds[0].weights[0, 2], before[0, 2])
    assert torch.equal(path.rounds[0].weights[0, 0], before[0, 0])


def test_batch_equals_one_by_one_and_autocast_changes_nothing() -> None:
    path = RidgePath(3, 2, features=8)
    path.fit([({0: latents(1), 1: latents(2)}, 1.0)])
    z = torch.stack([latents(5), latents(6)])
    source, target = torch.tensor([0, 1]), torch.tensor([1, 0])
    whole = path(z, source, target)
    for row in range(2):
        single = path(z[row : row + 1], source[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(whole[row : row + 1], single, rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(path(z, source, target), whole, rtol=0, atol=0)


def test_background_is_left_out_of_the_fit_and_of_the_answer() -> None:
    source, target = latents(1), latents(2)
    source[:, :3] = 0.3 * source[:, :3].sign()  # in no channel more than the threshold
    fitted = []
    for changed in (target, torch.cat([target[:, :3].flip(1), target[:, 3:]], dim=1)):
        path = RidgePath(3, 2, features=8, background=0.31)
        path.fit([({0: source, 1: changed}, 1.0)])
        fitted.append(path)
    found = [path.rounds[0].weights[0, 1] for path in fitted]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        fitted[0].rounds[0].weights[1, 0], fitted[1].rounds[0].weights[1, 0], atol=1e-3
    )
    answer = fitted[0](source[None], torch.tensor([0]), torch.tensor([1]))[0]
    inside = source.abs().amax(0) > 0.31
    assert not inside[:3].any() and torch.equal(answer.abs().amax(0) > 0, inside)
    empty = fitted[0](torch.zeros_like(source)[None], torch.tensor([0]), torch.tensor([1]))
    assert bool((empty == 0).all())


def test_no_cases_are_refused() -> None:
    with pytest.raises(ValueError, match="no cases"):
        RidgePath(3, 2).fit([])


@pytest.mark.parametrize("side", [3, 7, 15])
def test_mean_is_that_of_the_whole_neighbourhood(side: int) -> None:
    z = latents(1, (9, 8, 17)).double()
    found = RidgePath(3, 2, features=8).mean(z, side)
    padded = F.pad(z, [side // 2] * 6)
    for place in ((0, 0, 0), (4, 7, 11), (8, 3, 16)):
        box = padded[(slice(None), *(slice(at, at + side) for at in place))]
        torch.testing.assert_close(found[(slice(None), *place)], box.mean((1, 2, 3)))


def test_second_round_sees_what_the_first_answered_of_the_others_far_away() -> None:
    blur = lambda z, side: F.avg_pool3d(z, side, stride=1, padding=side // 2)  # noqa: E731

    def case(seed: int) -> dict[int, torch.Tensor]:
        given = 1 + latents(seed, (18, 17, 16))
        return {0: given, 1: given.square(), 2: blur(given.square(), 15)}

    cases = [(case(seed), 1.0) for seed in range(3)]
    wanted = case(9)
    error = {}
    for rounds in (1, 2):
        path = RidgePath(3, 3, features=64, rounds=rounds, background=0.0)
        missed = path.fit(cases, ridge=1e-6)
        answer = path(wanted[0][None], torch.tensor([0]), torch.tensor([2]))[0]
        error[rounds] = float((answer - wanted[2]).square().mean())
        made = path(cases[0][0][0][None], torch.tensor([0]), torch.tensor([2]))[0]
        assert float(missed[0, 2]) < 3 * float((made - cases[0][0][2]).square().mean())
    assert error[2] < 0.3 * error[1]


def test_second_round_is_one_more_regression_on_more_inputs() -> None:
    cases = [({0: latents(1), 1: latents(2)}, 1.0), ({0: latents(3), 1: latents(4)}, 2.5)]
    one, two = (RidgePath(3, 2, features=16, rounds=rounds) for rounds in (1, 2))
    for path in (one, two):
        path.fit(cases, ridge=0.1)
    torch.testing.assert_close(two.rounds[0].weights, one.rounds[0].weights)
    moment, product = 0.0, 0.0
    for latents_of, weight in cases:
        guess = one(latents_of[0][None], torch.tensor([0]), torch.tensor([1]))[0].double()
        guess = guess / two.spread.double().view(-1, 1, 1, 1)
        parts = [guess, two.mean(guess, 5), two.mean(guess, 15)]
        u = torch.cat([two.inputs(latents_of[0]), torch.cat(parts).flatten(1).t()], dim=1)
        phi = two.rounds[1].features(u)
        moment += weight * phi.t() @ phi
        product += weight * phi.t() @ latents_of[1].double().flatten(1).t()
    penalty = 0.1 * moment.diagonal().mean() * torch.eye(len(moment), dtype=torch.float64)
    expected = torch.linalg.solve(moment + penalty, product)
    torch.testing.assert_close(two.rounds[1].weights[0, 1].double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rounds", [1, 2])
def test_targets_of_one_case_are_answered_as_if_alone(rounds: int) -> None:
    path = RidgePath(3, 3, features=8, rounds=rounds)
    path.fit([({i: latents(i) for i in range(3)}, 1.0)])
    z = latents(5)[None]
    source, target = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 2, 0])
    together = path(z.expand(4, -1, -1, -1, -1), source, target)
    for row in range(4):
        alone = path(z, source[row : row + 1], target[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=0)


def test_script_agrees_in_two_dimensions() -> None:
    path = RidgePath(3, 2, features=8, spatial_dims=2, rounds=2)
    path.fit([({0: torch.randn(3, 6, 5), 1: torch.randn(3, 6, 5)}, 1.0)])
    z = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    args = (z, torch.tensor([0, 1]), torch.tensor([1, 1]))
    torch.testing.assert_close(torch.jit.script(path)(*args), path(*args))
