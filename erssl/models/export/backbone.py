"""Backbones for other people's code: files that their own loaders read, and a check that they do.

Each format is written under a temporary name, loaded by the library that it is meant for and gets
its name only when that library computes the same features.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from erssl.errors import ConfigError, DataError, ErsslError, RunError
from erssl.files import remove_remains, replacing
from erssl.models.backbones import BackboneOptions
from erssl.models.export.formats import FORMATS, Source, loader_of, note_on, refusal

TOLERANCE = 1e-5  # of the largest feature; float32 sums in another order differ by 1e-6
_IMAGES = 4


@dataclass(frozen=True)
class Export:
    """What was written, and how that is known to be right.

    Attributes:
        path: The file, or the folder of ``huggingface``.
        loader: What it was loaded with.
        difference: Largest difference of the features, as a part of the largest feature.
        images: Shape of the images that were compared, (N, 3, H, W).
        usage: Python that loads it.
        note: What else one has to know; may be empty.
    """

    path: Path
    loader: str
    difference: float
    images: tuple[int, ...]
    usage: str
    note: str = ""


def export_backbone(
    backbone: nn.Module,
    format: str,
    output: Path,
    *,
    pickle: bool = False,
    overwrite: bool = False,
) -> Export:
    """Write a backbone for another library, after that library has read it back.

    Args:
        backbone: What :func:`erssl.load_backbone` gives.
        format: ``torchvision``, ``timm``, ``huggingface``, ``detectron2``, ``safetensors`` or
            ``onnx``.
        output: The file, or the folder of ``huggingface``.
        pickle: Write ``detectron2`` as the classic ``.pkl`` of arrays.
        overwrite: Replace what is there.

    Returns:
        What was written, how it was checked, and how it is loaded.

    Raises:
        ConfigError: If the format cannot hold this backbone or the name does not fit the format.
        DataError: If the backbone's features are not finite.
        RunError: If there is something already, it cannot be written, or it was written but does
            not give the same features; then ``output`` is left as it was.
    """
    output = Path(output)
    source = _source(backbone)
    check_request(source.options, format, output, pickle=pickle, overwrite=overwrite)
    images = source.images(_IMAGES)
    expected = _features(source.backbone, images)
    if not expected.isfinite().all():
        raise DataError(
            "The backbone gives features that are not finite; export a checkpoint from before "
            "its training diverged."
        )
    place = output.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_remains(place, keep_suffix=True)
        with replacing(place, keep_suffix=True) as partial:  # loaders go by the suffix
            FORMATS[format].write(source, partial)
            difference = _verify(format, source, partial, images, expected)
    except ErsslError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer has RuntimeError
        raise RunError(
            f"output={output} cannot be written ({_one_line(error)}); make room, or name another "
            "place."
        ) from error
    return Export(
        output,
        loader_of(format),
        difference,
        tuple(images.shape),
        FORMATS[format].usage(source, output),
        note_on(format, source),
    )


def check_request(
    options: BackboneOptions, format: str, output: Path, *, pickle: bool, overwrite: bool
) -> None:
    """See that an export can be made, before any work.

    Raises:
        ConfigError: If the format cannot hold this backbone or the name does not fit the format.
        RunError: If there is something already.
    """
    if format not in FORMATS:
        raise ConfigError(f"format={format} is unknown; choose one of {', '.join(FORMATS)}.")
    if pickle and format != "detectron2":
        raise ConfigError(f"pickle=true is for format=detectron2 only; format={format} has none.")
    endings = (".pkl",) if pickle else FORMATS[format].endings
    if endings and output.suffix not in endings:
        why = (
            "; a .pkl runs code when it is loaded and needs pickle=true"
            if (output.suffix, format) == (".pkl", "detectron2")
            else ""
        )
        raise ConfigError(
            f"output={output} must end in {' or '.join(endings)} for format={format}"
            f"{' with pickle=true' if pickle else ''}{why}."
        )
    if not endings and output.suffix in (".pth", ".pt", ".pkl", ".safetensors", ".bin", ".json"):
        raise ConfigError(f"output={output} must be the name of a folder for format={format}.")
    if reason := refusal(options, format):
        raise ConfigError(reason)
    if output.is_dir() and endings:
        raise RunError(f"output={output} is a folder; name a file in it.")
    if output.is_file() and not endings:
        raise RunError(f"output={output} is a file; name a folder for format={format}.")
    taken = any(output.iterdir()) if output.is_dir() else output.exists()
    if taken and not overwrite:
        raise RunError(
            f"output={output} exists already; replace it with overwrite=true, or name another."
        )


def _source(backbone: nn.Module) -> Source:
    """The backbone as it is compared and written: on the CPU, without gradients."""
    if not (hasattr(backbone, "architecture") and hasattr(backbone, "preprocessing")):
        raise ConfigError(
            f"This {type(backbone).__name__} does not say its architecture and preprocessing; "
            "export what erssl.load_backbone gives."
        )
    backbone = copy.deepcopy(backbone).cpu().eval()
    state = {n: t.detach().clone().contiguous() for n, t in backbone.state_dict().items()}
    options: Any = backbone.architecture
    preprocessing = json.loads(json.dumps(backbone.preprocessing))  # as files have it: lists
    assumed = getattr(getattr(backbone, "report", None), "assumed", ())
    return Source(backbone, options, preprocessing, state, assumed)


def _verify(format: str, source: Source, written: Path, images: Tensor, expected: Tensor) -> float:
    """Largest difference of the features, as a part of the largest feature."""
    removed = "the export was removed; please report this with the versions of both packages."
    try:
        features = _features(FORMATS[format].read(source, written), images)
        difference = float((features - expected).abs().max())
    except Exception as error:  # somebody else's loader raises nearly anything
        raise RunError(
            f"The {format} export is not read by {loader_of(format)} ({_one_line(error)}); "
            f"{removed}"
        ) from error
    difference /= float(expected.abs().max()) or 1.0
    if not difference <= TOLERANCE:  # NaN as well
        raise RunError(
            f"The {format} export gives other features when it is loaded by {loader_of(format)}: "
            f"they differ by {difference:.1e} of the largest, allowed are {TOLERANCE:.0e}; "
            f"{removed}"
        )
    return difference


def _features(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        features: Tensor = module(images).flatten(1)
    return features


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
