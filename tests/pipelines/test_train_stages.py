"""The three stages on phantoms: they learn, they resume exactly, they touch only their part."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from voxlate.data_prep import Preprocessing, UsageError, WeightsError
from voxlate.data_prep.cases import find_cases
from voxlate.data_prep.phantom import write_phantom_case
from voxlate.networks import VQGAN, TranslationNetwork
from voxlate.networks.denoiser import Denoiser
from voxlate.networks.discriminator import patch_discriminator
from voxlate.networks.dpm_solver import DPMSolverScheduler
from voxlate.networks.ema import ExponentialMovingAverage
from voxlate.networks.latent_scheduler import LatentScheduler
from voxlate.networks.ms_spade import MSSpadeGenerator
from voxlate.networks.prior import MSSpadePrior
from voxlate.networks.resshift import ResShiftScheduler
from voxlate.networks.text_knowledge import TextKnowledge
from voxlate.networks.translation import encode_contract
from voxlate.pipelines.adversary import Adversary
from voxlate.pipelines.quality_gate import InBrainPSNR, StageEvaluator
from voxlate.pipelines.sample_pictures import ProgressLine, SamplePictures
from voxlate.pipelines.train_autoencoder import AutoencoderTrainer, Reconstruct
from voxlate.pipelines.train_denoiser import DenoiserTrainer, TranslateBySampling
from voxlate.pipelines.train_prior import PriorTrainer, TranslateByPrior, source_slots
from voxlate.pipelines.training import StageTrainer, scalars, step_generator
from voxlate.pipelines.training_data import (
    CropDataset,
    PairDataset,
    PreparedCase,
    ValidationPairs,
    ValidationVolumes,
    prepare_cases,
    training_loader,
)
from voxlate.pipelines.training_setup import load_network, start_from_linear_code, warmup_cosine
from voxlate.pipelines.training_state import Checkpointing

MODALITIES = ["t1", "t1ce", "t2", "flair"]
STAGES = ["autoencoder", "prior", "denoiser"]
RUNS = [*STAGES, "denoiser, shifting"]
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "prediction_type": "v_prediction",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[PreparedCase]:
    """Patient a has every contrast, b lacks t1ce."""
    folder = tmp_path_factory.mktemp("patients")
    for seed, (name, modalities) in enumerate(
        {"a": MODALITIES, "b": ["t1", "t2", "flair"]}.items()
    ):
        shape = (38, 46, 36)
        write_phantom_case(
            folder / "scans" / name, shape, seed=seed, spacing=4.0, modalities=modalities
        )
    preprocessing = Preprocessing(spacing=(4, 4, 4), size=(36, 44, 36), multiple_of=4)
    return prepare_cases(find_cases(folder / "scans", MODALITIES), preprocessing, folder / "cache")


def tiny_network(
    *, quantized: bool = False, schedule: dict[str, Any] = SCHEDULE, **autoencoder: Any
) -> TranslationNetwork:
    torch.manual_seed(0)
    options = {"channels": (8,), "stem_levels": 1, "latent_channels": 4, "num_codes": 32}
    return TranslationNetwork(
        VQGAN(3, norm_groups=4, **{**options, **autoencoder}),
        MSSpadePrior(MSSpadeGenerator(4, 4, features=4, hidden=4, residual=True)),
        Denoiser(
            3,
            4,
            8,
            channels=(8, 8),
            attention_levels=(False, False),
            norm_groups=4,
            dropout=0.1,
            num_head_channels=8,
        ),
        modalities=MODALITIES,
        quantized=quantized,
        normalization={"percentiles": [0.5, 99.5]},
        schedule=schedule,
    )


def make_trainer(
    stage: str,
    network: TranslationNetwork,
    cases: list[PreparedCase],
    *,
    steps: int,
    lr: float = 3e-3,
    handlers: tuple[Any, ...] = (),
    scheduler: LatentScheduler | None = None,
    batch_size: int = 2,
    **options: Any,
) -> StageTrainer:
    part = getattr(network, stage)
    kind = CropDataset if stage == "autoencoder" else PairDataset
    optimizer = torch.optim.AdamW(part.parameters(), lr=lr)
    data = kind(cases, MODALITIES, crop_size=16, multiple=2)
    common: dict[str, Any] = {
        "device": "cpu",
        "max_epochs": 1,
        "epoch_length": steps,
        "train_data_loader": training_loader(data, batch_size),
        "optimizer": optimizer,
        "lr_scheduler": warmup_cosine(optimizer, max_steps=1000, warmup_steps=3),
        "ema": ExponentialMovingAverage(part, decay=0.9),
        "precision": "float32",
        "train_handlers": handlers,
    }
    common.update(options)
    if stage == "autoencoder":
        return AutoencoderTrainer(network, **common)
    if stage == "prior":
        return PriorTrainer(network, **common)
    return DenoiserTrainer(network, scheduler=scheduler or DPMSolverScheduler(**SCHEDULE), **common)


class Losses:
    """Keep every step's scalars."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def attach(self, engine: StageTrainer) -> None:
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self.keep)

    def keep(self, engine: StageTrainer) -> None:
        self.seen.append({name: float(value) for name, value in engine.state.output.items()})

    def mean(self, name: str, part: slice) -> float:
        values = [step[name] for step in self.seen[part]]
        return sum(values) / len(values)


FALLS_TO = {"autoencoder": 0.6, "prior": 0.95, "denoiser": 0.9}
RATES = {"autoencoder": 1e-2, "prior": 1e-3, "denoiser": 1e-2}


@pytest.mark.parametrize("stage", STAGES)
def test_loss_falls_and_only_the_stage_s_part_learns(stage: str, cases: list[PreparedCase]) -> None:
    network, losses = tiny_network(), Losses()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trainer = make_trainer(stage, network, cases, steps=50, handlers=(losses,), lr=RATES[stage])
    trainer.run()
    name = "reconstruction" if stage == "autoencoder" else "loss"
    begin, end = losses.mean(name, slice(0, 6)), losses.mean(name, slice(-10, None))
    assert end < FALLS_TO[stage] * begin
    changed = {
        name.partition(".")[0]
        for name, value in network.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {stage}


def adversarial_options() -> dict[str, Any]:
    torch.manual_seed(1)
    judge = patch_discriminator(3, 1, channels=16, num_layers=1)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3)
    return {
        "adversary": Adversary(judge, optimizer, weight=0.1, start=1),
        "continuous_share": 0.5,
        "revive_every": 2,
    }


@pytest.mark.parametrize("run_of", RUNS)
@pytest.mark.parametrize("epoch_length", [5, 2])
def test_a_killed_run_goes_on_bit_for_bit(
    run_of: str, epoch_length: int, cases: list[PreparedCase], tmp_path: Path
) -> None:
    stage, _, shifting = run_of.partition(", ")
    scheduler = ResShiftScheduler() if shifting else DPMSolverScheduler(**SCHEDULE)

    def run(folder: Path, stop_at: int | None = None) -> dict[str, Tensor]:
        class Kill:
            def attach(self, engine: StageTrainer) -> None:
                from ignite.engine import Events

                @engine.on(Events.ITERATION_STARTED(once=stop_at))
                def die() -> None:
                    raise KeyboardInterrupt

        torch.manual_seed(99 if stop_at else 7)  # what the process drew before does not matter
        saving = Checkpointing(folder / "checkpoint.pt", folder / "model.pt", every=3)
        options = adversarial_options() if stage == "autoencoder" else {}
        trainer = make_trainer(
            stage,
            tiny_network(schedule=scheduler.facts()),
            cases,
            steps=epoch_length,
            scheduler=scheduler,
            handlers=(saving, Kill()) if stop_at else (saving,),
            max_epochs=5 if epoch_length == 2 else 2,
            **options,
        )
        torch.manual_seed(5)
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                trainer.run()
            return {}
        trainer.run()
        assert trainer.state.iteration == 10
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        judge = state["extra"].get("adversary", {}).get("discriminator", {})
        return {
            **{f"raw.{name}": value for name, value in state["network"].items()},
            **{f"judge.{name}": value for name, value in judge.items()},
            **torch.load(folder / "model.pt", weights_only=True),
        }

    straight = run(tmp_path / "straight")
    run(tmp_path / "killed", stop_at=9)
    resumed = run(tmp_path / "killed")
    assert straight.keys() == resumed.keys()
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


class Zero(nn.Module):
    """A denoiser that answers 0 and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x_t: Tensor, timesteps: Tensor, **condition: Any) -> Tensor:
        self.seen.append((x_t, timesteps))
        return self.answer.expand_as(x_t)


@pytest.mark.parametrize("weighted", [False, True])
def test_shifting_is_trained_on_scaled_states_with_the_weights_of_their_timesteps(
    weighted: bool, cases: list[PreparedCase]
) -> None:
    scheduler = ResShiftScheduler()
    network = tiny_network(schedule=scheduler.facts())
    network.denoiser = denoiser = Zero()
    trainer = make_trainer(
        "denoiser",
        network,
        cases,
        steps=1,
        scheduler=scheduler,
        loss_weights=scheduler.loss_weights if weighted else None,
    )
    data = PairDataset(cases, MODALITIES, crop_size=16, multiple=2)
    batch = next(iter(training_loader(data, 2)))
    loss = trainer.losses(batch, step_generator(0, 0))["loss"]
    x_t, timesteps = denoiser.seen[0]
    with torch.no_grad():
        clean = network.encode(batch["target"])
        start = network.encode(batch["source"])  # an untrained residual prior answers the source
    noise = torch.randn(clean.shape, generator=step_generator(0, 0))
    expected = scheduler.add_noise(clean, noise, timesteps, start=start)
    torch.testing.assert_close(x_t, scheduler.model_input(expected, timesteps))
    weights = scheduler.loss_weights(timesteps) if weighted else torch.ones(len(timesteps))
    errors = clean.square().flatten(1).mean(1)
    torch.testing.assert_close(loss.detach(), (weights * errors).mean().float())


def test_four_trained_steps_improve_on_the_prior(cases: list[PreparedCase]) -> None:
    """Whole volumes of the phantom, latents of unit variance, the source itself for a prior."""
    scheduler = ResShiftScheduler()
    network = tiny_network(schedule=scheduler.facts(), linear_skip=True, stem_levels=2)
    volumes = ValidationVolumes(cases, MODALITIES, multiple=4)
    start_from_linear_code(network, volumes, whitening=1.0)
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_head_channels": 8, "norm_groups": 4, "refine_concat": True}
    levels = {"channels": (8, 8), "attention_levels": (False, False)}
    network.denoiser = Denoiser(3, 4, 8, **levels, **options)
    pairs = PairDataset(cases, MODALITIES, multiple=4, crop_size=None)
    loader = training_loader(pairs, 1)
    options = {"steps": 100, "lr": 2e-3, "scheduler": scheduler, "train_data_loader": loader}
    make_trainer("denoiser", network, cases, **options).run()
    network.denoiser.eval()
    sampled = TranslateBySampling(scheduler, steps=4)
    errors = torch.zeros(2)
    data = ValidationPairs(cases[1:], MODALITIES, multiple=4, sources=["t1"])
    for batch in DataLoader(data, batch_size=1):
        with torch.no_grad():
            rows = sampled(batch, network)
            truth = network.decode(network.encode(batch["target"]))
        for place, name in enumerate(("target_like", "prediction")):
            errors[place] += float((rows[name] - truth).square().mean())
    assert errors[1] < 0.7 * errors[0]


def test_scheduler_of_another_contract_is_not_trained(cases: list[PreparedCase]) -> None:
    for schedule, scheduler in (
        (SCHEDULE, ResShiftScheduler()),
        (ResShiftScheduler().facts(), ResShiftScheduler(15)),
        (SCHEDULE, DPMSolverScheduler(**SCHEDULE, start_timestep=150)),
        ({**SCHEDULE, "start_timestep": 400}, DPMSolverScheduler(**SCHEDULE, start_timestep=150)),
    ):
        with pytest.raises(ValueError, match="the network's"):
            make_trainer(
                "denoiser", tiny_network(schedule=schedule), cases, steps=1, scheduler=scheduler
            )


def test_more_validation_steps_than_timesteps_are_refused() -> None:
    with pytest.raises(UsageError, match="5 denoising steps.*give 1 to 4"):
        TranslateBySampling(ResShiftScheduler(), steps=5)


def test_a_finished_run_does_nothing_and_another_stage_is_refused(
    cases: list[PreparedCase], tmp_path: Path
) -> None:
    saving = Checkpointing(tmp_path / "checkpoint.pt", tmp_path / "model.pt")
    make_trainer("prior", tiny_network(), cases, steps=2, handlers=(saving,)).run()
    before = (tmp_path / "checkpoint.pt").read_bytes()
    losses = Losses()
    again = Checkpointing(tmp_path / "checkpoint.pt", tmp_path / "model.pt")
    make_trainer("prior", tiny_network(), cases, steps=2, handlers=(again, losses)).run()
    assert not losses.seen and (tmp_path / "checkpoint.pt").read_bytes() == before
    with pytest.raises(WeightsError, match="stage 'prior'.*'denoiser'"):
        make_trainer("denoiser", tiny_network(), cases, steps=2, handlers=(again,)).run()
    afresh = Checkpointing(tmp_path / "checkpoint.pt", tmp_path / "model.pt", resume="false")
    make_trainer("denoiser", tiny_network(), cases, steps=2, handlers=(afresh, losses)).run()
    assert len(losses.seen) == 2


def test_saved_weights_are_the_averaged_ones(cases: list[PreparedCase], tmp_path: Path) -> None:
    network = tiny_network()
    saving = Checkpointing(tmp_path / "checkpoint.pt", tmp_path / "model.pt")
    trainer = make_trainer("prior", network, cases, steps=4, handlers=(saving,))
    trainer.run()
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    name = "generator.blocks.0.conv1.weight"
    assert trainer.ema is not None
    torch.testing.assert_close(saved[f"prior.{name}"], trainer.ema.average[name], rtol=0, atol=0)
    assert not torch.equal(saved[f"prior.{name}"], network.prior.state_dict()[name])


@pytest.mark.parametrize(
    "precision, expected", [("bfloat16", torch.bfloat16), ("float32", torch.float32)]
)
def test_autocast_really_happens_on_the_cpu(
    precision: str, expected: torch.dtype, cases: list[PreparedCase]
) -> None:
    network = tiny_network()
    seen = set()
    network.denoiser.conv_in.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    make_trainer("denoiser", network, cases, steps=2, precision=precision).run()
    assert seen == {expected}
    assert all(parameter.dtype is torch.float32 for parameter in network.parameters())


def test_float16_scales_the_loss(cases: list[PreparedCase]) -> None:
    losses = Losses()
    trainer = make_trainer(
        "prior", tiny_network(), cases, steps=2, precision="float16", handlers=(losses,)
    )
    assert trainer.grad_scaler.is_enabled()
    trainer.run()
    assert all(torch.isfinite(torch.tensor(step["loss"])) for step in losses.seen)
    with pytest.raises(UsageError, match="float8"):
        make_trainer("prior", tiny_network(), cases, steps=1, precision="float8")


def test_gradients_are_clipped(cases: list[PreparedCase]) -> None:
    network = tiny_network()
    part = network.prior
    before = [value.detach().clone() for value in part.parameters()]
    optimizer = torch.optim.SGD(part.parameters(), lr=1.0)
    make_trainer(
        "prior", network, cases, steps=1, optimizer=optimizer, lr_scheduler=None, clip_norm=1e-3
    ).run()
    moved = [new.detach() - old for new, old in zip(part.parameters(), before, strict=True)]
    assert float(torch.cat([m.flatten() for m in moved]).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_codebook_begins_at_the_data_and_the_average_with_it(cases: list[PreparedCase]) -> None:
    network = tiny_network(quantized=True)
    trainer = make_trainer("autoencoder", network, cases, steps=1, lr=0.0)
    trainer.run()
    codes = network.autoencoder.quantizer.codebook.detach()
    assert codes.std(0).min() > 1 / 32  # the codebook was within +-1/32
    assert trainer.ema is not None
    torch.testing.assert_close(trainer.ema.average["quantizer.codebook"], codes)


def test_an_unused_quantizer_is_left_out(cases: list[PreparedCase]) -> None:
    network, losses = tiny_network(), Losses()
    codes = network.autoencoder.quantizer.codebook.detach().clone()
    options = {"continuous_share": 1.0, "quantizer_weight": 0.0, "handlers": (losses,)}
    make_trainer("autoencoder", network, cases, steps=2, **options).run()
    assert "quantizer" not in losses.seen[0]
    torch.testing.assert_close(network.autoencoder.quantizer.codebook, codes, rtol=0, atol=0)


def test_the_adversary_begins_after_its_warm_up(cases: list[PreparedCase]) -> None:
    losses = Losses()
    options = adversarial_options()
    options["adversary"].start = 2
    judge = options["adversary"].discriminator
    before = [value.detach().clone() for value in judge.parameters()]
    network = tiny_network()
    make_trainer("autoencoder", network, cases, steps=4, handlers=(losses,), **options).run()
    assert ["adversarial" in step for step in losses.seen] == [False, False, True, True]
    assert 0 < losses.seen[2]["adaptive_weight"] < 1e3
    assert any(
        not torch.equal(new, old) for new, old in zip(judge.parameters(), before, strict=True)
    )
    with pytest.raises(ValueError, match="reconstruction must be one of"):
        make_trainer("autoencoder", tiny_network(), cases, steps=1, reconstruction="l3")


def test_the_cycle_trains_the_prior_too(cases: list[PreparedCase]) -> None:
    network, losses = tiny_network(), Losses()
    parts = nn.ModuleList([network.autoencoder, network.prior])
    before = {name: value.clone() for name, value in network.prior.state_dict().items()}
    make_trainer(
        "autoencoder",
        network,
        cases,
        steps=3,
        cycle_weight=1.0,
        optimizer=torch.optim.AdamW(parts.parameters(), lr=1e-2),
        lr_scheduler=None,
        handlers=(losses,),
    ).run()
    assert losses.seen[0]["cycle"] > 0
    after = network.prior.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_perfect_prior_has_no_loss_in_latents_or_volumes(cases: list[PreparedCase]) -> None:
    network, losses = tiny_network(), Losses()  # a residual generator begins as the identity
    data = PairDataset(cases, MODALITIES, crop_size=16, identity_share=1.0)
    make_trainer(
        "prior",
        network,
        cases,
        steps=1,
        train_data_loader=training_loader(data, 2),
        image_weight=1.0,
        handlers=(losses,),
    ).run()
    assert losses.seen[0]["latent_l1"] < 1e-6
    assert losses.seen[0]["image_l1"] > 0.01  # what the untrained autoencoder loses


def test_source_slots_hold_the_source_alone() -> None:
    latent = torch.randn(2, 3, 4, 5, 6)
    available = torch.tensor([[False, True], [True, False]])
    slots = source_slots(latent, available)
    assert slots.shape == (2, 2, 3, 4, 5, 6)
    torch.testing.assert_close(slots[0, 1], latent[0])
    torch.testing.assert_close(slots[1, 0], latent[1])
    assert not slots[0, 0].any() and not slots[1, 1].any()


def test_learning_rate_warms_up_then_falls_to_its_end() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, max_steps=14, warmup_steps=4, final=0.1)
    rates = []
    for _ in range(16):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[9] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert rates[14:] == pytest.approx([0.2, 0.2])


def test_learning_rate_of_dfbk_is_a_warm_up_and_a_cosine_to_two_fifths() -> None:
    """Its supplement A.2 with ResShift's warm-up: 5000 steps to 5e-5, then to 2e-5 at 100000."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=5e-5, weight_decay=0.0)
    schedule = warmup_cosine(optimizer, max_steps=100_000, warmup_steps=5000, final=0.4)
    rates = [5e-5 * schedule.lr_lambdas[0](step) for step in (2500, 5000, 52_500, 100_000)]
    assert rates == pytest.approx([2.5e-5, 5e-5, 3.5e-5, 2e-5], rel=1e-3)


def test_each_step_and_rank_draws_its_own() -> None:
    draws = {
        float(torch.rand((), generator=step_generator(*key)))
        for key in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1))
    }
    assert len(draws) == 4
    assert torch.rand((), generator=step_generator(0, 0)) in torch.tensor(sorted(draws))


def test_a_stage_loads_what_came_before_and_starts_its_own_part_afresh(tmp_path: Path) -> None:
    trained = tiny_network()
    nn.init.normal_(trained.autoencoder.encoder.conv_in.weight)
    torch.save(trained.state_dict(), tmp_path / "model.pt")
    other = TranslationNetwork(
        tiny_network().autoencoder,
        tiny_network().prior,
        Denoiser(3, 4, 8, channels=(16,), attention_levels=(False,), num_head_channels=8),
        modalities=MODALITIES,
        quantized=False,
        normalization={"percentiles": [0.5, 99.5]},
        schedule={**SCHEDULE, "prediction_type": "epsilon"},
    )
    load_network(other, tmp_path / "model.pt", fresh=["denoiser"])
    torch.testing.assert_close(
        other.autoencoder.encoder.conv_in.weight, trained.autoencoder.encoder.conv_in.weight
    )
    assert other.facts()["schedule"]["prediction_type"] == "epsilon"
    reading = tiny_network()
    reading.text = TextKnowledge(torch.zeros(4, 2, 6), torch.ones(4, 2, dtype=torch.bool), "key")
    reading.contract = encode_contract({**reading.facts(), "text": "key"})
    load_network(reading, tmp_path / "model.pt", fresh=["denoiser"])
    assert reading.facts()["text"] == "key", "only the denoiser reads text"
    with pytest.raises(WeightsError, match="does not fit"):
        load_network(other, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="quantized"):
        load_network(tiny_network(quantized=True), tmp_path / "model.pt", fresh=["denoiser"])
    load_network(tiny_network(quantized=True), tmp_path / "model.pt", fresh=["denoiser", "prior"])


def test_a_linear_skip_begins_at_the_data(cases: list[PreparedCase]) -> None:
    network = tiny_network(linear_skip=True)
    data = ValidationVolumes(cases, MODALITIES, multiple=2)
    volume = data[0]["image"][None]
    with torch.no_grad():
        before = float((network.decode(network.encode(volume)) - volume).square().mean())
        start_from_linear_code(network, data)
        after = float((network.decode(network.encode(volume)) - volume).square().mean())
    assert after < 0.1 * before
    plain = tiny_network()
    kept = {name: value.clone() for name, value in plain.state_dict().items()}
    start_from_linear_code(plain, data)
    assert all(torch.equal(value, kept[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("stage", STAGES)
def test_validation_progress_and_pictures(
    stage: str, cases: list[PreparedCase], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from monai.handlers import ValidationHandler

    network = tiny_network()
    ema = ExponentialMovingAverage(getattr(network, stage), decay=0.9)
    inferers = {
        "autoencoder": Reconstruct(),
        "prior": TranslateByPrior(),
        "denoiser": TranslateBySampling(DPMSolverScheduler(**SCHEDULE), steps=2),
    }
    kind = ValidationVolumes if stage == "autoencoder" else ValidationPairs
    data = kind(cases[1:], MODALITIES, multiple=2)
    evaluator = StageEvaluator(
        network,
        device="cpu",
        val_data_loader=DataLoader(data, batch_size=1),
        inferer=inferers[stage],
        ema=ema,
        precision="float32",
        key_val_metric={"psnr": InBrainPSNR(MODALITIES)},
    )
    handlers = (
        ProgressLine(1),
        ValidationHandler(validator=evaluator, interval=1),
        SamplePictures(evaluator, data, tmp_path, samples=[0]),
    )
    with caplog.at_level("INFO", logger="voxlate"):
        make_trainer(stage, network, cases, steps=2, ema=ema, handlers=handlers).run()
    assert f"{stage} step 2/2: loss" in caplog.text and "ETA 0:00:00" in caplog.text
    assert {"psnr", "psnr_t1", "psnr_t2", "psnr_flair"} == set(evaluator.state.metrics)
    assert 3 < evaluator.state.metrics["psnr"] < 60
    assert (tmp_path / f"{stage}_000002_0.png").stat().st_size > 1000
    assert getattr(network, stage).training


RANKS = """
import importlib.util, json, torch
import torch.distributed as dist
from pathlib import Path

def load(name, file):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

load("bare_checkout", {root!r} + "/conftest.py")
from voxlate.pipelines.training_setup import prepare_process
prepare_process(0, threads=1)
from voxlate.pipelines.training_data import PreparedCase
stages = load("stages", {file!r})
cases = [
    PreparedCase(name, {{k: Path(v) for k, v in files.items()}}, Path(mask))
    for name, files, mask in json.loads({cases!r})
]
for stage in stages.STAGES:
    options = stages.adversarial_options() if stage == "autoencoder" else {{}}
    network = stages.tiny_network()
    stages.make_trainer(stage, network, cases, steps=2, **options).run()
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    both = [torch.empty_like(weights) for _ in range(2)]
    dist.all_gather(both, weights)
    assert torch.equal(*both), stage
    print("equal", stage, dist.get_rank())
    network = stages.tiny_network()
    stages.make_trainer(stage, network, cases, steps=3, **stages.steepest(stage, network)).run()
    if dist.get_rank() == 0:
        torch.save(network.state_dict(), {folder!r} + "/" + stage + ".pt")
dist.destroy_process_group()
"""


def steepest(stage: str, network: TranslationNetwork) -> dict[str, Any]:
    """Options of a plain descent: Adam would make steps of what is rounding alone."""
    optimizer = torch.optim.SGD(getattr(network, stage).parameters(), lr=0.1)
    return {"optimizer": optimizer, "lr_scheduler": None, "clip_norm": None}


def be_both_ranks(trainer: StageTrainer) -> None:
    """Let one process with twice the batch do what two ranks do, half by half, with their draws."""
    losses = trainer.losses

    def of_both(batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        found = []
        for rank in range(2):
            half = {key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()}
            own = step_generator(trainer.seed, trainer.state.iteration - 1, rank)
            torch.manual_seed(own.initial_seed())
            if rank == 1 and isinstance(trainer, AutoencoderTrainer):
                trainer.tend_codebook = lambda *_: None  # it gets the codebook of rank 0
            found.append(losses(half, own))
        if isinstance(trainer, AutoencoderTrainer):
            del trainer.tend_codebook
        return {name: (value + found[1][name]) / 2 for name, value in found[0].items()}

    trainer.losses = of_both


@pytest.mark.slow
def test_two_ranks_stay_equal_and_equal_one(cases: list[PreparedCase], tmp_path: Path) -> None:
    told = [
        (case.case_id, {k: str(v) for k, v in case.volumes.items()}, str(case.mask))
        for case in cases
    ]
    root = Path(__file__).parents[2]
    script = tmp_path / "ranks.py"
    script.write_text(
        RANKS.format(root=str(root), file=__file__, cases=json.dumps(told), folder=str(tmp_path)),
        encoding="utf-8",
    )
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=1800,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("equal") == 6
    for stage in STAGES:
        network = tiny_network()
        start = {name: value.clone() for name, value in network.state_dict().items()}
        options = steepest(stage, network)
        trainer = make_trainer(stage, network, cases, steps=3, batch_size=4, **options)
        be_both_ranks(trainer)
        trainer.run()
        two = torch.load(tmp_path / f"{stage}.pt", weights_only=True)
        moved = 0.0
        for name, one in network.state_dict().items():
            torch.testing.assert_close(two[name], one, rtol=0, atol=1e-6, msg=f"{stage} {name}")
            moved = max(moved, float((one.double() - start[name].double()).abs().max()))
        assert moved > 1e-3, stage


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_monai_s_own_handlers_work_on_a_stage(
    cases: list[PreparedCase], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from monai.handlers import CheckpointSaver, LrScheduleHandler, StatsHandler

    network = tiny_network()
    optimizer = torch.optim.SGD(network.prior.parameters(), lr=1.0)
    halving = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    handlers = (
        StatsHandler(name="stage", output_transform=scalars),
        LrScheduleHandler(halving, epoch_level=False, print_lr=False),
        CheckpointSaver(str(tmp_path), {"network": network}, save_final=True),
    )
    options = {"optimizer": optimizer, "lr_scheduler": None, "handlers": handlers}
    make_trainer("prior", network, cases, steps=3, channels_last=True, **options).run()
    assert "latent_l1: 0." in capsys.readouterr().out
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.125)
    saved = torch.load(tmp_path / "network_final_iteration=3.pt", weights_only=True)
    assert saved.keys() == network.state_dict().keys()
    weight = network.denoiser.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
