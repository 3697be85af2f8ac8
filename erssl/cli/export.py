"""``erssl export``: a backbone as torchvision, timm, Hugging Face or Detectron2 reads it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from erssl.cli._config import nearest
from erssl.errors import ConfigError
from erssl.models import load_backbone
from erssl.models.export import Export, export_backbone
from erssl.models.formats import FORMATS
from erssl.paths import user_path

_OWN = {
    "checkpoint": "a run directory, a checkpoint of any layout, or zoo:<name>",
    "arch": "its architecture, where shapes do not tell",
    "layout": "the only layout to try",
    "allow_partial": "true to take a file that lacks some weights (false)",
    "format": "torchvision, timm, huggingface, detectron2 or safetensors",
    "output": "the file to write; the folder of huggingface",
    "pickle": "true for detectron2's classic .pkl of arrays (false)",
    "overwrite": "true to replace what is there (false)",
}


def help_text() -> str:
    """What ``--help`` prints."""
    own = "\n".join(f"  {key:<12} {what}" for key, what in _OWN.items())
    return f"""erssl export: a backbone in the format of another library, checked by its own loader

Usage: erssl export checkpoint=<what> format=<format> output=<file or folder> [key=value ...]

Examples:
  erssl export checkpoint=runs/mine format=torchvision output=resnet50.pth
  erssl export checkpoint=runs/mine format=timm output=resnet50.safetensors
  erssl export checkpoint=runs/mine format=huggingface output=my-resnet50
  erssl export checkpoint=runs/mine format=detectron2 output=R-50.pth

Keys:
{own}

Formats:
  torchvision  .pth, a plain dict of tensors without the classifier
  timm         .safetensors or .pth for timm.create_model(checkpoint_path=...)
  huggingface  a folder with config.json, model.safetensors and a model card, to upload as it is
  detectron2   .pth of plain tensors under Detectron2's names, or .pkl with pickle=true
  safetensors  .safetensors with architecture and preprocessing in its header

What was written is loaded by the library that it is for and must give the same features on the
same pictures; otherwise nothing is left.
"""


def run(words: Sequence[str]) -> int:
    """Write a backbone in another format and say how to load it."""
    own: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or key not in _OWN:
            raise ConfigError(f"The key {key} is unknown; {nearest(key, _OWN)}")
        own[key] = value
    for key in ("checkpoint", "format", "output"):
        if not own.get(key):
            raise ConfigError(f"erssl export needs {key}=<...>: {_OWN[key]}.")
    if own["format"] not in FORMATS:
        raise ConfigError(f"format={own['format']} is unknown; {nearest(own['format'], FORMATS)}")
    backbone = load_backbone(
        own["checkpoint"],
        own.get("arch"),
        allow_partial=_flag(own, "allow_partial"),
        layout=own.get("layout"),
    )
    export = export_backbone(
        backbone,
        own["format"],
        user_path(own["output"]),
        pickle=_flag(own, "pickle"),
        overwrite=_flag(own, "overwrite"),
    )
    _print(export, Console())
    return 0


def _print(export: Export, console: Console) -> None:
    number, _, _, size = export.pictures
    lines = [
        f"Written: {export.path}",
        f"Verified: loaded by {export.loader}, it gives the features of the checkpoint on {number} "
        f"pictures of {size} x {size} pixels; the largest difference is {export.difference:.1e} of "
        "the largest feature.",
        *([export.note] if export.note else []),
        "Load it with:",
        *(f"  {line}" for line in export.usage.splitlines()),
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _flag(own: dict[str, str], key: str) -> bool:
    value = own.get(key, "false").lower()
    if value not in ("true", "false"):
        raise ConfigError(f"{key}={own[key]} must be true or false.")
    return value == "true"
