"""What every data set takes as options, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from lightly.transforms.utils import IMAGENET_NORMALIZE

from erssl.data.bands import RGB, has_pixels
from erssl.data.checks import (
    as_numbers,
    check_choice,
    check_statistics,
    check_switch,
    check_whole,
)
from erssl.data.datasets import Datasets
from erssl.data.statistics import channel_statistics
from erssl.data.views import ViewOptions
from erssl.errors import ConfigError
from erssl.limits import check_processes, cpus

Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos"]

Pipeline = Literal["lightly", "fast", "device"]

PIPELINES: tuple[str, ...] = get_args(Pipeline)


class Published(NamedTuple):
    """What published numbers of a data set were measured on; a part of it is compared with none.

    Attributes:
        classes: Number of classes.
        train: Number of training images.
        val: Number of validation images.
        image_size: Side of the images in pixels; ``None`` where papers take any.
    """

    classes: int
    train: int
    val: int
    image_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which images, and how they are read: the options that every data set has.

    A data set is a class below this one, made known by
    :func:`erssl.data.registry.register_dataset`. It adds the options of its own, sets the defaults
    that suit its images, and loads them.

    Attributes:
        name: The name of the data set; that of its class.
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
            needs the extra ``fast``, or ``"device"``, which holds images of one size
            in the memory of the device that trains and makes their views there, level by level as
            lightly's operations do (other draws for a seed; images of up to 4 GiB). Neither has
            the recipe ``"infomin"``.
        imbalance: Imbalance factor of the images that are pretrained on, of at least 1: some of
            each class, by :func:`erssl.data.imbalance.long_tailed_counts`, chosen by the run's
            seed. What accuracy is measured with stays whole. 1 keeps all.
        num_workers: Loader processes (and threads of the check) of each training process; 0 loads
            in the training process itself, ``None`` takes one less than the CPUs that this process
            may use, at most 8.

    Raises:
        ConfigError: If a value is out of range.
    """

    dataset_name: ClassVar[str] = ""
    """The name that the class was registered under."""
    published: ClassVar[Published | None] = None
    """The whole data set, where papers report numbers on it."""
    user_sized: ClassVar[bool] = False
    """Whether the images are a user's own, so that nobody chose a batch for their number."""
    needs_val: ClassVar[str] = "name other images"
    """What to do where validation images are missing and asked for, in the imperative."""
    channel_choices: ClassVar[tuple[int, ...]] = (RGB,)
    """The channels that its images can be given in; none for any."""
    same_everywhere: ClassVar[bool] = False
    """Whether the images are the same wherever they lie: checked when read, or of a package."""
    next_step: ClassVar[str] = ""
    """What is printed after a pretraining on it, such as a command to go on with."""

    name: str = ""
    image_size: int = 224
    channels: int = RGB
    mean: tuple[float, ...] = tuple(IMAGENET_NORMALIZE["mean"])
    std: tuple[float, ...] = tuple(IMAGENET_NORMALIZE["std"])
    interpolation: Interpolation = "bilinear"
    crop_pct: float | None = None
    views: ViewOptions = field(default_factory=lambda: ViewOptions(recipe="dino"))
    pipeline: Pipeline = "lightly"
    imbalance: float = 1.0
    num_workers: int | None = None

    def __post_init__(self) -> None:
        """Check the values; tuples may come as lists, as configuration files have them."""
        if self.name not in ("", self.dataset_name):
            raise ConfigError(
                f"data.name={self.name} is not the data set {self.dataset_name}, whose options "
                "these are; leave data.name out."
            )
        object.__setattr__(self, "name", self.dataset_name)
        check_choice("data.interpolation", self.interpolation, get_args(Interpolation))
        check_choice("data.pipeline", self.pipeline, PIPELINES)
        check_whole("data.image_size", self.image_size, 1, "a size in pixels")
        if self.num_workers is not None:
            check_whole("data.num_workers", self.num_workers, 0, "a number of loader processes")
            check_processes("data.num_workers", self.num_workers)
        if not 1 <= self.imbalance < math.inf:
            raise ConfigError(
                f"data.imbalance={self.imbalance} is how often the largest class is as large as "
                "the smallest; give a number of at least 1, which keeps all images."
            )
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ConfigError(
                f"data.crop_pct={self.crop_pct} is no share of the image; give a number above 0 "
                "and up to 1."
            )
        self._check_channels()
        check_statistics("data.", self.mean, self.std)

    def _check_channels(self) -> None:
        """Check that there is a mean and a deviation for each channel, or none yet."""
        check_whole("data.channels", self.channels, 1, "a number of channels")
        count, meaning = self.channels, "one value each for red, green and blue"
        if self.channel_choices and count not in self.channel_choices:
            raise ConfigError(
                f"data.channels={count} cannot be had with data.name={self.name}, which has images "
                f"of {' or '.join(map(str, self.channel_choices))}; leave data.channels out."
            )
        if count != RGB:
            meaning = f"one value for each of data.channels={count}"
        for key in ("mean", "std"):
            given = getattr(self, key)
            usual = given == type(self).__dataclass_fields__[key].default  # of RGB images
            unsaid = count != RGB and (usual or given in ((), []))
            values = () if unsaid else as_numbers(f"data.{key}", given, count, meaning)
            object.__setattr__(self, key, values)
        if bool(self.mean) != bool(self.std):
            raise ConfigError(
                f"data.mean={list(self.mean)} and data.std={list(self.std)}: give both, or neither."
            )
        if not has_pixels(count) and self.interpolation == "lanczos":
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

    def load(self) -> Datasets:
        """Load the images, and check them.

        Returns:
            Training and validation images without any transform.

        Raises:
            DataError: If the images are not there, cannot be read, or do not fit together.
        """
        raise NotImplementedError

    def changed(self, **changes: Any) -> DataOptions:
        """Give the same options with some changed; what a change rules out gives way to it."""
        return replace(self, **changes)

    @classmethod
    def own_options(cls) -> tuple[str, ...]:
        """Names of the options that this data set has beside those of all."""
        common = {f.name for f in fields(DataOptions)}
        return tuple(f.name for f in fields(cls) if f.name not in common)

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
        return loader_processes(self.num_workers)


@dataclass(frozen=True, kw_only=True)
class CheckedOptions(DataOptions):
    """The options of data sets whose images are decoded once before training.

    Attributes:
        on_error: What an unreadable image does: stop the run before training (``"raise"``), or be
            left out and listed (``"skip"``, which needs ``verify``).
        verify: Decode every image once before training, or so many of them, spread evenly. All
            take long on ImageNet; without it an unreadable image stops the run when its turn comes.
            Of folders it is kept what was decoded, so that a check that was ended goes on.
    """

    on_error: Literal["raise", "skip"] = "raise"
    verify: bool | int = True

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_choice("data.on_error", self.on_error, ("raise", "skip"))
        if not isinstance(self.verify, int) or (self.verify < 1 and self.verify is not False):
            raise ConfigError(
                f"data.verify={self.verify} is neither true nor false nor a number of images to "
                "decode; give one of the three."
            )
        if self.on_error == "skip" and self.verify is not True:
            raise ConfigError(
                f"data.on_error=skip needs data.verify=true and it is {self.verify}; set it, or "
                "data.on_error=raise."
            )

    @property
    def sampled(self) -> int | None:
        """Number of images of each split that are decoded first; ``None`` for all."""
        return None if isinstance(self.verify, bool) else self.verify


@dataclass(frozen=True, kw_only=True)
class FileOptions(CheckedOptions):
    """The options of data sets whose images are files of their own.

    Attributes:
        exif: Turn images upright as their EXIF orientation says. On for a user's own files, off
            where a published protocol reads them with torchvision, whose loader leaves images as
            they are stored.
    """

    channel_choices = ()

    exif: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_switch("data.exif", self.exif)


def loader_processes(num_workers: int | None) -> int:
    """The number of loader processes that ``num_workers`` comes to; see `DataOptions`."""
    if num_workers is None:
        return min(8, cpus() - 1)
    check_processes("num_workers", num_workers)
    return num_workers
