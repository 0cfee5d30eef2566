"""Swin layers: the reference's numbers, windows that do not divide the map, bounded memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from voxlate.networks import swin
from voxlate.networks.swin import SwinLayer, WindowAttention, from_windows, to_windows

NAMES = {
    "patch_embed.proj": "embed",
    "patch_unembed.proj": "unembed",
    "attn.relative_position_bias_table": "attention.bias_table",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}


def reference_layer(vector: np.lib.npyio.NpzFile, which: str) -> SwinLayer:
    layer = SwinLayer(
        2,
        32,
        embed_channels=64,
        window_size=4,
        head_channels=16,
        mlp_ratio=2.0,
        resshift_mask=True,
    )
    weights = {}
    for key in vector:
        name = key.removeprefix(f"w_{which}/")
        if name == key or name.endswith(("attn_mask", "relative_position_index")):
            continue
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        weights[name] = torch.from_numpy(vector[key])
    layer.load_state_dict(weights)
    return layer.eval()


@pytest.mark.parametrize(
    ("which", "case"), [("shift", "shift"), ("shift", "shift_big"), ("small", "small")]
)
def test_layer_is_the_reference_one(which: str, case: str, vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "resshift_swin_layer.npz")
    layer = reference_layer(vector, which)
    with torch.no_grad():
        found = layer(torch.from_numpy(vector[f"in/x_{case}"]))
    np.testing.assert_allclose(found, vector[f"out/x_{case}"], rtol=1e-4, atol=1e-5)


def attention(dims: int, window_size: int = 4) -> WindowAttention:
    torch.manual_seed(0)
    made = WindowAttention(dims, 8, 2, window_size).double().eval()
    torch.nn.init.normal_(made.bias_table)
    return made


def one_by_one(made: WindowAttention, x: Tensor, shift: int) -> Tensor:
    """Every voxel by the definition: softmax over those of its window, nothing rolled or padded."""
    size, side = x.shape[2:], made.window_size
    offsets = [shift if length > side else 0 for length in size]
    places = torch.cartesian_prod(*[torch.arange(length) for length in size])
    home = torch.stack(
        [(places[:, a] + (side - offsets[a]) % side) // side for a in range(len(size))], 1
    )
    together = (home[:, None] == home[None]).all(2)
    index = torch.zeros(len(places), len(places), dtype=torch.int64)
    for axis in range(len(size)):
        gap = (places[:, None, axis] - places[None, :, axis]).clamp(1 - side, side - 1)
        index = index * (2 * side - 1) + gap + side - 1
    scores_bias = made.bias_table[index].permute(2, 0, 1)
    q, k, v = made.qkv(x.flatten(2).transpose(1, 2)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(2, 3) / 2 + scores_bias
    mixed = scores.masked_fill(~together, -torch.inf).softmax(3) @ v
    return made.out(mixed.transpose(1, 2).flatten(2)).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 10), (1, 5), (8, 8, 4), (5, 6, 7), (2, 9, 4)])
@pytest.mark.parametrize("shift", [0, 2])
def test_windows_of_any_map_are_the_definition(size: tuple[int, ...], shift: int) -> None:
    made = attention(len(size))
    x = torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(made(x, shift), one_by_one(made, x, shift))


def test_attention_a_few_windows_at_a_time_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = attention(3)
    x = torch.randn(2, 8, 9, 6, 5, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        whole = made(x, 2)
        shapes = []

        def watch(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor) -> Tensor:
            shapes.append(attn_mask.shape)
            return F.softmax(q @ k.mT / q.shape[-1] ** 0.5 + attn_mask, -1) @ v

        monkeypatch.setattr(swin, "MOST_WEIGHTS", 2 * 2 * 64**2 * 3)  # three windows of the batch
        monkeypatch.setattr(F, "scaled_dot_product_attention", watch)
        parts = made(x, 2)
    torch.testing.assert_close(parts, whole)
    assert len(shapes) == 4 and max(shape[0] for shape in shapes) <= 6  # 12 windows, two samples


def test_windows_are_put_back_where_they_were() -> None:
    x = torch.arange(2 * 3 * 4 * 6 * 8).view(2, 3, 4, 6, 8)
    windows = to_windows(x, (2, 3, 4))
    assert windows.shape == (2, 8, 24, 3)
    assert windows[0, 1, :, 0].tolist() == x[0, 0, :2, :3, 4:].flatten().tolist()
    assert torch.equal(from_windows(windows, (2, 3, 4), x.shape), x)


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_reach_every_weight(dims: int) -> None:
    layer = SwinLayer(dims, 4, embed_channels=8, window_size=2, head_channels=4, norm_groups=2)
    layer(torch.randn(1, 4, *[3] * dims)).square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_mixed_precision_gives_about_the_same() -> None:
    torch.manual_seed(0)
    layer = SwinLayer(2, 8, window_size=4, head_channels=4, norm_groups=4).eval()
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        exact = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = layer(x)
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window_size": 0}, "at least 1, got 0"),
        ({"depth": 0}, "at least 1, got 8 and 0"),
        ({"head_channels": 3}, "no multiple of head_channels 3"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SwinLayer(2, 8, **{"head_channels": 4, **change})


def test_shifted_windows_do_not_look_across_the_border() -> None:
    """What the last column holds reaches the first only where the reference's mask forgets it."""
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    other = x.clone()
    other[..., -1] += 1
    made = attention(2)
    for forgets in (False, True):
        made.resshift_mask = forgets
        with torch.no_grad():
            moved = (made(other, 2) - made(x, 2)).abs().amax(dim=(0, 1))
        assert bool((moved[:, 0] > 0).any()) is forgets
        assert (moved[:, -1] > 0).all()


def test_mask_of_the_reference_is_refused_in_3d() -> None:
    with pytest.raises(ValueError, match="2 spatial axes, got 3"):
        SwinLayer(3, 8, head_channels=4, resshift_mask=True)
