"""Progress one can read and pictures one can look at, while a stage trains."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.image
import numpy as np
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from voxlate.data_prep.errors import VoxlateError

from .quality_gate import StageEvaluator
from .ranks import ranks
from .training import StageTrainer, scalars

logger = logging.getLogger(__name__)


class ProgressLine:
    """Log step, losses, pace and time left every few steps; stop where the loss is no number.

    Args:
        every: Steps between lines.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self.since, self.at = 0.0, 0

    def attach(self, engine: StageTrainer) -> None:
        """Listen to the start and to the steps."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.line)

    def start(self, engine: StageTrainer) -> None:
        """Begin to measure."""
        self.since, self.at = time.monotonic(), engine.state.iteration

    def line(self, engine: StageTrainer) -> None:
        """Log a line.

        Raises:
            VoxlateError: The loss is not finite.
        """
        step, values = engine.state.iteration, scalars(engine.state.output)
        pace = (time.monotonic() - self.since) / max(1, step - self.at)
        left = int(pace * (engine.max_steps - step))
        self.since, self.at = time.monotonic(), step
        if ranks()[0] == 0:
            told = " ".join(f"{name} {value:.4g}" for name, value in values.items())
            eta = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
            logger.info(
                f"{engine.stage} step {step}/{engine.max_steps}: {told}, "
                f"{pace:.2f} s/step, ETA {eta}"
            )
        if not np.isfinite(values["loss"]):
            raise VoxlateError(
                f"the loss is {values['loss']} at step {step}",
                "lower the learning rate or use precision float32, then resume",
                code="E_DIVERGED",
            )


class ValidationLine:
    """Log an evaluator's metrics in one line, and keep them in the order they came.

    Args:
        stage: What is validated.
    """

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def attach(self, engine: Engine) -> None:
        """Listen to the end of an evaluation."""
        engine.add_event_handler(Events.COMPLETED, self.line)

    def line(self, engine: Engine) -> None:
        """Log the metrics."""
        if ranks()[0] == 0:
            told = ", ".join(
                f"{name} {value:.2f} dB" for name, value in engine.state.metrics.items()
            )
            logger.info(f"{self.stage} validation: {told}")


class SamplePictures:
    """Draw what the network makes of some validation samples, as ``<stage>_<step>.png``.

    Args:
        evaluator: Predicts with its inferer, in averaged weights.
        dataset: ``ValidationVolumes`` or ``ValidationPairs``.
        output_dir: Folder of the pictures.
        interval: Epochs between pictures.
        samples: Numbers of the samples; the first few targets if None.
    """

    def __init__(
        self,
        evaluator: StageEvaluator,
        dataset: Dataset,
        output_dir: str | os.PathLike[str],
        *,
        interval: int = 1,
        samples: Sequence[int] = (0, 1, 2),
    ) -> None:
        self.evaluator, self.dataset = evaluator, dataset
        self.output_dir, self.interval, self.samples = Path(output_dir), interval, list(samples)

    def attach(self, engine: StageTrainer) -> None:
        """Draw when an epoch ends."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.draw)

    def draw(self, engine: StageTrainer) -> None:
        """Predict and draw."""
        if ranks()[0] > 0:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        modes = {module: module.training for module in engine.network.modules()}
        engine.network.eval()
        with engine.averaged():
            for number in self.samples:
                if number >= len(self.dataset):  # type: ignore[arg-type]
                    continue
                batch = default_collate([self.dataset[number]])
                rows = self.evaluator.predict(batch)
                name = f"{engine.stage}_{engine.state.iteration:06d}_{number}.png"
                draw_rows({key: row[0, 0] for key, row in rows.items()}, self.output_dir / name)
        for module, mode in modes.items():
            module.training = mode


def draw_rows(rows: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write a picture: a row a volume, its middle axial, coronal and sagittal slice.

    Anterior and superior are up, right is right.

    Args:
        rows: Name to volume (x, y, z) in [-1, 1], RAS, all of one size.
        path: Of the PNG.
    """
    lines = []
    for volume in rows.values():
        unit = ((volume.detach().float().cpu().clamp(-1, 1) + 1) / 2).numpy()
        middle = [length // 2 for length in unit.shape]
        slices = [unit[:, :, middle[2]], unit[:, middle[1]], unit[middle[0]]]
        height = max(part.shape[1] for part in slices)
        lines.append(np.concatenate([frame(part.T[::-1], height) for part in slices], axis=1))
    picture = np.concatenate(lines)
    matplotlib.image.imsave(
        path, picture, cmap="gray", vmin=0, vmax=1, metadata={"Rows": ", ".join(rows)}
    )


def frame(part: np.ndarray, height: int) -> np.ndarray:
    """Centre a slice on black of a given height, with a margin."""
    above = (height - part.shape[0]) // 2
    return np.pad(part, ((above + 2, height - part.shape[0] - above + 2), (2, 2)))
