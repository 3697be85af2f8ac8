"""The concentration of the kernel by which a loss reads a density: chosen, or learned."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from erssl.entropy._opaque import is_transformed
from erssl.entropy.held_out import best_kappa
from erssl.entropy.vmf import vmf_mean_resultant_length
from erssl.loss.distributed import sum_over_ranks
from erssl.loss.state import StepState

Rule = Literal["best", "learned"]

START = 10.0  # the ER paper's concentration
LEAST, MOST = 1e-3, 1e4  # of the concentration, also where rows repeat themselves
_RATE = 0.1  # of a step of the logarithm; ours
_ROWS = 256  # whose cosines are held at a time


class Concentration(StepState):
    r"""A concentration that follows the leave-one-out likelihood of the rows.

    ``"best"`` takes in each call that of the highest likelihood of the call's own rows
    (:func:`erssl.entropy.held_out.best_kappa`), of which nothing is kept. ``"learned"`` keeps one,
    and moves its logarithm once a step along the gradient of the mean log-likelihood ℓ, scaled by
    the curvature d/2 that a Gaussian kernel has there:
    :math:`\log\kappa \leftarrow \log\kappa + 0.1 \cdot \frac2d
    \frac{\partial \ell}{\partial \log\kappa}`, by 0.1 at most. Both rules are ours. The loss holds
    the concentration fixed: its gradient moves the rows alone, for a loss that could choose the
    kernel would choose the one that reads the rows as most spread.
    """

    log_kappa: Tensor

    def __init__(self, rule: Rule) -> None:
        """Begin at 10.

        Raises:
            ValueError: If there is no such rule.
        """
        super().__init__()
        if rule not in get_args(Rule):
            raise ValueError(
                f"The concentration kappa must be a number, 'best' or 'learned' but is {rule!r}."
            )
        self.rule = rule
        if rule == "learned":
            self.add_state("log_kappa", torch.tensor(math.log(START)))

    @torch.no_grad()
    def of(self, z: Tensor) -> float:
        """The concentration for unit rows (N, d) of all ranks, a number on the host.

        Raises:
            RuntimeError: If a compiler, or a transformation of ``torch.func``, follows what is run.
        """
        # not is_followed(), of which a graph in parts would compile the answer
        if torch.compiler.is_compiling() or is_transformed():
            raise RuntimeError(
                f"kappa={self.rule!r} reads its concentration from values, which torch.func, "
                "torch.compile(fullgraph=True) and torch.export cannot follow; give kappa a number."
            )
        if self.rule == "learned":
            return float(self.log_kappa.exp())
        kappa = best_kappa(z if z.device.type == "mps" else z.double())
        return START if math.isnan(kappa) else min(max(kappa, LEAST), MOST)

    @torch.no_grad()
    def learn(self, z: Tensor, keys: Tensor, own_offset: int, kappa: float) -> None:
        """Collect the gradient of the likelihood of rows (N, d), for ``"learned"``."""
        if self.rule == "learned":
            slope = likelihood_slope(z, keys, own_offset, kappa)
            self.collect(slope=slope * len(z), count=slope.new_tensor(float(len(z))))

    def move(self, collected: dict[str, Tensor]) -> None:
        """Move the logarithm by the mean slope of all rows of a step, on all ranks."""
        slope, count = sum_over_ranks(torch.stack([collected["slope"], collected["count"]]))
        step = torch.nan_to_num(_RATE * slope / count).clamp(-_RATE, _RATE)
        moved = (self.log_kappa + step.to(self.log_kappa)).clamp(math.log(LEAST), math.log(MOST))
        self.log_kappa.copy_(moved)


def likelihood_slope(z: Tensor, keys: Tensor, own_offset: int, kappa: float) -> Tensor:
    r"""Slope :math:`\frac2d \partial \ell / \partial \log\kappa` of the leave-one-out likelihood.

    With :math:`\ell = \frac1N \sum_i \log \hat p_i`, whose slope is κ times the mean cosine,
    weighted by the kernel, less that of the vMF density, :math:`A_d(\kappa)`.

    Args:
        z: Unit rows (N, d).
        keys: Unit rows (M, d) that carry the kernels.
        own_offset: The row of ``keys`` at which ``z`` begins.
        kappa: Concentration.
    """
    total = z.new_zeros(())
    for start in range(0, len(z), _ROWS):
        cosines = z[start : start + _ROWS] @ keys.T
        exponents = kappa * cosines
        exponents.diagonal(own_offset + start).fill_(-math.inf)
        total += (exponents.softmax(dim=1) * cosines).sum()
    dim = z.shape[1]
    expected = vmf_mean_resultant_length(dim, kappa).to(total)
    return 2 / dim * kappa * (total / len(z) - expected)
