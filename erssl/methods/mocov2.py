"""MoCo v2 (arXiv 2003.04297): contrast with a queue of a momentum branch's keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from lightly.models.utils import batch_shuffle, batch_unshuffle
from lightly.utils import dist
from torch import Tensor, nn
from typing_extensions import Unpack

from erssl.entropy.precision import full_precision
from erssl.errors import ConfigError
from erssl.loss.distributed import check_gather, rank_rows
from erssl.loss.memory import PersistentMemoryBank
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TargetOptions, check_queue
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("mocov2").options


class QueueContrastLoss(nn.Module):
    r"""Cross entropy of finding each query's key among the keys of earlier batches.

    .. math:: -\frac1N \sum_i \log \frac{\exp(q_i^\top k_i/\tau)}
        {\exp(q_i^\top k_i/\tau) + \sum_m \exp(q_i^\top n_m/\tau)}

    lightly's ``NTXentLoss`` with a memory bank is the same but for its bank, which is lost with a
    checkpoint and begins with random vectors; here negatives are keys that were seen.
    """

    def __init__(
        self, temperature: float, queue: tuple[int, int], gather_distributed: bool = True
    ) -> None:
        """Make an empty queue.

        Args:
            temperature: τ.
            queue: Rows and dimension of the queue.
            gather_distributed: Enqueue the keys of all devices.

        Raises:
            ConfigError: If the temperature is not above 0.
        """
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"method.temperature must be above 0 but is {temperature}.")
        check_gather(gather_distributed)
        self.temperature = temperature
        self.gather_distributed = gather_distributed
        self.queue = PersistentMemoryBank(queue)

    @full_precision
    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Loss of queries (N, d) and their keys (N, d); the keys are enqueued afterwards."""
        queries, keys = F.normalize(queries, dim=-1), F.normalize(keys.detach(), dim=-1)
        logits = (queries * keys).sum(-1, keepdim=True)
        negatives = self.queue.rows()
        if negatives is not None:
            logits = torch.cat([logits, queries @ negatives.to(queries).T], dim=1)
        if self.training:
            self.queue.push(rank_rows(keys, self.gather_distributed))
        first = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return F.cross_entropy(logits / self.temperature, first)


class MoCoV2Options(TargetOptions, total=False):
    """Keyword options of MoCo v2's network and queue."""

    memory_bank_size: int | Sequence[int]
    gather_distributed: bool
    projection_hidden_dim: int
    projection_dim: int


@register_method("mocov2")
class MoCoV2(MultiViewMethod):
    """A view finds its key by the momentum branch among the keys of many earlier batches."""

    info = MethodInfo(
        paper="Chen et al. 2020, arXiv 2003.04297",
        family="contrastive",
        target="momentum",
        entropy="a queue of negatives (a surrogate)",
        reconstruction="temperature",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        temperature: float = OPTIONS["temperature"],
        memory_bank_size: int | Sequence[int] = OPTIONS["memory_bank_size"],
        gather_distributed: bool = OPTIONS["gather_distributed"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TargetOptions],
    ) -> None:
        """Defaults are those of MoCo v2's code.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            temperature: Of the contrast; 0.2.
            memory_bank_size: Keys in the queue: their number n, or (n, d); 65536.
            gather_distributed: Enqueue the keys of all devices.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding; 128.
            **training: See :class:`MultiViewMethod`.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        check_queue(memory_bank_size, projection_dim)
        rows = memory_bank_size if isinstance(memory_bank_size, int) else memory_bank_size[0]
        if rows < 1:
            raise ConfigError(
                f"method.memory_bank_size={memory_bank_size} leaves no negatives; give a number "
                "of keys such as 65536."
            )
        self.projection_head = mlp_head(
            self.feature_dim,
            projection_hidden_dim,
            projection_dim,
            num_layers=2,
            batch_norm=False,
        )
        self.criterion = QueueContrastLoss(temperature, (rows, projection_dim), gather_distributed)
        self.add_target()

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Query of view 0, key of view 1."""
        key = self._key(views[1])
        features, (query,) = self.online_branch(views[:1])
        return StepOutput(self.criterion(query, key), features, query, key)

    @torch.no_grad()
    def _key(self, view: Tensor) -> Tensor:
        """Keys (N, d), images shuffled over devices, lest batch statistics give them away."""
        if dist.world_size() == 1:
            return self.target_branch([view])[0]
        view, order = batch_shuffle(view, distributed=True)
        key: Tensor = batch_unshuffle(self.target_branch([view])[0], order, distributed=True)
        return key
