"""kNN accuracy while a run goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from erssl.evaluation import Features, extract_features, knn_accuracy


class OnlineKNN(Callback):
    """Log ``val_knn_top1`` before training and after every ``every_n_epochs`` epochs.

    Of images that are not those of the run it is ``val_knn_top1_<name>``.

    Every rank computes it on the whole data set, so that the value does not depend on their
    number.

    Attributes:
        logged: Name of the metric.
        k: Neighbours that vote.
        untrained: Accuracy before training where it is known; ``None``: it is measured.
        epoch: Epochs that were trained before the last reading.
        last: Features of both loaders after the last epoch, of the images of the run, where they
            were read then.
    """

    logged = "val_knn_top1"

    def __init__(
        self,
        train_loader: Iterable[Any],
        val_loader: Iterable[Any],
        num_classes: int,
        every_n_epochs: int = 1,
        k: int = 200,
        temperature: float = 0.1,
        name: str = "",
    ) -> None:
        """Look at two loaders of (images, labels) without augmentation.

        Args:
            train_loader: Images that vote.
            val_loader: Images that are classified.
            num_classes: Number of classes.
            every_n_epochs: Epochs between two readings; 0 for none.
            k: Neighbours.
            temperature: Of the votes.
            name: Of the images, where they are not those of the run; a part of the metric's name.
        """
        self.name = name
        if name:
            self.logged = f"{OnlineKNN.logged}_{name}"
        self.train_loader = train_loader
        self.val_loader = val_loader
        self.num_classes = num_classes
        self.every_n_epochs = every_n_epochs
        self.k = k
        self.temperature = temperature
        self.untrained: float | None = None
        self.epoch = 0
        self.last: tuple[Features, Features] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the untrained backbone, unless the run is resumed."""
        if trainer.global_step == 0 and self.every_n_epochs:
            accuracy = self.measure(pl_module) if self.untrained is None else self.untrained
            for logger in trainer.loggers:
                logger.log_metrics({self.logged: accuracy}, step=0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the backbone as it is now."""
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs and epoch % self.every_n_epochs == 0:
            both = self._features(pl_module)
            self.epoch = epoch
            if epoch == trainer.max_epochs and not self.name:
                self.last = both
            pl_module.log(self.logged, self._accuracy(*both), rank_zero_only=True)

    def measure(self, module: LightningModule) -> float:
        """KNN accuracy of the module's features, in [0, 1]."""
        return self._accuracy(*self._features(module))

    def _features(self, module: LightningModule) -> tuple[Features, Features]:
        train = extract_features(module, self.train_loader, module.device)
        return train, extract_features(module, self.val_loader, module.device)

    def _accuracy(self, train: Features, val: Features) -> float:
        return knn_accuracy(train, val, self.num_classes, self.k, self.temperature)
