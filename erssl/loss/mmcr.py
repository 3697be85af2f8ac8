"""MMCR: the nuclear norm of the images' mean embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.matrix import nuclear_norm
from erssl.entropy.precision import outside_autocast
from erssl.loss.distributed import check_gather, gather_rows, mean_over_ranks
from erssl.loss.views import Views, check_views, normalize_views


class MMCRLoss(nn.Module):
    r"""Minus the nuclear norm of the matrix of mean embeddings ([0], equation 4).

    .. math:: L = -\lVert \bar Z \rVert_*, \quad \bar z^i = \tfrac12 \Big(
              \tfrac1V \sum_v z_v^i + \tfrac12 (t_0^i + t_1^i) \Big)

    (without a target branch the mean over views). Means are long where views agree, and the norm
    is large where they spread over all directions: both terms in one, a surrogate of neither in
    nats (its relation to the mutual information: arXiv 2406.09366). The norms of the images'
    single matrices, which [0] subtracts with weight λ, are left out: [0] trains with λ = 0. Rows
    are normalised inside, which lightly's ``MMCRLoss`` leaves to its caller.

    - [0] Learning Efficient Coding of Natural Images with Maximum Manifold Capacity
      Representations, 2023, https://arxiv.org/abs/2303.03307

    Attributes:
        gather_distributed:
            If True, the matrix is that of the batch over all processes.
        terms:
            The norm, and the mean squared length of the mean embeddings, of the last call,
            detached.

    Raises:
        ValueError: If torch.distributed is missing where ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = MMCRLoss()
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['mean_length', 'nuclear_norm']
    """

    def __init__(self, gather_distributed: bool = False) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        check_gather(gather_distributed)
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
            views, targets = normalize_views(online, target)
            means = torch.stack(views).mean(dim=0)
            if targets is not views:
                means = (means + torch.stack(targets).mean(dim=0)) / 2
            norm = nuclear_norm(gather_rows(means, self.gather_distributed))
            lengths = mean_over_ranks(means.detach().square().sum(dim=1), self.gather_distributed)
        if not is_transformed():
            self.terms = {"nuclear_norm": norm.detach(), "mean_length": lengths}
        return -norm
