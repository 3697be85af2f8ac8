"""Defaults that fit a small folder of images, so that it trains at the first try."""

from __future__ import annotations

from collections.abc import Mapping

from erssl.settings.pretrain import PretrainSettings

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
