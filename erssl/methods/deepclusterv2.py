"""DeepCluster v2 (arXiv 2006.09882, appendix), on scikit-learn's k-means."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from lightly.utils import dist
from torch import Tensor, nn
from torch import distributed as torch_dist
from typing_extensions import Unpack

from erssl.entropy.precision import at_least_float32, outside_autocast
from erssl.errors import ConfigError
from erssl.loss.distributed import rank_rows
from erssl.loss.memory import PersistentMemoryBank
from erssl.methods.base import MultiViewMethod
from erssl.methods.info import MethodInfo, StepOutput
from erssl.methods.options import TrainingOptions
from erssl.methods.registry import register_method
from erssl.models import mlp_head
from erssl.recipes import read_recipe

OPTIONS = read_recipe("deepclusterv2").options


class DeepClusterOptions(TrainingOptions, total=False):
    """Keyword options of DeepCluster's network and clustering."""

    num_prototypes: int
    num_clusterings: int
    temperature: float
    memory_bank_size: int
    kmeans_iterations: int
    projection_hidden_dim: int
    projection_dim: int


@register_method("deepclusterv2")
class DeepClusterV2(MultiViewMethod):
    """Views predict the k-means cluster of their image; clusters are found anew every epoch.

    The reference keeps the embedding of every image by its index. Here a queue keeps the latest
    embeddings of the first view, k-means runs on it (as soon as it holds two rows a cluster, then
    after every epoch), and the cluster of an image is the one next to its other view's
    embedding: no data set has to know indices.
    """

    info = MethodInfo(
        paper="Caron et al. 2020, arXiv 2006.09882",
        family="clustering",
        target="k-means clusters",
        multi_crop=True,
        entropy="k-means anew every epoch (no term)",
        reconstruction="cross-entropy with k-means clusters",
    )

    prototypes: Tensor
    clustered: Tensor

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        num_prototypes: int = OPTIONS["num_prototypes"],
        num_clusterings: int = OPTIONS["num_clusterings"],
        temperature: float = OPTIONS["temperature"],
        memory_bank_size: int = OPTIONS["memory_bank_size"],
        kmeans_iterations: int = OPTIONS["kmeans_iterations"],
        projection_hidden_dim: int = OPTIONS["projection_hidden_dim"],
        projection_dim: int = OPTIONS["projection_dim"],
        **training: Unpack[TrainingOptions],
    ) -> None:
        """Defaults are the reference code's, but for the queue.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            num_prototypes: Number K of clusters; 3000.
            num_clusterings: Clusterings from different starts, whose losses are averaged; 3.
            temperature: Of the predictions; 0.1.
            memory_bank_size: Embeddings that are clustered; the reference clusters all images.
            kmeans_iterations: Of each clustering; 10.
            projection_hidden_dim: Width of the projector's hidden layer.
            projection_dim: Dimension of the embedding.
            **training: See :class:`MultiViewMethod`.

        Raises:
            ConfigError: If there are fewer than two clusters, or no room to find them in.
        """
        super().__init__(batch_size_per_device, num_classes, **training)
        if num_prototypes < 2 or num_clusterings < 1 or memory_bank_size < 2 * num_prototypes:
            raise ConfigError(
                "Clustering needs method.num_prototypes of at least 2, method.num_clusterings of "
                "at least 1 and method.memory_bank_size of at least two rows a cluster but has "
                f"{num_prototypes}, {num_clusterings} and {memory_bank_size}."
            )
        self.projection_head = mlp_head(
            self.feature_dim, projection_hidden_dim, projection_dim, num_layers=2
        )
        self.temperature = temperature
        self.kmeans_iterations = kmeans_iterations
        self.bank = PersistentMemoryBank((memory_bank_size, projection_dim))
        prototypes = torch.randn(num_clusterings, num_prototypes, projection_dim)
        self.register_buffer("prototypes", F.normalize(prototypes, dim=-1))
        self.register_buffer("clustered", torch.zeros((), dtype=torch.bool))
        self.criterion: nn.Module = nn.CrossEntropyLoss()

    def logits(self, embedding: Tensor) -> Tensor:
        """Scores (N, K) of an embedding in the first clustering, divided by the temperature."""
        return (
            F.normalize(embedding, dim=-1) @ self.prototypes[0].to(embedding).T / self.temperature
        )

    def multi_view_step(self, views: list[Tensor]) -> StepOutput:
        """Predictions of every view against the clusters of the other global views."""
        features, online = self.online_branch(views)
        with outside_autocast(online[0]):
            z = [F.normalize(at_least_float32(v), dim=-1) for v in online]
            self._keep(z[0].detach())
            losses = [self._loss(z, prototypes) for prototypes in self.prototypes.to(z[0])]
            loss = torch.stack(losses).mean()
        return StepOutput(loss, features, online[0], online[1])

    def slow_tensors(self) -> list[Tensor]:
        """The clusters beside the target's."""
        return [*super().slow_tensors(), self.prototypes]

    def commit_state(self) -> None:
        """Write a step's rows to the queue, and find the first clusters once there are enough."""
        super().commit_state()
        self._find_first()

    def on_train_epoch_end(self) -> None:
        """Find the clusters of the next epoch."""
        self.cluster()

    @torch.no_grad()
    def cluster(self) -> None:
        """K-means on the queue, the same on every rank: each clustering is found by one of them."""
        rows = self.bank.rows()
        if rows is None:
            return
        rows = rows[rows.isfinite().all(dim=1)]  # k-means would raise at others
        if len(rows) < 2 * self.prototypes.shape[1]:
            return
        rank, world = dist.rank(), dist.world_size()
        clusterings = range(self.prototypes.shape[0])
        for index in clusterings[rank::world]:
            self.prototypes[index] = self._centroids(rows, index)
        for index in clusterings if world > 1 else ():
            torch_dist.broadcast(self.prototypes[index], src=index % world)
        self.clustered.fill_(True)

    def _centroids(self, rows: Tensor, seed: int) -> Tensor:
        from sklearn.cluster import KMeans  # which no other method has to wait for
        from sklearn.exceptions import ConvergenceWarning

        kmeans = KMeans(
            self.prototypes.shape[1],
            init="random",
            n_init=1,
            max_iter=self.kmeans_iterations,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            kmeans.fit(rows.float().cpu().numpy())
        centroids = torch.from_numpy(kmeans.cluster_centers_).to(self.prototypes)
        return F.normalize(centroids, dim=-1)

    def _loss(self, z: list[Tensor], prototypes: Tensor) -> Tensor:
        """Cross-entropy of each view with the cluster of another global view."""
        scores = [v @ prototypes.T for v in z]
        clusters = [s.argmax(dim=1) for s in scores[:2]]
        losses = [
            self.criterion(score / self.temperature, clusters[1 if view == 0 else 0])
            for view, score in enumerate(scores)
        ]
        return torch.stack(losses).mean()

    def _keep(self, z: Tensor) -> None:
        if not self.training:
            return
        self.bank.push(rank_rows(z, gather_distributed=True))
        if not self.bank.held:
            self._find_first()

    def _find_first(self) -> None:
        if not self.clustered:
            self.cluster()
