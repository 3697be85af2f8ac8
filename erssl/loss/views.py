"""What meets what: views of the online branch against views of the target branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from erssl.entropy.precision import at_least_float32, full_precision, row_products

Views = Tensor | Sequence[Tensor]


def check_views(online: Views, target: Views) -> tuple[list[Tensor], list[Tensor]]:
    """Bring both ways of calling a loss, two tensors or two lists, to two lists.

    Two tensors are two views of a shared branch: they are online and target at once, and the same
    list comes back twice.

    Args:
        online: One tensor (N, d), or the online embeddings of every view, global views first.
        target: One tensor (N, d), or the target embeddings of the two global views.

    Returns:
        Online views, at least two, and exactly two targets, all of one shape (N, d).

    Raises:
        ValueError: If a tensor meets a list, the numbers of views do not fit, or shapes differ.
    """
    if isinstance(online, Tensor) and isinstance(target, Tensor):
        online = target = [online, target]
    if isinstance(online, Tensor) or isinstance(target, Tensor):
        raise ValueError(
            "Pass either two tensors, loss(z0, z1), or two lists, loss(online, target)."
        )
    if len(online) < 2 or len(target) != 2:
        raise ValueError(
            "Lists must hold at least 2 online views and exactly 2 targets but hold "
            f"{len(online)} and {len(target)}."
        )
    shapes = {tuple(view.shape) for view in (*online, *target)}
    if len(shapes) > 1 or any(len(shape) != 2 or shape[0] == 0 for shape in shapes):
        raise ValueError(
            f"All views must have one shape (N, d) with N of at least 1 but have {sorted(shapes)}."
        )
    online_views = list(online)
    return online_views, online_views if target is online else list(target)


def shared_views(views: Views, other: Tensor | None = None) -> list[Tensor]:
    """Views of a shared branch, none of which is another's target: two tensors, or one list.

    Args:
        views: One tensor (N, d), or the embeddings of every view.
        other: The second view where ``views`` is a tensor.

    Returns:
        At least two views of one shape (N, d), at least in float32.

    Raises:
        ValueError: If there are fewer than two, or shapes differ.
    """
    if isinstance(views, Tensor) is not isinstance(other, Tensor):
        raise ValueError("Pass either two tensors, loss(z0, z1), or one list, loss(views).")
    every = [views, other] if isinstance(views, Tensor) and other is not None else list(views)
    if len(every) < 2:
        raise ValueError(f"The loss needs at least 2 views but was given {len(every)}.")
    check_views(every, every[:2])
    return [at_least_float32(z) for z in every]


def float_views(online: Views, target: Views) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`check_views`, and every view at least in float32."""
    online, target = check_views(online, target)
    views = [at_least_float32(z) for z in online]
    return views, views if target is online else [at_least_float32(t) for t in target]


def meet_targets(target: Sequence[Tensor], num_views: int) -> list[Tensor]:
    """The target of each of ``num_views`` online views (MVEB, multi-crop).

    View 0 meets target 1, view 1 meets target 0, local views meet the mean of the two.
    """
    num_local = num_views - 2
    local_target = [torch.stack(list(target)).mean(dim=0)] if num_local else []
    return [target[1], target[0], *local_target * num_local]


def normalize_rows(z: Tensor) -> Tensor:
    """Rows of unit norm, at least in float32, whatever their scale (a row of 0 stays 0)."""
    unit: Tensor = _NormalizeRows.apply(at_least_float32(z))[0]
    return unit


class _NormalizeRows(torch.autograd.Function):
    """z / |z| and |z|, by a third of the passes over memory that autograd would make.

    The norm is given out for the second derivative, which differentiates :meth:`backward`.
    """

    @staticmethod
    def forward(z: Tensor) -> tuple[Tensor, Tensor]:
        norm: Tensor = z.norm(dim=-1, keepdim=True)
        # Squares may overflow or vanish; to look whether they did, a GPU would have to wait, and
        # a graph that is compiled holds for any rows.
        if z.device.type != "cpu" or torch.compiler.is_compiling() or not _are_safe(norm):
            scale = z.abs().amax(dim=-1, keepdim=True)
            scale = torch.where(scale > 0, scale, 1.0)
            norm = (z / scale).norm(dim=-1, keepdim=True) * scale
            norm = torch.where(norm > 0, norm, 1.0)
        return z / norm, norm

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    @full_precision
    def backward(ctx: Any, of_unit: Tensor | None, of_norm: Tensor | None) -> Tensor | None:
        unit, norm = ctx.saved_tensors
        gradient = None if of_norm is None else of_norm * unit
        if of_unit is not None:
            radial = row_products(of_unit, unit)[..., None]
            tangential = torch.addcmul(of_unit, unit, radial, value=-1).div_(norm)
            gradient = tangential if gradient is None else gradient + tangential
        return gradient

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int], z: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        return _NormalizeRows.apply(z.movedim(in_dims[0], 0)), (0, 0)


def _are_safe(norm: Tensor) -> bool:
    """Whether squares neither overflowed nor vanished."""
    safe = torch.finfo(norm.dtype).tiny ** 0.25
    return bool(((norm > safe) & (norm < 1 / safe)).all())


def normalize_views(
    online: list[Tensor], target: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """:func:`normalize_rows` of every view, once where both branches are one list."""
    views = [normalize_rows(z) for z in online]
    return views, views if target is online else [normalize_rows(t) for t in target]
