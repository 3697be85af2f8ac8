"""``erssl kmeans``: how well clusters of frozen features are the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from erssl.errors import ConfigError
from erssl.evaluation import AnyFeatures, Features
from erssl.evaluation.lloyd import cluster, nearest_centres
from erssl.protocols.evaluation import Evaluated, Evaluation, best_device
from erssl.protocols.subject import read_subject
from erssl.run.result import Result
from erssl.settings.evaluation import EvaluationSettings, FeatureSettings, read_protocol


@dataclass(frozen=True, kw_only=True)
class KMeansSettings(EvaluationSettings, FeatureSettings):
    """``configs/kmeans.yaml``."""

    clusters: int | None
    starts: int

    def __post_init__(self) -> None:
        """Refuse values that make no clusters."""
        super().__post_init__()
        if self.starts < 1 or (self.clusters is not None and self.clusters < 2):
            raise ConfigError(
                "kmeans needs clusters of at least 2 and starts of at least 1 but has "
                f"{self.clusters} and {self.starts}."
            )


def run(overrides: Sequence[str], console: Console) -> Result:
    """Evaluate a backbone by k-means.

    Raises:
        ErsslError: If it cannot be done.
    """
    settings, about_data = read_protocol("kmeans", KMeansSettings, overrides)
    subject = read_subject(settings, about_data, console)
    evaluation = Evaluation("kmeans", settings, subject)
    classes, images = evaluation.datasets.num_classes, len(evaluation.datasets.train)
    clusters = settings.clusters or classes
    if clusters > images:
        raise ConfigError(
            f"clusters={clusters} is more than the {images} training images; set it to less."
        )
    evaluation.settings = settings = evaluation.placed(settings)
    with evaluation.opened(console):
        device = best_device()
        train, val = evaluation.features(settings, device, console)
        assigned = assign_clusters(train, val, clusters, settings.starts, settings.seed)
        metrics, predicted = clustering_metrics(assigned, val.labels, clusters, classes)
        return evaluation.finish(Evaluated([metrics], predicted), device, console)


def assign_clusters(
    train: AnyFeatures, val: AnyFeatures, clusters: int, starts: int, seed: int
) -> Tensor:
    """Cluster numbers (N_val,) of the validation images, by centres of the training images.

    Features are of unit length, as for kNN, so that distances are those of cosines. Those in memory
    are clustered by scikit-learn in float64, those in files by blocks in float32.

    Args:
        train: Features (N, d) that the centres are of.
        val: Features (N_val, d) that are assigned to the nearest centre.
        clusters: Number of clusters.
        starts: Runs of k-means++, of which the one with the smallest sum of squares is taken.
        seed: Of the starts.
    """
    if not (isinstance(train, Features) and isinstance(val, Features)):
        centres = cluster(train.features, clusters, starts, seed).centres
        return nearest_centres(val.features, centres)
    from sklearn.cluster import KMeans  # which no other command has to wait for

    unit = [F.normalize(each.features.double(), dim=1).numpy() for each in (train, val)]
    fitted = KMeans(clusters, n_init=starts, random_state=seed).fit(unit[0])
    return torch.from_numpy(fitted.predict(unit[1]).astype(np.int64))


def clustering_metrics(
    assigned: Tensor, labels: Tensor, clusters: int, classes: int
) -> tuple[dict[str, float], Tensor]:
    """Agreement of clusters and classes.

    Args:
        assigned: Cluster numbers (N,).
        labels: Class numbers (N,).
        clusters: Number of clusters.
        classes: Number of classes.

    Returns:
        ``nmi`` (normalised mutual information, by the arithmetic mean of the entropies), ``ari``
        (adjusted Rand index) and ``accuracy`` of the one-to-one matching of clusters and classes
        that is best (Hungarian algorithm); and the class number (N,) of each image by it. A cluster
        beyond the classes is matched with none and stands for the class that is its largest part,
        but counts as wrong in the accuracy.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    counts = torch.zeros(clusters, classes, dtype=torch.int64)
    counts.index_put_((assigned, labels), torch.ones_like(labels), accumulate=True)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    of_cluster = counts.argmax(dim=1)
    of_cluster[torch.from_numpy(rows)] = torch.from_numpy(columns)
    metrics = {
        "accuracy": int(counts[rows, columns].sum()) / len(labels),
        "nmi": float(normalized_mutual_info_score(labels.numpy(), assigned.numpy())),
        "ari": float(adjusted_rand_score(labels.numpy(), assigned.numpy())),
    }
    return metrics, of_cluster[assigned]
