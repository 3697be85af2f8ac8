"""The lens: entropy and reconstruction of any multi-view method's embeddings.

What the ER paper (arXiv 2307.10907) plots in its Fig. 2, in true nats and with its ceilings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from erssl.entropy import (
    alignment,
    discrete_entropy,
    effective_rank,
    kde_entropy,
    sphere_log_area,
    spread,
    uniformity,
)
from erssl.entropy._precision import at_least_float32
from erssl.entropy.vmf import log_normalizer_value

_OUTPUTS = 2**22  # held at a time
KAPPAS = (10.0, 3.0, 30.0)  # the ER paper's 10, a wider kernel and a sharper one


@torch.no_grad()
def lens_reading(
    embeddings: Sequence[Tensor],
    logits: Sequence[Tensor] | None = None,
    kappas: Sequence[float] = KAPPAS,
) -> dict[str, float]:
    r"""Read entropy and reconstruction of two views.

    For each concentration κ, averaged over the two directions:

    - ``entropy_k…``: leave-one-out KDE entropy H of the embeddings (Joe);
    - ``reconstruction_k…``: E[log q], q a vMF around the other view's embedding;
    - ``i_er_k…``: their sum, the ER bound on the mutual information of the views;
    - ``infonce_k…``: log N minus InfoNCE at temperature 1/κ, never above log N.

    With logits ``discrete_entropy`` (of the batch's mean soft-max), ``discrete_reconstruction``
    (minus the cross-entropy) and ``discrete_i_er``. Ceilings: ``log_sphere_area`` for H,
    ``log_k`` for the discrete H, ``log_n`` for what N samples can show. Also ``alignment`` (mean
    cosine), ``uniformity``, ``effective_rank`` (RankMe; at most min(N, d)) and ``spread``
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
    z0, z1 = (F.normalize(_wide(z), dim=1) for z in embeddings)
    aligned = alignment(z0, z1)
    n, dim = z0.shape
    reading: dict[str, float] = {}
    for kappa in kappas:
        entropy = 0.5 * (kde_entropy(z0, kappa) + kde_entropy(z1, kappa))
        reconstruction = kappa * aligned + log_normalizer_value(dim, kappa)
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
        "uniformity": float(0.5 * (uniformity(z0) + uniformity(z1))),
        "effective_rank": float(effective_rank(z0)),
        "spread": float(spread(z0)),
        "log_sphere_area": float(sphere_log_area(dim)),
        "log_n": math.log(n),
    }


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
