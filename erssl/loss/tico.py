"""TiCo: agreement of views, against directions that a moving covariance already has."""

from __future__ import annotations

import torch
from torch import Tensor

from erssl.entropy._opaque import is_transformed
from erssl.entropy.precision import outside_autocast, product, row_products
from erssl.loss.checks import check_counts, check_weights
from erssl.loss.distributed import check_gather, mean_over_ranks, sum_over_ranks
from erssl.loss.state import StepState
from erssl.loss.views import Views, check_views, meet_targets, normalize_views


class TiCoLoss(StepState):
    r"""Transformation invariance and covariance contrast ([0], algorithm 1).

    .. math:: L = \frac1V \sum_v \Big[ 1 - \overline{z_v^\top t_v}
              + \rho\, \overline{z_v^\top C_v z_v} \Big], \quad
              C_v = \beta C + (1 - \beta) \frac1N Z_v^\top Z_v

    with no gradient through C, which moves on by the mean over views, with every call that has a
    gradient, of calls in :func:`erssl.loss.state.accumulate_state` once. The contrast is least
    where the covariance is I/d: a surrogate of the spectrum's (Rényi-2) entropy. Rows are
    normalised inside.

    One direction of two views is lightly's ``TiCoLoss``, whose covariance is in no
    ``state_dict`` (a resumed run begins anew) and of half precision under autocast.

    - [0] TiCo: Transformation Invariance and Covariance Contrast for Self-Supervised Visual
      Representation Learning, 2022, https://arxiv.org/abs/2206.10698

    Attributes:
        dim:
            Dimension d of the embeddings.
        beta:
            Share β of the covariance that a step leaves; 0.9 in [0].
        rho:
            Weight ρ of the contrast; 8 in [0], as lightly quotes it.
        gather_distributed:
            If True, the covariance is that of the batch over all processes.
        terms:
            Alignment (mean cosine) and contrast of the last call, detached.

    Raises:
        ValueError: If an option is out of range, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = TiCoLoss(16)
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['alignment', 'covariance_contrast']
    """

    covariance: Tensor

    def __init__(
        self,
        dim: int,
        beta: float = 0.9,
        rho: float = 8.0,
        gather_distributed: bool = False,
    ) -> None:
        """Begin with a covariance of 0; see the class for the options."""
        super().__init__()
        check_counts(dim=dim)
        check_weights(rho=rho)
        if not 0 <= beta < 1:
            raise ValueError(f"TiCo needs beta in [0, 1) but has {beta}.")
        check_gather(gather_distributed)
        self.beta = beta
        self.rho = rho
        self.gather_distributed = gather_distributed
        self.terms: dict[str, Tensor] = {}
        self.add_state("covariance", torch.zeros(dim, dim))

    def forward(self, online: Views, target: Views) -> Tensor:
        """Compute the loss.

        Args:
            online: One tensor (N, d), or the online embeddings of every view.
            target: One tensor (N, d), or the target embeddings of the two global views.

        Returns:
            Scalar loss.

        Raises:
            ValueError: If the views do not fit together, or d is not that of the covariance.
        """
        online, target = check_views(online, target)
        dim = len(self.covariance)
        if online[0].shape[1] != dim:
            raise ValueError(
                f"The covariance is of dimension {dim} but the loss was given {online[0].shape[1]}."
            )
        with outside_autocast(online[0]):
            views, targets = normalize_views(online, target)
            pairs = zip(views, meet_targets(targets, len(views)), strict=True)
            cosines = torch.stack([row_products(z, t).mean() for z, t in pairs])
            alignment = mean_over_ranks(cosines, self.gather_distributed)
            squares = torch.stack([z.detach().T @ z.detach() for z in views])
            count = squares.new_full((), len(views[0]))
            if self.gather_distributed:
                squares, count = sum_over_ranks(squares), sum_over_ranks(count)
            moved = self._moved(squares, count)
            spread = [
                row_products(z, product(z, c.to(z))).mean()
                for z, c in zip(views, moved, strict=True)
            ]
            contrast = mean_over_ranks(torch.stack(spread), self.gather_distributed)
        if contrast.requires_grad:
            self.collect(squares=squares.mean(dim=0), count=count)
        if not is_transformed():
            self.terms = {
                "alignment": alignment.detach(),
                "covariance_contrast": contrast.detach(),
            }
        return 1 - alignment + self.rho * contrast

    def move(self, collected: dict[str, Tensor]) -> None:
        """Move the covariance by the rows of a step."""
        self.covariance = self._moved(**collected).to(self.covariance)

    def _moved(self, squares: Tensor, count: Tensor) -> Tensor:
        return self.beta * self.covariance.to(squares) + (1 - self.beta) * squares / count
