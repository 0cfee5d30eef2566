"""Some contrasts of a case in, the missing ones out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from voxlate.data_prep import OutputScale, Preprocessing, UsageError, parse_modality
from voxlate.networks import TranslationNetwork

from .case_inputs import CaseInputs, missing_targets
from .case_steps import (
    Clock,
    Made,
    ReadyCase,
    Request,
    StoredAs,
    Translation,
    output_scale,
    stem,
)
from .finish_case import finish_case
from .manifest import further_options
from .one_to_many import Progress
from .samples import check_samples

if TYPE_CHECKING:
    from .translator import Translator


def takes_several(network: TranslationNetwork) -> bool:
    """Whether the network's prior makes use of more than one contrast."""
    return hasattr(network.prior, "encode_case")


def refuse_several(network: TranslationNetwork, given: Sequence[str]) -> None:
    """Refuse more contrasts than a network can use.

    Raises:
        UsageError: It translates one at a time.
    """
    if len(given) > 1 and not takes_several(network):
        raise UsageError(
            f"this model translates one contrast at a time, got {', '.join(given)}",
            "give one of them, or name a bundle that takes several",
            code="E_SEVERAL",
        )


def complete(
    translator: "Translator",
    inputs: CaseInputs,
    targets: Sequence[str] | None = None,
    *,
    seed: int = 0,
    steps: int | None = None,
    samples: int | None = None,
    case_id: str | None = None,
    intensity: str | OutputScale = "unit",
    stored_as: StoredAs = "float32",
    progress: Progress | None = None,
) -> Translation:
    """Make the contrasts that a case lacks from all that it has.

    Args:
        translator: With a network that takes several contrasts (or a case that has one).
        inputs: What is given; the results are on their grid.
        targets: Wanted; None for every one that is missing. Given ones are not made, with a note.
        seed: Same seed, case and target: same noise.
        steps: Denoising steps instead of the translator's.
        samples: As ``Translator`` has it.
        case_id: Name of the case; by default the first file's.
        intensity: As ``Translator`` has it.
        stored_as: Likewise.
        progress: Called with (stage, done, in all).

    Returns:
        The translation, as of the reference scan.

    Raises:
        UsageError: Nothing is missing, a target is unknown, or the network takes one contrast at a
            time.
        ScanError: The networks made something that is no image.
    """
    refuse_several(translator.network, list(inputs.scans))
    wanted, notes = missing_targets(translator.modalities, list(inputs.scans), targets)
    steps = translator.checked_steps(steps)
    request = Request(
        case_id or stem(inputs.scans[inputs.reference].path),
        inputs.reference,
        tuple(wanted),
        seed,
        steps,
        output_scale(intensity, wanted),
        stored_as,
        others=tuple(name for name in inputs.scans if name != inputs.reference),
        further=further_options(samples=check_samples(samples, steps)),
    )
    ready = prepare_together(inputs, translator.preprocessing)
    made = translator.compute(ready.volume, request, progress)
    translation = finish_case(ready, made, request, translator.preprocessing)
    return replace(translation, warnings=tuple(dict.fromkeys((*translation.warnings, *notes))))


def prepare_together(inputs: CaseInputs, preprocessing: Preprocessing) -> ReadyCase:
    """Take all scans to one model's grid around all their heads."""
    clock = Clock()
    with clock("prepare"):
        scans = list(inputs.scans.values())
        plan = preprocessing.plan(*scans)
        first, *others = [preprocessing.apply(scan, plan) for scan in scans]
    beside = tuple(other.volume for other in others)
    return ReadyCase(scans[0], first, clock.seconds, inputs, beside)


def complete_volumes(
    translator: "Translator",
    given: Mapping[str, Tensor],
    targets: Sequence[str] | None = None,
    *,
    seed: int = 0,
    steps: int | None = None,
    samples: int | None = None,
    case_id: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Complete a set of volumes: the given ones as they are, and those that were made.

    Args:
        translator: See ``complete``.
        given: Modality to volume, each (1, X, Y, Z) in [-1, 1], RAS, 1 mm, background -1.
        targets: Wanted; None for every one that is missing. A given one is handed through.
        seed: The user's seed.
        steps: Denoising steps instead of the translator's.
        samples: As ``Translator`` has it.
        case_id: Of the noise's seed.
        progress: Called with (stage, done, in all).

    Returns:
        By modality, in the network's order; of several samples the means, and behind them the
        deviations as ``<modality>_sd``.

    Raises:
        UsageError: A modality is unknown or given twice, nothing is missing, the network takes one
            contrast at a time, or what is given are not all volumes.
        ValueError: A volume has another shape than the first.
    """
    known = translator.modalities
    named = {parse_modality(name, known): volume for name, volume in given.items()}
    if len(named) != len(given):
        raise UsageError("a modality is given twice", "give it once", code="E_CLASH")
    if not named:
        raise UsageError("no volume", "give at least one contrast", code="E_NO_INPUT")
    if not all(isinstance(volume, Tensor) for volume in named.values()):
        raise UsageError("volumes and files together", "give one kind", code="E_NO_INPUT")
    refuse_several(translator.network, list(named))
    shape = next(iter(named.values())).shape
    for name, volume in named.items():
        if volume.ndim != 4 or volume.shape[0] != 1 or volume.shape != shape:
            raise ValueError(f"volumes must be (1, X, Y, Z), all alike, {name} is {volume.shape}")
    wanted, _ = missing_targets(known, list(named), targets)
    steps = translator.checked_steps(steps)
    sources = [name for name in known if name in named]
    request = Request(
        case_id or "volume",
        sources[0],
        tuple(wanted),
        seed,
        steps,
        others=tuple(sources[1:]),
        further=further_options(samples=check_samples(samples, steps)),
    )
    volumes = torch.cat([named[name].cpu() for name in sources])
    made = translator.compute(volumes, request, progress)
    every = {**named, **named_volumes(made, request)}
    order = [*known, *(name for name in every if name not in known)]
    return {name: every[name] for name in order if name in every}


def named_volumes(made: Made, request: Request) -> dict[str, Tensor]:
    """The answers by target; of several samples the means, and ``<target>_sd`` the deviations."""
    answers = made.volumes.unflatten(0, (len(request.seeds), len(request.targets)))
    named = dict(zip(request.targets, answers.mean(0), strict=True))
    if len(answers) > 1:
        spread = [f"{target}_sd" for target in request.targets]
        named |= dict(zip(spread, answers.std(0), strict=True))
    return named
