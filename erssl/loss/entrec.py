"""EntRec: the ER bound with shared branches and the entropy of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from erssl.loss.discrete_er import DiscreteERLoss
from erssl.loss.er import ERLoss
from erssl.loss.views import Views


class EntRecLoss(nn.Module):
    r"""EntRec ([0]): no EMA, no predictor, no stop-gradient, entropy of both branches.

    ``"continuous"``: :math:`L = -\frac12 \sum_b [\hat H_{Joe}(Z_b) +
    \frac1N \sum_i \log q(z_b^i \mid z_{\bar b}^i)]` with a vMF of concentration
    1 / temperature, which is :class:`ERLoss` on shared branches.
    ``"discrete"``: :math:`L = -\frac12 \sum_b [H(\bar W_b) + \frac1N \sum_i
    s(z_b^i)^\top \log s(z_{\bar b}^i)]` with s the soft-max without temperature or centring,
    which is :class:`DiscreteERLoss` at temperature 1.

    - [0] On Information Maximisation in Multi-View Self-Supervised Learning, 2022,
      https://openreview.net/forum?id=UHpva3PuKLN (its printed formulas lack minus signs)

    Attributes:
        kind:
            ``"continuous"`` or ``"discrete"``.
        temperature:
            1/κ of the vMF density of the continuous kind. Not printed in [0]; 0.1 is the ER
            paper's κ = 10.
        leave_one_out:
            Leave each sample out of its own density estimate (continuous kind). ``False``
            reproduces [0].
        gather_distributed:
            If True, the entropy is that of the batch over all processes.
        memory_bank_size:
            Size (n, d) of a queue that widens the kernel sum (continuous kind); 0 for none.
        terms:
            Entropy and reconstruction (nats) of the last call, detached.

    Raises:
        ValueError: If ``kind`` or ``temperature`` is none of the above, or a memory bank is
            asked for with the discrete kind.

    Examples:
        >>> import torch
        >>> loss = EntRecLoss("discrete")(torch.randn(8, 16), torch.randn(8, 16))
    """

    def __init__(
        self,
        kind: Literal["continuous", "discrete"] = "continuous",
        temperature: float = 0.1,
        leave_one_out: bool = True,
        gather_distributed: bool = False,
        memory_bank_size: int | Sequence[int] = 0,
    ) -> None:
        """Create the loss; see the class for the options."""
        super().__init__()
        if kind not in ("continuous", "discrete"):
            raise ValueError(f"The kind must be 'continuous' or 'discrete' but is {kind!r}.")
        if not temperature > 0:
            raise ValueError(f"The temperature must be above 0 but is {temperature}.")
        self.kind = kind
        self.bound: ERLoss | DiscreteERLoss
        if kind == "continuous":
            self.bound = ERLoss(
                kappa=1 / temperature,
                leave_one_out=leave_one_out,
                gather_distributed=gather_distributed,
                memory_bank_size=memory_bank_size,
            )
        else:
            rows = memory_bank_size if isinstance(memory_bank_size, int) else memory_bank_size[0]
            if rows > 0:
                raise ValueError("A memory bank widens a kernel sum, which kind='discrete' lacks.")
            self.bound = DiscreteERLoss(1.0, 1.0, gather_distributed=gather_distributed)

    @property
    def terms(self) -> dict[str, Tensor]:
        """Entropy and reconstruction (nats) of the last call, detached."""
        return self.bound.terms

    def forward(self, online: Views, target: Views) -> Tensor:
        """Compute the loss.

        Args:
            online: Embeddings (N, d) or logits (N, K), or a list of every view's.
            target: Embeddings (N, d) or logits (N, K), or a list of the two global views'.

        Returns:
            Scalar loss in nats.

        Raises:
            ValueError: If the views do not fit together.
        """
        loss: Tensor = self.bound(online, target)
        return loss
