r"""A data-driven ridge for the score estimate, by score matching on held-out rows.

The estimate :math:`S = -(K + \eta I)^{-1} (G - \eta S_0)`, shrunk towards :math:`S_0`, extends to
any point b of the sphere as
:math:`s(b) = s_0(b) - \frac1\sigma \sum_a [k(b, a) s_a + g(b, a)]`. Score matching (Hyvärinen
2005) on the sphere, :math:`J(\eta) = \sum_b [\frac12 \|s_T(b)\|^2 + \mathrm{div}_T s(b)]`, falls
with the squared error of the tangential score up to a constant, without knowing the density.

All of these vectors are sums of rows, so that J needs their Gram matrix and no product with d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

_ROWS = 256  # of each half; bounds the time at large N, see docs/score.md
SPREAD_FLOOR = 1e-3  # of mean(1 - (u·z)²): the concentration κ of rows in one point stays finite
_RATIO, _LOWEST, _HIGHEST = 3.0, -7, 5  # candidates √m · 3^j
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median bandwidth


class _Halves(NamedTuple):
    """Inner products (V, m, m) of the rows a that fit, and of the held-out rows b with them."""

    aa: Tensor
    ba: Tensor


@torch.no_grad()
def auto_ridge(z: Tensor, delta: Tensor, geometry: str, shrink_to: str = "zero") -> Tensor:
    """Ridge η on the kernel scaled to k(z, z) = 1 that predicts held-out rows best.

    Even rows fit and odd rows are held out, then the other way round, at most 256 of each; the
    choice among 13 candidates is refined by a parabola and carried from half the rows to all by the
    square root of their number.

    Args:
        z: Embeddings (N, d) with rows of unit norm, in no particular order, or a batch (V, N, d).
        delta: Bandwidth, or one for each of the V.
        geometry: ``"euclidean"`` or ``"sphere"``.
        shrink_to: ``"zero"`` or ``"vmf"``, see :func:`erssl.entropy.stein_score`.

    Returns:
        Scalar tensor, or one of V values.
    """
    if z.ndim == 2:
        return auto_ridge(z[None], delta[None], geometry, shrink_to)[0]
    dtype = z.dtype
    if z.device.type != "mps":  # which has no float64
        z, delta = z.double(), delta.double()
    n, d = z.shape[-2:]
    folds = _folds(z)
    m = folds[0].aa.shape[-1]
    criteria = [_Criterion(fold, delta[:, None, None], d, geometry, shrink_to) for fold in folds]
    losses = _losses_of_candidates(criteria, m, z)
    best = losses.argmin(dim=0).clamp(1, len(losses) - 2)
    left, middle, right = losses.gather(0, torch.stack([best - 1, best, best + 1])).unbind()
    curvature = (left - 2 * middle + right).clamp_min(torch.finfo(z.dtype).tiny)
    move = torch.nan_to_num((left - right) / (2 * curvature)).clamp(-1, 1)
    ridge: Tensor = m**0.5 * _RATIO ** (_LOWEST + best + move) * (n / m) ** 0.5
    return ridge.to(dtype)


@torch.no_grad()
def auto_bandwidth_scale(
    z: Tensor,
    median: Tensor,
    eta: float | Literal["auto"],
    geometry: str,
    shrink_to: str = "zero",
) -> Tensor:
    """Factor of the median bandwidth, of ¼, ½, 1, 2 and 4, whose score predicts held-out rows best.

    By the criterion of :func:`auto_ridge`, which up to a constant is the squared error of the
    tangential score whatever the kernel; of ``eta="auto"`` each bandwidth has its own best ridge.

    Args:
        z: Embeddings (N, d) with rows of unit norm, in no particular order, or a batch (V, N, d).
        median: Bandwidth that is multiplied, or one for each of the V.
        eta: Ridge on the un-normalised kernel, or ``"auto"``.
        geometry: ``"euclidean"`` or ``"sphere"``.
        shrink_to: ``"zero"`` or ``"vmf"``.

    Returns:
        Scalar tensor, or one of V values.
    """
    if z.ndim == 2:
        return auto_bandwidth_scale(z[None], median[None], eta, geometry, shrink_to)[0]
    dtype = z.dtype
    if z.device.type != "mps":
        z, median = z.double(), median.double()
    folds = _folds(z)
    m, losses = folds[0].aa.shape[-1], []
    for scale in _SCALES:
        delta = (scale * median)[:, None, None]
        criteria = [_Criterion(fold, delta, z.shape[-1], geometry, shrink_to) for fold in folds]
        if eta == "auto":
            losses.append(_losses_of_candidates(criteria, m, z).amin(dim=0))
            continue
        least = m * torch.finfo(z.dtype).eps
        ridge = (eta * (-1 / delta).exp()).clamp_min(least)
        losses.append(torch.stack([criterion(ridge) for criterion in criteria]).sum(dim=0))
    ordered = torch.nan_to_num(torch.stack(losses), nan=torch.inf, posinf=torch.inf)
    return torch.tensor(_SCALES, device=z.device, dtype=dtype)[ordered.argmin(dim=0)]


def _folds(z: Tensor) -> list[_Halves]:
    """Even rows that fit and odd ones that are held out, and the other way round."""
    n = z.shape[-2]
    stride = 2 * max(1, -(-n // (2 * _ROWS)))
    a, b = z[:, 0::stride], z[:, 1::stride]
    folds = [_Halves(a @ a.mT, b @ a.mT)]
    if n > 1:
        folds.append(_Halves(b @ b.mT, folds[0].ba.mT))
    return folds


def _losses_of_candidates(criteria: Sequence[_Criterion], m: int, z: Tensor) -> Tensor:
    """J (13, V) of each candidate ridge."""
    exponents = torch.arange(_LOWEST, _HIGHEST + 1, device=z.device, dtype=z.dtype)
    candidates = (m**0.5 * _RATIO**exponents).unbind()
    by_fold = [torch.stack([criterion(eta) for eta in candidates]) for criterion in criteria]
    losses = torch.stack(by_fold).sum(dim=0)
    return torch.nan_to_num(losses, nan=torch.inf, posinf=torch.inf)


def vmf_scale(along: Tensor, dim: int) -> Tensor:
    r"""Scale c (…) of the von Mises-Fisher density that fits rows: its κμ is c times their mean m.

    Score matching along the mean direction u: κ = (d - 1) |m| / mean(1 - (u·z)²). The squared
    length of a mean of N unit rows is 1/N too large, by which m is shrunk (James and Stein 1961):
    uniform rows get almost 0 at every N.

    Args:
        along: Inner products m·z (…, N) of the mean row with each row.
        dim: Dimension d.
    """
    n = along.shape[-1]
    squared = along.mean(dim=-1)  # |m|²
    safe = squared.clamp_min(torch.finfo(along.dtype).eps)
    shrunk = ((squared - 1 / n) / safe * (n / max(n - 1, 1))).clamp(0, 1)
    spread = (1 - along.square().mean(dim=-1) / safe).clamp_min(SPREAD_FLOOR)
    return shrunk * (dim - 1) / spread


class _Criterion:
    """J as a function of η, up to a constant, for each of V batches."""

    def __init__(
        self, halves: _Halves, delta: Tensor, dim: int, geometry: str, shrink_to: str
    ) -> None:
        """Form what does not depend on η; a matrix stands for its product with the rows a."""
        aa, ba = halves
        self.halves = halves
        self.kernel_aa, self.kernel_ba = ((aa - 1) / delta).exp(), ((ba - 1) / delta).exp()
        self.right_side = torch.diag_embed(self.kernel_aa.sum(dim=-1) / delta.squeeze(-1))
        along_ba = self.kernel_ba * (ba / delta + (dim - 1))
        # Σ_a g(b, a) beside its radial part, and the divergence that does not depend on s
        self.shift = torch.zeros_like(ba)
        self.divergence = ba.new_zeros(len(ba))
        if geometry == "sphere":
            self.right_side = self.right_side - self.kernel_aa * (aa / delta + (dim - 1))
            self.shift = -along_ba
            sine_squared = 1 - ba.square()
            divergence = self.kernel_ba * (
                (dim - 1) * (1 / delta + (dim - 1) * ba - 2 * sine_squared / delta)
                - sine_squared * (1 + ba / delta) / delta
            )
            self.divergence = divergence.sum(dim=(-2, -1))
        # s_0 at the rows a, and at the rows b beside its radial part
        scale = aa.new_zeros(len(aa))
        if shrink_to == "vmf":
            scale = vmf_scale(aa.mean(dim=-1), dim)
        self.start = (scale / aa.shape[-1])[:, None, None]
        self.start_aa = self.start - torch.diag_embed(scale[:, None] * aa.mean(dim=-1))
        # Σ_b div_T [k(b, a) s_a] = <gradient_a, s_a>
        gradient = self.kernel_ba.sum(dim=-2)[..., None] * aa / delta - along_ba.mT @ ba
        self.gradient = gradient
        self.identity = torch.eye(aa.shape[-1], device=aa.device, dtype=aa.dtype)

    def __call__(self, eta: Tensor) -> Tensor:
        """J of the V batches, at one ridge or at each one's own (V, 1, 1)."""
        factor, _ = torch.linalg.cholesky_ex(self.kernel_aa + eta * self.identity)
        root = torch.linalg.solve_triangular(factor, self.identity, upper=False)
        s = -(root.mT @ (root @ (self.right_side - eta * self.start_aa)))
        # A row of the sample meets its own k(z, z) = 1, which shrinks it by η/σ against a row
        # outside; σ = m / tr (K + ηI)^-1 in place of η evaluates the field that is really used.
        sigma = (self.identity.shape[-1] / root.square().sum(dim=(-2, -1)))[:, None, None]
        field = self.start - (self.kernel_ba @ s + self.shift) / sigma
        squares = (field @ self.halves.aa * field).sum(dim=(-2, -1))
        radial = (field * self.halves.ba).sum(dim=-1).square().sum(dim=-1)
        moved = (self.gradient * s).sum(dim=(-2, -1)) + self.divergence
        loss: Tensor = (squares - radial) / 2 - moved / sigma[:, 0, 0]
        return loss
