"""The continuous entropy-reconstruction (ER) loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.kde import Estimator, entropy_from_log_density, log_kernel_means
from erssl.entropy.neighbours import log_neighbour_distance
from erssl.entropy.precision import outside_autocast, row_products
from erssl.entropy.vmf import log_normalizer_value
from erssl.loss.checks import check_both_terms
from erssl.loss.concentration import START, Concentration, Rule
from erssl.loss.distributed import (
    check_gather,
    gather_rows,
    mean_over_ranks,
    rank_offset,
    rank_rows,
)
from erssl.loss.memory import PersistentMemoryBank
from erssl.loss.views import Views, check_views, meet_targets, normalize_rows, normalize_views


class ERLoss(nn.Module):
    r"""Negative entropy-reconstruction bound on the sphere, with a vMF density for both terms.

    .. math:: L = -\frac1V \sum_v \Big[ w \hat H(Z_v)
              + \frac{r}N \sum_i \log q(z_v^i \mid t_v^i) \Big],
              \quad \log q(z \mid t) = \kappa_q \, z^\top t + \log C_d(\kappa_q)

    Entropy and reconstruction weigh the same in [0], w = r = 1. Rows are normalised inside. With
    w = 2 and κ = 1/τ it is DHEL of both views ([1], equation 8), with other weights HyDeS ([2]) of
    two views. With ``estimator="renyi2"``, κ = 2t and w = λ κ / 2 its gradient is κ / 2 times that
    of [3]'s loss: alignment with α = 2, and λ times uniformity.

    - [0] The Role of Entropy and Reconstruction in Multi-View Self-Supervised Learning, 2023,
      https://arxiv.org/abs/2307.10907
    - [1] Bridging Mini-Batch and Asymptotic Analysis in Contrastive Learning, 2024,
      https://arxiv.org/abs/2405.18045
    - [2] Self-Supervised Representation Learning via Hyperspherical Density Shaping, 2026,
      https://arxiv.org/abs/2604.24498
    - [3] Understanding Contrastive Representation Learning through Alignment and Uniformity on the
      Hypersphere, 2020, https://arxiv.org/abs/2005.10242

    Attributes:
        kappa:
            Concentration κ of the kernel; 10 in [0]. ``"best"`` takes that of the highest
            likelihood of each view's rows, ``"learned"`` follows it
            (:class:`erssl.loss.concentration.Concentration`); no gradient flows through either.
        reconstruction_kappa:
            Concentration κ_q of q; ``None`` for ``kappa`` as in [0], or 10 where that is no number.
        estimator:
            ``"joe"`` ([0]), ``"plugin"`` or ``"renyi2"`` of the kernel density
            (:func:`erssl.entropy.kde_entropy`), or ``"koleo"``: the mean log distance to the
            nearest other row (:func:`erssl.entropy.log_neighbour_distance`), of which d - 1 times
            is an entropy up to a constant.
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
            cosine) of the last call, detached; ``kappa`` where it is no number. With ``"koleo"``
            the entropy is called ``log_distance``, for it is none.

    Raises:
        ValueError: If a concentration is not above 0, the estimator is unknown, a rule for the
            concentration has no kernel to choose or a self term that it would sharpen, or
            torch.distributed is missing where ``gather_distributed`` asks for it.

    Examples:
        >>> loss_fn = ERLoss(kappa=10.0)
        >>> z0, z1 = torch.randn(8, 16), torch.randn(8, 16)
        >>> loss = loss_fn(z0, z1)
        >>> sorted(loss_fn.terms)
        ['alignment', 'entropy', 'reconstruction']
    """

    def __init__(
        self,
        kappa: float | Rule = START,
        estimator: Estimator | Literal["koleo"] = "joe",
        leave_one_out: bool = True,
        gather_distributed: bool = False,
        memory_bank_size: int | Sequence[int] = 0,
        entropy_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        reconstruction_kappa: float | None = None,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        if estimator not in (*get_args(Estimator), "koleo"):
            raise ValueError(
                f"The estimator must be 'joe', 'plugin', 'renyi2' or 'koleo' but is {estimator!r}."
            )
        self.concentration = None
        if isinstance(kappa, str):
            self.concentration = Concentration(kappa)
            if estimator == "koleo" or not leave_one_out:
                raise ValueError(
                    f"kappa={kappa!r} chooses a kernel by how it predicts other rows, and "
                    f"estimator={estimator!r} with leave_one_out={leave_one_out} has none that "
                    "may be chosen so; give kappa a number."
                )
        if estimator == "koleo" and not leave_one_out:
            raise ValueError(
                "estimator='koleo' measures the distance to another row, so that it has no "
                "leave_one_out=False; leave it out."
            )
        for name, value in (("kappa", kappa), ("reconstruction_kappa", reconstruction_kappa)):
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"The concentration {name} must be above 0 but is {value}.")
        check_both_terms(entropy_weight, reconstruction_weight)
        check_gather(gather_distributed)
        self.kappa = kappa
        if reconstruction_kappa is None:
            reconstruction_kappa = START if isinstance(kappa, str) else kappa
        self.reconstruction_kappa = float(reconstruction_kappa)
        self.estimator: Estimator | Literal["koleo"] = estimator
        self.entropy_weight = entropy_weight
        self.reconstruction_weight = reconstruction_weight
        self.leave_one_out = leave_one_out
        self.gather_distributed = gather_distributed
        self.memory_bank = PersistentMemoryBank(memory_bank_size)
        self._last: tuple[Tensor, Tensor, int, list[float]] | None = None

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
            Scalar loss, minus the weighted sum of entropy and reconstruction, in nats, without the
            logarithms of the normalisers, which have no gradient.

        Raises:
            ValueError: If the views do not fit together.
            RuntimeError: If ``torch.func``, a whole compiled graph or ``torch.export`` follows a
                loss whose concentration is a rule, or a compiled graph one with a queue.
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
            gathered = [gather_rows(z, self.gather_distributed) for z in spread]
            kappas = [self._kernel(z, keys) for z, keys in zip(spread, gathered, strict=True)]
            entropies = [
                self._entropy(z, keys, kappa, memory)
                for z, keys, kappa in zip(spread, gathered, kappas, strict=True)
            ]
            relative_entropy = torch.stack(entropies).mean()
            pairs = list(zip(views, targets, strict=True))
            if target is views:  # two views of a shared branch meet each other: once is enough
                pairs = pairs[:1]
            alignment = torch.stack([self._alignment(z, t) for z, t in pairs]).mean()
        if relative_entropy.requires_grad and self.memory_bank.enabled:
            rows = [rank_rows(z, self.gather_distributed) for z in spread[:2]]
            self.memory_bank.push(torch.stack(rows))
        if not is_transformed():
            dim = views[0].shape[1]
            self._last = relative_entropy.detach(), alignment.detach(), dim, kappas
        # log C_d(κ) is a part of both terms, of opposite sign, and would round what is left
        reconstruction = self.reconstruction_kappa * alignment
        return -(
            self.entropy_weight * relative_entropy + self.reconstruction_weight * reconstruction
        )

    @property
    def terms(self) -> dict[str, Tensor]:
        """Entropy, reconstruction and alignment of the last call, detached."""
        if self._last is None:
            return {}
        relative_entropy, alignment, dim, kappas = self._last
        # added in float64: float32 rounds it to 2e-3 at d = 8192
        log_normalizer = log_normalizer_value(dim, self.reconstruction_kappa)
        entropy, aligned = (
            x if x.device.type == "mps" else x.double() for x in (relative_entropy, alignment)
        )
        spread = {"log_distance": relative_entropy}
        if self.estimator != "koleo":
            of_kernels = [log_normalizer_value(dim, kappa) for kappa in kappas]
            spread = {"entropy": entropy - math.fsum(of_kernels) / len(of_kernels)}
        if self.concentration is not None:
            spread["kappa"] = alignment.new_tensor(math.fsum(kappas) / len(kappas))
        return {
            **spread,
            "reconstruction": self.reconstruction_kappa * aligned + log_normalizer,
            "alignment": alignment,
        }

    def _kernel(self, z: Tensor, keys: Tensor) -> float:
        """The concentration by which a view's density is read, from the rows of all ranks."""
        if self.concentration is None:
            return float(self.kappa)
        keys = keys.detach()
        kappa = self.concentration.of(keys)
        if z.requires_grad:
            offset = rank_offset(z, self.gather_distributed)
            self.concentration.learn(z.detach(), keys, offset, kappa)
        return kappa

    def _entropy(self, z: Tensor, keys: Tensor, kappa: float, memory: Tensor | None) -> Tensor:
        if memory is not None:
            keys = torch.cat([keys, memory.to(keys)])
        if self.estimator == "koleo":
            offset = rank_offset(z, self.gather_distributed)
            distances = log_neighbour_distance(z, keys, offset)
            return mean_over_ranks(distances, self.gather_distributed)
        own_offset = rank_offset(z, self.gather_distributed) if self.leave_one_out else None
        log_means = log_kernel_means(z, keys, kappa, own_offset)
        log_means = gather_rows(log_means, self.gather_distributed)
        return entropy_from_log_density(log_means, self.estimator)

    def _alignment(self, z: Tensor, target: Tensor) -> Tensor:
        return mean_over_ranks(row_products(z, target), self.gather_distributed)
