"""The composite network: scaling, prior-only translation, the contract of the weights."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from voxlate.networks.resshift import ResShiftScheduler
from voxlate.networks.translation import TranslationNetwork
from voxlate.networks.vqgan import VQGAN

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "v_prediction",
}


class Output(NamedTuple):
    concat: Tensor
    start: Tensor


class AddTarget(nn.Module):
    """A prior that adds the target's index to the source latent, where it can be read off."""

    def forward(self, latents: Tensor, available: Tensor, target: Tensor) -> Output:
        source = (latents * available[:, :, None, None, None, None]).sum(1)
        start = source + target.float().view(-1, 1, 1, 1, 1)
        return Output(source, start)


class Identity(nn.Module):
    """An autoencoder that changes nothing."""

    def encode_continuous(self, volume: Tensor) -> Tensor:
        return volume

    def decode(self, latent: Tensor) -> Tensor:
        return latent


def network(
    autoencoder: nn.Module | None = None,
    modalities: tuple[str, ...] = ("t1", "t2"),
    schedule: Mapping[str, Any] = SCHEDULE,
) -> TranslationNetwork:
    return TranslationNetwork(
        autoencoder or Identity(),
        AddTarget(),
        nn.Identity(),
        modalities=modalities,
        quantized=False,
        normalization={"percentiles": [0.5, 99.5]},
        schedule=schedule,
    )


def test_prior_and_decoder_see_latents_on_their_own_scales() -> None:
    net = network()
    net.scale_factor.fill_(4.0)
    image = torch.rand(2, 1, 4, 4, 4)
    torch.testing.assert_close(net.encode(image), 4 * image)
    torch.testing.assert_close(net.decode(net.encode(image)), image)
    torch.testing.assert_close(net(image), torch.cat([image, image + 0.25], dim=1))


def test_weights_of_another_modality_order_are_refused() -> None:
    weights = network(modalities=("t2", "t1")).state_dict()
    with pytest.raises(RuntimeError, match="modalities: weights"):
        network().load_state_dict(weights)


def with_schedule(**change: object) -> TranslationNetwork:
    return network(schedule={**SCHEDULE, **change})


def test_weights_taught_more_timesteps_serve_fewer() -> None:
    for taught, asked in ((None, None), (None, 400), (400, 400), (400, 150)):
        weights = with_schedule(start_timestep=taught).state_dict()
        net = with_schedule(start_timestep=asked)
        net.load_state_dict(weights)
        assert net.facts()["schedule"].get("start_timestep") == asked
    for taught, asked in ((400, None), (400, 401)):
        weights = with_schedule(start_timestep=taught).state_dict()
        with pytest.raises(RuntimeError, match="schedule: weights .*'start_timestep': 400"):
            with_schedule(start_timestep=asked).load_state_dict(weights)
    weights = with_schedule(beta_end=0.02).state_dict()
    with pytest.raises(RuntimeError, match="schedule: weights"):
        with_schedule(start_timestep=400).load_state_dict(weights)


def test_schedule_of_resshift_is_part_of_the_contract() -> None:
    facts = ResShiftScheduler().facts()
    net = network(schedule=facts)
    assert net.facts()["schedule"] == facts
    network(schedule=facts).load_state_dict(net.state_dict())
    for other in (SCHEDULE, {**facts, "kappa": 1.0}, ResShiftScheduler(15).facts()):
        with pytest.raises(RuntimeError, match="schedule: weights"):
            network(schedule=other).load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    "schedule",
    [{}, {**SCHEDULE, "kappa": 2.0}, {**ResShiftScheduler().facts(), "start_timestep": 2}],
)
def test_schedule_of_no_scheduler_is_refused(schedule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schedule must have exactly"):
        network(schedule=schedule)


def test_contract_survives_a_round_trip_and_scale_comes_with_the_weights() -> None:
    source, copy = network(), network()
    source.scale_factor.fill_(2.5)
    copy.load_state_dict(source.state_dict())
    assert copy.facts()["schedule"] == SCHEDULE
    assert float(copy.scale_factor) == 2.5


def test_repeated_modality_is_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        network(modalities=("t1", "t1"))


def test_script_trace_and_eager_agree() -> None:
    torch.manual_seed(0)
    net = network(
        VQGAN(channels=(8,), stem_levels=1, latent_channels=2, num_codes=16, norm_groups=4)
    ).eval()
    image = torch.rand(1, 1, 8, 8, 8)
    expected = net(image)
    torch.testing.assert_close(torch.jit.script(net)(image), expected)
    torch.testing.assert_close(torch.jit.trace(net, image, check_trace=False)(image), expected)


def test_a_case_is_encoded_by_what_is_given_alone() -> None:
    net = network()
    net.scale_factor.fill_(4.0)
    volumes = torch.rand(2, 2, 4, 4, 4)
    available = torch.tensor([[True, False], [True, True]])
    volumes[~available] = float("nan")
    case = net.encode_case(volumes, available)
    expected = 4 * torch.nan_to_num(volumes, 0.0).unsqueeze(2)
    torch.testing.assert_close(case.latents, expected)
    assert case.structure is None
    one = net.encode_case(volumes[:1], available[:1]).expand(3)
    start = net.ask_prior(one, torch.tensor([0, 1, 1])).start
    added = torch.tensor([0.0, 1, 1]).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(start, expected[0, 0] + added)


class Remember(AddTarget):
    """A prior that reads volumes: it adds their sum over what is given."""

    calls = 0

    def encode_case(self, volumes: Tensor, available: Tensor) -> Tensor:
        self.calls += 1
        return (volumes * available[:, :, None, None, None]).sum((1, 2, 3, 4))

    def forward(  # type: ignore[override]
        self, latents: Tensor, available: Tensor, target: Tensor, structure: Tensor
    ) -> Output:
        out = super().forward(latents, available, target)
        return Output(out.concat, out.start + structure.view(-1, 1, 1, 1, 1))


def test_a_prior_that_reads_volumes_reads_them_once_for_all_targets() -> None:
    net = network()
    net.prior = Remember()
    volumes = torch.rand(1, 2, 4, 4, 4)
    case = net.encode_case(volumes, torch.tensor([[True, True]]))
    found = net.ask_prior(case.expand(2), torch.tensor([0, 1])).start
    expected = volumes.sum(1, keepdim=True) + volumes.sum()
    torch.testing.assert_close(found, torch.cat([expected, expected + 1]))
    assert net.prior.calls == 1
    image = volumes[:, :1]
    torch.testing.assert_close(net(image), torch.cat([image, image + 1], dim=1) + image.sum())


def test_a_case_without_a_contrast_is_refused() -> None:
    with pytest.raises(ValueError, match="every sample needs a contrast"):
        network().encode_case(torch.rand(1, 2, 4, 4, 4), torch.tensor([[False, False]]))
