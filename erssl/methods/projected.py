"""Methods that are a projector and a loss of the views' embeddings, with a target branch or not."""

from __future__ import annotations

from torch import Tensor

from erssl.methods.base import MultiViewMethod
from erssl.methods.info import StepOutput


class SharedViews(MultiViewMethod):
    """All views pass one branch; the loss sees them and, beside, the two global ones."""

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The loss of every view's embedding."""
        features, online = self.online_branch(views)
        pair = len(online) == 2
        loss = self.criterion(*online) if pair else self.criterion(online, online[:2])
        return StepOutput(loss, features, online[0], online[1])


class TargetViews(MultiViewMethod):
    """Every view of the online branch meets the global views of a momentum branch.

    ``prediction_head``, where the method has one, comes after the online projector alone.
    """

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The loss of online embeddings, or predictions, and targets."""
        target = self.target_branch(views[:2])
        features, online = self.online_branch(views)
        predictor = getattr(self, "prediction_head", None)
        predicted = online if predictor is None else [predictor(z) for z in online]
        return StepOutput(self.criterion(predicted, target), features, online[0], target[1])
