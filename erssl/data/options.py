"""The options of a data set, checked when they are made."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from lightly.transforms.utils import IMAGENET_NORMALIZE

from erssl.data.bands import GREY, RGB
from erssl.data.checks import as_numbers, check_choice, check_switch, check_whole
from erssl.data.statistics import channel_statistics
from erssl.data.views import ViewOptions
from erssl.errors import ConfigError

DatasetName = Literal["digits", "cifar10", "cifar100", "imagefolder", "imagenet", "object"]

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]

Pipeline = Literal["lightly", "fast", "device"]

DATASETS: tuple[str, ...] = get_args(DatasetName)
PIPELINES: tuple[str, ...] = get_args(Pipeline)

_GREY_DIGITS = ((0.3054,) * 3, (0.376,) * 3)  # of the 1,437 training scans
_IMAGENET = (tuple(IMAGENET_NORMALIZE["mean"]), tuple(IMAGENET_NORMALIZE["std"]))

# The keys of files that each data set reads; any other one that is set is a mistake.
_LOCATIONS: dict[str, tuple[str, ...]] = {
    "digits": (),
    "cifar10": ("root", "download"),
    "cifar100": ("root", "download"),
    "imagefolder": ("train_dir", "val_dir", "val_fraction", "exif"),
    "imagenet": ("root", "train_dir", "val_dir", "exif"),
    "object": (),
}


@dataclass(frozen=True)
class DataOptions:
    """Which images, and how they are read.

    The defaults are those of ``"digits"``; `default_options` gives those of the others.

    Attributes:
        name: ``"digits"`` (scikit-learn's 1,797 scans of 8 × 8 pixels, nothing to download),
            ``"cifar10"``, ``"cifar100"`` (torchvision's classes), ``"imagefolder"`` (a folder of
            images, one sub-folder a class, or images alone for training without labels) or
            ``"imagenet"`` (``root/train`` and ``root/val`` as image folders), or ``"object"`` (what
            a Python program has given, see :mod:`erssl.data.given`).
        root: Folder of CIFAR or ImageNet.
        train_dir: Training images of ``"imagefolder"``; on ``"imagenet"`` in place of
            ``root/train``.
        val_dir: Validation images in the same way; without it ``"imagefolder"`` has no accuracy.
        val_fraction: Share of each class of ``train_dir`` that is held out of training as the
            validation images of ``"imagefolder"``, in place of ``val_dir``; the same images
            whatever the seed.
        download: Fetch CIFAR into ``root`` if it is not there. With several processes that start
            on their own (torchrun, a cluster), download once before.
        image_size: Side of the global views and of evaluation images, pixels.
        channels: Of the images that a backbone sees: 3 for RGB, 1 for grey, others for images of
            as many channels, which are read as :func:`erssl.data.bands.load_bands` says.
        mean: Channel means of pixels in 0..1; of other channels than 3 they are measured on at most
            a thousand training images where they are not said.
        std: Channel deviations of pixels in 0..1, in the same way.
        interpolation: With which evaluation images are resized; not the augmentation's.
        crop_pct: Share of an evaluation image's shorter side that is cut out of its centre, as timm
            names it; ``None`` takes 224/256 from 96 pixels up and all of smaller images.
        views: The augmentation.
        pipeline: What makes the views: ``"lightly"``, the reference, or ``"fast"``, which makes
            several times as many of the same distribution on a core (other draws for a seed) and
            needs ``pip install "erssl[fast]"``, or ``"device"``, which holds images of one size
            in the memory of the device that trains and makes their views there, level by level as
            lightly's operations do (other draws for a seed; images of up to 4 GiB). Neither has
            the recipe ``"infomin"``.
        num_workers: Loader processes (and threads of the check) of each training process; 0 loads
            in the training process itself, ``None`` takes one less than the CPUs that this process
            may use, at most 8.
        on_error: What an unreadable file in an image folder does: stop the run before training
            (``"raise"``), or be left out and listed (``"skip"``, which needs ``verify``).
        verify: Decode every file of an image folder once before training. Takes long on
            ImageNet; without it an unreadable file stops the run when its turn comes.
        exif: Turn image files upright as their EXIF orientation says: by default on for
            ``"imagefolder"``, and off for ``"imagenet"``, which published protocols read with
            torchvision, whose loader leaves images as they are stored.

    Raises:
        ConfigError: If a value is out of range, or is set and not read by this data set.
    """

    name: DatasetName = "digits"
    root: str | None = None
    train_dir: str | None = None
    val_dir: str | None = None
    val_fraction: float | None = None
    download: bool = False
    image_size: int = 32
    channels: int = RGB
    mean: tuple[float, ...] = _GREY_DIGITS[0]
    std: tuple[float, ...] = _GREY_DIGITS[1]
    interpolation: Interpolation = "bilinear"
    crop_pct: float | None = None
    views: ViewOptions = field(default_factory=lambda: ViewOptions(recipe="digits"))
    pipeline: Pipeline = "lightly"
    num_workers: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    verify: bool = True
    exif: bool = False

    def __post_init__(self) -> None:
        """Check the values; tuples may come as lists, as configuration files have them."""
        check_choice("data.name", self.name, DATASETS)
        check_choice("data.interpolation", self.interpolation, get_args(Interpolation))
        check_choice("data.pipeline", self.pipeline, PIPELINES)
        check_choice("data.on_error", self.on_error, ("raise", "skip"))
        check_switch("data.download", self.download)
        check_switch("data.verify", self.verify)
        check_switch("data.exif", self.exif)
        check_whole("data.image_size", self.image_size, 1, "a size in pixels")
        if self.num_workers is not None:
            check_whole("data.num_workers", self.num_workers, 0, "a number of loader processes")
        for key in ("root", "train_dir", "val_dir", "val_fraction", "download", "exif"):
            if getattr(self, key) and key not in _LOCATIONS[self.name]:
                read = [f"data.{k}" for k in _LOCATIONS[self.name]] or ["no location"]
                raise ConfigError(
                    f"data.{key}={getattr(self, key)} is not read by data.name={self.name}, which "
                    f"reads {' and '.join(read)}; leave data.{key} out."
                )
        if self.on_error == "skip" and not self.verify:
            raise ConfigError(
                "data.on_error=skip needs data.verify=true, which is off; set it, or "
                "data.on_error=raise."
            )
        if self.val_fraction is not None:
            if not 0 < self.val_fraction < 1:
                raise ConfigError(
                    f"data.val_fraction={self.val_fraction} is no share of the images; give a "
                    "number between 0 and 1."
                )
            if self.val_dir is not None:
                raise ConfigError(
                    f"data.val_fraction={self.val_fraction} and data.val_dir={self.val_dir} are "
                    "both set; set one of them to null."
                )
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ConfigError(
                f"data.crop_pct={self.crop_pct} is no share of the image; give a number above 0 "
                "and up to 1."
            )
        self._check_channels()
        if min(self.std, default=1) <= 0:
            raise ConfigError(
                f"data.std={list(self.std)} holds a value that is not positive; give the "
                "deviations of the channels."
            )

    def _check_channels(self) -> None:
        """Check that there is a mean and a deviation for each channel, or none yet."""
        check_whole("data.channels", self.channels, 1, "a number of channels")
        count, meaning = self.channels, "one value each for red, green and blue"
        if count != RGB:
            meaning = f"one value for each of data.channels={count}"
        for key in ("mean", "std"):
            given = getattr(self, key)
            usual = count != RGB and given == _USUAL[self.name][key]  # of RGB images
            unsaid = usual or (count != RGB and given in ((), []))
            values = () if unsaid else as_numbers(f"data.{key}", given, count, meaning)
            object.__setattr__(self, key, values)
        if bool(self.mean) != bool(self.std):
            raise ConfigError(
                f"data.mean={list(self.mean)} and data.std={list(self.std)}: give both, or neither."
            )
        if count not in (GREY, RGB) and self.interpolation == "lanczos":
            raise ConfigError(
                f"data.interpolation=lanczos is for RGB and grey images and data.channels is "
                f"{count}; choose bilinear, bicubic or nearest."
            )

    def measured(self, images: Any) -> DataOptions:
        """The options with the statistics of the channels, measured where nobody has said them.

        Args:
            images: The training images.
        """
        if self.mean:
            return self
        mean, std = channel_statistics(images)
        return replace(self, mean=mean, std=std)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What evaluation images pass through, to travel with the weights."""
        said = {
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }
        if self.channels != RGB:
            said["channels"] = self.channels
        return said if self.crop_pct is None else said | {"crop_pct": self.crop_pct}

    @property
    def workers(self) -> int:
        """Number of loader processes, decided."""
        return min(8, _cpus() - 1) if self.num_workers is None else self.num_workers


def default_options(name: DatasetName, **changes: Any) -> DataOptions:
    """Give the options that suit a data set: its size, channel statistics and views.

    Args:
        name: The data set.
        **changes: Fields of `DataOptions` to set otherwise.

    Returns:
        The options.

    Raises:
        ConfigError: As `DataOptions`.

    Example:
        >>> default_options("cifar10", root="data", download=True).image_size
        32
    """
    check_choice("data.name", name, DATASETS)
    suited: dict[str, Any] = {"name": name}
    if name in ("cifar10", "cifar100"):
        mean, std = _CIFAR[name]
        suited |= {"image_size": 32, "mean": mean, "std": std, "views": ViewOptions("cifar")}
    elif name in ("imagefolder", "imagenet", "object"):
        suited |= {"image_size": 224, "mean": _IMAGENET[0], "std": _IMAGENET[1]}
        suited |= {"views": ViewOptions("dino"), "verify": name == "imagefolder"}
        suited |= {"exif": name == "imagefolder"}
    return DataOptions(**(suited | changes))


# Means and deviations over all pixels of the training images.
_CIFAR: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


_USUAL: dict[str, dict[str, tuple[float, ...]]] = {
    "digits": {"mean": _GREY_DIGITS[0], "std": _GREY_DIGITS[1]},
    **{name: {"mean": mean, "std": std} for name, (mean, std) in _CIFAR.items()},
    **{
        name: {"mean": _IMAGENET[0], "std": _IMAGENET[1]}
        for name in ("imagefolder", "imagenet", "object")
    },
}


def _cpus() -> int:
    # A container or a batch system often grants fewer CPUs than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
