"""The regression of volumes: told its source, of any size, the same as a script."""

import pytest
import torch

from voxlate.networks.volume_regression import VolumeRegression


def regression(spatial_dims: int = 3) -> VolumeRegression:
    torch.manual_seed(0)
    widths = (8, 8, 8, 8, 8, 8)
    return VolumeRegression(4, spatial_dims=spatial_dims, widths=widths, norm_groups=2).eval()


def volume(*size: int) -> torch.Tensor:
    return torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("size", [(33, 40, 20), (30, 17)])
def test_other_sizes_are_padded_behind_with_background(size: tuple[int, ...]) -> None:
    net, source = regression(len(size)), torch.tensor([2])
    x = volume(*size)
    whole = torch.full((1, 1, *[length + -length % 16 for length in size]), -1.0)
    inside = (..., *[slice(length) for length in size])
    whole[inside] = x
    made = net(x, source)
    assert made.shape == (1, 4, *size)
    torch.testing.assert_close(made, net(whole, source)[inside])


def test_the_answer_depends_on_what_the_source_is_called() -> None:
    net, x = regression(), volume(32, 32, 32)
    answers = [net(x, torch.tensor([source])) for source in range(4)]
    assert all((answers[0] - other).abs().max() > 1e-3 for other in answers[1:])
    together = net(x.expand(4, -1, -1, -1, -1), torch.arange(4))
    torch.testing.assert_close(together, torch.cat(answers), rtol=1e-4, atol=1e-5)


def test_script_answers_as_the_module_and_a_new_one_has_no_share() -> None:
    net, x = regression(), volume(32, 16, 16)
    source = torch.tensor([1])
    torch.testing.assert_close(torch.jit.script(net)(x, source), net(x, source))
    assert net.share == 0
