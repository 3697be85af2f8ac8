"""What a checkpoint of ours says of its backbone: a file like any other, hence checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from erssl.errors import DataError
from erssl.models.backbones import BackboneOptions
from erssl.models.channels import RGB
from erssl.models.weights_files import one_line

HEADER = "erssl"  # where a checkpoint of ours says what its backbone is
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
#: Options of timm by which other weights would be read or fetched than those of the file.
SOURCES = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
#: What a list of arguments may hold beside the network: those, and what is ours to say.
NOT_OF_THE_NETWORK = (*SOURCES, "pretrained_strict", "cache_dir", "num_classes", "in_chans")
_DEPTHS = ("depth", "depths", "layers")
_LARGEST = 100_000  # pixels; channels
_MOST_CHANNELS = 4096  # of an image; hyperspectral cameras have some hundreds


def own_header(
    file: Path, content: Mapping[str, Any], header: Mapping[str, str]
) -> tuple[BackboneOptions | None, dict[str, Any] | None]:
    """Architecture and preprocessing of a file of ours, which says both itself.

    Args:
        file: For the error's sentence.
        content: Of the file.
        header: Of a safetensors file.

    Returns:
        Both, or ``None`` twice where it is another file. Options that name other weights are left
        out.

    Raises:
        DataError: If they cannot be what a run wrote.
    """
    own_header: Any = content.get(HEADER)
    try:
        if "backbone" in header:
            own_header = {key: json.loads(header[key]) for key in ("backbone", "preprocessing")}
        if not isinstance(own_header, Mapping):
            return None, None
        options = _options(dict(own_header["backbone"]), len(content) + _count(content))
        return options, checked_preprocessing(dict(own_header["preprocessing"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise DataError(f"The header of {file} is damaged ({one_line(error)}).") from error


def _count(content: Mapping[str, Any]) -> int:
    return sum(len(value) for value in content.values() if isinstance(value, Mapping))


def _options(said: dict[str, Any], weights: int) -> BackboneOptions:
    """The architecture, no deeper than the file has weights."""
    own = said.get("options", {})
    plain = isinstance(own, dict) and all(isinstance(key, str) for key in own)
    if not plain:
        raise ValueError("options are no names and values")
    said["options"] = own = {k: v for k, v in own.items() if k not in NOT_OF_THE_NETWORK}
    made = BackboneOptions(**said)
    libraries = get_args(get_type_hints(BackboneOptions)["library"])
    fits = isinstance(made.name, str) and made.library in libraries
    fits = fits and isinstance(made.cifar_stem, bool)
    fits = fits and _whole(made.in_channels, 1, _MOST_CHANNELS)
    if not (fits and _whole(made.stem_padding, 0, 16)):
        raise ValueError("its architecture is none")
    for number in _numbers(own):
        if not abs(number) <= _LARGEST:
            raise ValueError(f"{number:g} is no size of a network")
    if sum(abs(number) for key in _DEPTHS for number in _numbers(own.get(key))) > weights:
        raise ValueError("its architecture is deeper than the weights are many")
    return made


def _numbers(value: Any) -> list[float]:
    if isinstance(value, Mapping):
        return [number for each in value.values() for number in _numbers(each)]
    if isinstance(value, (list, tuple)):
        return [number for each in value for number in _numbers(each)]
    return [float(value)] if isinstance(value, (int, float)) else []


def checked_preprocessing(said: dict[str, Any]) -> dict[str, Any]:
    """Values that evaluation images can pass through.

    Raises:
        ValueError: Naming the first that they cannot.
    """
    from erssl.data.checks import check_statistics

    channels = said.get("channels", RGB)
    for key, value in said.items():
        if key == "image_size":
            fits = _whole(value, 1, _LARGEST)
        elif key == "crop_pct":
            fits = isinstance(value, (int, float)) and 0 < value <= 1
        elif key == "channels":
            fits = _whole(value, 1, _MOST_CHANNELS)
        elif key in ("mean", "std"):
            fits = isinstance(value, (list, tuple)) and len(value) == channels
            fits = fits and all(isinstance(v, (int, float)) for v in value)
        else:
            fits = key == "interpolation" and value in INTERPOLATIONS
        if not fits:
            raise ValueError(f"its preprocessing has {key}={value}")
    mean, std = said.get("mean") or (), said.get("std") or ()
    check_statistics("", mean, std)
    return said


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
