"""The formats of an export: how each is written, read back by its own library, and used."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erssl.errors import DataError, installing, listed_and
from erssl.models.backbones import RESNETS, BackboneOptions, build_backbone, check_input_size
from erssl.models.channels import RGB
from erssl.models.export import detectron, onnx_files, timm_files
from erssl.models.loading import load_backbone
from erssl.models.reports import listed
from erssl.models.saving import save_backbone
from erssl.models.timm_options import NORM_EPS, STEM_POOL, timm_arguments


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        backbone: On the CPU, in eval mode.
        options: Its architecture.
        preprocessing: Of the images that it was trained on.
        state: Its weights by its library's names.
        assumed: What the checkpoint did not say, with the values that were taken.
    """

    backbone: nn.Module
    options: BackboneOptions
    preprocessing: dict[str, Any]
    state: dict[str, Tensor]
    assumed: tuple[str, ...] = ()

    def images(self, number: int = 4) -> Tensor:
        """A fixed batch (N, C, H, W) of the size that the backbone was trained on.

        Raises:
            ConfigError: If the backbone cannot take such images.
        """
        size = self.preprocessing.get("image_size")
        if size is None:
            own = getattr(self.backbone, "pretrained_cfg", {})
            size = own.get("input_size", (3, 224, 224))[-1]
        channels = self.options.in_channels
        check_input_size(self.backbone, [size], channels)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(number, channels, size, size, generator=generator)


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        endings: Of its files; none for a folder.
        loader: What others read it with.
        write: Writes a source to a path.
        read: Builds a module that gives features (N, d) from what was written, by the loader.
        usage: Python that loads it, for the one who wrote it to copy.
    """

    endings: tuple[str, ...]
    loader: str
    write: Callable[[Source, Path], None]
    read: Callable[[Source, Path], nn.Module]
    usage: Callable[[Source, Path], str]


def refusal(options: BackboneOptions, format: str) -> str:
    """Why a format cannot hold such a backbone, as a sentence, or nothing."""
    if options.library == "lightly" and format not in ("safetensors", "onnx"):
        return f"{options.name} is lightly's own network; choose format=safetensors or onnx."
    if format == "onnx" and (missing := onnx_files.missing_packages()):
        return f"format=onnx needs {listed_and(missing)}; {installing('onnx')}."
    return "" if format in ("safetensors", "onnx") else _refusal_of_names(options, format)


def _refusal_of_names(options: BackboneOptions, format: str) -> str:
    """Why a library that goes by names cannot hold such a backbone."""
    if options.library == "timm" and format in ("torchvision", "detectron2"):
        return (
            f"format={format} is for torchvision's networks and {options.name} is timm's; choose "
            "format=timm, huggingface, safetensors or onnx."
        )
    if NORM_EPS in options.options:
        return (
            f"{options.name} has normalisations of another epsilon than timm's "
            f"({options.options[NORM_EPS]:g}), which format={format} cannot say; choose "
            "format=safetensors or onnx."
        )
    if not options.options.get(STEM_POOL, True):
        return (
            f"{options.name} is without the max-pooling of its stem ({STEM_POOL}), which "
            f"format={format} cannot say; choose format=safetensors or onnx."
        )
    if options.name not in RESNETS and options.library == "torchvision" and format != "torchvision":
        return (
            f"format={format} has torchvision's ResNets only, under names that are its own; choose "
            "format=torchvision, safetensors or onnx."
        )
    if options.in_channels != RGB:
        if format == "detectron2":
            return (
                f"format=detectron2 is for images of {RGB} channels and {options.name} takes "
                f"{options.in_channels}; choose format=torchvision, safetensors or onnx."
            )
        if format == "torchvision" and options.name not in RESNETS:
            return (
                f"{options.name} of {options.in_channels} channels is no network of torchvision's; "
                "choose format=safetensors or onnx."
            )
    if options.cifar_stem and format in ("timm", "huggingface", "detectron2"):
        return (
            f"{options.name} has a 3x3 stem for small images (cifar_stem), which format={format} "
            "cannot say; choose format=torchvision, safetensors or onnx."
        )
    return ""


def loader_of(format: str) -> str:
    """What a format is read back with here."""
    if format == "detectron2" and not detectron2_installed():
        return "torch.load, under torchvision's names again"
    return FORMATS[format].loader


def note_on(format: str, source: Source) -> str:
    """What one has to know to use an export, besides the code that loads it."""
    notes = []
    if format == "detectron2":
        if not detectron2_installed():
            notes.append(
                "Detectron2 is not installed: its own loader was not available for the check."
            )
        notes.append("cfg is Detectron2's, of the model that is to be trained.")
        if not {"mean", "std"} <= source.preprocessing.keys():
            notes.append(
                "The checkpoint does not say its mean and std; set MODEL.PIXEL_MEAN and "
                "MODEL.PIXEL_STD, for values in [0, 255]."
            )
    if format == "torchvision":
        notes.append("The classifier fc is not in the file and stays as torchvision begins it.")
        if source.options.cifar_stem:
            notes.append(
                "The stem is a 3x3 convolution without max-pooling; the model has to be changed "
                "to it before the weights fit, as below."
            )
    if format in ("torchvision", "timm") and source.preprocessing:
        notes.append(f"The file cannot say its preprocessing: {listed(source.preprocessing)}.")
    if format == "huggingface" and not {"mean", "std", "image_size"} <= source.preprocessing.keys():
        notes.append(
            "The checkpoint does not say its mean, std and image size; config.json has what timm "
            "assumes for this architecture."
        )
    if source.assumed:
        notes.append(f"Assumed, since the checkpoint does not say it: {'; '.join(source.assumed)}.")
    return " ".join(notes)


def detectron2_installed() -> bool:
    """Whether Detectron2's own loader is at hand."""
    return importlib.util.find_spec("detectron2") is not None


def _write_torch(source: Source, path: Path) -> None:
    with path.open("wb") as file:  # by handle: the archive in the file is else named after it
        torch.save(source.state, file)


def _read_torchvision(source: Source, path: Path) -> nn.Module:
    import torchvision

    if source.options.name not in RESNETS:
        backbone = build_backbone(source.options)
        backbone.load_state_dict(torch.load(path, weights_only=True))
        return backbone.eval()
    model: nn.Module = getattr(torchvision.models, source.options.name)()
    channels = source.options.in_channels
    if source.options.cifar_stem:
        model.conv1 = nn.Conv2d(channels, 64, 3, 1, source.options.stem_padding, bias=False)
        model.maxpool = nn.Identity()
    elif channels != RGB:
        model.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    left = model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    if set(left.missing_keys) != {"fc.weight", "fc.bias"} or left.unexpected_keys:
        raise DataError(f"other weights than the classifier's are left over: {left}")
    model.fc = nn.Identity()
    return model.eval()


def _use_torchvision(source: Source, path: Path) -> str:
    options, stem = source.options, ""
    first = f"model.conv1 = torch.nn.Conv2d({options.in_channels}, 64"
    if options.cifar_stem:
        stem = (
            f"{first}, 3, 1, {options.stem_padding}, bias=False)\n"
            "model.maxpool = torch.nn.Identity()\n"
        )
    elif options.in_channels != RGB:
        stem = f"{first}, 7, 2, 3, bias=False)\n"
    return (
        "import torch, torchvision\n"
        f"model = torchvision.models.{source.options.name}()\n"
        f"{stem}"
        f"model.load_state_dict(torch.load({str(path)!r}, weights_only=True), strict=False)"
    )


def _write_timm(source: Source, path: Path) -> None:
    from safetensors.torch import save_file

    if path.suffix == ".safetensors":
        save_file(source.state, path, metadata={"format": "pt"})
    else:
        _write_torch(source, path)


def _use_timm(source: Source, path: Path) -> str:
    arguments = timm_arguments(source.options.options, source.options.in_channels)
    own = "".join(f", {key}={value!r}" for key, value in arguments.items())
    return (
        "import timm\n"
        f"model = timm.create_model({source.options.name!r}, num_classes=0, "
        f"checkpoint_path={str(path)!r}{own})"
    )


def _write_huggingface(source: Source, path: Path) -> None:
    width: Any = source.backbone.feature_dim
    timm_files.write_folder(
        source.options, source.state, source.preprocessing, width, path, source.assumed
    )


def _use_huggingface(source: Source, path: Path) -> str:
    return (
        "import timm\n"
        f"model = timm.create_model({f'local-dir:{path}'!r}, pretrained=True, num_classes=0)"
    )


def _read_detectron2(source: Source, path: Path) -> nn.Module:
    if detectron2_installed():
        return detectron.read_by_detectron2(source.options, path)
    return detectron.read_without_detectron2(source.options, path)


def _use_detectron2(source: Source, path: Path) -> str:
    settings = detectron.detectron2_settings(source.options, source.preprocessing)
    return f"cfg.MODEL.WEIGHTS = {str(path)!r}\ncfg.merge_from_list({settings!r})"


def _read_safetensors(source: Source, path: Path) -> nn.Module:
    from safetensors.torch import load_file

    backbone = load_backbone(path)
    if backbone.preprocessing != source.preprocessing:
        raise DataError(f"the file says preprocessing={backbone.preprocessing}")
    backbone.load_state_dict(load_file(path))
    return backbone


def _write_onnx(source: Source, path: Path) -> None:
    onnx_files.write_onnx(source.backbone, source.images(), source.preprocessing, path)


def _use_onnx(source: Source, path: Path) -> str:
    return onnx_files.usage(path, tuple(source.images(1).shape))


def _use_safetensors(source: Source, path: Path) -> str:
    return f"from erssl import load_backbone\nbackbone = load_backbone({str(path)!r})"


FORMATS = {
    "torchvision": Format(
        (".pth",),
        "torchvision and torch.load(weights_only=True)",
        _write_torch,
        _read_torchvision,
        _use_torchvision,
    ),
    "timm": Format(
        (".safetensors", ".pth"),
        "timm.create_model(checkpoint_path=...)",
        _write_timm,
        lambda source, path: timm_files.read_timm(source.options, path),
        _use_timm,
    ),
    "huggingface": Format(
        (),
        'timm.create_model("local-dir:...")',
        _write_huggingface,
        lambda source, path: timm_files.read_folder(source.preprocessing, path),
        _use_huggingface,
    ),
    "detectron2": Format(
        (".pth",),
        "Detectron2's DetectionCheckpointer",
        lambda source, path: detectron.write_detectron2(source.state, path),
        _read_detectron2,
        _use_detectron2,
    ),
    "safetensors": Format(
        (".safetensors",),
        "safetensors.torch.load_file and erssl.load_backbone",
        lambda source, path: save_backbone(
            source.backbone, path, source.options, source.preprocessing
        ),
        _read_safetensors,
        _use_safetensors,
    ),
    "onnx": Format(
        (".onnx",),
        "onnxruntime",
        _write_onnx,
        lambda source, path: onnx_files.OnnxModule(path),
        _use_onnx,
    ),
}
