"""Volumes for 2D denoisers: each slice with its own conditions, whatever is computed together."""

import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.denoiser import Denoiser
from voxlate.networks.pixel_space import IdentityAutoencoder, SliceDenoiser


class Sum(nn.Module):
    """What a sample was told, added up into every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(
        self,
        x_t: Tensor,
        timesteps: Tensor,
        concat: Tensor | None,
        modality: Tensor | None,
        text: Tensor | None,
        text_mask: Tensor | None,
    ) -> Tensor:
        self.seen.append(len(x_t))
        assert concat is not None and modality is not None
        assert text is not None and text_mask is not None
        told = timesteps + 10 * modality + (text.sum(2) * text_mask).sum(1)
        return x_t + concat.sum(1, keepdim=True) + told.view(-1, 1, 1, 1)


@pytest.mark.parametrize("training", [False, True])
def test_slices_get_the_conditions_of_their_sample(training: bool) -> None:
    torch.manual_seed(0)
    volumes, concat = torch.rand(2, 1, 4, 5, 3), torch.rand(2, 2, 4, 5, 3)
    text, mask = torch.rand(2, 6, 7), torch.rand(2, 6) > 0.3
    inner = Sum()
    sliced = SliceDenoiser(inner, at_once=4).train(training)
    made = sliced(volumes, torch.tensor([3, 5]), concat, torch.tensor([1, 2]), text, mask)
    assert inner.seen == ([6] if training else [4, 2])
    told = torch.tensor([13.0, 25.0]) + (text.sum(2) * mask).sum(1)
    expected = volumes + concat.sum(1, keepdim=True) + told.view(2, 1, 1, 1, 1)
    torch.testing.assert_close(made, expected)


def test_volume_is_its_slices_one_by_one() -> None:
    torch.manual_seed(0)
    inner = Denoiser(
        2,
        1,
        1,
        channels=(8, 8),
        attention_levels=(False, False),
        norm_groups=2,
        num_head_channels=4,
    ).eval()
    nn.init.normal_(inner.conv_out.weight)
    x_t, concat = torch.rand(2, 1, 7, 6, 3), torch.rand(2, 1, 7, 6, 3)
    timesteps, modality = torch.tensor([0, 3]), torch.tensor([1, 2])
    with torch.no_grad():
        made = SliceDenoiser(inner)(x_t, timesteps, concat, modality)
        for place in range(3):
            alone = inner(x_t[..., place], timesteps, concat[..., place], modality)
            torch.testing.assert_close(made[..., place], alone, atol=1e-5, rtol=1e-5)
        scripted = torch.jit.script(SliceDenoiser(inner))
        torch.testing.assert_close(scripted(x_t, timesteps, concat, modality), made)


def test_identity_changes_nothing() -> None:
    volume = torch.rand(2, 1, 3, 4, 5)
    identity = IdentityAutoencoder()
    assert identity.encode(volume).quantized is volume
    assert identity.decode(identity.encode_continuous(volume)) is volume
    assert float(identity.encode(volume).loss) == 0
    assert identity.downsampling == 1
