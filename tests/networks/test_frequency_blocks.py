"""Frequency balance and knowledge guidance: the printed equations, their zero start, any size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.band_attention import BandAttention, BandOptions, band_options
from voxlate.networks.frequency_balance import FrequencyBalance
from voxlate.networks.knowledge_guidance import KnowledgeGuidance
from voxlate.networks.wavelets import Wavelet

PRINTED = BandOptions(head_channels=None, key_channels=8, paper_exact=True)
LOW, HIGH, BOTH = ("low",), ("high",), ("low", "high")


@pytest.fixture(scope="module")
def equations(vectors_dir: Path) -> dict[str, Tensor]:
    with np.load(vectors_dir / "dfbk_equations.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]).double() for key in arrays.files}


def load(bands: BandAttention, w: dict[str, Tensor], low: str, high: str) -> None:
    """Fill the printed form; names of queries, keys and values of each band, comma-separated."""
    lambdas = [w[f"w/lambda_{name}"] for name in ("lq1", "lq2", "lk1", "lk2")]
    q1, q2, k1, k2, v = (w[f"w/{name}"].T for name in high.split(","))
    state = {f"low.{p}.weight": w[f"w/{n}"].T for p, n in zip("qkv", low.split(","), strict=True)}
    state |= {"high.q.weight": torch.cat([q1, q2]), "high.k.weight": torch.cat([k1, k2])}
    bands.load_state_dict({**state, "high.v.weight": v, "high.lambdas": torch.stack(lambdas)})


def test_balance_is_eq_5_to_8(equations: dict[str, Tensor]) -> None:
    block = FrequencyBalance(4, PRINTED, spatial_dims=2).double()
    load(block.bands, equations, "lq,lk,lv", "hq1,hq2,hk1,hk2,hv")
    out = block(equations["in/z"])
    torch.testing.assert_close(out, equations["out/z_s"], rtol=1e-6, atol=1e-7)
    high = block.bands.high
    torch.testing.assert_close(high.weight(), equations["out/lambda"], rtol=1e-6, atol=0)


def test_guidance_is_eq_9_to_11(equations: dict[str, Tensor]) -> None:
    block = KnowledgeGuidance(4, 6, PRINTED, spatial_dims=2).double()
    load(block.bands, equations, "kq,ck,cv1", "hq1,hq2,ck1,ck2,cv2")
    z, text = equations["in/z"], equations["in/c"]
    torch.testing.assert_close(block(z, text), equations["out/z_k"], rtol=1e-6, atol=1e-7)
    single = block(z, text[:, :1])
    expected = equations["out/z_k_single_token"]
    torch.testing.assert_close(single, expected, rtol=1e-6, atol=1e-7)
    mask = torch.arange(5).expand(2, 5) < 1
    torch.testing.assert_close(block(z, text, mask), expected, rtol=1e-6, atol=1e-7)


def blocks(channels: int, dims: int, **options: Any) -> list[tuple[nn.Module, tuple[Tensor, ...]]]:
    """Both blocks, and what they take beside the features."""
    torch.manual_seed(0)
    chosen = BandOptions(**{"head_channels": 4, **options})
    mask = torch.tensor([[True, True, False], [True, False, False]])
    text = torch.randn(2, 3, 5), mask
    return [
        (FrequencyBalance(channels, chosen, spatial_dims=dims), ()),
        (KnowledgeGuidance(channels, 5, chosen, spatial_dims=dims), text),
    ]


def fill(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (4, 6, 8), (5, 3, 7), (1, 1, 1)])
@pytest.mark.parametrize("options", [{}, {"differential": False}, {"wavelet": "db2"}])
def test_untrained_blocks_change_no_bit_and_every_parameter_can_learn(
    size: tuple[int, ...], options: dict[str, Any]
) -> None:
    x = torch.randn(2, 8, *size)
    for block, context in blocks(8, len(size), **options):
        assert torch.equal(block(x, *context), x)
        fill(block)
        out = block(x, *context)
        assert out.shape == x.shape and not torch.equal(out, x)
        out.square().sum().backward()
        if min(size) > 1:
            assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())
            idle = [name for name, p in block.named_parameters() if not p.grad.any()]
            assert not idle


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("bands", "kept"), [(LOW, "high"), (HIGH, "low")])
def test_a_band_left_out_stays_as_it_is(bands: tuple[str], kept: str, exact: bool) -> None:
    wavelet, x = Wavelet(), torch.randn(2, 8, 4, 6, 8)
    before = wavelet.split(x)
    for block, context in blocks(8, 3, bands=bands, paper_exact=exact):
        fill(block)
        after = wavelet.split(block(x, *context))
        same, changed = (after[:, :8], after[:, 8:])[:: 1 if kept == "low" else -1]
        same0, changed0 = (before[:, :8], before[:, 8:])[:: 1 if kept == "low" else -1]
        torch.testing.assert_close(same, same0, rtol=0, atol=1e-5)
        assert (changed - changed0).abs().max() > 1e-2


def test_both_bands_are_the_sum_of_what_each_does() -> None:
    x = torch.randn(2, 8, 4, 6, 8)
    for index in (0, 1):
        made = {}
        both, context = blocks(8, 3)[index]
        fill(both)
        for bands in (LOW, HIGH):
            block = blocks(8, 3, bands=bands)[index][0]
            block.load_state_dict(both.state_dict(), strict=False)
            made[bands] = block(x, *context) - x
        torch.testing.assert_close(both(x, *context) - x, made[LOW] + made[HIGH], rtol=0, atol=1e-5)


def test_ordinary_attention_has_no_lambda_and_no_second_map() -> None:
    for block, _ in blocks(8, 3, differential=False):
        names = dict(block.named_parameters())
        assert "bands.high.lambdas" not in names
        assert names["bands.high.q.weight"].shape == (8, 56)


def test_lambda_starts_at_the_constant_or_by_depth() -> None:
    constant = FrequencyBalance(8, BandOptions(head_channels=4), depth=3)
    by_depth = FrequencyBalance(8, BandOptions(head_channels=4, lambda_init=None), depth=3)
    assert constant.bands.high.lambda_init == 0.8
    assert by_depth.bands.high.lambda_init == pytest.approx(0.8 - 0.6 * np.exp(-0.9))


def test_sample_without_text_is_left_as_it_is() -> None:
    x, text = torch.randn(2, 8, 4, 4, 4), torch.randn(2, 3, 5)
    mask = torch.tensor([[True, True, True], [False, False, False]])
    for exact in (True, False):
        block, _ = blocks(8, 3, paper_exact=exact)[1]
        fill(block)
        out = block(x, text, mask)
        assert torch.equal(out[1], x[1]) and not torch.equal(out[0], x[0])


def test_padding_of_the_text_changes_nothing() -> None:
    block, (text, mask) = blocks(8, 3)[1]
    fill(block)
    x = torch.randn(2, 8, 4, 4, 4)
    longer = torch.cat([text, torch.full((2, 4, 5), 1e4)], dim=1)
    padded = torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(block(x, longer, padded), block(x, text, mask))


def test_balance_follows_a_move_by_whole_blocks() -> None:
    block, _ = blocks(8, 3)[0]
    fill(block)
    x = torch.randn(2, 8, 4, 6, 8)
    moved = block(x.roll((2, 4), (2, 4)))
    torch.testing.assert_close(moved, block(x).roll((2, 4), (2, 4)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bands": []}, "bands must name low, high or both"),
        ({"bands": ["middle"]}, "bands must name low, high or both, got"),
        ({"band": ["low"]}, "no option band; there are bands, differential"),
        ({"paper_exact": True, "width": 8}, "paper_exact has no width of its own"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        band_options(options)


def test_channels_that_make_no_whole_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="48 is no multiple of head_channels 32"):
        FrequencyBalance(48)
