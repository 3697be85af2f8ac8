"""Linear classification on features that are computed once, without augmentation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from erssl.evaluation.accuracies import classification_metrics
from erssl.evaluation.classifier import ClassifierOptions, cosine, make_head, make_optimizer
from erssl.evaluation.rows import AnyFeatures, Features, Rows, StoredRows, blocks

_GATHERED = 4096  # rows that are looked for in files at a time: all files are visited for it


class LinearResult(NamedTuple):
    """What a trained classifier gives on the validation features.

    Attributes:
        scores: Logits (N_val, C) after the last epoch.
        history: Metrics after each epoch.
        head: The layer after the last epoch.
    """

    scores: Tensor
    history: list[dict[str, float]]
    head: nn.Linear


def train_linear(
    train: AnyFeatures,
    val: AnyFeatures,
    num_classes: int,
    options: ClassifierOptions,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> LinearResult:
    """Train a linear layer on fixed features by a protocol's optimiser and schedule.

    The same layer, rates and schedule as with augmentation, in minutes on a CPU; what is missing is
    the augmentation. The last batch of an epoch may be smaller.

    Args:
        train: Features (N, feature_dim) that the layer is trained on, as the backbone gives them;
            the batches are the same whether they lie in memory or in files.
        val: Features that are classified after each epoch.
        num_classes: Number of classes C.
        options: Rates, epochs, batch size and schedule; the augmentation is not read.
        seed: Of the initial weights and of the order.
        device: Where the layer is trained; features go there batch by batch.
        on_epoch: Called with the metrics of each epoch.

    Returns:
        Logits of the last epoch, metrics of all, and the layer.
    """
    size = min(options.batch_size, len(train.features))
    with isolate_rng(include_cuda=False):
        torch.manual_seed(seed)
        head = make_head(train.features.shape[1], num_classes, options.head_init).to(device)
    optimizer = make_optimizer(options, head, None, size)
    rate = optimizer.param_groups[0]["lr"]
    generator = torch.Generator().manual_seed(seed)
    batches = -(-len(train.features) // size)
    history: list[dict[str, float]] = []
    for epoch in range(options.epochs):
        # In one tensor, read at the epoch's end: a GPU is not waited for, and thousands of numbers
        # that lie between freed logits would keep glibc from giving that memory out again.
        losses = torch.empty(batches, device=device)
        order = torch.randperm(len(train.features), generator=generator)
        taken = _gathered(train.features, order, size)
        for number, (rows, chosen) in enumerate(zip(order.split(size), taken, strict=True)):
            moves, done = (
                (options.epochs, epoch)
                if options.schedule == "epoch"
                else (max(1, options.epochs * batches - 1), epoch * batches + number)
            )
            optimizer.param_groups[0]["lr"] = rate * cosine(moves, done, options.final_lr)
            features = chosen.to(device, torch.float32)
            loss = F.cross_entropy(head(features), train.labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[number] = loss.detach()
        scores = _scores(head, val.features, device)
        sizes = map(len, order.split(size))
        total = sum(a * n for a, n in zip(losses.tolist(), sizes, strict=True))
        row = {"epoch": float(epoch), "train_loss": total / len(order)}
        history.append(row | classification_metrics(scores, val.labels))
        if on_epoch is not None:
            on_epoch(history[-1])
    return LinearResult(scores, history, head)


def linear_accuracy(train: Features, val: Features, c: float = 100.0, max_iter: int = 300) -> float:
    """Top-1 accuracy of scikit-learn's logistic regression on ℓ2-normalised features.

    A quick reading for the end of a pretraining run: minutes on a CPU for tens of thousands of
    images. It is not the protocol that papers report on ImageNet, which ``erssl linear`` follows.

    Args:
        train: Features that the classifier is fitted to.
        val: Features that are classified.
        c: Inverse of the ℓ2 penalty; 100 suits features of unit norm.
        max_iter: L-BFGS iterations at the most; on these scales accuracy settles long before.

    Returns:
        Share of ``val`` that is classified right, in [0, 1].
    """
    # takes half a second to import, which a training need not wait for
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(C=c, max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(F.normalize(train.features, dim=1).numpy(), train.labels.numpy())
    return float(classifier.score(F.normalize(val.features, dim=1).numpy(), val.labels.numpy()))


def _gathered(features: Rows, order: Tensor, size: int) -> Iterator[Tensor]:
    """The features of one batch after another, of files for several small batches at a time."""
    if not isinstance(features, StoredRows):
        for rows in order.split(size):
            yield features[rows]
        return
    for many in order.split(max(1, _GATHERED // size) * size):
        yield from features[many].split(size)


@torch.no_grad()
def _scores(head: torch.nn.Module, features: Rows, device: torch.device | str) -> Tensor:
    """Logits (N, C)."""
    scores = [head(chunk.to(device, torch.float32)).cpu() for chunk in blocks(features, 8192)]
    return torch.cat(scores)
