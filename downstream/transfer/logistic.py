"""ℓ2-regularised logistic regression over a path of penalties."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from erssl.downstream.transfer.logits import HeldLogits, Logits, StoredLogits
from erssl.downstream.transfer.rotation import Rotation
from erssl.downstream.transfer.solver import MAX_ITER, TOLERANCE, Problem
from erssl.errors import ConfigError, DataError
from erssl.evaluation.rows import Rows, StoredRows, blocks

# Rounding of float32 moves the gradient by less than this share of a feature's mean magnitude.
_ROUNDING = 8 * torch.finfo(torch.float32).eps


class Fit(NamedTuple):
    """A classifier at one penalty, and how well it is one.

    Attributes:
        lam: Penalty λ.
        weight: Weights (C, d), float64.
        bias: Intercepts (C,), float64; -inf for a class that no training image has (+inf for one
            that all have, one-vs-rest), with weights 0: the limit of the fit.
        iterations: Steps of the solver, each two products of features with C columns.
        converged: Whether ``gradient_norm`` is within the tolerance.
        gradient_norm: Largest entry of the gradient of ``loss`` / N, intercepts included.
        loss: Sum of cross-entropies (nats) + λ / 2 |W|²; one-vs-rest, the sum over the C problems.
    """

    lam: float
    weight: Tensor
    bias: Tensor
    iterations: int
    converged: bool
    gradient_norm: float
    loss: float

    def scores(self, features: Rows, least: torch.dtype = torch.float32) -> Tensor:
        """Logits (N, C) of features (N, d), in the wider of ``least`` and the features' type."""
        if isinstance(features, StoredRows):
            return torch.cat([self.scores(block, least) for block in blocks(features)])
        features = features.to(torch.promote_types(features.dtype, least))
        return features @ self.weight.to(features).T + self.bias.to(features)


def logistic_path(
    features: Rows,
    labels: Tensor,
    num_classes: int,
    lambdas: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    max_iter: int = MAX_ITER,
    warm_start: bool = True,
    start: Fit | None = None,
    rotation: Rotation | None = None,
    device: torch.device | str = "cpu",
) -> list[Fit]:
    r"""Minimise scikit-learn's objective of logistic regression at each of several penalties.

    .. math::
        \sum_n -\log \operatorname{softmax}(W x_n + b)_{y_n} + \tfrac{\lambda}{2} \|W\|_F^2

    The intercepts carry no penalty and C = 1 / λ, as in ``LogisticRegression``; Kornblith et al.
    (2019, appendix A.4) select among 45 such λ. With labels (N, C) of zeros and ones it is one
    logistic regression a column (VOC 2007), all solved in the same products. Of two classes
    scikit-learn fits one logistic regression w with λ / 2 \|w\|²; so does this, in the form
    W = (-w / 2, w / 2) with λ \|W\|². Classes without a training image are left out of the fit,
    as they are by scikit-learn.

    The gradient of the objective divided by N is compared with ``tolerance``, entry by entry, as
    L-BFGS does in scikit-learn (``tol``, 1e-4 there). 1e-4 leaves fits at small λ that are set by
    where the search came from, up to 1.8 points of accuracy from scikit-learn's in
    ``benchmarks.transfer_path``, hence the tighter one here.

    The solver is L-BFGS (Liu and Nocedal 1989) on features in their principal axes, from the
    largest λ to the smallest. Each fit starts where the last three point to, with what they learnt
    of the curvature, preconditioned by the diagonal of the Hessian. Products of matrices are in
    float32 while the tolerance is above its rounding and in float64 otherwise, whatever the
    features' type.

    Args:
        features: Features (N, d), of any floating type, or rows that lie in files; these are gone
            through by blocks, beside two files of N x C numbers next to them, and take no memory.
        labels: Class numbers (N,), or zeros and ones (N, C) for one-vs-rest.
        num_classes: Number of classes C.
        lambdas: Penalties, in any order, which has no influence.
        tolerance: Of the gradient.
        max_iter: Steps at each λ at the most. A fit that needs more is marked and warned of.
        warm_start: Start from the fit at the next larger λ, not from 0.
        start: A fit to start the path from.
        rotation: Coordinates for the solver, where they exist already; those of any features whose
            span holds these.
        device: Where the products are computed.

    Returns:
        One fit a λ, in the order of ``lambdas``, on the CPU.

    Raises:
        ConfigError: If the penalties, the tolerance or the number of steps are out of range.
        DataError: If features and labels do not fit together, are out of range or not finite, or
            hold one class only.

    Warns:
        ConvergenceWarning: For each λ at which the gradient is above the tolerance.
    """
    order = sorted(range(len(lambdas)), key=lambda i: -lambdas[i])
    fits = logistic_fits(
        features,
        labels,
        num_classes,
        [lambdas[i] for i in order],
        tolerance=tolerance,
        max_iter=max_iter,
        warm_start=warm_start,
        start=start,
        rotation=rotation,
        device=device,
    )
    placed = dict(zip(order, fits, strict=True))
    return [placed[i] for i in range(len(lambdas))]


@torch.no_grad()
def logistic_fits(
    features: Rows,
    labels: Tensor,
    num_classes: int,
    lambdas: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    max_iter: int = MAX_ITER,
    warm_start: bool = True,
    start: Fit | None = None,
    rotation: Rotation | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Fit]:
    """Give the fits of :func:`logistic_path` one at a time, in the order of ``lambdas``.

    The 45 classifiers of 397 classes take 290 MB, of which a caller may need one.
    """
    check_labelled(features, labels, num_classes, "training")
    _check_options(lambdas, tolerance, max_iter)
    kept, bias = _fitted_classes(labels, num_classes)
    features, labels = features.to(device), labels.to(device)
    if labels.ndim == 1:
        targets = torch.searchsorted(kept.to(device), labels.long())
        factor = 2.0 if len(kept) == 2 else 1.0
    else:
        targets, factor = labels[:, kept.to(device)].float(), 1.0
    rotation = Rotation.of(features) if rotation is None else rotation.to(device)
    sums = [block.abs().sum(dim=0, dtype=torch.float64) for block in blocks(features)]
    magnitude = float(torch.stack(sums).sum(dim=0).max()) / len(features)
    dtype = torch.float32 if tolerance >= _ROUNDING * magnitude else torch.float64
    origin = torch.zeros(rotation.basis.shape[1] + 1, len(kept), dtype=torch.float64, device=device)
    if start is not None:
        intercepts = start.bias.where(start.bias.isfinite(), 0.0)[kept]
        origin = rotation.inward(start.weight[kept].to(device), intercepts.to(device))
    problem = _problem(features, targets, origin, rotation, magnitude, dtype)
    told, weight = None, torch.empty(0)
    for lam in lambdas:
        penalty = factor * lam / len(features)
        if not warm_start:
            problem.forget(origin)
        iterations, norm = problem.minimise(penalty, tolerance, max_iter)
        if not norm <= tolerance and iterations < max_iter and dtype == torch.float32:
            dtype = torch.float64
            problem = _problem(features, targets, problem.parameters, rotation, magnitude, dtype)
            more, norm = problem.minimise(penalty, tolerance, max_iter - iterations)
            iterations += more
        if not norm <= tolerance:  # NaN, too
            warnings.warn(
                f"Logistic regression with λ = {lam:g} has not converged in {iterations} steps: "
                f"the gradient is {norm:.2g}, the tolerance {tolerance:.2g}; give a larger "
                "max_iter or tolerance.",
                ConvergenceWarning,
                stacklevel=3,
            )
        if problem.parameters is not told:  # small λ may move nothing
            told = problem.parameters
            inner, intercepts = problem.rotation.outward(told)
            weight = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
            weight[kept] = inner.cpu()
            bias = bias.index_copy(0, kept, intercepts.cpu())
        loss = problem.value(penalty) * len(features)
        yield Fit(lam, weight, bias, iterations, norm <= tolerance, norm, loss)


def check_labelled(features: Rows, labels: Tensor, num_classes: int, name: str) -> None:
    """Check that features (N, d) and labels (N,) or (N, C) make a split.

    Raises:
        DataError: If they do not fit together, are out of range or not finite.
    """
    n = len(labels)
    if (
        features.ndim != 2
        or len(features) != n
        or n == 0
        or labels.shape[1:]
        not in (
            (),
            (num_classes,),
        )
    ):
        raise DataError(
            f"Logistic regression was given {name} features {tuple(features.shape)} and labels "
            f"{tuple(labels.shape)}; give features (N, d) and labels (N,), or (N, {num_classes}) "
            "of zeros and ones, N of at least 1."
        )
    broken = sum(int((~block.isfinite()).any(dim=1).sum()) for block in blocks(features))
    if broken:
        raise DataError(
            f"The {name} features of {broken} of {n} images are not finite; check the backbone "
            "that they come from."
        )
    low, high, top = float(labels.min()), float(labels.max()), num_classes - 1
    if labels.ndim == 2 and not bool(((labels == 0) | (labels == 1)).all()):
        raise DataError(
            f"Labels of several classes an image hold values from {low:g} to {high:g} in the "
            f"{name} part; give 0 or 1."
        )
    if labels.ndim == 1 and (labels.is_floating_point() or low < 0 or high > top):
        raise DataError(
            f"The {name} labels run from {low:g} to {high:g} for {num_classes} classes; give whole "
            f"numbers from 0 to {top}."
        )


def _problem(
    features: Rows,
    targets: Tensor,
    parameters: Tensor,
    rotation: Rotation,
    magnitude: float,
    dtype: torch.dtype,
) -> Problem:
    exact = rotation if dtype == torch.float32 else rotation.exact()
    logits: Logits
    if isinstance(features, StoredRows):
        logits = StoredLogits(features, targets, exact, parameters.shape[1], dtype)
    else:
        logits = HeldLogits(exact.apply(features, dtype), targets)
    return Problem(logits, targets.ndim == 1, parameters, exact, magnitude)


def _fitted_classes(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Classes that can be fitted, and the intercepts (C,) of those that cannot."""
    bias = torch.full((num_classes,), -torch.inf, dtype=torch.float64)
    if labels.ndim == 1:
        kept = labels.long().unique().cpu()
        enough = len(kept) > 1
    else:
        share = labels.double().mean(dim=0).cpu()
        kept = ((share > 0) & (share < 1)).nonzero()[:, 0]
        bias[share == 1] = torch.inf
        enough = len(kept) > 0
    if not enough:
        raise DataError(
            f"All {len(labels)} training images have the same labels; give images of at least "
            "two classes."
        )
    return kept, bias


def _check_options(lambdas: Sequence[float], tolerance: float, max_iter: int) -> None:
    wrong = [lam for lam in lambdas if not 0 < lam < float("inf")]
    if wrong or not lambdas:
        given = f"λ = {wrong[0]:g}" if wrong else "no λ"
        raise ConfigError(
            f"Logistic regression was given {given}; give penalties above 0, without which "
            "separable classes have no optimum."
        )
    if not tolerance > 0 or max_iter < 1:
        raise ConfigError(
            f"Logistic regression was given tolerance={tolerance} and max_iter={max_iter}; give a "
            "tolerance above 0 and at least one step."
        )
