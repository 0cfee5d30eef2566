"""The perceptual loss: weights from disk only, slices by generator, MONAI's numbers."""

from pathlib import Path

import pytest
import torch
from monai.losses import PerceptualLoss as MonaiPerceptualLoss
from torch import Tensor

from voxlate.networks.perceptual import PerceptualLoss


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None)
    path = tmp_path_factory.mktemp("perceptual") / "resnet50.pth"
    torch.save(network.state_dict(), path)
    return path


def volumes(*size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    first, second = 2 * torch.rand(2, 1, 1, *size, generator=generator) - 1
    return first, second


def test_missing_weights_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        PerceptualLoss(tmp_path / "absent.pth")


@pytest.mark.parametrize("ratio", [0.0, 1.5])
def test_a_slice_ratio_out_of_range_is_refused(tmp_path: Path, ratio: float) -> None:
    with pytest.raises(ValueError, match="slice_ratio"):
        PerceptualLoss(tmp_path / "any", slice_ratio=ratio)


def test_dimensions_it_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="spatial_dims"):
        PerceptualLoss(tmp_path / "any", spatial_dims=1)


def test_weights_of_another_network_are_refused(weights: Path, tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no resnet50 state"):
        PerceptualLoss(tmp_path / "other.pth")


@pytest.mark.parametrize("size", [(16, 16), (2, 3, 4)])
def test_with_every_slice_it_is_monais_loss(weights: Path, size: tuple[int, ...]) -> None:
    first, second = volumes(*size)
    ours = PerceptualLoss(weights, spatial_dims=len(size), slice_ratio=1.0)
    theirs = MonaiPerceptualLoss(
        len(size), "resnet50", fake_3d_ratio=1.0, pretrained_path=str(weights)
    )
    expected = theirs((first + 1) / 2, (second + 1) / 2)
    torch.testing.assert_close(ours(first, second), expected, rtol=1e-4, atol=1e-6)
    assert ours(first, first) == 0


def test_slices_are_the_generators_choice_and_at_least_one(weights: Path) -> None:
    first, second = volumes(3, 4, 5)
    loss = PerceptualLoss(weights, slice_ratio=0.01)

    def chosen(seed: int) -> Tensor:
        return loss(first, second, generator=torch.Generator().manual_seed(seed))

    assert torch.isfinite(chosen(0)) and chosen(0) > 0
    assert torch.equal(chosen(0), chosen(0)) and not torch.equal(chosen(0), chosen(1))


def test_training_changes_the_prediction_not_the_feature_network(weights: Path) -> None:
    loss = PerceptualLoss(weights, slice_ratio=0.2).train()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    first, second = volumes(3, 4, 5)
    first.requires_grad_()
    loss(first, second).backward()
    assert first.grad is not None and first.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
