"""Further sets of labelled images that a pretraining is measured on: ``evaluation.probes``."""

from __future__ import annotations

from erssl.callbacks import OnlineKNN
from erssl.data import (
    DataOptions,
    Datasets,
    ImageDataset,
    TransformedDataset,
    default_options,
    require_labels,
)
from erssl.data.bands import RGB
from erssl.data.module import SSLDataModule, make_loader
from erssl.data.registry import available_datasets
from erssl.errors import ConfigError, ErsslError, own_sentence
from erssl.paths import user_path
from erssl.settings.pretrain_options import EvaluationOptions

HELD_OUT = 0.2  # of a folder that has no train and val


def probe_callbacks(
    evaluation: EvaluationOptions, data: SSLDataModule, seed: int
) -> list[OnlineKNN]:
    """KNN on each probe set, prepared as the images of the run are.

    Args:
        evaluation: Whose ``probes`` are places by name.
        data: The images of the run.
        seed: Of the loaders.

    Raises:
        ErsslError: If a place holds no labelled images.
    """
    callbacks = []
    for name, place in evaluation.probes.items():
        options = probe_options(name, str(place), data.options)
        datasets, val = _probe_images(name, str(place), options)

        def loader(images: object) -> object:
            ready = TransformedDataset(images, data.eval_transform)  # type: ignore[arg-type]
            return make_loader(ready, data.batch_size, data.options.workers, seed)

        callbacks.append(
            OnlineKNN(
                loader(datasets.train),  # type: ignore[arg-type]
                loader(val),  # type: ignore[arg-type]
                datasets.num_classes,
                evaluation.every_n_epochs,
                min(evaluation.knn_k, len(datasets.train)),
                evaluation.knn_temperature,
                name,
            )
        )
    return callbacks


def _probe_images(name: str, place: str, options: DataOptions) -> tuple[Datasets, ImageDataset]:
    """The images of a probe, and those of them to measure on.

    Raises:
        ConfigError: If the place holds none, named by the probe's key and not by those of the run.
    """
    try:
        datasets = options.load().evaluated()
        return datasets, require_labels(options, datasets)
    except ErsslError as error:
        reason = own_sentence(error).partition("; ")[0].rstrip(".")
        for key, shown in ((f"data={options.name}", options.name), ("data.root=", "")):
            reason = reason.replace(key, shown)
        reason = reason.replace("data.root", "folder")
        raise ConfigError(
            f"evaluation.probes.{name}={place} cannot be measured on ({reason}); give a data set "
            "with its folder, as cifar10:/data, or a folder of labelled images."
        ) from error


def probe_options(name: str, place: str, own: DataOptions) -> DataOptions:
    """What a place names: a data set with its folder, ``cifar10:data``, or a folder of images.

    A folder has ``train`` and ``val``, or class folders, of which a fifth is held out.

    Raises:
        ConfigError: If the name cannot be a metric's, or the place is neither.
    """
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(
            f"evaluation.probes.{name} is no name of a metric; take letters, digits, - and _."
        )
    workers: dict[str, int | None] = {"num_workers": own.num_workers}
    if own.channels != RGB:
        workers["channels"] = own.channels
    dataset, _, root = place.partition(":")
    if dataset in available_datasets() and dataset not in ("imagefolder", "object"):
        return default_options(dataset, **({"root": root} if root else {}), **workers)
    folder = user_path(place)
    if not folder.is_dir():
        raise ConfigError(
            f"evaluation.probes.{name}={place} is neither a folder of images nor a data set with "
            "its folder, as cifar10:data."
        )
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        split = {"train_dir": str(folder / "train"), "val_dir": str(folder / "val")}
        return default_options("imagefolder", **split, **workers)
    held_out = {"train_dir": str(folder), "val_fraction": HELD_OUT}
    return default_options("imagefolder", **held_out, **workers)
