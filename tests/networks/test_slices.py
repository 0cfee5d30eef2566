"""Slices cover what they cut, once, and large memory is like any other."""

import pytest
import torch

from voxlate.networks import slices as module
from voxlate.networks.slices import Scratch, large_empty, slices


@pytest.mark.parametrize("most", [1, 7, 64, 200, 480, 1000, 100000])
@pytest.mark.parametrize("shape", [(2, 3, 10, 4, 2), (5, 1, 4, 4), (1, 7, 6), (16, 1, 1)])
def test_slices_cover_everything_once(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], most: int
) -> None:
    monkeypatch.setattr(module, "SLICE", most)
    x = torch.zeros(shape)
    sizes = []
    for samples, some, rows in slices(*shape[:2], shape[2], x):
        x[samples, some, rows] += 1
        sizes.append(x[samples, some, rows].numel())
    assert torch.equal(x, torch.ones(shape))
    row = x[0, 0, 0].numel()
    assert max(sizes) <= max(most, row)
    if most >= x.numel():
        assert len(sizes) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_large_memory_is_contiguous_aligned_and_writable(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(module, "LARGE", 1)
    x = large_empty((3, 5, 7), torch.zeros(1, dtype=dtype))
    assert x.dtype is dtype and x.is_contiguous() and x.data_ptr() % module.LINE == 0
    x.fill_(2)
    assert float(x.double().sum()) == 210
    assert large_empty((0, 5), torch.zeros(1)).shape == (0, 5)


def test_scratch_is_used_again_and_grows() -> None:
    room = Scratch(torch.zeros(1))
    first, other = room(0, (4, 3)), room(1, (2,))
    assert room(0, (2, 2)).data_ptr() == first.data_ptr() != other.data_ptr()
    assert room(0, (5, 3)).shape == (5, 3)
