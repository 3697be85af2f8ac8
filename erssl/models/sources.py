"""Where weights come from: a run, a file, a folder of Hugging Face, or the zoo."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erssl.errors import DataError
from erssl.models.backbones import BackboneOptions
from erssl.models.channels import RGB
from erssl.models.headers import NOT_OF_THE_NETWORK, own_header
from erssl.models.preprocessing import from_timm_config
from erssl.models.timm_options import square_size
from erssl.models.transformers_names import KINDS, described
from erssl.models.weights_files import SAFETENSORS, one_line, read_checkpoint
from erssl.models.zoo import zoo_file
from erssl.paths import user_path

WEIGHTS_FILE = "backbone.safetensors"
CONFIG_FILE = "config.json"
_PREPROCESSOR = "preprocessor_config.json"
_HUGGINGFACE = ("model.safetensors", "pytorch_model.bin")
_INDEX = "model.safetensors.index.json"
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_SMALLEST, _LARGEST = 1, 10_000  # pixels of an image size that a config may say


@dataclasses.dataclass(frozen=True)
class Source:
    """What is known of a file of weights before its names are looked at.

    Attributes:
        file: For messages.
        content: Of the file.
        options: The architecture, where something says it.
        preprocessing: Of its images, where something says it.
        prepared: What of it the zoo says.
        layout: The only layout to try.
        transformer: What shapes do not show of a transformer: ``num_heads`` and options that go
            with it.
        own: Whether a run of ours wrote it.
    """

    file: Path
    content: Mapping[str, Any]
    options: BackboneOptions | None = None
    preprocessing: dict[str, Any] | None = None
    prepared: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layout: str | None = None
    transformer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    own: bool = False


def open_source(path: str | Path) -> Source:
    """Read a run directory, a file, a folder of Hugging Face or ``zoo:<name>``.

    Raises:
        DataError: If there is nothing, or it cannot be read safely.
    """
    if str(path).startswith("zoo:"):
        file, row = zoo_file(str(path).removeprefix("zoo:"))
        read = _read_file(file)
        if read.own:
            return read
        return dataclasses.replace(
            read, options=row.arch, prepared=row.preprocessing, layout=row.layout
        )
    path = user_path(path)
    if (path / WEIGHTS_FILE).is_file():
        return _read_file(path / WEIGHTS_FILE)
    if path.is_dir():
        if (path / CONFIG_FILE).is_file():
            return _read_folder(path)
        raise DataError(
            f"{path} has no {WEIGHTS_FILE} and no {CONFIG_FILE} of Hugging Face; name a finished "
            "run directory, or one of its checkpoints/*.ckpt."
        )
    if path.name in _HUGGINGFACE and (path.parent / CONFIG_FILE).is_file():
        return _read_folder(path.parent, path)
    return _read_file(path)


def _read_file(file: Path) -> Source:
    content, header = read_checkpoint(file)
    options, preprocessing = own_header(file, content, header)
    return Source(file, content, options, preprocessing, own=options is not None)


def _read_folder(folder: Path, file: Path | None = None) -> Source:
    """A folder as timm or transformers writes it: ``config.json`` beside the weights."""
    config = _read_json(folder / CONFIG_FILE)
    file, content = (file, read_checkpoint(file)[0]) if file else _weights(folder)
    source = Source(file, content)
    try:
        if "architecture" in config:
            return _timms(source, config)
        transformer = described(config)
        preprocessing = _transformers_preprocessing(folder)
        if transformer is not None:
            return dataclasses.replace(
                source, transformer=transformer, preprocessing=preprocessing or None
            )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{folder / CONFIG_FILE} does not say what the weights beside it are "
            f"({one_line(error)}); name the file of weights and its arch=."
        ) from error
    raise DataError(
        f"{folder / CONFIG_FILE} is of a model that is not read "
        f"(model_type={config.get('model_type')}); those are timm's, and transformers' "
        f"{', '.join(KINDS)}."
    )


def _timms(source: Source, config: Mapping[str, Any]) -> Source:
    arguments = dict(config.get("model_args") or {})
    options = {k: v for k, v in arguments.items() if k not in NOT_OF_THE_NETWORK}
    channels = int(arguments.get("in_chans") or RGB)
    architecture = BackboneOptions(
        str(config["architecture"]), "timm", options=options, in_channels=channels
    )
    said = from_timm_config(dict(config.get("pretrained_cfg") or config))
    if (size := square_size(options)) is not None:
        said["image_size"] = options["img_size"] = size
    _check_size(said)
    return dataclasses.replace(source, options=architecture, preprocessing=said or None)


def _weights(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The file of weights in a folder, or the parts that an index lists."""
    for name in _HUGGINGFACE:
        if (folder / name).is_file():
            return folder / name, read_checkpoint(folder / name)[0]
    if (folder / _INDEX).is_file():
        names = set(_read_json(folder / _INDEX).get("weight_map", {}).values())
        whole: dict[str, Any] = {}
        for name in sorted(map(str, names)):
            if Path(name).name != name or not name.endswith(SAFETENSORS):
                raise DataError(f"{folder / _INDEX} names {name}, which is no part beside it.")
            whole |= read_checkpoint(folder / name)[0]
        return folder / _INDEX, whole
    raise DataError(f"{folder} has a {CONFIG_FILE} but none of {', '.join(_HUGGINGFACE)}.")


def _transformers_preprocessing(folder: Path) -> dict[str, Any]:
    """What ``preprocessor_config.json`` says, where it is there."""
    if not (folder / _PREPROCESSOR).is_file():
        return {}
    config = _read_json(folder / _PREPROCESSOR)
    said: dict[str, Any] = {}
    for key, name in (("mean", "image_mean"), ("std", "image_std")):
        if config.get(name):
            said[key] = [float(value) for value in config[name]]
    if config.get("resample") in _RESAMPLE:
        said["interpolation"] = _RESAMPLE[config["resample"]]
    resized = _side(config.get("size"))
    if config.get("do_center_crop") and config.get("crop_size") and resized:
        said["image_size"] = _side(config["crop_size"])
        said["crop_pct"] = min(1.0, said["image_size"] / resized)
    elif resized:
        said |= {"image_size": resized, "crop_pct": 1.0}
    _check_size(said)
    return said


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return None if size is None else int(size)


def _check_size(said: Mapping[str, Any]) -> None:
    if not _SMALLEST <= said.get("image_size", _SMALLEST) <= _LARGEST:
        raise ValueError(f"image_size={said['image_size']}")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read ({one_line(error)}).") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} holds no settings by name.")
    return content


def transformer_options(source: Source) -> dict[str, Any]:
    """Options of a transformer that its config says, but for the number of heads."""
    return {key: value for key, value in source.transformer.items() if key != "num_heads"}
