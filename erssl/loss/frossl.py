"""FroSSL: the Rényi entropy of each view's spectrum, and the squared error to the mean view."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.matrix import matrix_renyi2_entropy
from erssl.entropy.precision import outside_autocast
from erssl.loss.checks import check_weights
from erssl.loss.distributed import check_gather, gather_rows
from erssl.loss.views import Views, normalize_rows, shared_views


class FroSSLLoss(nn.Module):
    r"""Minus the matrix Rényi-2 entropies, plus the squared error to the mean view ([0]).

    .. math:: L = \sum_v \Big[ -H_2(Z_v) + w\, V d\, \mathrm{mse}(Z_v, \bar Z) \Big], \quad
              H_2(Z) = -\log \Big\lVert \frac{Z^\top Z}{\mathrm{tr}\, Z^\top Z} \Big\rVert_F^2

    with the columns of every view normalised over the batch, as in [0]'s code for any number of
    views. The entropy is that of the spectrum, 0 to log min(N, d): a surrogate. Because columns
    are of unit norm the error is at most of the order of w V² d / N: with N far above V² d views
    hardly need to agree (opposite views cost w V² d / N more than equal ones).

    lightly 1.6's ``FroSSLLoss`` is the same function; it reads the trace on the host in every
    call, takes no gathered batch, and is NaN where all rows are 0.

    - [0] FroSSL: Frobenius Norm Minimization for Self-Supervised Learning, 2024,
      https://arxiv.org/abs/2310.02903

    Attributes:
        invariance_weight:
            Weight w of the squared error; 1 in lightly, 2 in [0]'s script for ImageNet.
        entropy_weight:
            Weight of the entropies; 1 in [0].
        gather_distributed:
            If True, the loss is that of the batch over all processes.
        terms:
            Mean entropy of a view's spectrum (nats) and squared error of the last call, detached.

    Raises:
        ValueError: If a weight is negative, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = FroSSLLoss()
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['spectral_entropy', 'squared_error']
    """

    def __init__(
        self,
        invariance_weight: float = 1.0,
        entropy_weight: float = 1.0,
        gather_distributed: bool = False,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        check_weights(invariance_weight=invariance_weight, entropy_weight=entropy_weight)
        check_gather(gather_distributed)
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
            rows = [gather_rows(z, self.gather_distributed) for z in every]
            columns = torch.stack([normalize_rows(z.T).T for z in rows])
            entropy = torch.stack([matrix_renyi2_entropy(z) for z in columns]).sum()
            count, _, dim = columns.shape
            error = (columns - columns.mean(dim=0)).square().mean(dim=(1, 2)).sum()
        if not is_transformed():
            self.terms = {
                "spectral_entropy": entropy.detach() / count,
                "squared_error": error.detach() / count,
            }
        return self.invariance_weight * count * dim * error - self.entropy_weight * entropy
