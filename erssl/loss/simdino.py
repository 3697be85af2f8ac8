"""SimDINO: DINO's distillation with a coding rate in place of prototypes and centring."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.gaussian import coding_rate
from erssl.entropy.precision import outside_autocast, row_products
from erssl.loss.checks import check_weights
from erssl.loss.distributed import check_gather, gather_rows, mean_over_ranks
from erssl.loss.views import Views, check_views, normalize_views


class SimDINOLoss(nn.Module):
    r"""Minus the cosine with the target's global views, minus the coding rate of the global views.

    .. math:: L = -\overline{\cos(z_v, t_u)} - \frac{\gamma}{2} \sum_{v < 2} \tfrac12 \log\det
              \Big(I + \frac{d}{N \epsilon^2} Z_v^\top Z_v\Big)

    with the cosine's mean over all pairs of a view and another global view, N the rows that the
    rate sees and γ = 1/d + 1/N where it is not given ([0]'s code). The rate is the entropy of a
    Gaussian of the rows' uncentred covariance, seen through noise: a surrogate. Rows are
    normalised inside.

    - [0] Simplifying DINO via Coding Rate Regularization, 2025, https://arxiv.org/abs/2502.10385

    Attributes:
        distortion:
            The square ε²; 0.5 is the default of [0]'s code, 0.05 its README's command for ViT-B.
        gamma:
            Weight γ of the rate; None for [0]'s code's.
        smooth:
            Take the rate of the mean of a view's online and target embeddings (``expa_type=1``,
            the default of [0]'s command), which steadies it; False: of the online ones.
        gather_distributed:
            If True, the rate is that of the batch over all processes (``reduce_cov=1``).
        terms:
            Alignment (mean cosine) and coding rate (nats) of the last call, detached.

    Raises:
        ValueError: If an option is out of range, or torch.distributed missing where
            ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = SimDINOLoss()
        >>> loss = loss_fn(torch.randn(8, 16), torch.randn(8, 16))
        >>> sorted(loss_fn.terms)
        ['alignment', 'coding_rate']
    """

    def __init__(
        self,
        distortion: float = 0.5,
        gamma: float | None = None,
        smooth: bool = True,
        gather_distributed: bool = False,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        if gamma is not None:
            check_weights(gamma=gamma)
        coding_rate(torch.ones(1, 1, device="cpu"), distortion)  # refuses bad ones
        check_gather(gather_distributed)
        self.distortion = distortion
        self.gamma = gamma
        self.smooth = smooth
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
            pairs = [
                row_products(z, t).mean()
                for u, t in enumerate(targets)
                for v, z in enumerate(views)
                if u != v
            ]
            alignment = mean_over_ranks(torch.stack(pairs), self.gather_distributed)
            global_views = views[:2]
            if self.smooth:
                global_views = [(z + t) / 2 for z, t in zip(views[:2], targets, strict=True)]
            rows = [gather_rows(z, self.gather_distributed) for z in global_views]
            rate = torch.stack([coding_rate(z, self.distortion) for z in rows]).mean()
        if not is_transformed():
            self.terms = {"alignment": alignment.detach(), "coding_rate": rate.detach()}
        n, dim = rows[0].shape
        gamma = 1 / dim + 1 / n if self.gamma is None else self.gamma
        return -alignment - gamma * rate
