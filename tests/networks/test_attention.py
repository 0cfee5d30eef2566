"""Attention blocks: the reference's numbers, the textbook formula, and the one-token trap."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.attention import CrossAttention, SelfAttention

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def fill(module: nn.Module) -> nn.Module:
    """Give the layers that start at zero something to do."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def textbook(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, head by head, for (n, c) and (m, c)."""
    out = []
    for q_h, k_h, v_h in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        out.append(((q_h @ k_h.T) / q_h.shape[1] ** 0.5).softmax(dim=1) @ v_h)
    return torch.cat(out, dim=1)


def test_self_attention_is_the_references_after_reordering_its_rows(vectors_dir: Path) -> None:
    with np.load(vectors_dir / "aldm_unet_parts.npz") as arrays:
        w = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    attention = SelfAttention(32, head_channels=16)

    def reorder(rows: Tensor) -> Tensor:  # (head, qkv, channel) to (qkv, head, channel)
        return rows.unflatten(0, (2, 3, 16)).transpose(0, 1).flatten(0, 2)

    attention.norm.weight.data, attention.norm.bias.data = (
        w["w_attn/norm.weight"],
        w["w_attn/norm.bias"],
    )
    attention.qkv.weight.data = reorder(w["w_attn/qkv.weight"].squeeze(2))
    attention.qkv.bias.data = reorder(w["w_attn/qkv.bias"])
    attention.out.weight.data = w["w_attn/proj_out.weight"].squeeze(2)
    attention.out.bias.data = w["w_attn/proj_out.bias"]
    torch.testing.assert_close(attention(w["in/x"]), w["out/attn"], **TOLERANCE)


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 4)])
def test_self_attention_is_the_textbook_formula(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    attention = fill(SelfAttention(12, head_channels=4, norm_groups=3)).double()
    x = torch.randn(2, 12, *size, dtype=torch.float64)
    expected = []
    for sample in x:
        tokens = attention.norm(sample[None])[0].flatten(1).T
        q, k, v = (tokens @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, dim=1)
        mixed = textbook(q, k, v, heads=3) @ attention.out.weight.T + attention.out.bias
        expected.append(sample + mixed.T.reshape(sample.shape))
    torch.testing.assert_close(attention(x), torch.stack(expected))


def test_self_attention_follows_a_permutation_of_the_voxels() -> None:
    torch.manual_seed(0)
    attention = fill(SelfAttention(8, head_channels=4))
    x, order = torch.randn(2, 8, 3, 4, 5), torch.randperm(60)
    moved = x.flatten(2)[:, :, order].reshape(x.shape)
    expected = attention(x).flatten(2)[:, :, order].reshape(x.shape)
    torch.testing.assert_close(attention(moved), expected, **TOLERANCE)


def test_channels_last_in_channels_last_out_and_the_same_numbers() -> None:
    torch.manual_seed(0)
    attention = fill(SelfAttention(8, head_channels=4))
    x = torch.randn(2, 8, 3, 4, 5)
    out = attention(x.to(memory_format=torch.channels_last_3d))
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(out, attention(x), **TOLERANCE)


def test_both_start_without_effect() -> None:
    x, context = torch.randn(2, 8, 3, 4, 5), torch.randn(2, 1, 4)
    assert torch.equal(SelfAttention(8, head_channels=4)(x), x)
    assert torch.equal(CrossAttention(8, 4, head_channels=4)(x, context), x)


def test_cross_attention_to_one_hot_is_a_bias_for_each_class_and_nothing_else() -> None:
    torch.manual_seed(0)
    attention = fill(CrossAttention(8, 4, head_channels=4)).double()
    x = torch.randn(4, 8, 3, 4, 5, dtype=torch.float64)
    one_hot = torch.eye(4, dtype=torch.float64).unsqueeze(1)
    bias = attention.v.weight.T @ attention.out.weight.T + attention.out.bias  # (class, channel)
    expected = x + bias.view(4, 8, 1, 1, 1)
    torch.testing.assert_close(attention(x, one_hot), expected, rtol=1e-12, atol=1e-12)


def test_cross_attention_to_several_tokens_is_the_textbook_formula() -> None:
    torch.manual_seed(0)
    attention = fill(CrossAttention(8, 5, head_channels=4, norm_groups=2)).double()
    x, context = torch.randn(1, 8, 3, 4, dtype=torch.float64), torch.randn(1, 6, 5).double()
    q = attention.norm(x)[0].flatten(1).T @ attention.q.weight.T
    k, v = context[0] @ attention.k.weight.T, context[0] @ attention.v.weight.T
    mixed = textbook(q, k, v, heads=2) @ attention.out.weight.T + attention.out.bias
    torch.testing.assert_close(attention(x, context)[0], x[0] + mixed.T.reshape(8, 3, 4))


@pytest.mark.parametrize(
    "build",
    [
        lambda: SelfAttention(48, head_channels=32),
        lambda: CrossAttention(48, 4, head_channels=32),
    ],
)
def test_channels_that_make_no_whole_heads_are_refused(build: object) -> None:
    with pytest.raises(ValueError, match="48 is no multiple of head_channels 32"):
        build()  # type: ignore[operator]
