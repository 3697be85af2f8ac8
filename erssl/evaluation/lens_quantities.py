"""The lens: entropy and reconstruction of any multi-view method's embeddings.

The two terms that the ER paper (arXiv 2307.10907) plots in its Fig. 2, with their ceilings, and how
far the entropy stands below that of the uniform density. Which of the numbers are bounds, and which
estimates, stands beside each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from erssl.entropy import (
    alignment,
    discrete_entropy,
    effective_rank,
    kde_entropy,
    knn_entropy,
    mean_cosine,
    sphere_log_area,
    spread,
    uniformity,
)
from erssl.entropy.geometry import unit_rows
from erssl.entropy.precision import at_least_float32
from erssl.entropy.vmf import log_normalizer_value

_OUTPUTS = 2**22  # held at a time
KAPPAS = (10.0, 3.0, 30.0)  # the ER paper's 10, a wider kernel and a sharper one
NEIGHBOUR = 3  # of the nearest-neighbour estimate; see knn_entropy
KDE_BELOW, KNN_BELOW = "nats_below_uniform_kde", "nats_below_uniform_knn"


@torch.no_grad()
def lens_reading(
    embeddings: Sequence[Tensor],
    logits: Sequence[Tensor] | None = None,
    kappas: Sequence[float] = KAPPAS,
) -> dict[str, float]:
    r"""Read entropy and reconstruction of two views.

    Entropies are read on one view at a time, so that a row is an image, and averaged over both.
    How far they stand below the uniform density's, 0 being uniform and -inf a point:

    - ``nats_below_uniform_kde``: an upper bound in expectation of H - log area, by a kernel of
      the best concentration, chosen and read on different images; from four images on;
    - ``nats_below_uniform_knn``: an estimate, by nearest neighbours (Kozachenko-Leonenko).

    For each concentration κ, averaged over the two directions:

    - ``entropy_k…``: leave-one-out KDE entropy (Joe). In expectation the cross-entropy with the
      density smoothed by the kernel: a weak upper bound of H, which stays within about κ nats of
      ``log_sphere_area`` whatever the data do, and may pass it where κ is too sharp for N;
    - ``reconstruction_k…``: E[log q], q a vMF around the other view's embedding;
    - ``i_er_k…``: their sum, an estimate of the information that the views share. It would be a
      lower bound with H itself; with an upper bound of H it is none, and may pass log N;
    - ``infonce_k…``: log N minus InfoNCE at temperature 1/κ: a lower bound of the information
      in expectation, never above log N.

    With logits ``discrete_entropy`` (of the mean soft-max of these N images, in expectation below
    that of all images), ``discrete_reconstruction`` (minus the cross-entropy) and
    ``discrete_i_er``, their sum: a lower bound of the information in expectation.

    Ceilings: ``log_sphere_area`` for H, ``log_k`` for the discrete H, ``log_n`` for InfoNCE. Also
    ``alignment`` (mean cosine of the views), ``mean_cosine`` (of different images: near 1 in a
    cone), ``uniformity``, ``effective_rank`` (RankMe; at most min(N, d)) and ``spread``
    (per-dimension deviation times √d).

    Args:
        embeddings: Two tensors (N, d), one a view, N of at least 2; rows are normalised here.
        logits: Two tensors (N, K), divided by the temperature already.
        kappas: Concentrations, above 0.

    Returns:
        Values by name; information in nats.

    Raises:
        ValueError: If shapes do not fit.
    """
    z0, z1 = (unit_rows(_wide(z)) for z in embeddings)
    aligned = alignment(z0, z1)
    n, dim = z0.shape
    reading = below_uniform(z0, z1)
    for kappa in kappas:
        entropy, reconstruction = entropy_and_reconstruction(z0, z1, kappa)
        similarities = kappa * (z0 @ z1.T)
        contrast = similarities.logsumexp(dim=1).mean() + similarities.logsumexp(dim=0).mean()
        name = _label(kappa)
        reading |= {
            f"entropy_k{name}": float(entropy),
            f"reconstruction_k{name}": float(reconstruction),
            f"i_er_k{name}": float(entropy + reconstruction),
            f"infonce_k{name}": float(math.log(n) + kappa * aligned - 0.5 * contrast),
        }
    if logits is not None:
        reading |= _discrete(*logits)
    return reading | {
        "alignment": float(aligned),
        "mean_cosine": float(0.5 * (mean_cosine(z0) + mean_cosine(z1))),
        "uniformity": float(0.5 * (uniformity(z0) + uniformity(z1))),
        "effective_rank": float(effective_rank(z0)),
        "spread": float(spread(z0)),
        "log_sphere_area": float(sphere_log_area(dim)),
        "log_n": math.log(n),
    }


def entropy_and_reconstruction(z0: Tensor, z1: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """The two terms of I_ER of unit rows (N, d), ``entropy_k…`` and ``reconstruction_k…``."""
    entropy = 0.5 * (kde_entropy(z0, kappa) + kde_entropy(z1, kappa))
    return entropy, kappa * alignment(z0, z1) + log_normalizer_value(z0.shape[1], kappa)


def below_uniform(z0: Tensor, z1: Tensor) -> dict[str, float]:
    """Entropy of unit rows less the uniform density's, of each view for itself, averaged."""
    n, dim = z0.shape
    ceiling = sphere_log_area(dim)
    k = min(NEIGHBOUR, n - 1)
    below = {KNN_BELOW: 0.5 * float(knn_entropy(z0, k) + knn_entropy(z1, k)) - ceiling}
    if n < 4:  # too few to choose on one half and read on the other
        return below
    entropy = 0.5 * float(kde_entropy(z0, "best") + kde_entropy(z1, "best"))
    return {KDE_BELOW: entropy - ceiling} | below


def _discrete(logits0: Tensor, logits1: Tensor) -> dict[str, float]:
    """Terms of the discrete bound; a few rows at a time, since outputs can be many."""
    rows, outcomes = logits0.shape
    size = max(1, _OUTPUTS // outcomes)
    means = _wide(logits0.new_zeros(2, outcomes))
    cross = 0.0
    for pair in zip(logits0.split(size), logits1.split(size), strict=True):
        log_p0, log_p1 = (at_least_float32(x).log_softmax(dim=1) for x in pair)
        p0, p1 = log_p0.exp(), log_p1.exp()
        means += torch.stack([p0.sum(dim=0), p1.sum(dim=0)])
        cross += 0.5 * float((p0 * log_p1).sum() + (p1 * log_p0).sum())
    entropy = 0.5 * sum(float(discrete_entropy(mean[None] / rows)) for mean in means)
    return {
        "discrete_entropy": entropy,
        "discrete_reconstruction": cross / rows,
        "discrete_i_er": entropy + cross / rows,
        "log_k": math.log(outcomes),
    }


def _label(kappa: float) -> str:
    short = f"{kappa:g}"
    return short if float(short) == kappa else repr(float(kappa))


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.device.type == "mps" else x.double()
