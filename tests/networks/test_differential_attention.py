"""Differential attention: the reference's numbers, the printed equation, masks and memory."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from voxlate.networks.attention import TokenAttention, attend
from voxlate.networks.differential_attention import DifferentialAttention, lambda_of_depth

TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def unilm(vectors_dir: Path) -> dict[str, Tensor]:
    with np.load(vectors_dir / "diff_attention_unilm.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def reference(vectors: dict[str, Tensor], *, head_norm: bool) -> DifferentialAttention:
    init = lambda_of_depth(2)
    attention = DifferentialAttention(32, 32, 2, lambda_init=init, head_norm=head_norm)
    names = [f"w/lambda_{name}" for name in ("q1", "q2", "k1", "k2")]
    state = {"lambdas": torch.stack([vectors[name] for name in names])}
    for part in "qkv":
        state[f"{part}.weight"] = vectors[f"w/{part}_proj.weight"]
    state["out.weight"] = vectors["w/out_proj.weight"]
    if head_norm:
        state["norm.weight"] = vectors["w/subln.weight"]
    attention.load_state_dict(state)
    return attention


def test_answer_is_the_references(unilm: dict[str, Tensor]) -> None:
    attention = reference(unilm, head_norm=True)
    out = attention(unilm["in/x"], unilm["in/x"])
    torch.testing.assert_close(out, unilm["out/full_mask0"], **TOLERANCE)
    torch.testing.assert_close(attention.weight(), unilm["out/lambda_full"], **TOLERANCE)


def test_form_without_head_norm_is_the_references(unilm: dict[str, Tensor]) -> None:
    attention = reference(unilm, head_norm=False)
    out = attention(unilm["in/x"], unilm["in/x"])
    torch.testing.assert_close(out, unilm["out/no_norm"], **TOLERANCE)


def test_lambda_of_depth_is_the_references(unilm: dict[str, Tensor]) -> None:
    table = [lambda_of_depth(depth) for depth in range(12)]
    torch.testing.assert_close(torch.tensor(table), unilm["out/lambda_init_table"])


def textbook(
    attention: DifferentialAttention, tokens: Tensor, context: Tensor, keep: Tensor
) -> Tensor:
    """Eq. 6 for one sample, (n, c) and the kept of (m, c), with the maps written out."""
    context = context[keep]
    q, k = attention.q(tokens).chunk(2 * attention.heads, 1), attention.k(context)
    k, v = k.chunk(2 * attention.heads, 1), attention.v(context).chunk(attention.heads, 1)
    out = []
    for head in range(attention.heads):
        maps = [(q[i] @ k[i].T / q[i].shape[1] ** 0.5).softmax(1) for i in (2 * head, 2 * head + 1)]
        answer = (maps[0] - attention.weight() * maps[1]) @ v[head]
        if attention.norm is not None:
            answer = answer / (answer.square().mean(1, keepdim=True) + 1e-5).sqrt()
            answer = answer * attention.norm.weight * (1 - attention.lambda_init)
        out.append(answer)
    return attention.out(torch.cat(out, 1))


@pytest.mark.parametrize("head_norm", [True, False])
@pytest.mark.parametrize("shape", [{}, {"width": 6}, {"width": 12, "key_channels": 7}])
def test_cross_form_is_eq_6_over_the_real_tokens(shape: dict[str, int], head_norm: bool) -> None:
    torch.manual_seed(0)
    attention = DifferentialAttention(8, 5, 2, head_norm=head_norm, **shape).double()
    tokens, context = torch.randn(2, 7, 8).double(), torch.randn(2, 4, 5).double()
    mask = torch.tensor([[True, True, False, True], [False, True, False, False]])
    expected = [textbook(attention, *pair) for pair in zip(tokens, context, mask, strict=True)]
    torch.testing.assert_close(attention(tokens, context, mask), torch.stack(expected))


def test_single_token_leaves_the_value_times_one_minus_lambda() -> None:
    attention = DifferentialAttention(8, 5, 2, head_norm=False, project=False).double()
    tokens, context = torch.randn(1, 7, 8).double(), torch.randn(1, 1, 5).double()
    expected = (1 - attention.weight()) * attention.v(context).expand(1, 7, 8)
    torch.testing.assert_close(attention(tokens, context), expected)


@pytest.mark.parametrize("kind", [TokenAttention, DifferentialAttention])
def test_sample_without_tokens_gets_zeros_and_finite_gradients(kind: type) -> None:
    attention = kind(8, 5, 2, project=False)
    context = torch.randn(2, 3, 5, requires_grad=True)
    mask = torch.tensor([[True, True, True], [False, False, False]])
    out = attention(torch.randn(2, 7, 8), context, mask)
    assert out[0].any() and not out[1].any()
    out.sum().backward()
    assert context.grad is not None and context.grad.isfinite().all()


@pytest.mark.parametrize(("keys", "values"), [(2, 6), (6, 2)])
def test_queries_may_be_narrower_or_wider_than_values(keys: int, values: int) -> None:
    q, k = torch.randn(1, 5, 2 * keys).double(), torch.randn(1, 3, 2 * keys).double()
    v = torch.randn(1, 3, 2 * values).double()
    expected = [
        (a @ b.mT / keys**0.5).softmax(2) @ c
        for a, b, c in zip(q.chunk(2, 2), k.chunk(2, 2), v.chunk(2, 2), strict=True)
    ]
    torch.testing.assert_close(attend(q, k, v, 2), torch.cat(expected, 2))


def test_every_parameter_learns() -> None:
    attention = DifferentialAttention(8, 5, 2)
    attention(torch.randn(2, 7, 8), torch.randn(2, 4, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in attention.parameters())


def test_bfloat16_stays_close_to_float32() -> None:
    torch.manual_seed(0)
    attention, tokens = DifferentialAttention(64, 64, 2), torch.randn(2, 50, 64)
    expected = attention(tokens, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(tokens, tokens)
    assert (out - expected).norm() < 3e-2 * expected.norm()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", [TokenAttention, DifferentialAttention])
def test_script_equals_eager(kind: type) -> None:
    attention = kind(8, 5, 2)
    inputs = torch.randn(2, 7, 8), torch.randn(2, 4, 5), torch.rand(2, 4) > 0.3
    torch.testing.assert_close(torch.jit.script(attention)(*inputs), attention(*inputs))


@pytest.mark.slow
def test_ten_thousand_tokens_cost_under_100_megabytes() -> None:
    attention, tokens = DifferentialAttention(64, 64, 2), torch.randn(1, 10368, 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        attention(tokens, tokens)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert used < 100_000  # KiB; one float32 map alone takes 430 MB


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 7}, "width 7 does not divide into 2 heads"),
        ({"width": 6, "project": False}, "without a projection the width must be 8, got 6"),
    ],
)
@pytest.mark.parametrize("kind", [TokenAttention, DifferentialAttention])
def test_widths_that_do_not_fit_are_refused(
    kind: type, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(8, 5, 2, **options)
