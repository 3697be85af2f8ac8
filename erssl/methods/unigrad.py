"""UniGrad (arXiv 2112.05141): one gradient in place of many methods' losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from erssl.entropy.precision import full_precision
from erssl.errors import ConfigError
from erssl.loss.distributed import check_gather, gather_rows
from erssl.loss.state import StepState
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TargetOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("unigrad").options


class UniGradLoss(StepState):
    r"""A potential whose gradient at the online embedding is UniGrad's.

    .. math:: L = \frac12 \sum_{v=1,2} \frac1N \sum_i \Big[ -z_v^{i\top} m_{\bar v}^i
              + \frac\lambda2 \, z_v^{i\top} F z_v^i \Big], \qquad
              \frac{\partial L}{\partial z_v^i} = \frac{1}{2N} (-m_{\bar v}^i + \lambda F z_v^i)

    F is a moving second moment (d, d) of the targets m, without gradient. The authors' code
    writes λ in place of λ/2 and detaches the gradient, which shows another value and trains alike.
    Rows are normalised inside.
    """

    second_moment: Tensor
    updates: Tensor

    def __init__(
        self, dim: int, lambda_param: float, rho: float, gather_distributed: bool = True
    ) -> None:
        """Make an empty second moment.

        Args:
            dim: Dimension d of the embeddings.
            lambda_param: λ, weight of the repulsion.
            rho: ρ, momentum of F.
            gather_distributed: Take F over the batch of all devices.

        Raises:
            ConfigError: If ρ is out of range.
        """
        super().__init__()
        if not 0 <= rho < 1:
            raise ConfigError(f"method.rho must lie in [0, 1) but is {rho}.")
        check_gather(gather_distributed)
        self.lambda_param = lambda_param
        self.rho = rho
        self.gather_distributed = gather_distributed
        self.add_state("second_moment", torch.zeros(dim, dim))
        self.add_state("updates", torch.zeros((), dtype=torch.long))

    @full_precision
    def forward(self, z0: Tensor, z1: Tensor, m0: Tensor, m1: Tensor) -> Tensor:
        """Loss of online embeddings z and targets m, each (N, d), of two views."""
        z0, z1, m0, m1 = (F.normalize(x, dim=-1) for x in (z0, z1, m0.detach(), m1.detach()))
        moment = self._moment(m0, m1)
        attraction = (z0 * m1).sum(-1) + (z1 * m0).sum(-1)
        repulsion = ((z0 @ moment) * z0).sum(-1) + ((z1 @ moment) * z1).sum(-1)
        return 0.5 * (self.lambda_param / 2 * repulsion - attraction).mean()

    @torch.no_grad()
    def _moment(self, m0: Tensor, m1: Tensor) -> Tensor:
        """F, moved by this batch before it is used; the first batch's own at first."""
        m = gather_rows(torch.cat([m0, m1]), self.gather_distributed)
        products = m.T @ m
        moment = self._moved(products / len(m))
        if self.training:
            self.collect(products=products, rows=m.new_full((), len(m)))
        return moment

    def _moved(self, own: Tensor) -> Tensor:
        # chosen on the device, which a branch would wait for
        before = torch.where(self.updates > 0, self.second_moment.to(own), own)
        return self.rho * before + (1 - self.rho) * own

    def move(self, collected: dict[str, Tensor]) -> None:
        """Move F by the second moment of all rows of a step."""
        self.second_moment.copy_(self._moved(collected["products"] / collected["rows"]))
        self.updates += 1


@register_method("unigrad")
class UniGrad(MultiViewMethod):
    """Towards the other view's target, away from where targets lie."""

    info = MethodInfo(
        paper="Tao et al. 2022, arXiv 2112.05141",
        family="redundancy reduction",
        target="momentum",
        entropy="a moving second moment (a surrogate)",
        reconstruction="alignment",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        lambda_param: float = OPTIONS["lambda_param"],
        rho: float = OPTIONS["rho"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are those of UniGrad's code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            lambda_param: λ, weight of the repulsion; 100.
            rho: ρ, momentum of the second moment F; 0.99.
            gather_distributed: Take F over the batch of all devices.
            projection_hidden_dim: Width of the projector's two hidden layers.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=3
        )
        self.criterion = UniGradLoss(projection_dim, lambda_param, rho, gather_distributed)
        self.add_target()

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Each online view against the target of the other; no predictor."""
        m0, m1 = self.target_branch(views)
        features, (z0, z1) = self.online_branch(views)
        return StepOutput(self.criterion(z0, z1, m0, m1), features, z0, m1)
