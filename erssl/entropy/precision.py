"""Information quantities and losses need float32 or better, also where autocast is on.

A function of tensors is decorated by :func:`full_precision`; what calls several, such as a loss or
a method's step, stands inside :func:`outside_autocast`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Compute in the tensors' own precision inside; half precision is cast by `at_least_float32`.

    Args:
        x: A tensor of the device that computes.

    Example:
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     with outside_autocast(x):
        ...         print((x @ x).dtype)
        torch.float32
    """
    return torch.autocast(x.device.type, enabled=False)


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` outside autocast, its half-precision tensor arguments cast to float32."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        device_type = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device_type, enabled=False):
            return function(
                *(_upcast(a) for a in args),  # type: ignore[arg-type]
                **{name: _upcast(a) for name, a in kwargs.items()},  # type: ignore[arg-type]
            )

    return wrapper


def at_least_float32(x: Tensor) -> Tensor:
    """``x``, in float32 where it is of half precision or holds whole numbers."""
    narrow = x.dtype in (torch.float16, torch.bfloat16) or not x.is_floating_point()
    return x.float() if narrow else x


def mapped_first(x: Tensor, dim: int | None, size: int) -> Tensor:
    """The dimension that ``torch.vmap`` maps over put first, or made where there is none."""
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product (N, M) of two matrices, whose gradient is of their own precision too.

    Autograd's own gradient of a product is two products, which a backward pass under autocast
    would round.
    """
    if torch.compiler.is_compiling():  # the backward pass is traced outside autocast then
        return a @ b
    result: Tensor = _Product.apply(a, b)
    return result


class _Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        of_a, of_b = ctx.needs_input_grad
        with outside_autocast(gradient):
            return (
                product(gradient, b.mT) if of_a else None,
                product(a.mT, gradient) if of_b else None,
            )


def row_products(a: Tensor, b: Tensor) -> Tensor:
    """Inner product (…) of each row of ``a`` (…, d) with that of ``b``, without their product."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    products: Tensor = _RowProducts.apply(a.to(dtype), b.to(dtype))
    return products


class _RowProducts(torch.autograd.Function):
    """Whose gradient is no matrix product, which a backward pass under autocast would round."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("...d,...d->...", a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        of_a, of_b = ctx.needs_input_grad
        gradient = gradient[..., None]
        return gradient * b if of_a else None, gradient * a if of_b else None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], a: Tensor, b: Tensor
    ) -> tuple[Tensor, int]:
        rows = (
            mapped_first(x, dim, info.batch_size) for x, dim in zip((a, b), in_dims, strict=True)
        )
        products: Tensor = _RowProducts.apply(*rows)
        return products, 0


def _upcast(argument: object) -> object:
    return at_least_float32(argument) if isinstance(argument, Tensor) else argument
