"""A handler that gives the network its weights when a run starts, not when it is configured."""

import os

from ignite.engine import Events
from monai.engines import SupervisedEvaluator

from .checkpoint import load_weights


class LoadWeights:
    """Load an evaluator's network from a weights file as the run starts.

    A configuration can so be read and checked where there are no weights; none can be run.

    Args:
        path: Flat state dict; see ``load_weights``.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path

    def attach(self, engine: SupervisedEvaluator) -> None:
        """Listen to the start."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: SupervisedEvaluator) -> None:
        """Load.

        Raises:
            WeightsError: There is no such file, or its weights do not fit the network.
        """
        load_weights(engine.network, self.path)
