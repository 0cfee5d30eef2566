"""Translation of a folder as a MONAI bundle runs it: dataset, inferer and evaluator.

A configuration wires ``list_scans`` and ``PrepareScan`` into ``monai.data.Dataset``, that into a
``DataLoader`` with ``collate_fn`` ``one_case``, and both with a ``TranslationInferer`` into a
``TranslationEvaluator``, whose handler ``SaveTranslations`` writes the results.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import Tensor

from voxlate.data_prep import NoInputError, Preprocessing, UsageError, VoxlateError
from voxlate.networks import TranslationNetwork

from .case_inputs import missing_targets, read_inputs
from .case_list import folder_jobs, wanted_of, without_clashes
from .case_steps import read_case
from .completion import prepare_together, refuse_several
from .device import autocast_dtype, inference_context
from .manifest import further_options
from .one_to_many import OneToMany, resolve_targets

FAILURE = "failure"


def list_scans(
    dataset_dir: str | os.PathLike[str],
    modalities: Sequence[str],
    *,
    source: str | Sequence[str],
    targets: Sequence[str] | None = None,
    output_dir: str | os.PathLike[str],
) -> list[dict[str, Any]]:
    """Find the scans of a contrast below a folder, or cases of several, in a fixed order.

    Scans that their name or their case's layout marks as another contrast are passed over; a scan
    whose name says nothing is taken for the (first) source. What lies in the output folder is no
    input.

    Args:
        dataset_dir: Folder to search.
        modalities: Those of the network.
        source: The contrast to translate; or several, of which each case gives what it has.
        targets: Wanted contrasts; a case that has all of them is passed over.
        output_dir: Where results will go; may lie below ``dataset_dir``.

    Returns:
        For each case ``image`` (path of its scan, of several the first), ``case_id`` (the scan's
        name and folder below ``dataset_dir``, on which the noise depends) and ``given`` (contrast
        to path).

    Raises:
        NoInputError: There is no such scan, or no case lacks a target.
        UsageError: The output folder is the dataset's, or two scans would have the same outputs.
    """
    root, several = Path(dataset_dir), not isinstance(source, str)
    if isinstance(source, str):
        source = [resolve_targets(modalities, source, targets)[0]]
    wanted = wanted_of(modalities, source, targets, several=several)
    jobs = folder_jobs(root, output_dir, modalities, wanted)
    usable = [job for job in jobs if job.refusal is None]
    if not usable:
        raise NoInputError(
            f"no case has {' or '.join(wanted.sources)} and lacks a target",
            "check source and targets",
            code="E_NO_INPUT",
            file=root,
        )
    return [
        {"image": job.scan, "case_id": job.id, "given": job.inputs}
        for job in without_clashes(usable)
    ]


class PrepareScan:
    """Transform of a data set: an item of ``list_scans`` to what the network sees, or why not.

    ``given`` may be left out of an item, whose scan is then of the one source.

    Args:
        preprocessing: To the network's grid and intensities.
        register: ``rigid`` lays further contrasts that lie elsewhere over the first.

    Raises:
        UsageError: There is no such registration.
    """

    def __init__(self, preprocessing: Preprocessing, *, register: str | None = None) -> None:
        if register not in (None, "rigid"):
            raise UsageError(
                f"no such registration: {register}", "give rigid, or leave it out", code="E_OPTION"
            )
        self.preprocessing, self.register = preprocessing, register == "rigid"

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Add what the network sees, or ``failure`` (a ``VoxlateError``).

        Added are ``image`` (n, x, y, z) in [-1, 1], ``ready`` (a ``ReadyCase``) and ``further``,
        the options to be recorded.
        """
        given = item.get("given", {})
        try:
            if len(given) < 2:
                ready = read_case(item["image"], self.preprocessing)
            else:
                inputs = read_inputs(given, list(given), register=self.register)
                ready = prepare_together(inputs, self.preprocessing)
        except VoxlateError as error:
            return {**item, FAILURE: error}
        further = further_options(register=self.register)
        return {**item, "image": ready.volume, "ready": ready, "further": further}


def one_case(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Collate a batch of one: cases differ in size.

    Raises:
        ValueError: The data loader's batch size is not 1.
    """
    if len(items) != 1:
        raise ValueError(f"cases go one at a time, got a batch of {len(items)}")
    item = dict(items[0])
    if FAILURE not in item:
        item["image"] = item["image"][None]
    return item


def prepare_case(
    batch: dict[str, Any],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **options: Any,
) -> tuple[Tensor, None, tuple[()], dict[str, Any]]:
    """Move the image to the device and name the case and its contrasts to the inferer."""
    image = batch["image"].to(device=device, non_blocking=non_blocking, **options)
    return image, None, (), {"case_id": batch["case_id"], "given": list(batch.get("given", ()))}


class TranslationInferer(Inferer):
    """Every wanted contrast of one case, as channels.

    Args:
        scheduler: Walks the denoiser's timesteps.
        steps: Denoising steps; 0 for none.
        source: Contrast of the volumes; or several, of which each case gives what it has.
        targets: Wanted contrasts; by default every other one. What a case gives of them is not
            made.
        seed: Same seed, case and target: same noise.
    """

    def __init__(
        self,
        scheduler: Any,
        *,
        steps: int,
        source: str | Sequence[str],
        targets: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.scheduler, self.steps, self.seed = scheduler, steps, seed
        self.source, self.targets = source, targets

    def __call__(
        self,
        inputs: Tensor,
        network: TranslationNetwork,
        case_id: str = "volume",
        given: Sequence[str] | None = None,
    ) -> Tensor:
        """(1, n, x, y, z) in [-1, 1] to (1, t, x, y, z), in the order of ``wanted``."""
        sources, targets, _ = self.wanted(network, given)
        translate = OneToMany(network, self.scheduler, steps=self.steps)
        with inference_context(inputs.device, autocast_dtype(inputs.device)):
            made = translate(
                inputs.float(), source=sources, targets=targets, seed=self.seed, case_id=case_id
            )
        return made.transpose(0, 1)

    def wanted(
        self, network: TranslationNetwork, given: Sequence[str] | None = None
    ) -> tuple[list[str], list[str], tuple[str, ...]]:
        """What a case gives and what is made of it, by the network's own names; and warnings.

        Args:
            network: Whose contrasts.
            given: Of several sources, those that the case has.

        Raises:
            UsageError: A contrast is unknown, nothing is to be made, or the network takes one.
        """
        if isinstance(self.source, str):
            source, targets = resolve_targets(network.modalities, self.source, self.targets)
            return [source], targets, ()
        sources = list(given or self.source)
        refuse_several(network, sources)
        return sources, *missing_targets(network.modalities, sources, self.targets)


class TranslationEvaluator(SupervisedEvaluator):
    """MONAI's evaluator over cases; one that could not be read is handed on, not computed.

    Args:
        device: Where the network is.
        val_data_loader: Gives cases, see the module.
        network: With its weights, on the device.
        inferer: See ``TranslationInferer``.
        val_handlers: Such as ``SaveTranslations``.
        options: Further arguments of ``SupervisedEvaluator``.
    """

    def __init__(
        self,
        device: torch.device,
        val_data_loader: Any,
        network: TranslationNetwork,
        *,
        inferer: Inferer,
        val_handlers: Sequence[Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            network=network,
            inferer=inferer,
            val_handlers=val_handlers,
            **{"prepare_batch": prepare_case, "decollate": False, **options},
        )

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict:
        if FAILURE in batchdata:
            return {FAILURE: batchdata[FAILURE]}
        return super()._iteration(engine, batchdata)
