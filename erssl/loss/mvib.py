"""The loss of the multi-view information bottleneck (MVIB)."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from lightly.loss import NTXentLoss
from torch import Tensor, nn
from torch.distributions import Normal

from erssl.entropy._opaque import is_transformed
from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.loss._information import MINE, mige
from erssl.loss.checks import check_weights
from erssl.loss.distributed import check_gather, gather_rows, mean_over_ranks

Estimator = Literal["infonce", "mine", "mige"]

_SCALE_FLOOR = 1e-7  # Federici et al.'s reference code


class MVIBLoss(nn.Module):
    r"""Multi-view information bottleneck ([0]; MVEB, section 4.1).

    .. math:: L = \lambda \, \tfrac12 \big[ D_{KL}(p(z_1|v_1) \| p(z_2|v_2)) +
              D_{KL}(p(z_2|v_2) \| p(z_1|v_1)) \big] - \hat I(z_1; z_2)

    Heads are stochastic: a row holds a mean and a raw scale, the posterior is the diagonal
    normal N(mean, softplus(raw)²), and z is one reparameterised sample. :math:`\hat I` of the
    samples comes from one of MVEB's three options: ``"infonce"`` (:math:`-\hat I` is lightly's
    ``NTXentLoss``, so that the bound on I is log(2N - 1) minus it), ``"mine"`` (a learned critic)
    or ``"mige"`` (the gradient of I from scores; its value means nothing).

    - [0] Learning Robust Representations via Multi-View Information Bottleneck, 2020,
      https://arxiv.org/abs/2002.07017

    Attributes:
        multiplier:
            λ. Not printed for MVEB's comparison; 1e-3 is where [0] begins its schedule.
        temperature:
            Temperature of InfoNCE; 0.5, lightly's and SimCLR's small-image value.
        estimator:
            ``"infonce"``, ``"mine"`` or ``"mige"``.
        dim:
            Dimension d of a sample; needed with ``"mine"`` only, whose critic it sizes.
        gather_distributed:
            If True, negatives come from all processes.
        terms:
            Divergence of the last call, detached, in nats; and ``reconstruction``, -InfoNCE, or
            ``information``, MINE's bound.

    Raises:
        ValueError: If the multiplier is negative, the temperature not above 0, the estimator
            unknown, or ``"mine"`` lacks ``dim``.

    Examples:
        >>> import torch
        >>> loss_fn = MVIBLoss()
        >>> loss = loss_fn(torch.randn(8, 32), torch.randn(8, 32))  # mean and raw scale, 16 each
        >>> sorted(loss_fn.terms)
        ['divergence', 'reconstruction']
    """

    def __init__(
        self,
        multiplier: float = 1e-3,
        temperature: float = 0.5,
        gather_distributed: bool = False,
        estimator: Estimator = "infonce",
        dim: int | None = None,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        check_weights(multiplier=multiplier)
        if not temperature > 0:
            raise ValueError(f"The temperature must be above 0 but is {temperature}.")
        if estimator not in get_args(Estimator):
            raise ValueError(
                f"The estimator must be 'infonce', 'mine' or 'mige' but is {estimator!r}."
            )
        if estimator == "mine" and dim is None:
            raise ValueError("estimator='mine' needs dim, the dimension of a sample.")
        check_gather(gather_distributed)
        self.multiplier = multiplier
        self.gather_distributed = gather_distributed
        self.estimator = estimator
        self.info_nce = NTXentLoss(temperature, gather_distributed=gather_distributed)
        self.mine = MINE(dim) if estimator == "mine" and dim is not None else None
        self.terms: dict[str, Tensor] = {}

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            z0: Posterior parameters (N, 2d) of view 0, means then raw scales.
            z1: Posterior parameters (N, 2d) of view 1.

        Returns:
            Scalar loss in nats.

        Raises:
            ValueError: If the shapes differ or a row cannot be halved.
        """
        if z0.shape != z1.shape or z0.ndim != 2 or z0.shape[1] % 2:
            raise ValueError(
                "Both views must have one shape (N, 2d), means then raw scales, but have "
                f"{tuple(z0.shape)} and {tuple(z1.shape)}."
            )
        with outside_autocast(z0):
            p0, p1 = _posterior(z0), _posterior(z1)
            divergence = mean_over_ranks(_divergence(p0, p1), self.gather_distributed)
            information = self._information(p0.rsample(), p1.rsample())
        if not is_transformed():
            self.terms = {"divergence": divergence.detach()}
            if self.estimator != "mige":
                name = "reconstruction" if self.estimator == "infonce" else "information"
                self.terms[name] = information.detach()
        return self.multiplier * divergence - information

    def _information(self, z0: Tensor, z1: Tensor) -> Tensor:
        if self.estimator == "infonce":
            # lightly's value is that of this rank's rows; the loss is the mean over ranks.
            return -mean_over_ranks(self.info_nce(z0, z1), self.gather_distributed)
        if self.mine is None:
            return mige(z0, z1, self.gather_distributed)
        bound: Tensor = self.mine(*(gather_rows(z, self.gather_distributed) for z in (z0, z1)))
        return bound


def _divergence(p0: Normal, p1: Normal) -> Tensor:
    """Mean (N,) of both Kullback-Leibler divergences, whose logarithms cancel, in nats."""
    ratio = p0.scale / p1.scale
    shift = p0.mean - p1.mean
    terms = (ratio - 1 / ratio).square()
    terms = terms + (shift / p0.scale).square() + (shift / p1.scale).square()
    return 0.25 * terms.sum(dim=1)


def _posterior(z: Tensor) -> Normal:
    mean, raw_scale = at_least_float32(z).chunk(2, dim=1)
    scale = F.softplus(raw_scale) + _SCALE_FLOOR
    # a validation would wait for the device, and scales are above 0
    return Normal(mean, scale, validate_args=False)
