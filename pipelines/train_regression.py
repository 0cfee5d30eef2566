"""After the three stages: teach the regression of volumes that has a share in every answer."""

from collections.abc import Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from voxlate.data_prep import UsageError
from voxlate.networks.translation import TranslationNetwork

from .ranks import over_ranks
from .training import StageTrainer


class RegressionTrainer(StageTrainer):
    """Train ``network.regression``; it needs nothing of the other parts.

    loss = L1(regression(source), volumes), over the contrasts that the case has beside the source.

    Args:
        network: The whole network.
        share: Of the regression in every answer, from 0 to 1; kept with the weights.
        stage: See ``StageTrainer``, as all other arguments.

    Raises:
        UsageError: The network has no regression, or the share is none.
    """

    stage = "regression"

    def __init__(self, network: TranslationNetwork, *, share: float, **stage: Any) -> None:
        if network.regression is None:
            raise UsageError(
                "the network has no regression to train",
                "give network.yaml a regression",
                code="E_OPTION",
            )
        if not 0 <= share <= 1:
            raise UsageError(f"share is {share}", "give 0 to 1", code="E_OPTION")
        super().__init__(network, network.regression, **stage)
        network.regression.share.fill_(share)
        self.ask = over_ranks(network.regression, self.state.device)

    def losses(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Mean absolute difference of what is wanted, all samples' contrasts alike."""
        answer = self.inferer(batch["source"], self.ask, batch["source_index"])
        missed = (answer.float() - batch["volumes"]).abs().flatten(2).mean(dim=2)
        return {Keys.LOSS: missed[batch["wanted"]].mean()}


class TranslateByRegression(Inferer):
    """The regression's own answer: what its training is validated on."""

    def __call__(
        self, inputs: Mapping[str, Any], network: TranslationNetwork, *args: Any, **kwargs: Any
    ) -> Any:
        """Rows of a picture, ``source``, ``prediction`` and ``target``, each (b, 1, *size)."""
        assert network.regression is not None
        source = inputs["available"].to(torch.uint8).argmax(dim=1)
        answer = network.regression(inputs["source"], source)
        rows = torch.arange(len(source), device=answer.device)
        prediction = answer[rows, inputs["target_index"]].unsqueeze(1)
        return {
            "source": inputs["source"],
            "prediction": prediction.clamp(-1, 1),
            "target": inputs["target"],
        }
