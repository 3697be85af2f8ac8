"""``preset=auto``: the protocol that fits the images, and what departs from a published one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from erssl.errors import counted

if TYPE_CHECKING:
    from erssl.settings.evaluation import TrainingSettings

AUTO = "auto"
# LARS moves a layer by 0.1 % of its norm times the learning rate a step, whatever the gradient, so
# what it reaches goes with images x epochs, not with the batch. Gaussian clouds of 10 classes and
# 256 dimensions, MVEB's protocol against logistic regression: 13 % and 51 % on 1,500 images, 35
# and 59 on 5,000, 63 and 65 on 20,000, 67 and 67 on 50,000 (650 steps of 4,096).
_LARS_IMAGES = 1000 * 4096
# Backbones that are trained: with fewer steps an epoch the batch is halved, down to what batch
# normalisation can live with, and with fewer steps there are more epochs. MVEB's semi-supervised
# rates are for what it has with 1 % of ImageNet (12,811 images); on 142 digits they come to 80 %,
# those of VICReg to 86 % (300 steps each; kNN of the frozen features 85 %).
_STEPS_AN_EPOCH, _LEAST_BATCH, _LEAST_STEPS = 4, 16, 300
_SEMI_IMAGES = 12_800
_VIEWS = {"crop_scale": [0.08, 1.0], "flip": True}  # of every preset's code: configs/training.yaml
_SAME_UPDATES = {"accumulate_grad_batches": 1, "gradient_clip_val": None}


@dataclass(frozen=True)
class Preset:
    """Where the settings of a training come from.

    Attributes:
        values: What the presets say that may be meant, by name; overrides are not applied.
        said: Keys that were overridden.
        auto: Whether the preset is to be chosen by the data.
    """

    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    said: frozenset[str] = frozenset()
    auto: bool = False


S = TypeVar("S", bound="TrainingSettings")


def read_preset(protocol: str, name: str, said: frozenset[str], among: tuple[str, ...]) -> Preset:
    """Read what a preset says, or what those say among which ``auto`` chooses.

    Args:
        protocol: Name of the command, a folder of ``configs/preset``.
        name: Of the preset.
        said: Keys that were overridden.
        among: Presets that ``auto`` chooses among.
    """
    folder = files("erssl.configs") / "preset" / protocol
    names = among if name == AUTO else (name,)
    texts = {n: (folder / f"{n}.yaml").read_text(encoding="utf-8") for n in names}
    values = {n: {**_VIEWS, **yaml.safe_load(text)} for n, text in texts.items()}
    return Preset(values, said, name == AUTO)


def fit(settings: S, images: int, devices: int = 1) -> tuple[S, str | None]:
    """Fit the settings to the number of training images, where ``preset=auto`` asks for it.

    Args:
        settings: As they were read.
        images: Number of training images that are used.
        devices: Devices that share a batch.

    Returns:
        The settings, with the name of the preset that was chosen, and one sentence on what was
        chosen and why; the settings as they are and ``None`` with any other preset.
    """
    if not settings.chosen.auto:
        return settings, None
    if settings.frozen:
        return _fit_linear(settings, images)
    return _fit_batch(settings, images, devices)


def departures(settings: TrainingSettings) -> list[str]:
    """What differs from the protocol that the preset's authors published, as ``epochs=5 (90)``."""
    published = settings.chosen.values.get(settings.preset, {})
    chosen = {key: getattr(settings, key) for key in published if key != "preset"}
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in chosen.items()}
    differ = [f"{k}={_text(v)} ({_text(published[k])})" for k, v in plain.items()]
    differ = [text for text, k in zip(differ, plain, strict=True) if plain[k] != published[k]]
    rates = {"backbone_lr", "head_lr"} & settings.chosen.said - published.keys()
    differ += [f"{key}={getattr(settings, key)}" for key in sorted(rates)]
    for key, usual in _SAME_UPDATES.items():
        if (value := settings.trainer.get(key, usual)) != usual:
            differ.append(f"trainer.{key}={value} ({_text(usual)})")
    if getattr(settings, "mode", "augmented") == "cached":
        differ.append("mode=cached (random crops)")
    return differ


def _fit_linear(settings: S, images: int) -> tuple[S, str]:
    """MVEB's LARS where it has the steps that it needs, else lightly's SGD."""
    few, many = settings.auto_presets
    large = _with_preset(settings, many)
    steps = counted(large.epochs * -(-images // large.batch_size), "step")
    its = f"MVEB's protocol ({_told(large)}) makes {steps} on {images:,} training images"
    if images * large.epochs >= _LARS_IMAGES:
        return large, f"preset=auto takes preset={many}: {its}."
    small = _with_preset(settings, few)
    return small, (
        f"preset=auto takes preset={few} ({_told(small)}, {_steps(small, images)}): {its}, too "
        "few for LARS, which needs about 1,000 of 4,096 images."
    )


def _fit_batch(settings: S, images: int, devices: int) -> tuple[S, str]:
    """Smaller batches where an epoch would have few steps, more epochs where the training would."""
    names = list(settings.chosen.values)  # one or two
    settings = _with_preset(settings, names[-1] if images >= _SEMI_IMAGES else names[0])
    batch, epochs = settings.batch_size, settings.epochs
    if "batch_size" not in settings.chosen.said:
        while batch * _STEPS_AN_EPOCH > images and batch // 2 >= max(_LEAST_BATCH, 2 * devices):
            batch //= 2
    if "epochs" not in settings.chosen.said:
        epochs = max(epochs, -(-_LEAST_STEPS // max(1, images // batch)))
    fitted = dataclasses.replace(settings, batch_size=batch, epochs=epochs)
    sentence = (
        f"preset=auto takes preset={fitted.preset} ({_told(fitted)}, {_steps(fitted, images)})"
    )
    if (batch, epochs) == (settings.batch_size, settings.epochs):
        return fitted, f"{sentence} for {images:,} training images."
    steps = counted(settings.epochs * max(1, images // settings.batch_size), "step")
    its = f"its batch of {settings.batch_size} and {counted(settings.epochs, 'epoch')}"
    return fitted, f"{sentence}: {its} would make {steps} on {images:,} training images."


def _with_preset(settings: S, name: str) -> S:
    """The settings by another preset; overrides stay."""
    values = settings.chosen.values[name]
    kept = settings.chosen.said | {"crop_scale", "flip"}
    changes = {key: value for key, value in values.items() if key not in kept}
    tuples = {key: tuple(value) for key, value in changes.items() if isinstance(value, list)}
    return dataclasses.replace(settings, **{**changes, **tuples, "preset": name})


def _told(settings: TrainingSettings) -> str:
    length = counted(settings.epochs, "epoch")
    return f"{settings.optimizer.upper()}, batch {settings.batch_size}, {length}"


def _steps(settings: TrainingSettings, images: int) -> str:
    whole, rest = divmod(images, settings.batch_size)
    # a last batch that is not full is left out where a backbone is trained, but for an only one
    steps = whole + bool(rest and (settings.frozen or not whole))
    return f"{counted(steps, 'step')} an epoch"


def _text(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
