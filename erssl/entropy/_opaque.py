"""The score as one operation of torch's, for what follows a function instead of running it.

How a score is computed is decided by looking at values, which ``torch.compile``, ``torch.export``
and ``torch.func`` cannot follow. To them it is a single operation without a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch._C import _functorch

Compute = Callable[..., Tensor]
_compute: list[Compute] = []  # stein_score itself, which imports this module


def is_followed() -> bool:
    """Whether a compiler, or a transformation of ``torch.func``, follows what is run."""
    return torch.compiler.is_compiling() or is_transformed()


def is_transformed() -> bool:
    """Whether what is run is inside a transformation of ``torch.func``.

    It takes functions without side effects: what is kept would outlive the transformation.
    """
    return not torch.compiler.is_compiling() and _functorch.peek_interpreter_stack() is not None


def computes(function: Compute) -> Compute:
    """Take ``function`` as what :func:`opaque_score` runs."""
    _compute[:] = [function]
    return function


def opaque_score(
    z: Tensor,
    bandwidth: float | None,
    eta: float | Literal["auto"],
    geometry: str,
    shrink_to: str,
    columns: slice,
    bandwidth_scale: float | Literal["auto"],
    kernel: str,
) -> Tensor:
    """:func:`erssl.entropy.stein_score` of (N, d) or (V, N, d) rows, not looked into."""
    start, stop, _ = columns.indices(z.shape[-1])
    ridge, scale = (None if x == "auto" else float(x) for x in (eta, bandwidth_scale))
    score: Tensor = _stein_score(
        z, bandwidth, ridge, geometry, shrink_to, start, stop, scale, kernel
    )
    return score


@torch.library.custom_op(
    "erssl::stein_score",
    mutates_args=(),
    schema="(Tensor z, float? bandwidth, float? eta, str geometry, str shrink_to, int start, "
    "int stop, float? bandwidth_scale, str kernel) -> Tensor",
)
def _stein_score(
    z: Tensor,
    bandwidth: float | None,
    eta: float | None,
    geometry: str,
    shrink_to: str,
    start: int,
    stop: int,
    bandwidth_scale: float | None,
    kernel: str,
) -> Tensor:
    ridge, scale = ("auto" if x is None else x for x in (eta, bandwidth_scale))
    columns = slice(start, stop)
    return _compute[0](z, bandwidth, ridge, geometry, shrink_to, columns, scale, kernel)


@_stein_score.register_fake
def _(
    z: Tensor,
    bandwidth: float | None,
    eta: float | None,
    geometry: str,
    shrink_to: str,
    start: int,
    stop: int,
    bandwidth_scale: float | None,
    kernel: str,
) -> Tensor:
    return z.new_empty(*z.shape[:-1], stop - start)


def _vmap(
    info: Any, in_dims: tuple[int | None, ...], z: Tensor, *options: Any
) -> tuple[Tensor, int]:
    rows = z.movedim(cast(int, in_dims[0]), 0)
    batch = rows.reshape(-1, *rows.shape[-2:])
    scores = _stein_score(batch, *options)
    return scores.reshape(*rows.shape[:-1], scores.shape[-1]), 0


_stein_score.register_vmap(_vmap)
