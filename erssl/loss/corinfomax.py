"""CorInfoMax: log-determinants of moving covariances, and the squared error between views."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from erssl.entropy._opaque import is_transformed
from erssl.entropy.gaussian import log_det
from erssl.entropy.precision import outside_autocast, product
from erssl.loss.checks import check_counts, check_weights
from erssl.loss.distributed import check_gather, gather_rows, mean_over_ranks
from erssl.loss.state import StepState
from erssl.loss.views import Views, check_views, meet_targets, normalize_views


class CorInfoMaxLoss(StepState):
    r"""Entropy of Gaussians with moving covariances, and the squared error ([0], equation 8).

    .. math:: L = -\frac1d \sum_{v < 2} \log\det(R_v + \epsilon I)
              + \alpha\, \mathrm{mse}, \quad R_v \leftarrow \lambda R_v + (1 - \lambda)
              \frac1N \sum_i (z_v^i - \mu_v)(z_v^i - \mu_v)^\top, \quad
              \mu_v \leftarrow \lambda \mu_v + (1 - \lambda) \bar z_v

    Up to constants -log det is minus twice the entropy of a Gaussian of the covariance, an upper
    bound of that of any density with it; of a moving one an estimate. The gradient passes through
    the newest batch. Rows are normalised inside ([0]'s ``normalize_on``); moments are kept in
    ``state_dict``, in float64. They begin at I and 0, so that the loss rises at first, and move
    with every call that has a gradient, of calls in
    :func:`erssl.loss.state.accumulate_state` once. In float64 inside, as [0]'s code.

    - [0] Self-Supervised Learning with an Information Maximization Criterion, 2022,
      https://arxiv.org/abs/2209.07999

    Attributes:
        dim:
            Dimension d of the embeddings.
        alpha:
            Weight α of the squared error; 2000 in [0]'s command for ImageNet.
        entropy_weight:
            Weight of the log-determinants; 1 in [0].
        forgetting:
            Share λ of the moments that a step leaves; 0.1 in [0]'s command for ImageNet.
        ridge:
            The ε added to covariances; 1e-8 in [0]'s commands.
        gather_distributed:
            If True, moments are those of the batch over all processes.
        terms:
            Mean log-determinant of a dimension, and squared error, of the last call, detached.

    Raises:
        ValueError: If an option is out of range, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = CorInfoMaxLoss(16)
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['log_det', 'squared_error']
    """

    covariance: Tensor
    mean: Tensor

    def __init__(
        self,
        dim: int,
        alpha: float = 2000.0,
        entropy_weight: float = 1.0,
        forgetting: float = 0.1,
        ridge: float = 1e-8,
        gather_distributed: bool = False,
    ) -> None:
        """Begin with unit covariances and means of 0; see the class for the options."""
        super().__init__()
        check_counts(dim=dim)
        check_weights(alpha=alpha, entropy_weight=entropy_weight)
        if not (0 <= forgetting < 1 and 0 < ridge < math.inf):
            raise ValueError(
                "CorInfoMax needs a forgetting in [0, 1) and a ridge above 0 but has "
                f"forgetting={forgetting} and ridge={ridge}."
            )
        check_gather(gather_distributed)
        self.alpha = alpha
        self.entropy_weight = entropy_weight
        self.forgetting = forgetting
        self.ridge = ridge
        self.gather_distributed = gather_distributed
        self.terms: dict[str, Tensor] = {}
        self.add_state("covariance", torch.eye(dim, dtype=torch.float64).repeat(2, 1, 1))
        self.add_state("mean", torch.zeros(2, dim, dtype=torch.float64))

    def forward(self, online: Views, target: Views) -> Tensor:
        """Compute the loss.

        Args:
            online: One tensor (N, d), or the embeddings of every view, the global ones first.
            target: One tensor (N, d), or the target embeddings of the two global views.

        Returns:
            Scalar loss.

        Raises:
            ValueError: If the views do not fit together, or d is not that of the moments.
        """
        online, target = check_views(online, target)
        dim = self.mean.shape[1]
        if online[0].shape[1] != dim:
            raise ValueError(
                f"The moments are of dimension {dim} but the loss was given {online[0].shape[1]}."
            )
        with outside_autocast(online[0]):
            views, targets = normalize_views(online, target)
            errors = [
                (z - t).square().mean()
                for z, t in zip(views, meet_targets(targets, len(views)), strict=True)
            ]
            error = mean_over_ranks(torch.stack(errors), self.gather_distributed)
            rows = torch.stack([gather_rows(z, self.gather_distributed) for z in views[:2]])
            rows = rows if rows.device.type == "mps" else rows.double()
            sums, squares = rows.sum(dim=1), product(rows.mT, rows)
            _, covariance = self._moved(sums, squares, rows.new_full((), rows.shape[1]))
            shifted = covariance + self.ridge * torch.eye(dim, dtype=rows.dtype, device=rows.device)
            entropy = torch.stack([log_det(matrix) for matrix in shifted]).sum().to(error) / dim
        if rows.requires_grad:
            self.collect(sums=sums, squares=squares, count=sums.new_full((), rows.shape[1]))
        if not is_transformed():
            self.terms = {"log_det": entropy.detach() / 2, "squared_error": error.detach()}
        return self.alpha * error - self.entropy_weight * entropy

    def move(self, collected: dict[str, Tensor]) -> None:
        """Move both moments by the rows of a step."""
        mean, covariance = self._moved(**collected)
        self.mean, self.covariance = mean.to(self.mean), covariance.to(self.covariance)

    def _moved(self, sums: Tensor, squares: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Means (2, d) and covariances (2, d, d) that sums over rows make of those before."""
        old, new = self.forgetting, 1 - self.forgetting
        batch = sums / count
        mean = old * self.mean.to(sums) + new * batch
        # about the moved mean, of which [0]'s code takes the rows' deviations
        cross = batch[:, :, None] * mean[:, None]
        around = squares / count - cross - cross.mT + mean[:, :, None] * mean[:, None]
        return mean, old * self.covariance.to(sums) + new * around
