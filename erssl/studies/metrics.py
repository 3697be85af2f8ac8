"""What the metrics of a study are called on its page and its figure, and their units."""

from __future__ import annotations

_LABELS = {
    "knn_top1": "kNN top-1 (%)",
    "linear_top1": "linear top-1 (%)",
    "train_nats_below_uniform": "entropy of the last batches as logged, nats below uniform",
    "train_alignment": "alignment (mean cosine)",
    "train_loss": "loss",
    "wall_seconds": "seconds a run",
}
_PERCENT = ("top1", "top5")
# Before the name of a data set, by the mode of the transfer; the first begins all of them.
TRANSFER_PREFIXES = {"linear": "transfer_", "finetune": "transfer_finetuned_"}
_TITLES = {"train_nats_below_uniform": "nats below uniform", "train_alignment": "alignment"}
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


def title_of(metric: str) -> str:
    """A metric's name as short as the title of a panel has to be."""
    return _TITLES.get(metric, label_of(metric))


def value_of(metric: str, value: float) -> float:
    """A metric's value in the unit of its label."""
    return 100 * value if is_share(metric) else value
