"""Self-Classifier (arXiv 2103.10994): classes agreed upon by two views, none of them empty."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32, full_precision, outside_autocast
from erssl.errors import ConfigError
from erssl.loss.distributed import check_gather, gather_rows
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import Prototypes, mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("self_classifier").options

EPS = 1e-12  # in the logarithm, the authors' code


class SelfClassifierLoss(nn.Module):
    r"""Cross entropy of one view's classes given another's, under a uniform prior over classes.

    .. math:: \ell(i, j) = -\frac1N \sum_n \sum_c t_i(c \mid n) \log
              \frac{\tfrac NC \, p_j(c \mid n)}{\sum_{n'} p_j(c \mid n')}, \qquad
              t_i(c \mid n) = \frac{a_i(n \mid c)}{\sum_{c'} a_i(n \mid c')}

    with p the soft-max over the C classes at the temperature and a the soft-max over the batch at
    the target temperature. Both sides take gradients. Averaged over ordered pairs of views but for
    those of two local ones. After the authors' code, whose v2 differs from the first paper's.
    """

    def __init__(
        self, temperature: float, target_temperature: float, gather_distributed: bool = True
    ) -> None:
        """Set the temperatures.

        Args:
            temperature: Of the prediction, over classes.
            target_temperature: Of the target, over the batch.
            gather_distributed: Take the batch of all devices.

        Raises:
            ConfigError: If a temperature is not above 0.
        """
        super().__init__()
        if not (temperature > 0 and target_temperature > 0):
            raise ConfigError(
                "method.temperature and method.target_temperature must be above 0 but are "
                f"{temperature} and {target_temperature}."
            )
        check_gather(gather_distributed)
        self.temperature = temperature
        self.target_temperature = target_temperature
        self.gather_distributed = gather_distributed

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Loss of one classifier's outputs (N, C) for every view, the two global ones first."""
        targets, predictions = zip(*(self._sides(s) for s in views), strict=True)
        pairs = [(i, j) for i, j in permutations(range(len(views)), 2) if i < 2 or j < 2]
        losses = [-(targets[i] * predictions[j]).sum(-1).mean() for i, j in pairs]
        return torch.stack(losses).mean()

    @full_precision
    def _sides(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Target (N, C) and logarithm of the prediction (N, C) of one view."""
        logits = gather_rows(logits, self.gather_distributed)
        over_batch = (logits / self.target_temperature).softmax(dim=0)
        target = F.normalize(over_batch, p=1, dim=1, eps=EPS)
        over_classes = (logits / self.temperature).softmax(dim=1)
        share = F.normalize(over_classes, p=1, dim=0, eps=EPS)
        rows, classes = logits.shape
        return target, (rows / classes * share + EPS).log()


class Classifier(Prototypes):
    """Prototypes with a learned gain each: a linear layer under weight normalisation."""

    def __init__(self, embedding_dim: int, num_classes: int) -> None:
        """Begin with gains of 1.

        Args:
            embedding_dim: Dimension d of the embeddings.
            num_classes: Number C of classes.
        """
        super().__init__(embedding_dim, num_classes)
        self.gain = nn.Parameter(torch.ones(num_classes))

    def forward(self, z: Tensor) -> Tensor:
        """Outputs (N, C) of embeddings (N, d)."""
        return super().forward(z) * self.gain


@register_method("self_classifier")
class SelfClassifier(MultiViewMethod):
    """Several classifiers, each of which must say the same of two views of an image.

    The authors' queue, which replaces view 0 by its nearest neighbour, is left out.
    """

    info = MethodInfo(
        paper="Amrani et al. 2022, arXiv 2103.10994",
        family="clustering",
        target="shared",
        multi_crop=True,
        entropy="a uniform prior over classes (a constraint)",
        reconstruction="cross-entropy",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        classes_per_head: Sequence[int] = OPTIONS["classes_per_head"],
        temperature: float = OPTIONS["temperature"],
        target_temperature: float = OPTIONS["target_temperature"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are those of the authors' code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            classes_per_head: Number of classes of each classifier.
            temperature: Of the prediction, over classes; 0.1.
            target_temperature: Of the target, over the batch; 0.05.
            gather_distributed: Take the batch of all devices.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        if not classes_per_head or min(classes_per_head) < 2:
            raise ConfigError(
                f"method.classes_per_head={list(classes_per_head)} must name at least one number "
                "of classes, each at least 2."
            )
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=2,
            activation=nn.LeakyReLU,
        )
        self.classifiers = nn.ModuleList(Classifier(projection_dim, c) for c in classes_per_head)
        self.temperature = temperature
        self.criterion = SelfClassifierLoss(temperature, target_temperature, gather_distributed)

    def logits(self, embedding: Tensor) -> Tensor:
        """Outputs (N, C) of the first classifier, divided by the temperature."""
        logits: Tensor = self.classifiers[0](embedding) / self.temperature
        return logits

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The mean over classifiers, each of which sees every view."""
        features, online = self.online_branch(views)
        with outside_autocast(online[0]):
            z = at_least_float32(torch.cat(online))
            losses = [self.criterion(c(z).chunk(len(views))) for c in self.classifiers]
        return StepOutput(torch.stack(losses).mean(), features, online[0], online[1])
