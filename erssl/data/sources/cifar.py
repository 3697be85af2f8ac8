"""``data=cifar10`` and ``data=cifar100``: torchvision's classes."""

from __future__ import annotations

from dataclasses import field
from typing import Any, ClassVar

from torchvision import datasets as tv

from erssl.data.bands import GREY, RGB
from erssl.data.checks import check_switch
from erssl.data.datasets import Datasets, greyed
from erssl.data.options import DataOptions, Published
from erssl.data.registry import register_dataset
from erssl.data.views import ViewOptions
from erssl.errors import DataError
from erssl.paths import user_path


@register_dataset("cifar10")
class Cifar10(DataOptions):
    """CIFAR-10; mean and deviation are of all pixels of its training images.

    Attributes:
        root: Folder that holds it.
        download: Fetch it into ``root`` if it is not there. With several processes that start on
            their own (torchrun, a cluster), download once before.
    """

    published = Published(10, 50_000, 10_000)
    channel_choices = (GREY, RGB)
    same_everywhere = True
    reader: ClassVar[Any] = tv.CIFAR10

    image_size: int = 32
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, ...] = (0.2470, 0.2435, 0.2616)
    views: ViewOptions = field(default_factory=lambda: ViewOptions(recipe="cifar"))
    root: str | None = None
    download: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_switch("data.download", self.download)

    def load(self) -> Datasets:
        """Read both splits."""
        remedy = "name its folder with data.root, and set data.download=true to fetch it there"
        if self.root is None:
            raise DataError(f"data={self.name} has no data.root; {remedy}.")
        root = user_path(self.root)
        try:
            train, val = (
                self.reader(root, train=split, download=self.download) for split in (True, False)
            )
        except (RuntimeError, OSError) as error:
            what = (
                f"could not be fetched into data.root={self.root} ({_first_line(error)})"
                if self.download
                else f"is not complete in data.root={self.root}"
            )
            raise DataError(f"data={self.name} {what}; {remedy}.") from error
        datasets = Datasets(train, val, len(train.classes), tuple(train.classes))
        return greyed(datasets) if self.channels == GREY else datasets


@register_dataset("cifar100")
class Cifar100(Cifar10):
    """CIFAR-100, with the options of `Cifar10`."""

    published = Published(100, 50_000, 10_000)
    reader: ClassVar[Any] = tv.CIFAR100

    mean: tuple[float, ...] = (0.5071, 0.4865, 0.4409)
    std: tuple[float, ...] = (0.2673, 0.2564, 0.2762)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
