"""The continuous entropy-reconstruction (ER) loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.kde import Estimator, entropy_from_log_density, log_kernel_means
from erssl.entropy.neighbours import log_neighbour_distance
from erssl.entropy.precision import outside_autocast, row_products
from erssl.entropy.vmf import log_normalizer_value
from erssl.loss.distributed import (
    check_gather,
    gather_rows,
    mean_over_ranks,
    rank_offset,
    rank_rows,
)
from erssl.loss.memory import PersistentMemoryBank
from erssl.loss.views import Views, check_views, meet_targets, normalize_rows, normalize_views
from erssl.loss.weights import check_weights


class ERLoss(nn.Module):
    r"""Negative entropy-reconstruction bound on the sphere, with a vMF density for both terms.

    .. math:: L = -\frac1V \sum_v \Big[ w \hat H(Z_v)
              + \frac{r}N \sum_i \log q(z_v^i \mid t_v^i) \Big],
              \quad \log q(z \mid t) = \kappa \, z^\top t + \log C_d(\kappa)

    Entropy and reconstruction weigh the same in [0], w = r = 1. Rows are normalised inside. With
    w = 2 and κ = 1/τ it is DHEL of both views ([1], equation 8), with other weights HyDeS ([2]) of
    two views.

    - [0] The Role of Entropy and Reconstruction in Multi-View Self-Supervised Learning, 2023,
      https://arxiv.org/abs/2307.10907
    - [1] Bridging Mini-Batch and Asymptotic Analysis in Contrastive Learning, 2024,
      https://arxiv.org/abs/2405.18045
    - [2] Self-Supervised Representation Learning via Hyperspherical Density Shaping, 2026,
      https://arxiv.org/abs/2604.24498

    Attributes:
        kappa:
            Concentration of the kernel and of q; 10 in [0].
        estimator:
            ``"joe"`` ([0]) or ``"plugin"`` of the kernel density, or ``"koleo"``: the mean log
            distance to the nearest other row (:func:`erssl.entropy.log_neighbour_distance`), of
            which d - 1 times is an entropy up to a constant.
        leave_one_out:
            Leave each sample out of its own density estimate. ``False`` reproduces the papers.
        gather_distributed:
            If True, the entropy is that of the batch over all processes.
        memory_bank_size:
            Size (n, d) of a queue of earlier embeddings that widens the kernel sum; 0 for none.
        entropy_weight:
            Weight w of the entropy; 1 in [0]. 0 leaves the reconstruction alone.
        reconstruction_weight:
            Weight r of the reconstruction; 1 in [0]. 0 leaves the entropy alone.
        terms:
            Entropy and reconstruction (nats, in float64 but on Apple's GPUs) and alignment (mean
            cosine) of the last call, detached. With ``"koleo"`` the entropy is called
            ``log_distance``, for it is none.

    Raises:
        ValueError: If kappa is not above 0, the estimator is unknown, or torch.distributed is
            missing where ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = ERLoss(kappa=10.0)
        >>> z0, z1 = torch.randn(8, 16), torch.randn(8, 16)
        >>> loss = loss_fn(z0, z1)
        >>> sorted(loss_fn.terms)
        ['alignment', 'entropy', 'reconstruction']
    """

    def __init__(
        self,
        kappa: float = 10.0,
        estimator: Estimator | Literal["koleo"] = "joe",
        leave_one_out: bool = True,
        gather_distributed: bool = False,
        memory_bank_size: int | Sequence[int] = 0,
        entropy_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        if not kappa > 0:
            raise ValueError(f"The concentration kappa must be above 0 but is {kappa}.")
        if estimator not in ("joe", "plugin", "koleo"):
            raise ValueError(
                f"The estimator must be 'joe', 'plugin' or 'koleo' but is {estimator!r}."
            )
        check_weights(entropy_weight, reconstruction_weight)
        check_gather(gather_distributed)
        self.kappa = kappa
        self.estimator: Estimator | Literal["koleo"] = estimator
        self.entropy_weight = entropy_weight
        self.reconstruction_weight = reconstruction_weight
        self.leave_one_out = leave_one_out
        self.gather_distributed = gather_distributed
        self.memory_bank = PersistentMemoryBank(memory_bank_size)
        self._last: tuple[Tensor, Tensor, int] | None = None

    def forward(
        self, online: Views, target: Views, entropy_of: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            online: One tensor (N, d), or the online embeddings of every view.
            target: One tensor (N, d), or the target embeddings of the two global views.
            entropy_of: Embeddings (N, d) of every view whose entropy is taken where it is not
                the online ones': with a predictor, the projections that it predicts from.

        Returns:
            Scalar loss, minus the weighted sum of entropy and reconstruction, in nats, up to a
            constant.

        Raises:
            ValueError: If the views do not fit together.
        """
        online, target = check_views(online, target)
        with outside_autocast(online[0]):
            views, target = normalize_views(online, target)
            targets = meet_targets(target, len(views))
            self.memory_bank.check(views[0])
            memory = self.memory_bank.rows()
            spread = views
            if entropy_of is not None:
                spread = [normalize_rows(z) for z in check_views(entropy_of, target)[0]]
            relative_entropy = torch.stack([self._entropy(z, memory) for z in spread]).mean()
            pairs = list(zip(views, targets, strict=True))
            if target is views:  # two views of a shared branch meet each other: once is enough
                pairs = pairs[:1]
            alignment = torch.stack([self._alignment(z, t) for z, t in pairs]).mean()
        if relative_entropy.requires_grad and self.memory_bank.enabled:
            rows = [rank_rows(z, self.gather_distributed) for z in spread[:2]]
            self.memory_bank.push(torch.stack(rows))
        if not is_transformed():
            self._last = relative_entropy.detach(), alignment.detach(), views[0].shape[1]
        # log C_d(κ) is a part of both terms, of opposite sign, and would round what is left
        reconstruction = self.kappa * alignment
        return -(
            self.entropy_weight * relative_entropy + self.reconstruction_weight * reconstruction
        )

    @property
    def terms(self) -> dict[str, Tensor]:
        """Entropy, reconstruction and alignment of the last call, detached."""
        if self._last is None:
            return {}
        relative_entropy, alignment, dim = self._last
        # added in float64: float32 rounds it to 2e-3 at d = 8192
        log_normalizer = log_normalizer_value(dim, self.kappa)
        entropy, aligned = (
            x if x.device.type == "mps" else x.double() for x in (relative_entropy, alignment)
        )
        spread = {"log_distance": relative_entropy}
        if self.estimator != "koleo":
            spread = {"entropy": entropy - log_normalizer}
        return {
            **spread,
            "reconstruction": self.kappa * aligned + log_normalizer,
            "alignment": alignment,
        }

    def _entropy(self, z: Tensor, memory: Tensor | None) -> Tensor:
        keys = gather_rows(z, self.gather_distributed)
        if memory is not None:
            keys = torch.cat([keys, memory.to(keys)])
        if self.estimator == "koleo":
            offset = rank_offset(z, self.gather_distributed)
            distances = log_neighbour_distance(z, keys, offset)
            return mean_over_ranks(distances, self.gather_distributed)
        own_offset = rank_offset(z, self.gather_distributed) if self.leave_one_out else None
        log_means = log_kernel_means(z, keys, self.kappa, own_offset)
        log_means = gather_rows(log_means, self.gather_distributed)
        return entropy_from_log_density(log_means, self.estimator)

    def _alignment(self, z: Tensor, target: Tensor) -> Tensor:
        return mean_over_ranks(row_products(z, target), self.gather_distributed)
