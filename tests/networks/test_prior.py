"""The MS-SPADE prior: which latent is the source, what is concatenated, and what is refused."""

import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.ms_spade import MSSpadeGenerator
from voxlate.networks.prior import MSSpadePrior

TARGET = torch.tensor([2, 0, 1])
AVAILABLE = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]], dtype=torch.bool)


class AddTarget(nn.Module):
    """A generator whose effect can be read off."""

    def forward(self, latent: Tensor, target: Tensor) -> Tensor:
        return latent + 10 * (1 + target.view(-1, 1, 1, 1, 1))


def batch() -> tuple[Tensor, Tensor]:
    """Latents with NaN in every slot that is not available, and the sources."""
    source = torch.randn(3, 2, 3, 4, 5)
    latents = torch.full((3, 4, 2, 3, 4, 5), torch.nan)
    latents[AVAILABLE] = source
    return latents, source


def test_source_is_the_available_slot_and_other_slots_are_not_read() -> None:
    latents, source = batch()
    concat, start = MSSpadePrior(AddTarget())(latents, AVAILABLE, TARGET)
    expected = source + torch.tensor([30.0, 10, 20]).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(start, expected)
    torch.testing.assert_close(concat, torch.cat([source, expected], dim=1))


@pytest.mark.parametrize("names", [(), ("source",), ("target_like",), ("target_like", "source")])
def test_concat_follows_its_names(names: tuple[str, ...]) -> None:
    latents, source = batch()
    out = MSSpadePrior(AddTarget(), concat=names)(latents, AVAILABLE, TARGET)
    parts = {"source": source, "target_like": out.start}
    expected = torch.cat([source[:, :0], *(parts[name] for name in names)], dim=1)
    torch.testing.assert_close(out.concat, expected)
    assert out.concat.shape == (3, 2 * len(names), 3, 4, 5)


def test_without_generator_the_start_is_the_source() -> None:
    latents, source = batch()
    concat, start = MSSpadePrior(None, concat=("source",))(latents, AVAILABLE, TARGET)
    torch.testing.assert_close(start, source)
    torch.testing.assert_close(concat, source)


def test_target_may_be_the_source() -> None:
    latents, source = batch()
    own = AVAILABLE.int().argmax(dim=1)
    out = MSSpadePrior(AddTarget())(latents, AVAILABLE, own)
    torch.testing.assert_close(out.start, source + 10 * (1 + own.view(-1, 1, 1, 1, 1)))


def test_script_trace_and_export_agree_on_other_sources_and_targets() -> None:
    prior = MSSpadePrior(MSSpadeGenerator(2, 4, features=4, hidden=4)).eval()
    latents, _ = batch()
    seen = (torch.randn_like(latents), AVAILABLE.flip(1), torch.tensor([0, 0, 3]))
    with torch.no_grad():
        expected = prior(latents, AVAILABLE, TARGET)
        for other in (
            torch.jit.script(prior),
            torch.jit.trace(prior, seen),
            torch.export.export(prior, seen).module(),
        ):
            out = other(latents, AVAILABLE, TARGET)
            torch.testing.assert_close(tuple(out), tuple(expected))


@pytest.mark.parametrize(("row", "count"), [([0, 0, 0, 0], 0), ([1, 0, 1, 0], 2)])
def test_anything_but_one_source_is_refused(row: list[int], count: int) -> None:
    latents, _ = batch()
    available = AVAILABLE.clone()
    available[1] = torch.tensor(row, dtype=torch.bool)
    with pytest.raises(ValueError, match=rf"exactly one source, got \[1, {count}, 1\]"):
        MSSpadePrior(AddTarget())(latents, available, TARGET)


@pytest.mark.parametrize("available", [AVAILABLE.float(), AVAILABLE[:, :3], AVAILABLE[:1]])
def test_mask_that_does_not_fit_is_refused(available: Tensor) -> None:
    with pytest.raises(ValueError, match=r"available must be bool of shape \(3, 4\)"):
        MSSpadePrior(AddTarget())(batch()[0], available, TARGET)


@pytest.mark.parametrize("names", [("source", "source"), ("noise",)])
def test_unknown_or_repeated_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="at most once"):
        MSSpadePrior(AddTarget(), concat=names)


def test_target_like_needs_a_generator() -> None:
    with pytest.raises(ValueError, match="needs a generator"):
        MSSpadePrior(None)
