"""CMC as symmetric InfoNCE (arXiv 1906.05849; here between two views of one shared network)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightly.transforms.utils import IMAGENET_NORMALIZE
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.data import ViewOptions, build_views
from erssl.entropy._precision import full_precision
from erssl.errors import ConfigError
from erssl.loss._distributed import check_gather, gather_rows, rank_offset
from erssl.methods.base import MethodInfo, MultiViewMethod, StepOutput, TrainingOptions
from erssl.methods.optimizer import OptimizerOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head

transform = build_views(ViewOptions("simclr"), 224, **IMAGENET_NORMALIZE)


class InfoNCELoss(nn.Module):
    r"""Cross entropy of finding each query's own key among the keys of the other branch.

    .. math:: -\frac1N \sum_i \log
        \frac{\exp(\cos(q_i, k_i)/\tau)}{\sum_j \exp(\cos(q_i, k_j)/\tau)}

    Negatives are keys only, unlike NT-Xent's, which are queries too (EntRec, OpenReview
    UHpva3PuKLN, eq. 2 against eq. 3).
    """

    def __init__(self, temperature: float, gather_distributed: bool = True) -> None:
        """Set the temperature.

        Args:
            temperature: τ.
            gather_distributed: Take keys from all devices.

        Raises:
            ConfigError: If the temperature is not above 0.
        """
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"method.temperature must be above 0 but is {temperature}.")
        check_gather(gather_distributed)
        self.temperature = temperature
        self.gather_distributed = gather_distributed

    @full_precision
    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Loss of queries (N, d) and their keys (N, d), a scalar."""
        queries, keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
        logits = queries @ gather_rows(keys, self.gather_distributed).T / self.temperature
        own = torch.arange(len(queries), device=queries.device)
        return F.cross_entropy(logits, own + rank_offset(keys, self.gather_distributed))


@register_method("cmc", transform)
class CMC(MultiViewMethod):
    """Each view finds its image among those of the other view, in both directions.

    The two encoders of CMC's paper, of luminance and of colour, are one here, as in EntRec's
    comparison; so are the augmentations, SimCLR's.
    """

    info = MethodInfo(
        paper="Tian et al. 2019, arXiv 1906.05849; as in OpenReview UHpva3PuKLN",
        family="contrastive",
        target="shared",
    )
    # EntRec compares CMC under SimCLR's recipe; its own values are not known to us.
    default_optimizer = OptimizerOptions(base_lr=0.3, final_lr_ratio=0.0)

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        temperature: float = 0.1,
        gather_distributed: bool = True,
        projection_hidden_dim: int = 2048,
        projection_dim: int = 128,
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are SimCLR's; those of CMC in EntRec's comparison are not known to us.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            temperature: Of InfoNCE.
            gather_distributed: Take negatives from all devices.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=2
        )
        self.criterion = InfoNCELoss(temperature, gather_distributed)

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """The mean of both directions (EntRec's eq. 2 is their sum), gradient on both sides."""
        features, (z0, z1) = self.online_branch(views)
        loss = 0.5 * (self.criterion(z0, z1) + self.criterion(z1, z0))
        return StepOutput(loss, features, z0, z1)
