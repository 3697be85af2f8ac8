"""``erssl predict``: the classes of any images, by a classifier that was trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from erssl.data import DataOptions, Datasets, build_eval_transform
from erssl.data.bands import as_shown
from erssl.errors import ConfigError, RunError
from erssl.evaluation import cached_features, classification_metrics
from erssl.files import remove_remains
from erssl.limits import check_images
from erssl.models import check_input_size, load_backbone
from erssl.models.loading import WEIGHTS_FILE
from erssl.paths import user_path
from erssl.protocols.classifier_training import is_finished
from erssl.protocols.evaluation import best_device, progress_bar
from erssl.protocols.splits import Splits, chosen_splits, image_rows, say_images
from erssl.protocols.subject import pixels
from erssl.run.console import say
from erssl.run.directory import CONFIG
from erssl.run.feature_files import ImageRows, check_new, make_folder_of
from erssl.run.head_files import HEAD, Head, read_head
from erssl.run.prediction_files import (
    Tile,
    plot_contact_sheet,
    probabilities_of,
    write_predictions,
)
from erssl.run.result import Result
from erssl.settings.evaluation import PIXELS
from erssl.settings.predict import PredictSettings, read_predict
from erssl.settings.pretrain import read_on, stored_data
from erssl.yaml_text import read_settings_file

_WHAT = "the folder of a finished erssl linear, semi or finetune"


@dataclass(frozen=True)
class Classifier:
    """A backbone and the linear layer that was trained on it.

    Attributes:
        backbone: In eval mode.
        head: The layer.
        data: The images that it was trained on, and how images are prepared.
        stored: How features are computed and kept: as those that the layer was trained on.
    """

    backbone: nn.Module
    head: Head
    data: DataOptions
    stored: dict[str, Any]


def run(overrides: Sequence[str], console: Console) -> Result:
    """Predict the classes of images."""
    settings, about_data = read_predict(overrides)
    return predict(settings, about_data, console)


def predict(settings: PredictSettings, about_data: Sequence[str], console: Console) -> Result:
    """Write the likeliest classes of images, and the accuracy where their classes are known.

    Returns:
        The table, with accuracies as metrics.

    Raises:
        ErsslError: If it cannot be done; nothing has been written then.
    """
    began = time.perf_counter()
    files = [settings.path, settings.sheet_path]
    check_new(files, settings.overwrite)
    classifier = read_classifier(str(settings.checkpoint))
    data, _ = read_on(classifier.data, list(about_data)) if about_data else (classifier.data, None)
    if (
        isinstance(classifier.backbone, nn.Flatten)
        and data.image_size != classifier.data.image_size
    ):
        raise ConfigError(
            f"data.image_size={data.image_size} but the classifier is of the pixels of images of "
            f"{classifier.data.image_size}; leave it out."
        )
    check_input_size(classifier.backbone, [data.image_size], data.channels)
    datasets = data.load().evaluated()
    say_images(datasets, console)
    splits = chosen_splits(datasets, settings.split or ("val" if datasets.val else "train"))
    at_once = min(settings.feature_batch_size, max(len(images) for _, images in splits))
    check_images("data.image_size", data.image_size, data.channels, at_once, "feature_batch_size")
    make_folder_of(settings.path)
    classes = classifier.head.classes
    logits = torch.cat([_logits(*split, classifier, data, settings, console) for split in splits])
    rows = image_rows(splits, datasets)
    truth = _truth(rows, datasets, classes, data.name)
    for file in filter(None, files):
        remove_remains(file, keep_suffix=file.suffix == ".png")
    if settings.sheet_path is not None:
        sections = _sections(splits, rows.files, logits, truth, classes, settings.sheet)
        plot_contact_sheet(sections, settings.sheet_path, settings.plots)
    write_predictions(settings.path, rows, logits, classes, settings.top)
    metrics = _metrics(rows, logits, truth)
    _say(settings, metrics, truth, datasets, console, time.perf_counter() - began)
    best = logits.argmax(dim=1).tolist()
    results = {
        "files": rows.files,
        "predicted": [classes[i] for i in best],
        "classes": list(classes),
        "skipped": datasets.skipped,
    }
    return Result(settings.path, metrics, results)


def read_classifier(checkpoint: str) -> Classifier:
    """Read what ``erssl linear``, ``semi`` or ``finetune`` has left.

    Args:
        checkpoint: Its folder, of which the first seed is taken, or the folder of a seed.

    Raises:
        ConfigError: If it is no such folder.
        RunError: If the training has not come to its end, or something of it is missing.
    """
    path = user_path(checkpoint)
    folder = path.parent if _is_seed(path) else path
    try:
        config: Any = read_settings_file(folder / CONFIG)
        trained = isinstance(config, dict) and "head_lr" in config and "data" in config
    except (OSError, ValueError):
        trained = False
    if not trained:
        raise ConfigError(f"checkpoint={checkpoint} holds no classifier; name {_WHAT}.")
    if not _is_seed(path):
        seed = config.get("seed")
        if not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise RunError(
                f"{folder / CONFIG} has no seed in [0, 2**32); put a copy of the file back, or "
                "name the folder of a seed."
            )
        path = folder / f"seed{config['seed']}"
    if not is_finished(path):
        raise RunError(
            f"{path} holds no finished training; go on with it (resume=true run_dir={folder})."
        )
    head = read_head(path / HEAD)
    data = stored_data(config["data"])
    kind = config.get("mode") == "cached"
    stored = {
        "precision": config["features_precision"] if kind else "float32",
        "dtype": config["features_dtype"] if kind else "float32",
    }
    backbone = pixels(data) if config["checkpoint"] == PIXELS else _backbone(path, folder)
    width: Any = backbone.feature_dim
    if head.weight.shape[1] != width:
        raise RunError(
            f"{path / HEAD} takes {head.weight.shape[1]} features but the backbone beside it gives "
            f"{width}; train it again with overwrite=true."
        )
    return Classifier(backbone, head, data, stored)


def _is_seed(path: Path) -> bool:
    return path.name.startswith("seed") and path.name.removeprefix("seed").isdigit()


def _backbone(seed: Path, folder: Path) -> nn.Module:
    """The backbone that was trained with a seed, or the frozen one that all seeds share."""
    for file in (seed / WEIGHTS_FILE, folder / WEIGHTS_FILE):
        if file.is_file():
            return load_backbone(file)
    raise RunError(
        f"{folder} has no {WEIGHTS_FILE}, as of an earlier erssl; train it again with "
        "overwrite=true."
    )


def _logits(
    split: str,
    images: Any,
    classifier: Classifier,
    data: DataOptions,
    settings: PredictSettings,
    console: Console,
) -> Tensor:
    """Logits (N, C) of a split."""
    transform = build_eval_transform(
        data.image_size, data.mean, data.std, data.interpolation, data.crop_pct
    )
    device = best_device()
    with progress_bar(console, f"classes of {len(images)} images ({split})") as update:
        features = cached_features(
            classifier.backbone.to(device),
            images,
            transform,
            cache_dir=None,
            preprocessing=data.preprocessing,
            batch_size=settings.feature_batch_size,
            num_workers=data.workers,
            device=device,
            progress=update,
            **classifier.stored,
        ).features
    return F.linear(features, classifier.head.weight, classifier.head.bias)


def _truth(
    rows: ImageRows, datasets: Datasets, classes: Sequence[str], dataset: str
) -> list[int | None]:
    """The classifier's number of each image's class; ``None`` where it does not know the class.

    Classes go by their names, whose order in another folder may be another. A data set that a
    Python program gives without names has numbers, which are the classifier's own.
    """
    if not datasets.labelled:
        return [None] * len(rows.files)
    names = datasets.class_names
    unnamed = dataset == "object" and names == tuple(map(str, range(len(names))))
    if unnamed and not set(names) <= set(classes):
        return [
            label if label is not None and label < len(classes) else None for label in rows.labels
        ]
    numbers = {name: number for number, name in enumerate(classes)}
    return [numbers.get(name) for name in rows.classes]


def _metrics(rows: ImageRows, logits: Tensor, truth: Sequence[int | None]) -> dict[str, float]:
    """Accuracies on the images whose class is known, of each split where there are two.

    Of the logits: probabilities of unlikely classes are equal zeros.
    """
    metrics: dict[str, float] = {}
    splits = list(dict.fromkeys(rows.splits))
    for split in splits:
        chosen = [i for i, of in enumerate(rows.splits) if of == split and truth[i] is not None]
        if not chosen:
            continue
        labels = torch.tensor([truth[i] for i in chosen])
        own = classification_metrics(logits[chosen], labels)
        metrics |= {f"{split}_{k}" if len(splits) > 1 else k: v for k, v in own.items()}
    return metrics


def _sections(
    splits: Splits,
    files: Sequence[str],
    logits: Tensor,
    truth: Sequence[int | None],
    classes: Sequence[str],
    count: int,
) -> list[tuple[str, list[Tile]]]:
    """What the contact sheet shows: the least sure images and the surest, or all where few."""
    places = [(images, i) for _, images in splits for i in range(len(images))]
    certainty, best = probabilities_of(logits).max(dim=1)
    order = certainty.argsort(stable=True).tolist()
    parts = {"All images, the least sure first": order}
    if len(order) > count:
        half = count // 2
        parts = {"The least sure": order[: count - half], "The surest": order[::-1][:half]}

    def tile(number: int) -> Tile:
        images, index = places[number]
        true = truth[number]
        return Tile(
            as_shown(images[index][0]),
            classes[int(best[number])],
            float(certainty[number]),
            "" if true is None else classes[true],
            files[number],
        )

    return [(title, [tile(i) for i in chosen]) for title, chosen in parts.items() if chosen]


def _say(
    settings: PredictSettings,
    metrics: dict[str, float],
    truth: Sequence[int | None],
    datasets: Datasets,
    console: Console,
    seconds: float,
) -> None:
    known = sum(number is not None for number in truth)
    if datasets.labelled and known < len(truth):
        say(
            console,
            f"{len(truth) - known} of {len(truth)} images are of classes that the classifier does "
            "not know; accuracies are those of the others.",
            style="yellow",
        )
    for name, value in metrics.items():
        say(console, f"{name}: {value:.2%}")
    where = str(settings.path)
    if settings.sheet_path is not None:
        where += f" and {settings.sheet_path}"
    say(console, f"Classes of {len(truth)} images: {where} ({seconds:.0f} s)")
