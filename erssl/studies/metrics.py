"""What the metrics of a study are called on its page and its figure, and their units."""

from __future__ import annotations

_BELOW_UNIFORM = "entropy minus that of the uniform density (nats)"
_LABELS = {
    "knn_top1": "kNN top-1 (%)",
    "knn_whitened_top1": "kNN top-1, whitened features (%)",
    "linear_top1": "linear top-1 (%)",
    "train_nats_below_uniform": f"{_BELOW_UNIFORM}, last batches as logged",
    "features_nats_below_uniform_kde": f"{_BELOW_UNIFORM}, features, kernel density",
    "features_nats_below_uniform_knn": f"{_BELOW_UNIFORM}, features, neighbours",
    "embedding_nats_below_uniform_kde": f"{_BELOW_UNIFORM}, embeddings, kernel density",
    "embedding_nats_below_uniform_knn": f"{_BELOW_UNIFORM}, embeddings, neighbours",
    "train_alignment": "alignment (mean cosine)",
    "features_rankme": "effective rank of the features (RankMe)",
    "embedding_rankme": "effective rank of the embeddings (RankMe)",
    "embedding_alignment": "alignment (mean cosine), embeddings",
    "features_alignment": "alignment (mean cosine), features",
    "train_loss": "loss",
    "wall_seconds": "seconds a run",
}
_PERCENT = ("top1", "top5")
# Before the name of a data set, by the mode of the transfer; the first begins all of them.
TRANSFER_PREFIXES = {"linear": "transfer_", "finetune": "transfer_finetuned_"}
_TITLES = {
    "train_nats_below_uniform": "entropy minus uniform (nats)",
    "features_nats_below_uniform_kde": "features, entropy minus uniform (nats)",
    "features_nats_below_uniform_knn": "features, entropy minus uniform (nats)",
    "embedding_nats_below_uniform_kde": "entropy minus uniform (nats)",
    "embedding_nats_below_uniform_knn": "entropy minus uniform (nats)",
    "train_alignment": "alignment",
    "embedding_alignment": "alignment",
    "features_alignment": "features, alignment",
    "features_rankme": "effective rank",
    "embedding_rankme": "effective rank",
}
_MODES = {"linear": "linear", "finetune": "fine-tuned"}


def is_share(metric: str) -> bool:
    """Whether a metric is an accuracy, which is shown in per cent."""
    return metric.endswith(_PERCENT) or metric.startswith(TRANSFER_PREFIXES["linear"])


def label_of(metric: str) -> str:
    """A metric's name as tables and figures have it."""
    for mode, prefix in reversed(TRANSFER_PREFIXES.items()):
        if metric.startswith(prefix):
            return f"{metric.removeprefix(prefix)}, {_MODES[mode]} (%)"
    return _LABELS.get(metric, metric)


def name_of(metric: str) -> str:
    """A metric's name in a sentence, without its unit."""
    return label_of(metric).removesuffix(" (%)")


def title_of(metric: str) -> str:
    """A metric's name as short as the title of a panel has to be."""
    return _TITLES.get(metric, label_of(metric))


def value_of(metric: str, value: float) -> float:
    """A metric's value in the unit of its label."""
    return 100 * value if is_share(metric) else value


def digits_of(metric: str) -> int:
    """Digits behind the point that a metric is shown with."""
    return 1 if is_share(metric) else 2
