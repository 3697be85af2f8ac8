"""Maximum entropy coding (MEC), and the matrix losses of Matrix-SSL, by the same series."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.gaussian import coding_series
from erssl.entropy.precision import outside_autocast, product
from erssl.loss.checks import check_counts, check_weights
from erssl.loss.distributed import check_gather, gather_rows
from erssl.loss.views import Views, check_views, meet_targets, normalize_views


class MECLoss(nn.Module):
    r"""Minus the coding length of two views, by the first terms of its series ([0], equation 5).

    .. math:: L = -\frac{\epsilon^2}{d} \frac1V \sum_v \sum_{k=1}^{K} \frac{(-1)^{k+1}}{k}
              \mathrm{tr}\Big(\frac{d}{N \epsilon^2} Z_v^\top T_v\Big)^k

    (:func:`erssl.entropy.coding_series`; the factor ε²/d makes the first term the cosine, as in
    [0]'s code). Its first term rewards agreement, the others spread: a Gaussian's entropy where
    the views agree, a surrogate elsewhere. Rows are normalised inside.

    - [0] Self-Supervised Learning via Maximum Entropy Coding, 2022,
      https://arxiv.org/abs/2210.11464

    Attributes:
        distortion_per_dim:
            The share ε²/d; 1/32 in [0]'s code (64 at d = 2048).
        order:
            Terms K of the series; 4 in [0].
        inflation:
            What multiplies ε² for a while. [0]'s code begins with 8, lest the series diverge.
        gather_distributed:
            If True, the coding length is that of the batch over all processes.
        terms:
            Alignment (the first term) and what the others add, of the last call, detached.

    Raises:
        ValueError: If an option is out of range, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = MECLoss()
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['alignment', 'spread']
    """

    def __init__(
        self,
        distortion_per_dim: float = 1 / 32,
        order: int = 4,
        gather_distributed: bool = False,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        check_counts(order=order)
        one = torch.ones(1, 1, device="cpu")  # also on "meta"
        coding_series(one, one, distortion_per_dim, order)  # refuses bad ones
        check_gather(gather_distributed)
        self.distortion_per_dim = distortion_per_dim
        self.order = order
        self.inflation = 1.0
        self.gather_distributed = gather_distributed
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
        online, target = check_views(online, target)
        per_dim = self.distortion_per_dim * self.inflation
        with outside_autocast(online[0]):
            pairs = gathered_pairs(online, target, self.gather_distributed)
            if target is online:  # tr (Z₀ᵀZ₁)^k is that of its transpose
                pairs = pairs[:1]
            distortion = per_dim * pairs[0][0].shape[1]
            first, series = (
                per_dim * torch.stack([coding_series(*p, distortion, k) for p in pairs]).mean()
                for k in (1, self.order)
            )
        if not is_transformed():
            self.terms = {"alignment": first.detach(), "spread": (series - first).detach()}
        return -series


class MatrixSSLLoss(nn.Module):
    r"""Uniformity and alignment of matrices ([0]): two matrix cross-entropies, by series.

    .. math:: L = \frac1V \sum_v \big[ -\lambda\, \mathrm{tr} \log_K(I + C(Z_v, T_v))
              - \gamma\, \mathrm{tr} (I + C(Z_v, Z_v)) \log_K(I + C(T_v, T_v)) \big]

    with C the centred (cross-)covariance and :math:`\log_K` the first K terms of the logarithm
    around I. The first term is the log-determinant of a Gaussian of both views, a surrogate of
    the entropy; the second, with the target's covariance held fixed by its branch, draws the
    online covariance towards it. [0]'s code takes their sum over both views, here it is the mean.
    Rows are normalised inside.

    - [0] Matrix Information Theory for Self-Supervised Learning, 2023,
      https://arxiv.org/abs/2305.17326

    Attributes:
        uniformity_weight:
            Weight λ; 1 in [0]'s README.
        gamma:
            Weight γ of the alignment of covariances; 1 in [0]'s README.
        order:
            Terms K of the series; 4 in [0]'s code.
        gather_distributed:
            If True, covariances are those of the batch over all processes.
        terms:
            Both matrix cross-entropies of the last call, detached.

    Raises:
        ValueError: If an option is out of range, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = MatrixSSLLoss()
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['matrix_alignment', 'matrix_uniformity']
    """

    def __init__(
        self,
        uniformity_weight: float = 1.0,
        gamma: float = 1.0,
        order: int = 4,
        gather_distributed: bool = False,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        check_weights(uniformity_weight=uniformity_weight, gamma=gamma)
        check_counts(order=order)
        check_gather(gather_distributed)
        self.uniformity_weight = uniformity_weight
        self.gamma = gamma
        self.order = order
        self.gather_distributed = gather_distributed
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
        online, target = check_views(online, target)
        with outside_autocast(online[0]):
            pairs = gathered_pairs(online, target, self.gather_distributed)
            pairs = [(z - z.mean(dim=0), t - t.mean(dim=0)) for z, t in pairs]
            dim = float(pairs[0][0].shape[1])  # the distortion at which a series has C itself
            uniformity, alignment = (
                -torch.stack(of_pairs).mean()
                for of_pairs in (
                    [coding_series(z, t, dim, self.order) for z, t in pairs],
                    [cross_entropy_series(z, t, self.order) for z, t in pairs],
                )
            )
        if not is_transformed():
            self.terms = {
                "matrix_uniformity": uniformity.detach(),
                "matrix_alignment": alignment.detach(),
            }
        return self.uniformity_weight * uniformity + self.gamma * alignment


def gathered_pairs(
    online: list[Tensor], target: list[Tensor], gather_distributed: bool
) -> list[tuple[Tensor, Tensor]]:
    """Each online view with the target that it meets, normalised, rows of every rank."""
    views, targets = normalize_views(online, target)
    every = [gather_rows(z, gather_distributed) for z in views]
    shared = targets is views  # then two views of one branch meet each other
    met = every if shared else [gather_rows(t, gather_distributed) for t in targets]
    return list(zip(every, meet_targets(met, len(every)), strict=True))


def cross_entropy_series(z: Tensor, t: Tensor, order: int) -> Tensor:
    r"""Trace of (I + ZᵀZ/N) log(I + TᵀT/N) by the first terms of the logarithm, a scalar.

    Args:
        z: Centred rows (N, d).
        t: Centred rows (N, d).
        order: Number K of terms.
    """
    n, dim = z.shape
    if n < dim:  # tr ZᵀZ (TᵀT)^k = tr (ZTᵀ) (TTᵀ)^(k-1) (TZᵀ): on the smaller side
        left = product(z, t.T) / n
        inner, outer = product(t, t.T) / n, product(left.T, left)
    else:
        inner = product(t.T, t) / n
        outer = product(product(z.T, z) / n, inner)
    power = torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    series = z.new_zeros(())
    for k in range(1, order + 1):
        # tr C_t^k, and tr C_z C_t^k, with C_t^(k-1) at hand
        traces = (inner * power.T).sum() + (outer * power.T).sum()
        series = series + (-1) ** (k + 1) / k * traces
        if k < order:
            power = product(power, inner)
    return series
