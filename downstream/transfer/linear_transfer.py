"""Linear transfer: a classifier on frozen features, its penalty chosen on the validation part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from erssl.downstream.transfer.logistic import Fit, check_labelled, logistic_fits
from erssl.downstream.transfer.rotation import Rotation
from erssl.downstream.transfer.solver import MAX_ITER, TOLERANCE
from erssl.errors import DataError
from erssl.evaluation.rows import AnyFeatures, Rows, blocks, joined

# Kornblith et al. 2019, appendix A.4: 45 values, evenly spaced in their logarithms.
LAMBDAS = tuple(torch.logspace(-6, 5, 45, dtype=torch.float64).tolist())
_FLAT = 1e-6  # of a feature's magnitude: what float32 leaves of a constant

Metric = Callable[[Tensor, Tensor], float]


class PathPoint(NamedTuple):
    """What one penalty gives.

    Attributes:
        lam: Penalty λ.
        val_metric: Of the classifier that was fitted to the training part.
        iterations: Steps of the solver.
        converged: Whether the gradient is within the tolerance.
        gradient_norm: Largest entry of the gradient of the objective / N.
    """

    lam: float
    val_metric: float
    iterations: int
    converged: bool
    gradient_norm: float


class LinearProbe(NamedTuple):
    """Result of the linear protocol.

    Attributes:
        lam: The chosen penalty.
        val_metric: At that penalty, of the classifier fitted to the training part.
        scores: Of the test part (N, C), by the classifier fitted to training and validation part.
        path: One point a penalty, from the smallest to the largest.
        fit: The classifier that was tested.
        dimensions: Number of features d.
        constant: How many of them are the same for all training images.
        notes: Sentences about the features and fits that a reader of the metric must know.
    """

    lam: float
    val_metric: float
    scores: Tensor
    path: list[PathPoint]
    fit: Fit
    dimensions: int
    constant: int
    notes: list[str]


def linear_probe(
    train: AnyFeatures,
    val: AnyFeatures,
    test: AnyFeatures,
    num_classes: int,
    metric: Metric,
    *,
    lambdas: Sequence[float] = LAMBDAS,
    tolerance: float = TOLERANCE,
    max_iter: int = MAX_ITER,
    device: torch.device | str = "cpu",
) -> LinearProbe:
    """Fit to train at each penalty, choose on val, fit to train + val, measure on test.

    The protocol of Kornblith et al. (2019), as in SimCLR, BYOL and MVEB §6.4. Of penalties with the
    same metric on val the largest is chosen, whose classifier is the smallest. The features are
    taken as the backbone gives them, without standardisation.

    Args:
        train: Features (N, d) and labels, (N,) or (N, C) of zeros and ones for one-vs-rest.
        val: Features and labels that choose the penalty.
        test: Features and labels that are measured once.
        num_classes: Number of classes C.
        metric: From scores (N, C) and labels to a number, the higher the better.
        lambdas: Penalties.
        tolerance: Of the gradient, see :func:`logistic_path`.
        max_iter: Steps at each penalty at the most.
        device: Where the classifiers are fitted.

    Returns:
        Metrics, the whole path and the classifier.

    Raises:
        ConfigError: If a penalty, the tolerance or the number of steps is out of range.
        DataError: If features and labels do not fit together, are out of range or not finite; if
            the metric is not finite on val.
    """
    for name, part in (("training", train), ("validation", val), ("test", test)):
        check_labelled(part.features, part.labels, num_classes, name)
    widths = [part.features.shape[1] for part in (train, val, test)]
    if len(set(widths)) > 1 or len({part.labels.ndim for part in (train, val, test)}) > 1:
        raise DataError(
            f"Training, validation and test features have {widths} dimensions and labels of the "
            f"shapes {[tuple(part.labels.shape) for part in (train, val, test)]}; give those of "
            "one backbone and one data set."
        )
    both = joined([train, val])
    rotation = Rotation.of(both.features.to(device))
    path, best = [], None
    descending = sorted(lambdas, reverse=True)
    solve = partial(
        logistic_fits,
        num_classes=num_classes,
        tolerance=tolerance,
        max_iter=max_iter,
        rotation=rotation,
        device=device,
    )
    for fit in solve(*train, lambdas=descending):
        value = _finite(metric(fit.scores(val.features), val.labels), fit.lam)
        path.append(PathPoint(fit.lam, value, fit.iterations, fit.converged, fit.gradient_norm))
        if best is None or value > best[0]:
            best = value, fit
    assert best is not None  # an empty path is refused by the solver
    chosen = best[1]
    [fit] = solve(*both, lambdas=[chosen.lam], start=chosen)
    constant = constant_features(train.features)
    return LinearProbe(
        chosen.lam,
        best[0],
        fit.scores(test.features, torch.float64),
        path[::-1],
        fit,
        widths[0],
        constant,
        _notes(constant, train, path, fit),
    )


def constant_features(features: Rows) -> int:
    """How many of the features (N, d) are the same for all images, but for rounding."""
    parts = [torch.stack([block.amin(dim=0), block.amax(dim=0)]) for block in blocks(features)]
    ends = torch.stack(parts)
    low, high = ends[:, 0].amin(dim=0), ends[:, 1].amax(dim=0)
    return int((high - low <= _FLAT * torch.maximum(low.abs(), high.abs())).sum())


def _finite(value: float, lam: float) -> float:
    if not math.isfinite(value):
        raise DataError(
            f"The metric on the validation part is {value} at λ = {lam:g}; check that the part has "
            "images of the classes that it is taken over."
        )
    return value


def _notes(constant: int, train: AnyFeatures, path: list[PathPoint], fit: Fit) -> list[str]:
    notes = []
    n, d = train.features.shape
    if constant == d:
        notes.append(
            f"All {d} features are constant over the {n} training images: the backbone tells no "
            "image from another, and the metrics are those of guessing."
        )
    elif constant:
        notes.append(f"{constant} of {d} features are constant over the {n} training images.")
    if open_ends := [f"{point.lam:g}" for point in path if not point.converged]:
        notes.append(f"Not converged at λ = {', '.join(open_ends)}.")
    if not fit.converged:
        notes.append(f"The fit to train + val at λ = {fit.lam:g} has not converged.")
    return notes
