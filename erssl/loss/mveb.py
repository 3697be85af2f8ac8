"""The loss of the multi-view entropy bottleneck (MVEB)."""

from __future__ import annotations

import inspect
import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.precision import outside_autocast, row_products
from erssl.entropy.score import entropy_from_score, stein_score
from erssl.entropy.score_options import (
    Geometry,
    Kernel,
    ScoreOptions,
    ShrinkTo,
    check_score_options,
)
from erssl.loss._score import own_scores
from erssl.loss.direct_entropy import (
    DirectEntropy,
    Estimate,
    direct_estimate,
    entropy_in_groups,
)
from erssl.loss.distributed import check_gather, mean_over_ranks
from erssl.loss.views import (
    Views,
    check_views,
    float_views,
    meet_targets,
    normalize_rows,
    normalize_views,
)


class MVEBLoss(nn.Module):
    r"""Alignment of views against the entropy of their embeddings ([0], equation 11).

    .. math:: L = -\frac1V \sum_v \Big[ \frac1N \sum_i z_v^i \cdot t_v^i + \beta H(Z_v) \Big]

    The gradient of H comes from the Stein estimate of the score of the embedding density
    (:func:`erssl.entropy.stein_score`); the value that stands for H is the surrogate
    -mean(S·z), not an entropy. Rows are normalised inside. The alignment follows equation 11
    (paired products, with a minus sign), from which the paper's Algorithm 1 departs.

    With the ridge of [0] the estimate grows with the number of rows that it sees, in high dimension
    almost in proportion: ``beta`` has a meaning only together with ``score_rows`` (docs/score.md).

    - [0] MVEB: Self-Supervised Learning with Multi-View Entropy Bottleneck, 2024,
      https://arxiv.org/abs/2403.19078

    Attributes:
        beta:
            Weight of the entropy, 1/((λ+1)κ) for the bottleneck's multiplier λ; 0.01 in [0],
            section 6.1. At 0.001 embeddings collapse, above 0.01 accuracy falls ([0], Fig. 4).
        eta:
            Ridge of the score estimate; 0.01 in the reference code, or ``"auto"``.
        geometry:
            ``"euclidean"`` ([0]) or ``"sphere"``.
        bandwidth:
            Bandwidth of the kernel; None for the median of the cosine distances ([0]).
        bandwidth_scale:
            Factor of that median, or ``"auto"`` for one chosen by score matching on held-out rows.
        kernel:
            ``"vmf"`` ([0]), or ``"rbf"``: rows stay as long as they are, views are held together by
            half their squared distance (of unit rows 1 - cosine), and the length of the rows by
            the entropy itself. Where the estimate is that of scaled rows, scaled, ``beta`` then
            only decides how long rows are: the optimum is the same up to a factor.
        normalize_local_target:
            Normalise the mean of the two targets that local views meet. The reference code
            does not.
        gather_distributed:
            If True, the score is estimated from the batch over all processes.
        score_rows:
            Rows of which a score is estimated: those that the loss sees are split in order into
            ceil(N / score_rows) groups of nearly equal size, never of one row, each with a kernel
            and a bandwidth of its own. None takes all rows at once, as the reference code does
            with the rows of one device; the recipe that ``beta`` is from had 128 on a device.
        shrink_to:
            What the ridge shrinks the score towards: ``"zero"`` ([0]), or ``"vmf"``, the score of
            the von Mises-Fisher density that fits the rows (docs/score.md).
        entropy:
            ``None`` for the gradient by the score ([0]), or in its place an estimate in nats with a
            gradient of its own, of the same groups of rows: ``"kde"``, of a kernel density with the
            kernel exp(z·z / ``bandwidth``), which has to be a number, or ``"knn"``, of the third
            neighbour (Kozachenko-Leonenko).
        terms:
            Alignment (mean cosine; with ``"rbf"`` in its place ``half_squared_distance``) and the
            entropy surrogate (with ``"kde"`` and ``"knn"`` the ``entropy``) of the last call,
            detached.

    Raises:
        ValueError: If beta is negative, score_rows below 2, an option of the score is none, or
            torch.distributed missing where ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = MVEBLoss(beta=0.01)
        >>> z0, z1 = torch.randn(8, 16), torch.randn(8, 16)
        >>> loss = loss_fn(z0, z1)
        >>> sorted(loss_fn.terms)
        ['alignment', 'entropy_surrogate']
    """

    def __init__(
        self,
        beta: float = 0.01,
        eta: float | Literal["auto"] = 0.01,
        geometry: Geometry = "euclidean",
        bandwidth: float | None = None,
        normalize_local_target: bool = False,
        gather_distributed: bool = False,
        score_rows: int | None = None,
        shrink_to: ShrinkTo = "zero",
        bandwidth_scale: float | Literal["auto"] = 1.0,
        kernel: Kernel = "vmf",
        entropy: DirectEntropy | None = None,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        if not 0 <= beta < math.inf:
            raise ValueError(f"The entropy weight beta must be at least 0 but is {beta}.")
        if score_rows is not None and (not isinstance(score_rows, int) or score_rows < 2):
            raise ValueError(
                f"A score needs at least 2 rows but score_rows is {score_rows}; give a whole "
                "number from 2 on, or None for all rows."
            )
        check_gather(gather_distributed)
        check_score_options(
            ScoreOptions(bandwidth, eta, geometry, shrink_to, slice(None), bandwidth_scale, kernel)
        )
        if kernel == "rbf" and normalize_local_target:
            raise ValueError(
                "kernel='rbf' is of rows that are not normalised, which "
                "normalize_local_target=True asks for; give one of them."
            )
        self._estimate: Estimate | None = None
        if entropy is not None:
            of_score = {
                "eta": eta,
                "geometry": geometry,
                "shrink_to": shrink_to,
                "bandwidth_scale": bandwidth_scale,
                "kernel": kernel,
            }
            defaults = inspect.signature(MVEBLoss).parameters
            said = [name for name, value in of_score.items() if value != defaults[name].default]
            self._estimate = direct_estimate(entropy, bandwidth, said)
        self.beta = beta
        self.eta: float | Literal["auto"] = eta
        self.geometry: Geometry = geometry
        self.bandwidth = bandwidth
        self.normalize_local_target = normalize_local_target
        self.gather_distributed = gather_distributed
        self.score_rows = score_rows
        self.shrink_to: ShrinkTo = shrink_to
        self.bandwidth_scale: float | Literal["auto"] = bandwidth_scale
        self.kernel: Kernel = kernel
        self.entropy: DirectEntropy | None = entropy
        self.terms: dict[str, Tensor] = {}

    def forward(self, online: Views, target: Views) -> Tensor:
        """Compute the loss.

        Args:
            online: One tensor (N, d), or the online embeddings of every view.
            target: One tensor (N, d), or the target embeddings of the two global views.

        Returns:
            Scalar loss.

        Raises:
            ValueError: If the views do not fit together.
        """
        as_they_are = self.kernel == "rbf"
        online, target = (float_views if as_they_are else check_views)(online, target)
        with outside_autocast(online[0]):
            views, target = (online, target) if as_they_are else normalize_views(online, target)
            targets = meet_targets(target, len(views))
            if self.normalize_local_target:
                targets[2:] = [normalize_rows(t) for t in targets[2:]]
            pairs = list(zip(views, targets, strict=True))
            if target is views:  # two views of a shared branch meet each other: once is enough
                pairs = pairs[:1]
            if as_they_are:
                near = [-0.5 * (z - t).square().sum(dim=1).mean() for z, t in pairs]
            else:
                near = [row_products(z, t).mean() for z, t in pairs]
            alignment = self._mean(near)
            entropy = self._entropy(views)
        if not is_transformed():
            held = alignment.detach()
            aligned = {"half_squared_distance": -held} if as_they_are else {"alignment": held}
            name = "entropy_surrogate" if self.entropy is None else "entropy"
            self.terms = {**aligned, name: entropy.detach()}
        return -(alignment + self.beta * entropy)

    def _entropy(self, views: list[Tensor]) -> Tensor:
        """What stands for the entropy, in the mean over the views."""
        if self._estimate is not None:
            return torch.stack(
                [
                    entropy_in_groups(z, self._estimate, self.gather_distributed, self.score_rows)
                    for z in views
                ]
            ).mean()
        score = partial(
            stein_score,
            bandwidth=self.bandwidth,
            eta=self.eta,
            geometry=self.geometry,
            shrink_to=self.shrink_to,
            bandwidth_scale=self.bandwidth_scale,
            kernel=self.kernel,
        )
        scores = own_scores(views, self.gather_distributed, self.score_rows, score)
        return self._mean(
            [entropy_from_score(z, score) for z, score in zip(views, scores, strict=True)]
        )

    def _mean(self, of_views: list[Tensor]) -> Tensor:
        return mean_over_ranks(torch.stack(of_views), self.gather_distributed)
