"""What a case has to every wanted contrast: one encode, then the targets are one batch."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voxlate.data_prep import UsageError, parse_modality
from voxlate.networks import TranslationNetwork
from voxlate.networks.latent_scheduler import LatentScheduler
from voxlate.networks.prior import EncodedCase

from .crops import BACKGROUND, MARGIN
from .sampler import sample
from .seeds import case_generator, draw_noise

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


class OneToMany:
    """Encode what is given once, ask the prior for every target, denoise together, decode each.

    The networks see the whole head and a margin around it, as in training (their norms average over
    what they see, so a wider empty border would shift intensities), padded with background to the
    autoencoder's multiple and the network's ``least_size``, if it has one. A network with
    ``shifts`` sees the head once for each, moved by so many voxels against the autoencoder's
    blocks, and the answers are averaged (cycle spinning: Coifman and Donoho 1995): no block's
    border shows in all of them. What lies outside is background in the answer: no voxel is dropped.
    Decoding goes one target at a time, since that is where memory peaks. A GPU without memory for
    all targets at once denoises fewer at a time; the noise belongs to (seed, case, target), so
    nothing else changes. Of a network with a ``regression``, that has its share of every answer.

    Args:
        network: Autoencoder, prior and denoiser with their weights, in eval mode.
        scheduler: Walks the denoiser's timesteps; its schedule is the network's.
        steps: Denoising steps; with 0 the prior's own answer is decoded.

    Raises:
        UsageError: The scheduler has not so many timesteps.
        ValueError: It is not for the schedule that the network was trained with.
    """

    def __init__(
        self, network: TranslationNetwork, scheduler: LatentScheduler, *, steps: int
    ) -> None:
        check_steps(scheduler, steps)
        scheduler.refuse_other(network.facts()["schedule"])
        self.network, self.scheduler, self.steps = network, scheduler, steps

    def __call__(
        self,
        volume: Float[Tensor, "1 n *size"],
        *,
        source: str | Sequence[str],
        targets: Sequence[str],
        seed: int = 0,
        case_id: str = "",
        progress: Progress | None = None,
    ) -> Float[Tensor, "t 1 *size"]:
        """Translate once; the arguments are those of ``samples``, with one seed.

        Returns:
            Intensity in [-1, 1], targets in the order asked for.
        """
        return self.samples(
            volume,
            source=source,
            targets=targets,
            seeds=(seed,),
            case_id=case_id,
            progress=progress,
        )[0]

    def samples(
        self,
        volume: Float[Tensor, "1 n *size"],
        *,
        source: str | Sequence[str],
        targets: Sequence[str],
        seeds: Sequence[int],
        case_id: str = "",
        progress: Progress | None = None,
    ) -> Float[Tensor, "k t 1 *size"]:
        """Translate with each of several seeds; what is given is encoded once for all of them.

        Args:
            volume: Intensity in [-1, 1], background -1, on the network's device; one channel for
                each given contrast, all on one grid.
            source: The channels' modalities, by the network's names; one name for one channel.
            targets: Wanted modalities, likewise; ``resolve_targets`` checks both.
            seeds: One for each sample.
            case_id: The case, which with seed and target decides the noise.
            progress: Called with (stage, done, in all).

        Returns:
            Intensity in [-1, 1]: sample by sample, targets in the order asked for.
        """
        report = progress or _silent
        sources = [source] if isinstance(source, str) else list(source)
        if len(sources) != volume.shape[1]:
            raise ValueError(f"{len(sources)} sources for {volume.shape[1]} channels")
        head = (slice(None), slice(None), *head_box(volume))
        shown = volume[head]
        dims = shown.dim() - 2
        shifts = getattr(self.network, "shifts", None) or [[0] * dims]
        draws = [(seed, target) for seed in seeds for target in targets]
        total = shown.new_zeros((len(draws), 1, *shown.shape[2:]))
        for turn, shift in enumerate(shifts):

            def turn_done(stage: str, done: int, steps: int, before: int = turn) -> None:
                report(stage, before * steps + done, len(shifts) * steps)

            pads = [amount for length in reversed(shift) for amount in (length, 0)]
            moved = F.pad(shown, pads, value=BACKGROUND)
            answers = self._pass(moved, sources, targets, draws, case_id, turn_done)
            for row, made in enumerate(answers):
                for axis, start in enumerate(shift, start=2):
                    made = made.narrow(axis, start, shown.shape[axis])
                total[row] += made[0] / len(shifts)
        total = total.unflatten(0, (len(seeds), len(targets)))
        total = self._share_regression(total, shown, sources, targets, report)
        whole = total.new_full((*total.shape[:3], *volume.shape[2:]), BACKGROUND)
        whole[(slice(None), *head)] = total
        return whole

    def _share_regression(
        self,
        made: Tensor,
        shown: Tensor,
        sources: Sequence[str],
        targets: Sequence[str],
        report: Progress,
    ) -> Tensor:
        """Give the network's regression, if it has one, its share of (k, t, 1, *size)."""
        regression = self.network.regression
        if regression is None or not regression.share:
            return made
        report("regress", 0, 1)
        known = list(self.network.modalities)
        source = torch.tensor([known.index(name) for name in sources], device=shown.device)
        answer = regression(shown, source)[0].float().clamp(-1, 1)
        wanted = answer[[known.index(name) for name in targets]].unsqueeze(1)
        report("regress", 1, 1)
        return torch.lerp(made, wanted, regression.share)

    def _pass(
        self,
        shown: Tensor,
        sources: Sequence[str],
        targets: Sequence[str],
        draws: Sequence[tuple[int, str]],
        case_id: str,
        report: Progress,
    ) -> Iterator[Tensor]:
        """Translate (1, n, *size) once: (1, 1, at least *size) for each (seed, target)."""
        known = list(self.network.modalities)
        report("encode", 0, 1)
        autoencoder: Any = self.network.autoencoder
        shown = pad_to_multiple(shown, autoencoder.downsampling, least=self.network.least_size)
        volumes = shown.new_full((1, len(known), *shown.shape[2:]), BACKGROUND)
        volumes[:, [known.index(name) for name in sources]] = shown
        available = torch.tensor([[name in sources for name in known]], device=shown.device)
        case = self.network.encode_case(volumes, available)
        report("encode", 1, 1)
        at_once = len(targets)
        while True:
            try:
                answers = self._answers(case, draws, case_id, at_once, report)
                break
            except torch.cuda.OutOfMemoryError:
                if at_once == 1:
                    raise
            at_once = (at_once + 1) // 2
            torch.cuda.empty_cache()
            logger.warning("GPU memory is short: %d target(s) at a time", at_once)
        for done, answer in enumerate(answers):
            report("decode", done, len(answers))
            yield self.network.decode(answer[None]).float().clamp(-1, 1)
        report("decode", len(answers), len(answers))

    def _answers(
        self,
        case: EncodedCase,
        draws: Sequence[tuple[int, str]],
        case_id: str,
        at_once: int,
        report: Progress,
    ) -> Tensor:
        """Scaled latents of (seed, target), each (c, *size), ``at_once`` a batch."""
        groups = [draws[first : first + at_once] for first in range(0, len(draws), at_once)]
        answers = []
        for index, group in enumerate(groups):
            generators = [case_generator(seed, case_id, target) for seed, target in group]

            def step_done(done: int, total: int, before: int = index) -> None:
                report("denoise", before * total + done, len(groups) * total)

            targets = [target for _, target in group]
            answers.append(self._answer(case, targets, generators, step_done))
        return torch.cat(answers)

    def _answer(
        self,
        case: EncodedCase,
        targets: Sequence[str],
        generators: Sequence[torch.Generator],
        step_done: Callable[[int, int], None],
    ) -> Tensor:
        known, device = list(self.network.modalities), case.latents.device
        target = torch.tensor([known.index(name) for name in targets], device=device)
        concat, start = self.network.ask_prior(case.expand(len(targets)), target)
        if self.steps == 0:
            return start
        self.scheduler.set_timesteps(self.steps, device=device)
        return sample(
            self.network.denoiser,
            self.scheduler,
            concat=concat,
            modality=target,
            noise=draw_noise(generators, case.latents.shape[2:]).to(device),
            **self.network.text_of(target),
            start=start,
            generators=generators,
            progress=step_done,
        )


def resolve_targets(
    modalities: Sequence[str], source: str, targets: Sequence[str] | None
) -> tuple[str, list[str]]:
    """The network's own names of a source and its targets; None means every other modality.

    Raises:
        UsageError: A name is unknown, there are several sources, the source is among the targets,
            or there is no target.
    """
    if not isinstance(source, str):
        raise UsageError(
            f"one contrast at a time is translated here, got {', '.join(source)}",
            "name one source",
            code="E_SEVERAL",
        )
    source = parse_modality(source, modalities)
    if targets is None:
        return source, [name for name in modalities if name != source]
    wanted = list(dict.fromkeys(parse_modality(name, modalities) for name in targets))
    if source in wanted:
        raise UsageError(
            f"the scan is {source} already", "leave it out of the targets", code="E_TARGET"
        )
    if not wanted:
        raise UsageError("no target", "name at least one contrast", code="E_TARGET")
    return source, wanted


def check_steps(scheduler: LatentScheduler, steps: int, *, least: int = 0) -> int:
    """The number of denoising steps, if the scheduler has as many.

    Raises:
        UsageError: It has not.
    """
    most = scheduler.num_used_timesteps
    if not least <= steps <= most:
        raise UsageError(
            f"{steps} denoising steps are not possible with this scheduler",
            f"give {least} to {most}",
            code="E_STEPS",
        )
    return steps


def head_box(volume: Tensor, margin: int = MARGIN) -> list[slice]:
    """Where a head is in any of (1, n, *size), background -1, with ``margin`` voxels around it.

    A volume of background alone is all head.
    """
    inside = (volume[0] > BACKGROUND).any(0)
    box = []
    for axis, length in enumerate(inside.shape):
        present = inside.movedim(axis, 0).flatten(1).any(1).nonzero()
        first, last = (int(present[0]), int(present[-1])) if len(present) else (0, length - 1)
        box.append(slice(max(first - margin, 0), min(last + 1 + margin, length)))
    return box


def pad_to_multiple(volume: Tensor, multiple: int, *, least: Sequence[int] = ()) -> Tensor:
    """Add background behind each spatial axis of (b, n, *size) until its size is a multiple.

    Args:
        volume: Intensity, background -1.
        multiple: Of every size.
        least: Smallest size; none by default.
    """
    size = volume.shape[2:]
    wanted = [max(pair) for pair in zip(size, least, strict=True)] if least else list(size)
    missing = [goal + -goal % multiple - now for goal, now in zip(wanted, size, strict=True)]
    pads = [amount for length in reversed(missing) for amount in (0, length)]
    return F.pad(volume, pads, value=BACKGROUND)


def _silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""
