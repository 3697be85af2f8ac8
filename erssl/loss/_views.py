"""What meets what: views of the online branch against views of the target branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Views = Tensor | Sequence[Tensor]
TENSOR_MEETS_LIST = "Pass either two tensors, loss(z0, z1), or two lists, loss(online, target)."


def pair_views(online: Views, target: Views) -> tuple[list[Tensor], list[Tensor]]:
    """Give each online view the target that it has to match.

    Two tensors are two views of a shared branch, each the other's target. With lists, view 0
    meets target 1, view 1 meets target 0 and local views meet the mean of the two targets
    (MVEB, section 4.4).

    Args:
        online: One tensor (N, d), or the online embeddings of every view, global views first.
        target: One tensor (N, d), or the target embeddings of the two global views.

    Returns:
        The online views and, of the same length, their targets.

    Raises:
        ValueError: If a tensor meets a list, the numbers of views do not fit, or shapes differ.
    """
    if isinstance(online, Tensor) and isinstance(target, Tensor):
        online_views, targets = [online, target], [target, online]
    elif isinstance(online, Tensor) or isinstance(target, Tensor):
        raise ValueError(TENSOR_MEETS_LIST)
    else:
        if len(online) < 2 or len(target) != 2:
            raise ValueError(
                "Lists must hold at least 2 online views and exactly 2 targets but hold "
                f"{len(online)} and {len(target)}."
            )
        local_target = [torch.stack(list(target)).mean(dim=0)] if len(online) > 2 else []
        online_views = list(online)
        targets = [target[1], target[0], *local_target * (len(online) - 2)]
    shapes = {tuple(view.shape) for view in (*online_views, *targets)}
    if len(shapes) > 1 or any(len(shape) != 2 or shape[0] == 0 for shape in shapes):
        raise ValueError(
            f"All views must have one shape (N, d) with N of at least 1 but have {sorted(shapes)}."
        )
    return online_views, targets


def normalize_rows(z: Tensor) -> Tensor:
    """Rows of unit norm, at least in float32, for any finite input scale (a row of 0 stays 0)."""
    z = z if z.dtype == torch.float64 else z.float()
    scale = z.detach().abs().amax(dim=-1, keepdim=True)
    return F.normalize(z / torch.where(scale > 0, scale, 1.0), dim=-1)


def normalize_views(views: Views) -> Views:
    """:func:`normalize_rows` of a tensor or of each tensor of a list."""
    if isinstance(views, Tensor):
        return normalize_rows(views)
    return [normalize_rows(view) for view in views]
