"""EMP-SSL: the coding rate of many patches, and their agreement with the mean patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.gaussian import coding_rate
from erssl.entropy.precision import outside_autocast, row_products
from erssl.loss.checks import check_weights
from erssl.loss.distributed import check_gather, gather_rows, mean_over_ranks
from erssl.loss.views import Views, normalize_rows, shared_views


class EMPSSLLoss(nn.Module):
    r"""Minus the mean coding rate of the views, minus the cosine with their mean ([0], eq. 4).

    .. math:: L = -\frac1V \sum_v \Big[ \tfrac12 \log\det\Big(I + \frac{d}{N \epsilon^2}
              Z_v^\top Z_v\Big) + \lambda\, \overline{\cos(z_v, \bar z)} \Big]

    The rate is the entropy of a Gaussian of the rows' uncentred covariance, seen through noise: a
    surrogate. Rows are normalised inside.

    lightly 1.6's ``EMPSSLLoss`` adds the coding rate instead of subtracting it and therefore
    drives embeddings to a point; [0]'s code has the sign of here.

    - [0] EMP-SSL: Towards Self-Supervised Learning in One Training Epoch, 2023,
      https://arxiv.org/abs/2304.03977

    Attributes:
        distortion:
            The square ε²; 0.2 in [0]'s code.
        invariance_weight:
            Weight λ of the cosine; 200 in [0]'s code.
        entropy_weight:
            Weight of the coding rate; 1 in [0]'s code.
        gather_distributed:
            If True, the rate is that of the batch over all processes.
        terms:
            Coding rate (nats) and alignment (mean cosine) of the last call, detached.

    Raises:
        ValueError: If an option is out of range, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = EMPSSLLoss()
        >>> loss = loss_fn([torch.randn(8, 16) for _ in range(4)])
        >>> sorted(loss_fn.terms)
        ['alignment', 'coding_rate']
    """

    def __init__(
        self,
        distortion: float = 0.2,
        invariance_weight: float = 200.0,
        entropy_weight: float = 1.0,
        gather_distributed: bool = False,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        coding_rate(torch.ones(1, 1, device="cpu"), distortion)  # refuses bad ones
        check_weights(invariance_weight=invariance_weight, entropy_weight=entropy_weight)
        check_gather(gather_distributed)
        self.distortion = distortion
        self.invariance_weight = invariance_weight
        self.entropy_weight = entropy_weight
        self.gather_distributed = gather_distributed
        self.terms: dict[str, Tensor] = {}

    def forward(self, views: Views, other: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            views: One tensor (N, d), or the embeddings of every view.
            other: The second view (N, d) where ``views`` is a tensor.

        Returns:
            Scalar loss.

        Raises:
            ValueError: If the views do not fit together.
        """
        every = shared_views(views, other)
        with outside_autocast(every[0]):
            z = torch.stack([normalize_rows(view) for view in every])
            center = normalize_rows(z.mean(dim=0))
            cosines = row_products(z, center.expand_as(z)).mean(dim=1)
            alignment = mean_over_ranks(cosines, self.gather_distributed)
            rows = [gather_rows(view, self.gather_distributed) for view in z]
            rate = torch.stack([coding_rate(r, self.distortion) for r in rows]).mean()
        if not is_transformed():
            self.terms = {"alignment": alignment.detach(), "coding_rate": rate.detach()}
        return -self.entropy_weight * rate - self.invariance_weight * alignment
