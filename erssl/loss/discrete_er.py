"""The entropy-reconstruction (ER) loss for discrete surrogates (soft-max outputs)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from erssl.entropy._opaque import is_transformed
from erssl.entropy.discrete import discrete_entropy
from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.loss._softmax import softmax_terms
from erssl.loss.center import MovingCenter
from erssl.loss.checks import check_both_terms
from erssl.loss.distributed import check_gather, gather_rows, mean_over_ranks
from erssl.loss.views import Views, check_views, meet_targets


class DiscreteERLoss(nn.Module):
    r"""Negative entropy-reconstruction bound for K-way soft-max outputs ([0]).

    .. math:: L = -\sum_v w_v \Big[ w \, H(\bar p_v)
                  + \frac{r}N \sum_i \sum_k s^i_{v,k} \log p^i_{v,k} \Big]

    with p the soft-max of the online logits, :math:`\bar p` its batch mean (only the online
    branch carries gradient to it), s the soft-max of the target's logits, :math:`w_v = 1/V` for V
    views unless ``local_view_weight`` says otherwise, and w = r = 1 in [0].

    - [0] The Role of Entropy and Reconstruction in Multi-View Self-Supervised Learning, 2023,
      https://arxiv.org/abs/2307.10907

    Attributes:
        temperature:
            Temperature of the online soft-max; 0.1 as in DINO.
        target_temperature:
            Temperature of the target's soft-max; 0.04 as in DINO.
        center:
            Centre the target's logits as DINO does. The entropy term makes it unnecessary.
        output_dim:
            Number K of outputs; needed with ``center`` only.
        center_momentum:
            Momentum of the centre; 0.9 as in DINO.
        gather_distributed:
            If True, the entropy is that of the batch over all processes.
        entropy_temperature:
            Temperature of the soft-max whose entropy is taken; ``None`` for ``temperature``, as in
            [0]. On shared branches with sharper targets give ``target_temperature``: the entropy
            is then that of the targets themselves. Else the loss is low where all targets are one
            outcome and the predictions hedge.
        local_view_weight:
            Weight of a local view's terms, where a global view's is 1 and the weights sum to 1
            over views. DINO's and SwAV's losses, whose local views meet both targets and whose
            global ones meet one, weigh them by 2.
        entropy_weight:
            Weight w of the entropy; 1 in [0]. 0 leaves the reconstruction alone.
        reconstruction_weight:
            Weight r of the reconstruction; 1 in [0]. 0 leaves the entropy alone.
        terms:
            Entropy and reconstruction (nats) of the last call, detached.

    Raises:
        ValueError: If a temperature or ``local_view_weight`` is not above 0, a weight of a term is
            negative or both are 0, or ``center`` lacks ``output_dim``.

    Examples:
        >>> loss_fn = DiscreteERLoss()
        >>> loss = loss_fn(torch.randn(8, 32), torch.randn(8, 32))
        >>> sorted(loss_fn.terms)
        ['entropy', 'reconstruction']
    """

    def __init__(
        self,
        temperature: float = 0.1,
        target_temperature: float = 0.04,
        center: bool = False,
        output_dim: int | None = None,
        center_momentum: float = 0.9,
        gather_distributed: bool = False,
        entropy_temperature: float | None = None,
        local_view_weight: float = 1.0,
        entropy_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        entropy_temperature = temperature if entropy_temperature is None else entropy_temperature
        if not (temperature > 0 and target_temperature > 0 and entropy_temperature > 0):
            raise ValueError(
                "Temperatures must be above 0 but are "
                f"temperature={temperature}, target_temperature={target_temperature} and "
                f"entropy_temperature={entropy_temperature}."
            )
        if not 0 < local_view_weight < math.inf:
            raise ValueError(f"local_view_weight must be above 0 but is {local_view_weight}.")
        check_both_terms(entropy_weight, reconstruction_weight)
        if center and output_dim is None:
            raise ValueError("center=True needs output_dim, the number of outputs K.")
        check_gather(gather_distributed)
        self.temperature = temperature
        self.target_temperature = target_temperature
        self.entropy_temperature = entropy_temperature
        self.local_view_weight = local_view_weight
        self.entropy_weight = entropy_weight
        self.reconstruction_weight = reconstruction_weight
        self.gather_distributed = gather_distributed
        self.center = None
        if center and output_dim is not None:
            self.center = MovingCenter(output_dim, center_momentum)
        self.terms: dict[str, Tensor] = {}

    def forward(self, online: Views, target: Views) -> Tensor:
        """Compute the loss.

        Args:
            online: Logits (N, K), or the online logits of every view.
            target: Logits (N, K), or the target logits of the two global views.

        Returns:
            Scalar loss, minus the weighted sum of entropy and reconstruction, in nats.

        Raises:
            ValueError: If the views do not fit together or K is below 2.
        """
        online, target = check_views(online, target)
        num_outcomes = online[0].shape[1]
        if num_outcomes < 2:
            raise ValueError("Discrete outputs need K of at least 2 but K is 1.")
        if self.center is not None and self.center.value.shape[1] != num_outcomes:
            raise ValueError(
                f"The centre has output_dim={self.center.value.shape[1]} outputs but the logits "
                f"have {num_outcomes}."
            )
        logits = [at_least_float32(z) for z in online]
        target_logits = [at_least_float32(t) for t in target]
        with outside_autocast(logits[0]):
            targets = meet_targets([self._target_probs(t) for t in target_logits], len(logits))
            if self.center is not None and torch.is_grad_enabled():
                self.center.update(torch.cat(target_logits).detach())
            terms = [self._terms(z, t) for z, t in zip(logits, targets, strict=True)]
            entropy, reconstruction = (
                self._mean(torch.stack(part)) for part in zip(*terms, strict=True)
            )
        if not is_transformed():
            self.terms = {"entropy": entropy.detach(), "reconstruction": reconstruction.detach()}
        return -(self.entropy_weight * entropy + self.reconstruction_weight * reconstruction)

    def _mean(self, views: Tensor) -> Tensor:
        """Mean of a term over views, the two global ones first."""
        weights = torch.full_like(views, self.local_view_weight)
        weights[:2] = 1
        return (weights * views).sum() / weights.sum()

    def _target_probs(self, logits: Tensor) -> Tensor:
        centered = logits if self.center is None else logits - self.center.value.to(logits)
        return (centered / self.target_temperature).softmax(dim=-1)

    def _terms(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Entropy and reconstruction of a view."""
        mean, cross = softmax_terms(logits, target, self.temperature)
        if self.entropy_temperature != self.temperature:
            mean, _ = softmax_terms(logits, None, self.entropy_temperature)
        means = gather_rows(mean[None], self.gather_distributed)
        return discrete_entropy(means), mean_over_ranks(cross, self.gather_distributed)
