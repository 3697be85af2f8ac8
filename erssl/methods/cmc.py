"""CMC as symmetric InfoNCE (arXiv 1906.05849; here between two views of one shared network)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.entropy.precision import full_precision
from erssl.errors import ConfigError
from erssl.loss.distributed import check_gather, gather_rows, rank_offset
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions, check_loss_scale
from erssl.methods.registry import register_method
from erssl.models import mlp_head, shiftless_norm
from erssl.recipes import read_recipe

OPTIONS = read_recipe("cmc").options


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


@register_method("cmc")
class CMC(MultiViewMethod):
    """Each view finds its image among those of the other view, in both directions.

    The two encoders of CMC's paper, of luminance and of colour, are one here, as in EntRec's
    comparison; so are the augmentations, SimCLR's.
    """

    info = MethodInfo(
        paper="Tian et al. 2019, arXiv 1906.05849; as in OpenReview UHpva3PuKLN",
        family="contrastive",
        target="shared",
        entropy="negatives of the other view (InfoNCE, a lower bound of the information)",
        reconstruction="temperature",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        temperature: float = OPTIONS["temperature"],
        loss_scale: float = OPTIONS["loss_scale"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        output_norm: bool = OPTIONS["output_norm"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are SimCLR's; those of CMC in EntRec's comparison are not known to us.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            temperature: Of InfoNCE.
            loss_scale: Factor of the mean of both directions; 2 gives their sum, EntRec's eq. 2.
            gather_distributed: Take negatives from all devices.
            output_norm: Batch normalisation, without shift, after the projector's last layer.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=2,
            output_norm=shiftless_norm(projection_dim) if output_norm else None,
        )
        check_loss_scale(loss_scale)
        self.loss_scale = loss_scale
        self.criterion = InfoNCELoss(temperature, gather_distributed)

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Both directions, gradient on both sides."""
        features, (z0, z1) = self.online_branch(views)
        loss = self.loss_scale * 0.5 * (self.criterion(z0, z1) + self.criterion(z1, z0))
        return StepOutput(loss, features, z0, z1)
