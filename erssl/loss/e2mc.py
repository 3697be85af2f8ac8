"""E2MC: VICReg, and the entropy of every single dimension in a cube."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lightly.loss.vicreg_loss import variance_loss
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.marginal import marginal_entropy
from erssl.entropy.precision import outside_autocast, product
from erssl.loss.checks import check_weights
from erssl.loss.distributed import check_gather, gather_rows, mean_over_ranks
from erssl.loss.views import Views, float_views, meet_targets

_FLOOR = 1e-7  # spacing of equal values, which have no density


class E2MCLoss(nn.Module):
    r"""VICReg's loss, minus marginal entropies, plus covariances in the cube ([0]).

    .. math:: L = \alpha\, \mathrm{mse} + \frac1V \sum_v \Big[ -\frac{w}{d} \sum_j \hat H(y_{v,j})
              + \frac{c}{d} \sum_{j \ne k} \mathrm{cov}(y_{v,j}, y_{v,k})^2
              + \frac{\mu}{d} \sum_j \max(0, 1 - \sigma_{v,j})
              + \frac{\nu}{d} \sum_{j \ne k} \mathrm{cov}(z_{v,j}, z_{v,k})^2 \Big], \quad
              y = \mathrm{sigmoid}(z)

    with the entropies by m-spacings (:func:`erssl.entropy.marginal_entropy`). In the cube their
    sum is an upper bound of the entropy of y, tight where dimensions are independent, of which
    the second term is a necessary condition: a surrogate of a bound. [0] adds both terms to the
    loss that a model was trained by, for a few epochs more; here that is VICReg's (its code's
    first case), the squared error and the last two terms.

    - [0] Improving Pre-trained Self-Supervised Embeddings Through Effective Entropy Maximization,
      2024, https://arxiv.org/abs/2411.15931

    Attributes:
        invariance_weight:
            Weight α of the squared error; 25 in [0]'s code and VICReg.
        entropy_weight:
            Weight w of the mean marginal entropy; 10 is the default of [0]'s code.
        covariance_weight:
            Weight c of the squared covariances; 2: the default of [0]'s code is 1 for the sum of
            both views.
        vicreg_variance_weight:
            Weight μ of VICReg's variance; 25 in [0]'s code and VICReg.
        vicreg_covariance_weight:
            Weight ν of VICReg's covariance; 2: that of both is 1 for the sum of both views.
        gather_distributed:
            If True, entropies and covariances are those of the batch over all processes.
        terms:
            Mean marginal entropy (nats), squared covariances, squared error and VICReg's two
            terms of the last call, detached.

    Raises:
        ValueError: If a weight is negative or not finite, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = E2MCLoss()
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['covariance', 'marginal_entropy', 'squared_error', 'vicreg_covariance', 'vicreg_variance']
    """

    def __init__(
        self,
        invariance_weight: float = 25.0,
        entropy_weight: float = 10.0,
        covariance_weight: float = 2.0,
        vicreg_variance_weight: float = 25.0,
        vicreg_covariance_weight: float = 2.0,
        gather_distributed: bool = False,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        check_weights(
            invariance_weight=invariance_weight,
            entropy_weight=entropy_weight,
            covariance_weight=covariance_weight,
            vicreg_variance_weight=vicreg_variance_weight,
            vicreg_covariance_weight=vicreg_covariance_weight,
        )
        check_gather(gather_distributed)
        self.invariance_weight = invariance_weight
        self.entropy_weight = entropy_weight
        self.covariance_weight = covariance_weight
        self.vicreg_variance_weight = vicreg_variance_weight
        self.vicreg_covariance_weight = vicreg_covariance_weight
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
            ValueError: If the views do not fit together or N is 1.
        """
        views, targets = float_views(online, target)
        with outside_autocast(views[0]):
            met = meet_targets(targets, len(views))
            errors = [F.mse_loss(z, t) for z, t in zip(views, met, strict=True)]
            error = mean_over_ranks(torch.stack(errors), self.gather_distributed)
            rows = [gather_rows(z, self.gather_distributed) for z in views]
            cube = [z.sigmoid() for z in rows]
            dim = rows[0].shape[1]
            terms = {
                "squared_error": error,
                "marginal_entropy": _mean([marginal_entropy(y, floor=_FLOOR) for y in cube]) / dim,
                "covariance": _mean([_squared_covariances(y) for y in cube]) / dim,
                "vicreg_variance": _mean([variance_loss(z) for z in rows]),
                "vicreg_covariance": _mean([_squared_covariances(z) for z in rows]) / dim,
            }
        if not is_transformed():
            self.terms = {name: term.detach() for name, term in terms.items()}
        return (
            self.invariance_weight * terms["squared_error"]
            - self.entropy_weight * terms["marginal_entropy"]
            + self.covariance_weight * terms["covariance"]
            + self.vicreg_variance_weight * terms["vicreg_variance"]
            + self.vicreg_covariance_weight * terms["vicreg_covariance"]
        )


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def _squared_covariances(y: Tensor) -> Tensor:
    """Sum of the squared covariances of different dimensions of rows (N, d)."""
    centred = y - y.mean(dim=0)
    covariance = product(centred.T, centred) / max(1, len(y) - 1)
    return covariance.square().sum() - covariance.diagonal().square().sum()
