"""LeJEPA: embeddings that are an isotropic Gaussian, and views that agree."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.precision import outside_autocast
from erssl.entropy.sliced import random_directions, sliced_epps_pulley
from erssl.loss.checks import check_counts
from erssl.loss.distributed import (
    check_gather,
    mean_over_ranks,
    own_part,
    ranks_of,
    shared_draw,
    sum_over_ranks,
)
from erssl.loss.views import Views, float_views


class LeJEPALoss(nn.Module):
    r"""SIGReg of every view, and the squared error to the mean of the global views ([0]).

    .. math:: L = \frac1V \sum_v \Big[ \lambda\, \mathrm{EP}(Z_v) + \frac{1 - \lambda}{N d}
              \sum_i \lVert z_v^i - \tfrac12 (t_0^i + t_1^i) \rVert^2 \Big]

    with EP the sliced Epps-Pulley statistic (:func:`erssl.entropy.sliced_epps_pulley`), by slices
    that are drawn anew in every call. It is a distance from N(0, I), the density of highest
    entropy at its covariance: a surrogate, no nats. Rows are taken as they are.

    lightly 1.6's ``LeJEPALoss`` is the same function of the same slices; it takes no pair without
    local views and keeps 17 frequencies of every slice for its gradient.

    - [0] LeJEPA, 2025, https://arxiv.org/abs/2511.08544 (written from the paper alone)

    Attributes:
        lambda_param:
            Weight λ of the statistic in [0, 1]; 0.05 in [0] and lightly.
        num_slices:
            Directions that are drawn in each call; 1024 in lightly.
        gather_distributed:
            If True, the statistic is that of the batch over all processes.
        terms:
            The statistic and the squared error of the last call, detached.

    Raises:
        ValueError: If an option is out of range, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = LeJEPALoss(num_slices=64)
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['epps_pulley', 'squared_error']
    """

    def __init__(
        self,
        lambda_param: float = 0.05,
        num_slices: int = 1024,
        gather_distributed: bool = False,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        check_slices(lambda_param, num_slices)
        check_gather(gather_distributed)
        self.lambda_param = lambda_param
        self.num_slices = num_slices
        self.gather_distributed = gather_distributed
        self.terms: dict[str, Tensor] = {}

    def forward(self, online: Views, target: Views) -> Tensor:
        """Compute the loss.

        Args:
            online: One tensor (N, d), or the embeddings of every view.
            target: One tensor (N, d), or the embeddings of the two global views.

        Returns:
            Scalar loss.

        Raises:
            ValueError: If the views do not fit together.
        """
        views, targets = float_views(online, target)
        with outside_autocast(views[0]):
            slices = draw_slices(views[0], self.num_slices, self.gather_distributed)
            statistic = torch.stack([self._statistic(z, slices) for z in views]).mean()
            error = mean_over_ranks(center_errors(views, targets), self.gather_distributed)
        if not is_transformed():
            self.terms = {"epps_pulley": statistic.detach(), "squared_error": error.detach()}
        return self.lambda_param * statistic + (1 - self.lambda_param) * error

    def _statistic(self, z: Tensor, slices: Tensor) -> Tensor:
        world = ranks_of(self.gather_distributed)
        total = sum_over_ranks if world > 1 else None
        statistic = sliced_epps_pulley(z, slices, total, world)
        return own_part(statistic, self.gather_distributed)


def center_errors(views: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Mean squared error (V,) of each view to the mean of the targets."""
    center = torch.stack(targets).mean(dim=0)
    return torch.stack([F.mse_loss(z, center) for z in views])


def draw_slices(like: Tensor, count: int, gather_distributed: bool) -> Tensor:
    """Random directions (d, ``count``), the same on all ranks that share a batch."""
    slices = random_directions(like.shape[1], count, like=like)
    return shared_draw(slices, gather_distributed)


def check_slices(lambda_param: float, num_slices: int) -> None:
    """Refuse a weight that is no share, and fewer slices than one."""
    if not 0 <= lambda_param <= 1:
        raise ValueError(f"lambda_param must be from 0 to 1 but is {lambda_param}.")
    check_counts(num_slices=num_slices)
