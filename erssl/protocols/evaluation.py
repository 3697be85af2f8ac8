"""What the evaluation commands share: features, results and what is printed of them."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from erssl.data import Datasets, build_eval_transform, require_labels
from erssl.data.labelled import Indices
from erssl.data.phases import telling
from erssl.evaluation import (
    AnyFeatures,
    cached_features,
    confusion_matrix,
    stored_features,
)
from erssl.evaluation.fingerprints import data_digest, weights_digest
from erssl.evaluation.plausibility import (
    MOST_ASKED,
    MOST_VOTERS,
    K,
    Neighbours,
    doubts,
    neighbours,
    sample,
)
from erssl.evaluation.published import published
from erssl.evaluation.storage import dtype_for, storage_for
from erssl.limits import check_images
from erssl.models.architectures import architecture_label
from erssl.paths import erssl_home, user_path
from erssl.protocols.ending import end_evaluation
from erssl.protocols.loggers import make_loggers, reporting
from erssl.protocols.record import folder_for, prepare_folder, undone_without_loggers
from erssl.protocols.subject import Subject, assumed_of
from erssl.run.class_tables import write_classes
from erssl.run.console import Terminal, say
from erssl.run.directory import (
    CONFIG,
    LAST_CHECKPOINT,
)
from erssl.run.lock import locked
from erssl.run.plots import Plots
from erssl.run.result import Result
from erssl.settings.evaluation import (
    EvaluationSettings,
    FeatureSettings,
    TrainingSettings,
    resolved,
)
from erssl.settings.fitting import departures, fit

Training = TypeVar("Training", bound=TrainingSettings)
Taking = TypeVar("Taking", bound=FeatureSettings)

_BATCH = 256  # images whose features are taken together where nobody has said it
OWN_FEATURES = "features"  # in the folder of the results, while they are needed


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation came to.

    Attributes:
        metrics: Values of each seed, in their order.
        predicted: Class numbers (N_val,) of the first seed; ``None`` of an evaluation that predicts
            no classes, which then leaves no confusion matrix and no recalls.
    """

    metrics: list[dict[str, float]]
    predicted: Tensor | None = None


class Evaluation:
    """One evaluation: its images, its folder, its clock.

    Attributes:
        subject: What is evaluated.
        datasets: The images.
        path: The folder of the results.
        facts: What else belongs into the record: digests, and the subset that was used.
    """

    def __init__(self, protocol: str, settings: EvaluationSettings, subject: Subject) -> None:
        """Load the images; nothing is written yet.

        Args:
            protocol: Name of the command.
            settings: What was asked for.
            subject: What is evaluated.

        Raises:
            ConfigError: If processes that something else has started have no run_dir in common.
            DataError: If the images cannot be used, or have no labels.
        """
        self.began = time.perf_counter()
        self.protocol = protocol
        self.settings = settings
        self.subject = subject
        self.path = folder_for(settings.run_dir, protocol, subject.slug, subject.data.name)
        self.datasets: Datasets = subject.data.load().evaluated()
        require_labels(subject.data, self.datasets)
        data = subject.data.measured(self.datasets.train)
        self.subject = replace(subject, data=data)
        self.facts: dict[str, Any] = {}
        self._fitted: dict[str, Any] = {}

    def fit(self, settings: Training, images: int, devices: int) -> Training:
        """The settings, fitted to the number of training images where ``preset=auto`` asks for it.

        Args:
            settings: As they were read.
            images: Number of training images that are used.
            devices: That share a batch.
        """
        settings, sentence = fit(settings, images, devices)
        self.settings = settings
        self._fitted = {"features_k": min(K, images)} | ({"fitted": sentence} if sentence else {})
        return settings

    def placed(self, settings: Taking) -> Taking:
        """The settings, with it decided where features lie and in what they are held."""
        both = self.datasets.train, _val(self)
        width = getattr(self.subject.backbone, "feature_dim", None)
        storage = storage_for(settings.features_storage, sum(map(len, both)), width)
        dtype = dtype_for(settings.features_dtype, storage)
        return replace(settings, features_storage=storage, features_dtype=dtype)

    @contextmanager
    def opened(self, console: Console, first: bool = True, **facts: Any) -> Iterator[None]:
        """Make the folder ready, or go on in it, and keep others out of it inside.

        Args:
            console: Where it is said which protocol fits the images.
            first: Whether this is the first process of several; the others do nothing.
            **facts: What else belongs into the record, such as the subset that was used.

        Raises:
            ConfigError: If an evaluation that is resumed would change.
            RunError: If the folder holds another one or a pretraining, is in use, or cannot be
                written to.
        """
        if not first:
            yield
            return
        settings = self.settings
        trains = isinstance(settings, TrainingSettings)
        goes_on = isinstance(settings, TrainingSettings) and settings.resume
        with locked(self.path):  # before anything is said of what may have to wait
            if sentence := self._fitted.get("fitted"):
                say(console, sentence)
            digests = {"digests": self._digests()} if trains else {}
            assumed = assumed_of(self.subject.backbone)
            self.facts = {**facts, **self._fitted, **assumed, **digests}
            prepare_folder(
                self.path,
                self._config(),
                goes_on=goes_on,
                overwrite=settings.overwrite,
                resume_from=CONFIG if trains else LAST_CHECKPOINT,
                rewrite=True,
            )
            with undone_without_loggers(self.path, goes_on):
                try:
                    yield
                finally:  # of cache=false on disk
                    shutil.rmtree(self.path / OWN_FEATURES, ignore_errors=True)

    @contextmanager
    def reporting(
        self, folder: Path, seed: int, resume_step: int | None = None
    ) -> Iterator[tuple[list[Logger], Callable[[Mapping[str, float]], None]]]:
        """Open the loggers of the training with one seed, and end them whatever becomes of it.

        Args:
            folder: Of the training.
            seed: Of the training.
            resume_step: Step of the checkpoint that it goes on from; ``None`` of a new one.

        Yields:
            The loggers, which know the settings, and what tells trackers how it came out.

        Raises:
            LoggerError: If one does not start.
        """
        settings = self.settings
        assert isinstance(settings, TrainingSettings)
        asked = settings.logger, settings.logger_options
        loggers = make_loggers(folder, resume_step, *asked, run=self.path)
        about = {**self._config(), "seed": seed, "protocol": self.protocol}
        with reporting(loggers, about) as report:
            yield loggers, report

    def _config(self) -> dict[str, Any]:
        return {**resolved(self.settings, asdict(self.subject.data)), **self.facts}

    def _digests(self) -> dict[str, str]:
        """Digests of what finished seeds were trained and evaluated on, whatever the files' names.

        The backbone is still as it was read.
        """
        data = self.datasets
        images = {"training_images": data.train, "validation_images": data.val}
        digests = {name: data_digest(each) for name, each in images.items()}
        return {"weights": weights_digest(self.subject.backbone), **digests}

    def features(
        self, options: FeatureSettings, device: torch.device, console: Console
    ) -> tuple[AnyFeatures, AnyFeatures]:
        """Features of training and validation images, from the cache as far as they are there.

        Those on disk lie in the cache, or without one in the folder of the results until the end.

        Raises:
            ConfigError: If the images of a batch do not fit in memory.
        """
        data, most = self.subject.data, max(len(self.datasets.train), len(_val(self)))
        at_once = min(options.feature_batch_size, most)
        check_images(
            "data.image_size", data.image_size, data.channels, at_once, "feature_batch_size"
        )
        folder = user_path(options.cache_dir) if options.cache_dir else _default_cache()
        on_disk = options.features_storage == "disk"
        own = self.path / OWN_FEATURES if on_disk else None
        stored: dict[str, Any] = {
            "take": stored_features if on_disk else cached_features,
            "cache_dir": folder if options.cache else own,
            "dtype": options.features_dtype,
            "precision": options.features_precision,
            "batch_size": options.feature_batch_size,
        }
        both = [
            self._features(split, images, device, console, **stored)
            for split, images in (("training", self.datasets.train), ("validation", _val(self)))
        ]
        return both[0], both[1]

    def neighbours(
        self, device: torch.device, console: Console, indices: Indices | None = None
    ) -> Neighbours:
        """Classify by kNN what a training began from, of at most so many images as tell.

        Args:
            device: Where features are taken.
            console: Where progress is shown.
            indices: Training images that were used; ``None`` for all.
        """
        assert isinstance(self.settings, TrainingSettings)
        fits = min(_BATCH, self.settings.batch_size)
        voters = sample(self.datasets.train, MOST_VOTERS, indices)
        train = self._features("training", voters, device, console, batch_size=fits)
        asked = sample(_val(self), MOST_ASKED)
        val = self._features("validation", asked, device, console, batch_size=fits)
        return neighbours(train, val, self.datasets.num_classes)

    def _features(
        self,
        split: str,
        images: Any,
        device: torch.device,
        console: Console,
        take: Callable[..., AnyFeatures] = cached_features,
        **stored: Any,
    ) -> AnyFeatures:
        data = self.subject.data
        transform = build_eval_transform(
            data.image_size, data.mean, data.std, data.interpolation, data.crop_pct
        )
        told: list[str] = []
        label = f"features of {len(images)} {split} images"
        with telling(told.append), progress_bar(console, label) as update:
            features = take(
                self.subject.backbone.to(device),
                images,
                transform,
                preprocessing=data.preprocessing,
                num_workers=data.workers,
                device=device,
                progress=update,
                **{"cache_dir": None, **stored},
            )
        for sentence in told:
            say(console, sentence)
        return features

    def finish(
        self,
        evaluated: Evaluated,
        device: torch.device,
        console: Console,
        compared: Neighbours | None = None,
        **setting: Any,
    ) -> Result:
        """Write results and report, and print them beside what is published.

        Args:
            evaluated: What came out.
            device: Where it was computed.
            console: Where it is printed.
            compared: What kNN says of the frozen features, for a classifier that was trained.
            **setting: Of the protocol, by which published numbers are found.

        Returns:
            The folder and the content of its ``results.json``.
        """
        data = self.subject.data
        metrics = summarize(evaluated.metrics)
        warnings = []
        if compared is not None:
            labels = val_labels(self.datasets)
            warnings = doubts(metrics["top1"], labels, self.datasets.num_classes, compared)
            metrics["features_knn_top1"] = compared.accuracy
        plots = self.settings.plots_format
        return end_evaluation(
            self.path,
            device,
            self.began,
            console,
            figures=self._draw(evaluated.predicted, plots) if plots else [],
            protocol=self.protocol,
            dataset=data.name,
            method=self.subject.name,
            metrics=metrics,
            seed=self.settings.seed,
            config=self._config(),
            published=self._published(setting),
            warnings=warnings,
        )

    def _published(self, setting: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """Published numbers of the same protocol, data set and backbone, where there are some.

        Of whitened features there are none.
        """
        if setting.get("whiten"):
            return None
        data, images = self.subject.data, self.datasets
        name = data.name
        options = getattr(self.subject.backbone, "architecture", None)
        whole, counts = data.published, (images.num_classes, len(images.train), len(_val(self)))
        if whole is None or counts != (whole.classes, whole.train, whole.val):
            return None  # a part of the data set, or another of the same name
        if options is None or whole.image_size not in (None, data.image_size):
            return None
        if isinstance(self.settings, TrainingSettings) and departures(self.settings):
            return None
        label = architecture_label(options)
        same = {label, label.rpartition("_patch")[0] or label, label.removesuffix("_224")}
        groups = published(self.protocol, name) or []
        kept = [
            group
            for group in groups
            if group["setting"].get("backbone") in same
            and all(group["setting"].get(k, v) == v for k, v in setting.items())
        ]
        return kept or None

    def _draw(self, predicted: Tensor | None, plots: Plots) -> list[str]:
        """Confusion matrix and recall of each class, as images and tables."""
        if predicted is None:
            return []
        names = self.datasets.class_names
        one_hot = torch.nn.functional.one_hot(predicted, len(names)).float()
        matrix = confusion_matrix(one_hot, val_labels(self.datasets), len(names))
        return write_classes(matrix, names, self.path, plots)


def summarize(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of the seeds, their standard deviation (n - 1), and each; one seed stands alone."""
    if len(metrics) == 1:
        return dict(metrics[0])
    summary: dict[str, float] = {}
    for name in metrics[0]:
        values = [row[name] for row in metrics]
        summary[name] = statistics.fmean(values)
        summary[f"{name}_std"] = statistics.stdev(values)
        summary |= {f"{name}_seed{i}": value for i, value in enumerate(values)}
    return summary


def best_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def val_labels(datasets: Datasets) -> Tensor:
    """Class numbers (N_val,) of the validation images."""
    from erssl.data import labels_of

    assert datasets.val is not None  # Evaluation has made sure
    return torch.from_numpy(labels_of(datasets.val))


def _val(evaluation: Evaluation) -> Any:
    return evaluation.datasets.val


def _default_cache() -> Path:
    return erssl_home() / "features"


@contextmanager
def progress_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the standard error stream, where somebody is looking."""
    seen = Terminal(stderr=True, quiet=console.quiet)
    with Progress(console=seen, transient=True, disable=not seen.is_terminal) as bar:
        task = bar.add_task(what)
        yield lambda done, total: bar.update(task, completed=done, total=total)
