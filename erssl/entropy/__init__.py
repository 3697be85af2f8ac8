"""Information quantities as pure functions on tensors, in nats.

A formula is a function, named as in the papers: the vMF density, kernel density estimates of
entropy on the sphere, the score of a density from samples, the entropy of discrete outcomes.
"""

from erssl.entropy.discrete import discrete_entropy
from erssl.entropy.geometry import alignment, effective_rank, spread, uniformity
from erssl.entropy.kde import kde_entropy
from erssl.entropy.ridge import auto_ridge
from erssl.entropy.score import entropy_from_score, median_bandwidth, stein_score
from erssl.entropy.vmf import (
    sphere_log_area,
    vmf_entropy,
    vmf_log_normalizer,
    vmf_mean_resultant_length,
)

__all__ = [
    "alignment",
    "auto_ridge",
    "discrete_entropy",
    "effective_rank",
    "entropy_from_score",
    "kde_entropy",
    "median_bandwidth",
    "sphere_log_area",
    "spread",
    "stein_score",
    "uniformity",
    "vmf_entropy",
    "vmf_log_normalizer",
    "vmf_mean_resultant_length",
]
