"""E2MC: the entropy of every single dimension, and no covariance between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.marginal import marginal_entropy
from erssl.entropy.precision import outside_autocast, product
from erssl.loss.distributed import check_gather, gather_rows, mean_over_ranks
from erssl.loss.views import Views, float_views, meet_targets

_FLOOR = 1e-7  # spacing of equal values, which have no density


class E2MCLoss(nn.Module):
    r"""Squared error, minus marginal entropies, plus covariances ([0]).

    .. math:: L = \alpha\, \mathrm{mse} + \frac1V \sum_v \Big[ -\frac{w}{d} \sum_j \hat H(y_{v,j})
              + \frac{c}{d} \sum_{j \ne k} \mathrm{cov}(y_{v,j}, y_{v,k})^2 \Big], \quad
              y = \mathrm{sigmoid}(z)

    with the entropies by m-spacings (:func:`erssl.entropy.marginal_entropy`). In the cube their
    sum is an upper bound of the entropy of y, tight where dimensions are independent, of which
    the second term is a necessary condition: a surrogate of a bound. [0] adds both terms to the
    loss that a model was trained by, for a few epochs more; here the squared error (VICReg's
    invariance) is what holds views together.

    - [0] Improving Pre-trained Self-Supervised Embeddings Through Effective Entropy Maximization,
      2024, https://arxiv.org/abs/2411.15931

    Attributes:
        invariance_weight:
            Weight α of the squared error; 25 in VICReg.
        entropy_weight:
            Weight w of the mean marginal entropy; not confirmed in [0].
        covariance_weight:
            Weight c of the squared covariances; not confirmed in [0].
        gather_distributed:
            If True, entropies and covariances are those of the batch over all processes.
        terms:
            Mean marginal entropy (nats), squared covariances and squared error of the last call,
            detached.

    Raises:
        ValueError: If a weight is negative, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = E2MCLoss()
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['covariance', 'marginal_entropy', 'squared_error']
    """

    def __init__(
        self,
        invariance_weight: float = 25.0,
        entropy_weight: float = 1.0,
        covariance_weight: float = 1.0,
        gather_distributed: bool = False,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        if not (invariance_weight >= 0 and entropy_weight >= 0 and covariance_weight >= 0):
            raise ValueError(
                f"Weights must be at least 0 but are invariance_weight={invariance_weight}, "
                f"entropy_weight={entropy_weight} and covariance_weight={covariance_weight}."
            )
        check_gather(gather_distributed)
        self.invariance_weight = invariance_weight
        self.entropy_weight = entropy_weight
        self.covariance_weight = covariance_weight
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
            errors = [(z - t).square().mean() for z, t in zip(views, met, strict=True)]
            error = mean_over_ranks(torch.stack(errors), self.gather_distributed)
            rows = [gather_rows(z.sigmoid(), self.gather_distributed) for z in views]
            dim = rows[0].shape[1]
            entropy = torch.stack([marginal_entropy(y, floor=_FLOOR) for y in rows]).mean() / dim
            covariance = torch.stack([_squared_covariances(y) for y in rows]).mean() / dim
        if not is_transformed():
            terms = {"marginal_entropy": entropy, "covariance": covariance, "squared_error": error}
            self.terms = {name: term.detach() for name, term in terms.items()}
        return (
            self.invariance_weight * error
            - self.entropy_weight * entropy
            + self.covariance_weight * covariance
        )


def _squared_covariances(y: Tensor) -> Tensor:
    """Sum of the squared covariances of different dimensions of rows (N, d)."""
    centred = y - y.mean(dim=0)
    covariance = product(centred.T, centred) / max(1, len(y) - 1)
    return covariance.square().sum() - covariance.diagonal().square().sum()
