"""Information quantities as pure functions on tensors, in nats.

A formula is a function, named as in the papers: the vMF density, entropies of embeddings by kernel
density, nearest neighbours, Gaussian, spectrum, slices and marginals, the score of a density from
samples, the entropy of discrete outcomes. docs/entropy.md says how far each is off, and when not to
use it.
"""

from erssl.entropy.cap import cap_log_area
from erssl.entropy.discrete import discrete_entropy
from erssl.entropy.gaussian import coding_rate, coding_series, gaussian_entropy
from erssl.entropy.geometry import alignment, effective_rank, mean_cosine, spread, uniformity
from erssl.entropy.kde import kde_entropy
from erssl.entropy.marginal import marginal_entropy
from erssl.entropy.matrix import matrix_renyi2_entropy, nuclear_norm, von_neumann_entropy
from erssl.entropy.neighbours import knn_entropy, log_neighbour_distance
from erssl.entropy.ridge import auto_ridge
from erssl.entropy.score import entropy_from_score, median_bandwidth, stein_score
from erssl.entropy.sliced import random_directions, sliced_epps_pulley, sliced_wasserstein
from erssl.entropy.spectrum import eigenspectrum_decay, lidar
from erssl.entropy.vmf import (
    sphere_log_area,
    vmf_entropy,
    vmf_log_normalizer,
    vmf_mean_resultant_length,
)

__all__ = [
    "alignment",
    "auto_ridge",
    "cap_log_area",
    "coding_rate",
    "coding_series",
    "discrete_entropy",
    "effective_rank",
    "eigenspectrum_decay",
    "entropy_from_score",
    "gaussian_entropy",
    "kde_entropy",
    "knn_entropy",
    "lidar",
    "log_neighbour_distance",
    "marginal_entropy",
    "matrix_renyi2_entropy",
    "mean_cosine",
    "median_bandwidth",
    "nuclear_norm",
    "random_directions",
    "sliced_epps_pulley",
    "sliced_wasserstein",
    "sphere_log_area",
    "spread",
    "stein_score",
    "uniformity",
    "vmf_entropy",
    "vmf_log_normalizer",
    "vmf_mean_resultant_length",
    "von_neumann_entropy",
]
