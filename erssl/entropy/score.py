r"""The score (gradient of the log density) of embeddings, and the entropy gradient it gives.

MVEB (arXiv 2403.19078): :math:`\nabla H = -E[S(z) \nabla z]` with S the Stein
gradient estimator of Li & Turner (2018) under the vMF kernel :math:`\exp(z_i^\top z_j/\Delta)`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from erssl.entropy import _opaque, _triangle
from erssl.entropy._triangle import Cholesky
from erssl.entropy.precision import full_precision
from erssl.entropy.rbf import rbf_score
from erssl.entropy.ridge import auto_bandwidth_scale, auto_ridge, vmf_scale
from erssl.entropy.score_options import (
    Geometry,
    Kernel,
    ScoreOptions,
    ShrinkTo,
    check_score_options,
    check_score_rows,
)

BANDWIDTH_FLOOR = 0.1  # MVEB's reference code
_TOLERANCE = 5e-4  # of scores solved in float32, relative to their norm


@full_precision
@torch.no_grad()
def stein_score(
    z: Tensor,
    bandwidth: float | None = None,
    eta: float | Literal["auto"] = 0.01,
    geometry: Geometry = "euclidean",
    columns: slice | None = None,
    shrink_to: ShrinkTo = "zero",
    bandwidth_scale: float | Literal["auto"] = 1.0,
    kernel: Kernel = "vmf",
) -> Tensor:
    r"""Score :math:`\nabla_z \log p(z)` at each embedding by a ridge-regularised Stein identity.

    With :math:`K_{ij} = \exp(z_i^\top z_j / \Delta)` the estimate is
    :math:`S = -(K + \eta I)^{-1} G`, where ``"euclidean"`` (MVEB) has
    :math:`G = \mathrm{diag}(K 1) Z / \Delta` and ``"sphere"`` (the divergence theorem on the
    closed sphere) :math:`G_i = \sum_m K_{im} [(z_i - (z_i^\top z_m) z_m)/\Delta - (d-1) z_m]`.
    A ridge shrinks the estimate towards 0, or with ``shrink_to="vmf"`` towards the score
    :math:`S_0 = \kappa(\mu - (\mu^\top z) z)` of the von Mises-Fisher density that fits the rows:
    :math:`S = -(K + \eta I)^{-1}(G - \eta S_0)`.
    Only the part of S tangential to the sphere matters to a loss that normalises its rows.

    ``kernel="rbf"`` is for rows of any length: :math:`K_{ij} = \exp(-\|z_i - z_j\|^2 / 2\Delta)`
    (:mod:`erssl.entropy.rbf`), which of unit rows is the kernel above but for a factor. The rows of
    a Gaussian density have the score :math:`-\Sigma^{-1}(z - \mu)`.

    Time O(N²d + N³/3), memory O(N² + Nd). The system is solved on the kernel scaled to
    k(z, z) = 1 by a Cholesky factorisation that does not raise. On embeddings near collapse its
    condition number passes what float32 resolves, at any ridge of the papers: float32 is kept
    where an estimate of what rounding does to the solution stays below 5e-4, else the system, or
    of a batch those that need it, is solved in float64. That is decided on the host, so a GPU
    always solves in float64, as does ``"sphere"``, and so does a host whose
    :func:`torch.set_float32_matmul_precision` is not ``"highest"``.

    Args:
        z: Embeddings (N, d) with rows of unit norm (of any with ``kernel="rbf"``), or a batch
            (V, N, d) of V views of them, each with a density of its own.
        bandwidth: Bandwidth Δ of the kernel; ``None`` takes :func:`median_bandwidth`, and of
            ``kernel="rbf"`` the median of the half squared distances, without a least value.
        eta: Ridge η on the un-normalised kernel (MVEB's reference code: 0.01), or ``"auto"`` for
            a ridge chosen by score matching on held-out rows (:func:`auto_ridge`). The kernel of
            ``"rbf"`` has the diagonal 1, that of ``"vmf"`` on unit rows exp(1/Δ): one η shrinks the
            former's score as exp(1/Δ) η does the latter's.
        geometry: ``"euclidean"`` (the paper) or ``"sphere"``.
        columns: Dimensions to solve for, where others solve for the rest; ``None`` for all d.
        shrink_to: ``"zero"`` (the paper) or ``"vmf"``. With ``geometry="sphere", eta="auto"`` the
            latter has the right size at any number of rows (docs/score.md).
        bandwidth_scale: Factor of the median, or ``"auto"`` for the factor from ¼ to 4 whose score
            predicts held-out rows best (:func:`erssl.entropy.ridge.auto_bandwidth_scale`).
        kernel: ``"vmf"`` (the paper) or ``"rbf"``, which has the euclidean geometry, a number for
            ``eta`` and ``bandwidth_scale``, and shrinks to zero.

    Returns:
        Detached tensor (N, d) or (V, N, d), or with the number of columns for d, at least in
        float32.

    Raises:
        ValueError: If ``z`` has another number of dimensions, or an option is none of the above.
    """
    options = ScoreOptions(
        bandwidth, eta, geometry, shrink_to, columns or slice(None), bandwidth_scale, kernel
    )
    check_score_rows(z)
    check_score_options(options)
    if _opaque.is_followed():
        return _opaque.opaque_score(z, *options)
    return _stein_score(z, *options)


@_opaque.computes
def _stein_score(z: Tensor, *given: Any) -> Tensor:
    options = ScoreOptions(*given)
    if options.kernel == "rbf":
        scale, eta = options.bandwidth_scale, options.eta
        return rbf_score(z, options.bandwidth, float(scale), float(eta), options.columns)
    # The sphere's right-hand side is a small difference, which float32 would spoil.
    if options.geometry == "euclidean" and _may_stay_single(z):
        score, exact = _solve(z, options)
        if exact.all():
            return score
        if exact.any():
            wide, _ = _solve(z[~exact].double(), options)
            score[~exact] = wide.to(z.dtype)
            return score
    # all but MPS have float64
    wide = z if z.device.type == "mps" else z.double()
    return _solve(wide, options)[0].to(z.dtype)


def _may_stay_single(z: Tensor) -> bool:
    """Whether to look if float32 does: on the host, where no product is of half precision."""
    exact_products = torch.get_float32_matmul_precision() == "highest"
    return z.dtype == torch.float32 and z.device.type == "cpu" and exact_products


def _solve(z: Tensor, options: ScoreOptions, floor: float = 1.0) -> tuple[Tensor, Tensor]:
    """The scores in the precision of ``z``, and which views' are as exact as they have to be.

    The ridge is at least ``floor`` N eps, but where a wider precision can take over.
    """
    _, eta, geometry, shrink_to, columns, *_ = options
    kernel = _triangle.gram(z)
    delta = _chosen_bandwidth(z, kernel, options)
    for part in _triangle.filled(kernel):
        part.sub_(1).div_(delta[..., None, None]).exp_()
    sums = _triangle.row_sums(kernel)
    right_side = _stein_right_side(z, kernel, sums, delta, geometry, columns)
    ridge: Tensor = (
        auto_ridge(z, delta, geometry, shrink_to)
        if eta == "auto"
        else float(eta) * (-1 / delta).exp()
    )
    single = _may_stay_single(z)
    if not single:
        ridge = ridge.clamp_min(floor * z.shape[-2] * torch.finfo(z.dtype).eps)
    if shrink_to == "vmf":
        _subtract_vmf_score(right_side, ridge, z, columns)
    kernel.diagonal(dim1=-2, dim2=-1).add_(ridge[..., None])
    factor = _triangle.cholesky_(kernel)
    exact = torch.ones_like(factor.failed)
    if single:
        error = _relative_error(factor, right_side, sums, delta)
        exact = ~factor.failed & (error < _TOLERANCE)
        if not exact.any():
            return right_side, exact
    elif _triangle.is_cut(z) and factor.failed.any() and sums.isfinite().all():
        return _solve(z, options, 100 * floor)
    return _triangle.solve_(factor, right_side).neg_(), exact


def _relative_error(factor: Cholesky, right_side: Tensor, sums: Tensor, delta: Tensor) -> Tensor:
    """Error of scores solved in float32 against their norm, rather too much than too little.

    Rounding moves every entry K_ij by eps K_ij / Δ, or on a wide kernel, of which only a part 1/Δ
    depends on the rows, by eps K_ij Δ of what counts. To row i of the system that is noise of
    (sum_j K_ij² s_j²)^½ <= (sum_j K_ij)^¼ (sum_j s_j⁴)^¼ times as much, s being the scores along
    a random direction; the right-hand side is rounded as well. What the solution makes of such
    noise is seen at three random vectors.
    """
    n, dim = right_side.shape[-2:]
    # torch's default precision is a training's, which may be half
    draw = partial(torch.randn, dtype=right_side.dtype, generator=torch.Generator().manual_seed(0))
    scores = _triangle.solve_(factor, right_side @ draw(dim, 1))
    crowding = torch.maximum(delta, 1 / delta)[..., None]
    entries = crowding * sums**0.25 * scores.squeeze(-1).norm(p=4, dim=-1)[..., None]
    noise = torch.hypot(entries, sums / delta[..., None])[..., None]
    moved = torch.cat([_triangle.solve_(factor, noise * draw(n, 1)) for _ in range(3)], dim=-1)
    error: Tensor = moved.norm(dim=(-2, -1)) / scores.norm(dim=(-2, -1))
    return 2 * torch.finfo(torch.float32).eps / 3**0.5 * error


@full_precision
@torch.no_grad()
def median_bandwidth(z: Tensor) -> Tensor:
    """Median of the N² cosine distances 1 - z_i·z_j, the zero diagonal counted; at least 0.1.

    Source: MVEB's reference code. Of an even count the median is the lower of the middle two,
    as in :func:`torch.median`.

    Args:
        z: Embeddings (N, d) or (V, N, d) with rows of unit norm.

    Returns:
        Detached scalar tensor, or one of V values, at least in float32.
    """
    return _bandwidth(_triangle.gram(z))


def _bandwidth(similarities: Tensor) -> Tensor:
    # the lower of the middle distances is one minus the upper of the middle products
    return (1 - _triangle.upper_median(similarities)).clamp_min(BANDWIDTH_FLOOR)


@full_precision
def entropy_from_score(z: Tensor, score: Tensor) -> Tensor:
    r"""Surrogate :math:`-\frac1N \sum_i \langle S_i, z_i \rangle` whose gradient is that of H.

    Source: MVEB, :math:`\nabla H = -E[S(z) \nabla z]`. The value is not an entropy:
    to read one, use :func:`erssl.entropy.kde_entropy`.

    Args:
        z: Embeddings (N, d) that carry the gradient.
        score: Scores (N, d); no gradient flows into them.

    Returns:
        Scalar tensor.

    Raises:
        ValueError: If the shapes differ.
    """
    if z.shape != score.shape:
        raise ValueError(
            f"Embeddings and scores must have one shape but have {tuple(z.shape)} "
            f"and {tuple(score.shape)}."
        )
    dtype = torch.promote_types(z.dtype, score.dtype)
    products: Tensor = _HeldProducts.apply(z.to(dtype), score.detach().to(dtype))
    return -products.mean()


class _HeldProducts(torch.autograd.Function):
    """Inner product (N,) of each row with its score, which is held where rows move."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, score: Tensor) -> Tensor:
        return torch.einsum("nd,nd->n", z, score)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        z, score = ctx.saved_tensors
        of_z = gradient[:, None] * score
        return _Once.apply(of_z, z) if torch.is_grad_enabled() else of_z, None


class _Once(torch.autograd.Function):
    """A gradient as it is, which says so where it is differentiated itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, z: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Nothing is needed."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        raise RuntimeError(
            "The entropy of MVEB and MIGE has a first derivative only, from an estimated score; a "
            "second one would need that of the score. Take second derivatives of ERLoss or "
            "EntRecLoss, whose entropy has them."
        )


def _chosen_bandwidth(z: Tensor, similarities: Tensor, options: ScoreOptions) -> Tensor:
    if options.bandwidth is not None:
        return z.new_full(z.shape[:-2], options.bandwidth)
    median = _bandwidth(similarities)
    scale = options.bandwidth_scale
    if scale == "auto":
        return median * auto_bandwidth_scale(
            z, median, options.eta, options.geometry, options.shrink_to
        )
    return median * float(scale)


def _stein_right_side(
    z: Tensor, kernel: Tensor, sums: Tensor, delta: Tensor, geometry: Geometry, columns: slice
) -> Tensor:
    """Columns of G (N, d) of the ridge system (K + ηI) S = -G."""
    radial = (sums / delta[..., None])[..., None] * z[..., columns]
    if geometry == "euclidean":
        return radial
    inverse = 1 / delta[..., None, None]
    # K_im (z_i·z_m) / delta = K_im (log K_im + 1 / delta), which is 0 where K_im underflows
    weights = torch.empty_like(kernel)
    pairs = zip(_triangle.filled(weights), _triangle.filled(kernel), strict=True)
    for weight, part in pairs:
        weight.copy_(torch.xlogy(part, part) + part * (inverse + (z.shape[-1] - 1)))
    return radial - _triangle.product(weights, z[..., columns])


def _subtract_vmf_score(right_side: Tensor, ridge: Tensor, z: Tensor, columns: slice) -> None:
    """Subtract η S_0 in place, S_0 of the von Mises-Fisher density that fits the rows."""
    mean = z.mean(dim=-2, keepdim=True)
    along = z @ mean.mT  # (…, N, 1)
    strength = (ridge * vmf_scale(along.squeeze(-1), z.shape[-1]))[..., None, None]
    right_side.sub_(strength * mean[..., columns])
    right_side.addcmul_(strength * along, z[..., columns])
