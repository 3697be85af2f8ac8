"""VISReg: scale, shape and centre of the embeddings, each by a term of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.precision import outside_autocast
from erssl.entropy.sliced import sliced_wasserstein
from erssl.loss.checks import check_weights
from erssl.loss.distributed import check_gather, gather_rows, mean_over_ranks, rank_columns
from erssl.loss.lejepa import center_errors, check_slices, draw_slices
from erssl.loss.views import Views, float_views

_EPS = 1e-4  # added to deviations before they divide (lightly)


class VISRegLoss(nn.Module):
    r"""Variance, sliced Wasserstein-2, mean and squared error ([0]).

    .. math:: L = (1 - \lambda)\, \mathrm{mse} + \lambda \frac1V \sum_v \Big[
              \overline{(1 - \sigma_v)^2} + w\, SW_2^2(\tilde Z_v) + \overline{\mu_v^2} \Big]

    with μ and σ the mean and deviation of each dimension over the batch, the bar a mean over
    dimensions, and :math:`\tilde Z` the rows less μ, divided by σ, which gives no gradient. SW is
    :func:`erssl.entropy.sliced_wasserstein` at the quantiles i / (N + 1), by slices drawn anew in
    every call; the squared error is to the mean of the global views. Distances from N(0, I): a
    surrogate of the entropy, no nats. Rows are taken as they are. What divides has 1e-4 added, as
    in lightly; [0]'s code adds 1e-6 to every σ.

    - [0] VISReg, 2026, https://arxiv.org/abs/2606.02572 (written from the paper alone)

    Attributes:
        lambda_param:
            Weight λ of the regularisation in [0, 1]; 0.9 in [0] for ImageNet, 0.6 for small data
            (as lightly quotes [0], tables 3 and 12).
        num_slices:
            Directions that are drawn in each call; 4096 in lightly.
        shape_weight:
            Weight w of the Wasserstein distance; 1 in [0].
        gather_distributed:
            If True, the statistics are those of the batch over all processes, and each process
            takes a share of the slices.
        terms:
            The four terms of the last call, detached.

    Raises:
        ValueError: If an option is out of range, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = VISRegLoss(num_slices=64)
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['center', 'scale', 'shape', 'squared_error']
    """

    def __init__(
        self,
        lambda_param: float = 0.9,
        num_slices: int = 4096,
        shape_weight: float = 1.0,
        gather_distributed: bool = False,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        check_slices(lambda_param, num_slices)
        check_weights(shape_weight=shape_weight)
        check_gather(gather_distributed)
        self.lambda_param = lambda_param
        self.num_slices = num_slices
        self.shape_weight = shape_weight
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
            of_views = [self._regularisation(z, slices) for z in views]
            scale, shape, center = (
                torch.stack(part).mean() for part in zip(*of_views, strict=True)
            )
            error = mean_over_ranks(center_errors(views, targets), self.gather_distributed)
        if not is_transformed():
            terms = {"scale": scale, "shape": shape, "center": center, "squared_error": error}
            self.terms = {name: term.detach() for name, term in terms.items()}
        regularisation = scale + self.shape_weight * shape + center
        return self.lambda_param * regularisation + (1 - self.lambda_param) * error

    def _regularisation(self, z: Tensor, slices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = gather_rows(z, self.gather_distributed)
        mean, deviation = rows.mean(dim=0), rows.std(dim=0, unbiased=False)
        shaped = (rows - mean) / (deviation.detach() + _EPS)
        own = rank_columns(slices, self.gather_distributed)
        share = own.shape[1] / slices.shape[1] * sliced_wasserstein(shaped, own, position=0.0)
        shape = gather_rows(share[None], self.gather_distributed).sum()
        return (1 - deviation).square().mean(), shape, mean.square().mean()
