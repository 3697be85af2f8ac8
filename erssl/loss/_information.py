"""Neural estimates of mutual information that the loss of MVIB can choose from."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from erssl.entropy import entropy_from_score
from erssl.entropy.precision import at_least_float32
from erssl.loss._score import own_scores
from erssl.loss.distributed import mean_over_ranks
from erssl.loss.state import StepState
from erssl.loss.views import normalize_rows

_RATE = 0.01  # of the moving average; the paper's method section names none


class MINE(StepState):
    r"""Mutual information neural estimation ([0]): the Donsker-Varadhan bound of a learned critic.

    .. math:: \hat I = E_{p(z_0, z_1)}[T] - \log E_{p(z_0) p(z_1)}[e^T]

    The gradient of the logarithm has its denominator replaced by a moving average over steps
    ([0], section 3.2), kept in ``state_dict``; the value is the bound itself. Pairs of different
    samples are those of each row with the next.

    - [0] Mutual Information Neural Estimation, 2018, https://arxiv.org/abs/1801.04062
    """

    log_average: Tensor

    def __init__(self, dim: int, hidden_dim: int = 512) -> None:
        """Build the critic, an MLP with two hidden layers on both embeddings.

        Args:
            dim: Dimension d of each embedding.
            hidden_dim: Width of the hidden layers; not named in [0].
        """
        super().__init__()
        self.critic = nn.Sequential(
            nn.Linear(2 * dim, hidden_dim),
            nn.ELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ELU(),
            nn.Linear(hidden_dim, 1),
        )
        self.add_state("log_average", torch.tensor(math.nan))

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """The bound in nats, with the corrected gradient, of embeddings (N, d) and (N, d)."""
        weight = next(self.critic.parameters())
        z0, z1 = z0.to(weight.dtype), z1.to(weight.dtype)
        joint = at_least_float32(self.critic(torch.cat([z0, z1], dim=1))).mean()
        others = at_least_float32(self.critic(torch.cat([z0, z1.roll(1, dims=0)], dim=1)))
        log_mean = others.flatten().logsumexp(dim=0) - math.log(len(z0))
        bound = joint - log_mean
        if not torch.is_grad_enabled():
            return bound
        corrected = joint - (log_mean - self._moved(log_mean.detach())).exp()
        log_sum = log_mean + math.log(len(z0))
        self.collect(log_sum=log_sum, log_count=torch.full_like(log_sum, math.log(len(z0))))
        return corrected + (bound - corrected).detach()

    def _moved(self, log_mean: Tensor) -> Tensor:
        before = torch.where(self.log_average.isnan(), log_mean, self.log_average)
        return torch.logaddexp(math.log(1 - _RATE) + before, math.log(_RATE) + log_mean)

    def merge(self, name: str, earlier: Tensor, later: Tensor) -> Tensor:
        """The logarithm of a sum."""
        return torch.logaddexp(earlier, later)

    def move(self, collected: dict[str, Tensor]) -> None:
        """Move the average by the mean over all pairs of a step."""
        self.log_average.copy_(self._moved(collected["log_sum"] - collected["log_count"]))


def mige(z0: Tensor, z1: Tensor, gather_distributed: bool = False) -> Tensor:
    r"""Surrogate whose gradient is that of the mutual information, from three scores.

    Source: MIGE (2020, https://arxiv.org/abs/2005.01123), :math:`\nabla I = \nabla H(z_0) +
    \nabla H(z_1) - \nabla H(z_0, z_1)`. The scores are those of :func:`erssl.entropy.stein_score`
    on unit rows (a pair of them divided by √2 is one too) where the paper has the spectral Stein
    estimator. The value means nothing.

    Args:
        z0: Embeddings (N, d) of view 0.
        z1: Embeddings (N, d) of view 1.
        gather_distributed: Estimate from the rows of all ranks.
    """
    z0, z1 = normalize_rows(z0), normalize_rows(z1)
    variables = [z0, z1, torch.cat([z0, z1], dim=1) / math.sqrt(2)]
    scores = own_scores(variables, gather_distributed)
    h0, h1, h01 = (entropy_from_score(z, s) for z, s in zip(variables, scores, strict=True))
    return mean_over_ranks(h0 + h1 - h01, gather_distributed)
