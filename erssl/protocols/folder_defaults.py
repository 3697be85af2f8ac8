"""Settings that follow from the images of a run, so that a small folder trains at the first try."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from erssl.data import SSLDataModule
from erssl.settings.pretrain_options import PretrainSettings

# As for classifiers that train a backbone (erssl.settings.fitting): with fewer steps an epoch the
# batch is halved, down to what batch normalisation can live with.
_STEPS_AN_EPOCH, _LEAST_BATCH = 4, 16


def may_fit(settings: PretrainSettings, sources: Mapping[str, str]) -> bool:
    """Whether the batch is a default that a folder of images may change.

    Args:
        settings: The run.
        sources: Where its values come from, by dotted key.
    """
    said = sources.get("batch_size", "override") == "override"
    return settings.data.user_sized and not settings.resume and not said


def fitted_batch(batch_size: int, images: int, devices: int) -> int:
    """Give the batch that leaves an epoch four steps, or as near to that as can be.

    The learning rate follows, since it is scaled by the batch.

    Args:
        batch_size: The default, over all devices.
        images: Number of training images.
        devices: Training processes that share the batch.

    Returns:
        ``batch_size``, halved as long as an epoch has fewer than four steps and the half is of at
        least 16 images; where even that is more than there is, all images. A multiple of
        ``devices``.
    """
    each = batch_size // devices
    while images < _STEPS_AN_EPOCH * each * devices and each // 2 * devices >= _LEAST_BATCH:
        each //= 2
    return max(2, min(each * devices, images // devices * devices))


def fitted_warmup(settings: PretrainSettings, sources: Mapping[str, str]) -> int | None:
    """Give a shorter warm-up where a default one takes up more than a tenth of the training.

    Published warm-ups are ten of some hundred epochs of ImageNet; of a short run on a user's own
    images they would be most of it.

    Args:
        settings: The run.
        sources: Where its values come from, by dotted key.

    Returns:
        Epochs; ``None`` where the warm-up stays as it is.
    """
    said = sources.get("optimizer.warmup_epochs", "override") == "override"
    tenth = round(settings.epochs / 10)
    if said or settings.resume or not settings.data.user_sized:
        return None
    return tenth if settings.optimizer.warmup_epochs > tenth else None


def fit_to_images(
    settings: PretrainSettings,
    config: Mapping[str, Any],
    sources: Mapping[str, str],
    data: SSLDataModule,
    devices: int,
) -> tuple[PretrainSettings, dict[str, Any], dict[str, str]]:
    """Give settings, config and sources with what only the images can say.

    Args:
        settings: The run.
        config: Its resolved config.
        sources: Where its values come from, by dotted key.
        data: Its images, whose batch is set too.
        devices: Training processes that share the batch.
    """
    config, sources = dict(config), dict(sources)
    images = len(data.datasets.train)
    fits = may_fit(settings, sources)
    if data.options != settings.data:  # the statistics of its channels are measured
        settings = dataclasses.replace(settings, data=data.options)
        measured = {key: getattr(data.options, key) for key in ("mean", "std")}
        config["data"] = {**config["data"], **measured}
        told_by = f"measured on at most 1,000 of the {images:,} training images"
        sources |= {f"data.{key}": told_by for key in measured}
    if fits:
        fitted = fitted_batch(settings.batch_size, images, devices)
        if fitted != settings.batch_size:
            settings = dataclasses.replace(settings, batch_size=fitted)
            config["batch_size"] = fitted
            sources["batch_size"] = f"fits the {images} training images"
        data.batch_size = fitted // devices
    shorter = fitted_warmup(settings, sources)
    if shorter is not None:
        optimizer = dataclasses.replace(settings.optimizer, warmup_epochs=shorter)
        settings = dataclasses.replace(settings, optimizer=optimizer)
        config["optimizer"] = {**config["optimizer"], "warmup_epochs": shorter}
        sources["optimizer.warmup_epochs"] = "a tenth of epochs, on a folder"
    return settings, config, sources
