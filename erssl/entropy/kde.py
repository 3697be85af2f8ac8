r"""Entropy on the sphere by kernel density estimation (KDE) with a vMF kernel.

.. math:: \hat p_i = \frac{C_d(\kappa)}{n} \sum_j \exp(\kappa \, z_i^\top z_j)
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from erssl.entropy._kernel_sums import log_kernel_sums
from erssl.entropy.held_out import held_out_entropy
from erssl.entropy.precision import full_precision
from erssl.entropy.vmf import log_normalizer_value

Estimator = Literal["joe", "plugin", "renyi2"]


@full_precision
def kde_entropy(
    z: Tensor,
    kappa: float | Literal["best"],
    estimator: Estimator = "joe",
    leave_one_out: bool = True,
    memory: Tensor | None = None,
) -> Tensor:
    r"""Read the entropy of embeddings on the sphere off a kernel density, in nats.

    ``"joe"`` (ER paper; Joe 1989) is :math:`-\frac1N \sum_i \log \hat p_i`; ``"plugin"`` is
    :math:`-\sum_i w_i \log \hat p_i` with :math:`w_i = \hat p_i / \sum_l \hat p_l`, through
    which the gradient flows; ``"renyi2"`` is :math:`-\log \frac1N \sum_i \hat p_i`.

    What the value is, of independent rows (one view an image):

    - ``"joe"`` with a number for κ: the cross-entropy with the density smoothed by the kernel.
      Leave-one-out, it is an upper bound of H in expectation, and a weak one: whatever the data,
      it lies between that of a single point, -log C_d(κ) - κ, and about the uniform density's, κ
      nats in all. A single reading may pass :func:`sphere_log_area`, far where κ is too sharp
      for N. With the self term it is neither bound nor estimate: that pulls it down.
    - ``kappa="best"``: even rows choose κ by their leave-one-out likelihood, on a grid that is
      extended until it falls, and carry the density that odd rows read, and the other way round.
      Since no row is read by a density that knows it, it is an upper bound in expectation too,
      and a far tighter one where the right κ is not known beforehand.
    - ``"plugin"``: neither; it weighs dense places once more.
    - ``"renyi2"``: Rényi's entropy of order 2 of the rows' density, smoothed by the kernel
      (Principe's information potential); leave-one-out its exponent is an unbiased estimate. At
      most ``"joe"``. With κ = 2t it is minus the uniformity of Wang and Isola (2020, equation 2)
      but for a constant (:func:`erssl.entropy.uniformity`), and ``"plugin"`` is it less the KL
      divergence of the weights w from equal ones. All three have one gradient where the density is
      the same at every row; elsewhere ``"joe"`` weighs rows alike, ``"renyi2"`` by their density.

    Args:
        z: Embeddings (N, d) with rows of unit norm.
        kappa: Concentration of the kernel, above 0 (the ER paper uses 10), or ``"best"``.
        estimator: ``"joe"``, ``"plugin"`` or ``"renyi2"``.
        leave_one_out: Leave the term j = i out of the kernel sum (the density estimate is then
            unbiased, and its gradient does not vanish at small N). ``False`` reproduces the
            papers, whose code keeps it.
        memory: More embeddings (M, d) of unit norm that widen the kernel sum but are not
            averaged over, for instance a queue of earlier batches.

    Returns:
        Scalar tensor, at least in float32; with ``"best"`` -inf where rows repeat themselves.

    Raises:
        ValueError: If shapes do not fit, ``kappa`` is not above 0, the estimator is unknown, the
            leave-one-out estimate has no other row to look at, or ``"best"`` is asked of
            another estimator, with the self term, with a memory or of fewer than four rows.

    Examples:
        >>> z = torch.eye(3)
        >>> round(kde_entropy(z, kappa=1e-6).item(), 4), round(math.log(4 * math.pi), 4)
        (2.531, 2.531)
    """
    if estimator not in get_args(Estimator):
        raise ValueError(f"The estimator must be 'joe', 'plugin' or 'renyi2' but is {estimator!r}.")
    if isinstance(kappa, str):
        _check_best(kappa, estimator, leave_one_out, memory)
        return held_out_entropy(z)
    if memory is not None and memory.shape[1:] != z.shape[1:]:
        raise ValueError(
            f"Embeddings and memory must have one dimension d but have shapes {tuple(z.shape)} "
            f"and {tuple(memory.shape)}."
        )
    keys = z if memory is None else torch.cat([z, memory.to(z)])
    log_means = log_kernel_means(z, keys, kappa, own_offset=0 if leave_one_out else None)
    entropy = entropy_from_log_density(log_means, estimator)
    return entropy - log_normalizer_value(z.shape[1], float(kappa))


def _check_best(kappa: str, estimator: str, leave_one_out: bool, memory: Tensor | None) -> None:
    if kappa != "best":
        raise ValueError(f"The concentration kappa must be a number or 'best' but is {kappa!r}.")
    if estimator != "joe":
        raise ValueError(
            f"kappa='best' maximises the likelihood that 'joe' reads, not estimator={estimator!r}; "
            "leave the estimator at 'joe' or give kappa a number."
        )
    if not leave_one_out:
        raise ValueError(
            "kappa='best' with leave_one_out=False would choose ever sharper kernels; keep "
            "leave_one_out=True or give kappa a number."
        )
    if memory is not None:
        raise ValueError("kappa='best' takes no memory; leave it out or give kappa a number.")


def kde_log_density(
    queries: Tensor, keys: Tensor, kappa: float, own_offset: int | None = None
) -> Tensor:
    """Log density (N,) in nats at each row of ``queries`` (N, d), estimated from ``keys`` (M, d).

    See :func:`log_kernel_means`, to which the log normaliser is added here. It goes with d, and
    float32 rounds a sum with it to 2e-3 at d = 8192: where it cancels, leave it out.
    """
    log_means = log_kernel_means(queries, keys, kappa, own_offset)
    return log_means + log_normalizer_value(keys.shape[1], float(kappa))


def log_kernel_means(
    queries: Tensor, keys: Tensor, kappa: float, own_offset: int | None = None
) -> Tensor:
    r"""Log density (N,) relative to the kernel's normaliser, :math:`\log \frac1n \sum_j
    \exp(\kappa \, q_i^\top k_j)`, in [-κ, κ].

    Memory O((N + M) d): pairs are looked at a tile at a time, forward and backward. Where ``keys``
    is ``queries`` itself, each pair is looked at once, and of up to 4,096 rows kept for a gradient.

    Args:
        queries: Unit rows at which the density is read.
        keys: Unit rows that carry the kernels.
        kappa: Concentration of the kernel, above 0.
        own_offset: The row of ``keys`` at which the queries themselves begin, to leave each
            query out of its own estimate; ``None`` keeps every term.

    Returns:
        Tensor (N,).

    Raises:
        ValueError: If shapes do not fit or no key would be left.
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(
            "Embeddings must be matrices (N, d) of one dimension d but have shapes "
            f"{tuple(queries.shape)} and {tuple(keys.shape)}."
        )
    if not kappa > 0:
        raise ValueError(f"The concentration kappa must be above 0 but is {kappa}.")
    count = len(keys) - (own_offset is not None)
    if count < 1:
        raise ValueError(
            "A leave-one-out density needs at least two rows or a memory; "
            "with a single row pass leave_one_out=False."
        )
    return log_kernel_sums(queries, keys, float(kappa), own_offset) - math.log(count)


def entropy_from_log_density(log_density: Tensor, estimator: Estimator = "joe") -> Tensor:
    """Entropy in nats from log densities (N,) at the samples: Joe's, the plug-in or Rényi's."""
    if estimator == "joe":
        return -log_density.mean()
    if estimator == "renyi2":
        return math.log(len(log_density)) - log_density.logsumexp(dim=0)
    return -(log_density.softmax(dim=0) * log_density).sum()
