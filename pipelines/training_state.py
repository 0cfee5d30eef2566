"""A training run on disk: everything it needs to go on as if it had never stopped."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from ignite.engine import Events
from monai.utils import str2bool

from .checkpoint import save_weights
from .ranks import ranks

if TYPE_CHECKING:
    from .training import StageTrainer

logger = logging.getLogger(__name__)


class Checkpointing:
    """Write a run's checkpoint and its weights, and go on from the checkpoint if there is one.

    Args:
        checkpoint_path: Of the whole state, for resuming.
        weights_path: Of the network's (averaged) weights alone.
        every: Steps between writings; the last step is always written.
        resume: Go on from ``checkpoint_path`` if it is there; else start afresh and replace it.
    """

    def __init__(
        self,
        checkpoint_path: str | os.PathLike[str],
        weights_path: str | os.PathLike[str],
        *,
        every: int = 1000,
        resume: bool | str = True,
    ) -> None:
        self.checkpoint_path, self.weights_path = Path(checkpoint_path), Path(weights_path)
        self.every, self.resume = every, str2bool(str(resume))
        self.written = -1

    def attach(self, engine: "StageTrainer") -> None:
        """Restore when the run starts; write while it goes on and when it ends."""
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.write)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def restore(self, engine: "StageTrainer") -> None:
        """Read the checkpoint, if it is there."""
        if not self.checkpoint_path.is_file():
            return
        engine.restore(torch.load(self.checkpoint_path, map_location="cpu", weights_only=True))
        self.written = engine.state.iteration
        logger.info(f"resumed {self.checkpoint_path} at step {engine.state.iteration}")

    def write(self, engine: "StageTrainer") -> None:
        """Write both files, on the first rank."""
        if ranks()[0] > 0 or self.written == engine.state.iteration:
            return
        save_weights(engine.weights(), self.weights_path)
        self.checkpoint_path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint_path.with_name(
            f".{self.checkpoint_path.name}.{os.getpid()}.tmp"
        )
        try:
            torch.save(engine.checkpoint(), temporary)
            os.replace(temporary, self.checkpoint_path)
        finally:
            temporary.unlink(missing_ok=True)
        self.written = engine.state.iteration
