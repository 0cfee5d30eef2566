"""In-brain PSNR on validation scans, and the gate that keeps a poor autoencoder from going on."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.engines import Evaluator
from monai.engines.workflow import Workflow
from monai.inferers import Inferer
from monai.utils import str2bool
from torch import Tensor

from voxlate.data_prep.errors import VoxlateError
from voxlate.networks.ema import ExponentialMovingAverage
from voxlate.networks.translation import TranslationNetwork

from .metrics import psnr
from .training import autocast, precision_dtype, to_device

logger = logging.getLogger(__name__)


def in_brain_psnr(prediction: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Peak signal-to-noise ratio inside a mask, in dB, of intensities in [-1, 1], clipped first.

    Args:
        prediction: (1, *size).
        truth: (1, *size).
        mask: (1, *size) bool, not empty.
    """
    return float(psnr(prediction.clamp(-1, 1), truth, mask=mask, data_range=2.0))


class InBrainPSNR(Metric):
    """Mean in-brain PSNR over samples, and over those of each target modality.

    Takes the output of ``StageEvaluator``: a dictionary with ``prediction``, ``target``, ``mask``
    and ``modality``.

    Args:
        modalities: Names in one-hot order.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = list(modalities)
        names = ("prediction", "target", "mask", "modality")
        super().__init__(output_transform=lambda output: [output[name] for name in names])

    def reset(self) -> None:
        """Forget all samples."""
        self.values: dict[str, list[float]] = {name: [] for name in self.modalities}

    def update(self, output: Any) -> None:
        """Add a batch."""
        *volumes, modalities = output
        for prediction, target, mask, modality in zip(*volumes, modalities.tolist(), strict=True):
            value = in_brain_psnr(prediction, target, mask)
            self.values[self.modalities[modality]].append(value)

    def compute(self) -> float:
        """Mean over all samples; not a number if there were none."""
        every = [value for values in self.values.values() for value in values]
        return sum(every) / len(every) if every else math.nan

    def completed(self, engine: Engine, name: str) -> None:
        """Leave the means in the engine's metrics, as ``name`` and ``name_<modality>``."""
        engine.state.metrics[name] = self.compute()
        for modality, values in self.values.items():
            if values:
                engine.state.metrics[f"{name}_{modality}"] = sum(values) / len(values)


class StageEvaluator(Evaluator):
    """Predict whole validation volumes with the averaged weights, as a MONAI evaluator.

    Args:
        network: The whole network.
        device: Where to compute.
        val_data_loader: Batches of ``ValidationVolumes`` or ``ValidationPairs``.
        inferer: Such as ``Reconstruct``, ``TranslateByPrior`` or ``TranslateBySampling``.
        ema: The trainer's; None predicts with the weights as they are.
        precision: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        key_val_metric: Ignite metrics by name, the first of them the one by which models are
            compared.
        val_handlers: Ignite handlers.
    """

    def __init__(
        self,
        network: TranslationNetwork,
        *,
        device: torch.device | str,
        val_data_loader: Iterable[Any],
        inferer: Inferer,
        ema: ExponentialMovingAverage | None = None,
        precision: str = "auto",
        key_val_metric: dict[str, Metric] | None = None,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        device = torch.device(device)
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            key_val_metric=key_val_metric,
            val_handlers=val_handlers,
            decollate=False,
        )
        self.network, self.inferer, self.ema = network, inferer, ema
        self.dtype = precision_dtype(precision, device)

    def run(self, global_epoch: int = 1) -> None:
        """Evaluate with averaged weights; the network is left as it was."""
        modes = {module: module.training for module in self.network.modules()}
        self.network.to(self.state.device).eval()
        try:
            if self.ema is None:
                super().run(global_epoch)
            else:
                with self.ema.applied():
                    super().run(global_epoch)
        finally:
            for module, mode in modes.items():
                module.training = mode

    def predict(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The inferer's rows for a batch, float32."""
        with torch.no_grad(), autocast(self.state.device, self.dtype):
            rows = self.inferer(to_device(batch, self.state.device), self.network)
        return {name: row.float() for name, row in rows.items()}

    def _iteration(self, engine: Workflow, batchdata: dict[str, Any]) -> dict[str, Any]:
        rows = self.predict(batchdata)
        modality = batchdata.get("target_index", batchdata.get("modality"))
        return {**rows, "mask": batchdata["mask"].to(rows["target"].device), "modality": modality}


def check_quality(
    evaluator: StageEvaluator, *, bar: float, force: bool | str = False, name: str = "psnr"
) -> float:
    """Refuse to build on an autoencoder that does not reconstruct well enough.

    Args:
        evaluator: Over validation volumes, with ``Reconstruct`` and ``InBrainPSNR``.
        bar: Least in-brain PSNR, in dB.
        force: Go on all the same, with a warning.
        name: Of the metric.

    Returns:
        The PSNR found.

    Raises:
        VoxlateError: The PSNR is below the bar (or no number) and ``force`` is off.
    """
    evaluator.run()
    found = float(evaluator.state.metrics.get(name, math.nan))
    parts = ", ".join(
        f"{key.removeprefix(name + '_')} {value:.2f}"
        for key, value in evaluator.state.metrics.items()
        if key.startswith(name + "_")
    )
    logger.info(f"autoencoder's in-brain PSNR {found:.2f} dB ({parts}), bar {bar:.2f} dB")
    if found >= bar:
        return found
    what = f"the autoencoder reaches {found:.2f} dB in the brain, the bar is {bar:.2f} dB"
    if not str2bool(str(force)):
        raise VoxlateError(
            what, "train the autoencoder further, or go on with --force True", code="E_QUALITY_GATE"
        )
    logger.warning(f"{what}; going on because of force")
    return found
