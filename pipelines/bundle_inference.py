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

from voxlate.data_prep import Preprocessing, VoxlateError
from voxlate.networks import TranslationNetwork

from .case_list import folder_jobs, wanted_of, without_clashes
from .case_steps import read_case
from .device import autocast_dtype, inference_context
from .one_to_many import OneToMany, resolve_targets

FAILURE = "failure"


def list_scans(
    dataset_dir: str | os.PathLike[str],
    modalities: Sequence[str],
    *,
    source: str,
    output_dir: str | os.PathLike[str],
) -> list[dict[str, str]]:
    """Find the scans of one contrast below a folder, in a fixed order.

    Scans that their name or their case's layout marks as another contrast are passed over; a scan
    whose name says nothing is taken for the source. What lies in the output folder is no input.

    Args:
        dataset_dir: Folder to search.
        modalities: Those of the network.
        source: The contrast to translate.
        output_dir: Where results will go; may lie below ``dataset_dir``.

    Returns:
        For each scan ``image`` (its path) and ``case_id`` (its name and folder below
        ``dataset_dir``, on which the noise depends).

    Raises:
        NoInputError: There is no such scan.
        UsageError: The output folder is the dataset's, or two scans would have the same outputs.
    """
    root = Path(dataset_dir)
    source, _ = resolve_targets(modalities, source, None)
    wanted = wanted_of(modalities, [source], None)
    jobs = [j for j in folder_jobs(root, output_dir, modalities, wanted) if j.refusal is None]
    return [
        {
            "image": job.scan,
            "case_id": job.id,
        }
        for job in without_clashes(jobs)
    ]


class PrepareScan:
    """Transform of a data set: a scan's path to what the network sees, or why that cannot be.

    Args:
        preprocessing: To the network's grid and intensities.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Add ``image`` (1, x, y, z) in [-1, 1] and ``ready`` (a ``ReadyCase``); or ``failure``."""
        try:
            ready = read_case(item["image"], self.preprocessing)
        except VoxlateError as error:
            return {**item, FAILURE: error}
        return {**item, "image": ready.prepared.volume, "ready": ready}


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
) -> tuple[Tensor, None, tuple[()], dict[str, str]]:
    """Move the image to the device and name the case to the inferer."""
    image = batch["image"].to(device=device, non_blocking=non_blocking, **options)
    return image, None, (), {"case_id": batch["case_id"]}


class TranslationInferer(Inferer):
    """Every wanted contrast of one volume, as channels.

    Args:
        scheduler: Walks the denoiser's timesteps.
        steps: Denoising steps; 0 is the prior alone.
        source: Contrast of the volumes.
        targets: Wanted contrasts; by default every other one.
        seed: Same seed, case and target: same noise.
    """

    def __init__(
        self,
        scheduler: Any,
        *,
        steps: int,
        source: str,
        targets: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.scheduler, self.steps, self.seed = scheduler, steps, seed
        self.source, self.targets = source, targets

    def __call__(
        self, inputs: Tensor, network: TranslationNetwork, case_id: str = "volume"
    ) -> Tensor:
        """(1, 1, x, y, z) in [-1, 1] to (1, t, x, y, z), targets in the order asked for."""
        source, targets = resolve_targets(network.modalities, self.source, self.targets)
        translate = OneToMany(network, self.scheduler, steps=self.steps)
        with inference_context(inputs.device, autocast_dtype(inputs.device)):
            made = translate(
                inputs.float(), source=source, targets=targets, seed=self.seed, case_id=case_id
            )
        return made.transpose(0, 1)


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
