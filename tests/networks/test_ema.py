"""The moving average: LitEma's numbers, exact resuming, weights swapped in and out."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.ema import ExponentialMovingAverage


class Weight(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(value.clone())
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


def move(module: nn.Module, value: Tensor) -> None:
    with torch.no_grad():
        module.weight.copy_(value)
        module.seen.add_(1)


def walk(module: nn.Module, average: ExponentialMovingAverage, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        move(module, torch.randn(module.weight.shape, generator=generator))
        average.update()


def test_averages_are_the_reference_ones(vectors_dir: Path) -> None:
    vector = np.load(vectors_dir / "lit_ema.npz")
    values = torch.from_numpy(vector["in/values"])
    module = Weight(values[0])
    average = ExponentialMovingAverage(module)
    for step, value in enumerate(values[1:]):
        move(module, value)
        average.update()
        assert average.decay_at(average.num_updates) == pytest.approx(vector["out/decay"][step])
        np.testing.assert_allclose(
            average.average["weight"], vector["out/shadow"][step][0], rtol=1e-6, atol=1e-6
        )


def test_decay_warms_up_to_its_value() -> None:
    average = ExponentialMovingAverage(Weight(torch.zeros(1)), 0.9)
    assert average.decay_at(1) == 2 / 11
    assert average.decay_at(79) < 0.9 == average.decay_at(81)


def test_buffers_are_copied_not_averaged() -> None:
    module = Weight(torch.zeros(3))
    average = ExponentialMovingAverage(module)
    walk(module, average, 4)
    assert average.buffers["seen"] == 4


def test_applied_puts_the_averages_in_and_takes_them_out() -> None:
    module = Weight(torch.zeros(3))
    average = ExponentialMovingAverage(module)
    walk(module, average, 4)
    current, parameter = module.weight.detach().clone(), module.weight
    module.seen.add_(5)  # after the last update
    with average.applied() as inside:
        assert inside is module and module.weight is parameter
        assert torch.equal(module.weight, average.average["weight"])
        assert module.seen == 4
    assert torch.equal(module.weight, current) and module.seen == 9


def test_weights_come_back_after_an_error() -> None:
    module = Weight(torch.zeros(3))
    average = ExponentialMovingAverage(module)
    walk(module, average, 4)
    current = module.weight.detach().clone()
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert torch.equal(module.weight, current)
    average.update()


def test_updating_or_nesting_while_applied_is_refused() -> None:
    average = ExponentialMovingAverage(Weight(torch.zeros(3)))
    with average.applied():
        with pytest.raises(RuntimeError, match="applied"):
            average.update()
        with pytest.raises(RuntimeError, match="applied"), average.applied():
            pass


def test_resuming_from_a_file_goes_on_exactly() -> None:
    straight = Weight(torch.ones(5))
    whole = ExponentialMovingAverage(straight, 0.99)
    walk(straight, whole, 6, seed=1)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)

    resumed = Weight(straight.weight.detach())
    resumed.seen.copy_(straight.seen)
    again = ExponentialMovingAverage(resumed)
    again.load_state_dict(torch.load(file, weights_only=True))
    for module, average in ((straight, whole), (resumed, again)):
        walk(module, average, 6, seed=2)
    assert again.decay == 0.99 and again.num_updates == whole.num_updates == 12
    assert torch.equal(again.average["weight"], whole.average["weight"])
    assert torch.equal(again.buffers["seen"], whole.buffers["seen"])


def test_a_saved_state_does_not_change_with_training() -> None:
    module = Weight(torch.zeros(3))
    average = ExponentialMovingAverage(module)
    state = average.state_dict()
    walk(module, average, 3)
    assert torch.equal(state["parameters"]["weight"], torch.zeros(3))


@pytest.mark.parametrize("other", [nn.Linear(3, 1, bias=False), Weight(torch.zeros(4))])
def test_a_state_of_another_network_is_refused(other: nn.Module) -> None:
    average = ExponentialMovingAverage(Weight(torch.zeros(3)))
    with pytest.raises(ValueError, match="another network"):
        average.load_state_dict(ExponentialMovingAverage(other).state_dict())


def test_averages_of_half_precision_weights_keep_small_changes() -> None:
    module = Weight(torch.ones(1)).to(torch.bfloat16)
    average = ExponentialMovingAverage(module)
    for _ in range(3000):  # in bfloat16 the average would stop moving
        move(module, torch.full([1], 2.0))
        average.update()
    assert average.average["weight"].dtype == torch.float32
    assert average.average["weight"] == pytest.approx(2, abs=1e-3)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        ExponentialMovingAverage(Weight(torch.zeros(1)), decay)
