"""What images pass through before the backbone, in linear evaluation and in fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
from lightly.transforms.utils import IMAGENET_NORMALIZE

from erssl.data.checks import as_numbers, check_whole
from erssl.errors import ConfigError


@dataclass(frozen=True)
class TransferPreprocessing:
    """Size and channel statistics of the images that a backbone sees.

    The defaults are those of Ericsson et al. 2021 (``linear.py``) and MVEB §6.4.

    Attributes:
        image_size: Side in pixels.
        mean: Channel means of pixels in 0..1; ImageNet's.
        std: Channel deviations of pixels in 0..1; ImageNet's.
        interpolation: Always bicubic (SimCLR §B.8, Ericsson et al.).

    Raises:
        ConfigError: If a value is out of range.
    """

    image_size: int = 224
    mean: tuple[float, ...] = tuple(IMAGENET_NORMALIZE["mean"])
    std: tuple[float, ...] = tuple(IMAGENET_NORMALIZE["std"])
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        """Check the values; tuples may come as lists, as checkpoints have them."""
        check_whole("image_size", self.image_size, 1, "a size in pixels")
        for key in ("mean", "std"):
            meaning = "one value each for red, green and blue"
            object.__setattr__(self, key, as_numbers(key, getattr(self, key), 3, meaning))
        if min(self.std) <= 0:
            raise ConfigError(
                f"std={list(self.std)} holds a value that is not positive; give the deviations of "
                "the three channels."
            )
        if self.interpolation != "bicubic":
            raise ConfigError(
                f"interpolation={self.interpolation} is not the protocol's; leave it bicubic."
            )

    def as_dict(self) -> dict[str, Any]:
        """The values as plain ones, for the key of the feature cache."""
        mean, std = list(self.mean), list(self.std)
        return {
            "image_size": self.image_size,
            "mean": mean,
            "std": std,
            "interpolation": self.interpolation,
        }


def preprocessing_of(checkpoint: Mapping[str, Any] | None) -> TransferPreprocessing:
    """The suite's preprocessing with the size and statistics that a checkpoint was trained with.

    Args:
        checkpoint: What the checkpoint says of its preprocessing: any of ``image_size``, ``mean``
            and ``std``; its interpolation is not taken over.

    Returns:
        The protocol's values where the checkpoint says nothing.

    Raises:
        ConfigError: If a value is out of range.
    """
    said = {k: v for k, v in (checkpoint or {}).items() if v is not None}
    return TransferPreprocessing(**{k: said[k] for k in ("image_size", "mean", "std") if k in said})


def build_linear_transform(preprocessing: TransferPreprocessing) -> Any:
    """Resize the shorter side, cut out the centre: for features, and for all validation and tests.

    Args:
        preprocessing: Size S and statistics.

    Returns:
        A transform from a PIL image to a tensor (3, S, S), without chance.
    """
    size = preprocessing.image_size
    return T.Compose(
        [
            T.Resize(size, T.InterpolationMode(preprocessing.interpolation)),
            T.CenterCrop(size),
            *_to_tensor(preprocessing),
        ]
    )


def build_finetune_transform(preprocessing: TransferPreprocessing) -> Any:
    """A random crop of 8 % to 100 % of the image, flipped half of the time: for fine-tuning.

    Args:
        preprocessing: Size S and statistics.

    Returns:
        A transform from a PIL image to a tensor (3, S, S).
    """
    mode = T.InterpolationMode(preprocessing.interpolation)
    return T.Compose(
        [
            T.RandomResizedCrop(preprocessing.image_size, interpolation=mode),
            T.RandomHorizontalFlip(),
            *_to_tensor(preprocessing),
        ]
    )


def _to_tensor(preprocessing: TransferPreprocessing) -> list[Any]:
    normalize = T.Normalize(mean=list(preprocessing.mean), std=list(preprocessing.std))
    return [T.ToTensor(), normalize]
