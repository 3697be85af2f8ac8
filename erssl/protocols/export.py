"""``erssl export``: a backbone as torchvision, timm, Detectron2 or others read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from rich.console import Console

from erssl.errors import ConfigError
from erssl.models import load_backbone
from erssl.models.channels import RGB
from erssl.models.export import Export, export_backbone
from erssl.models.export.formats import FORMATS
from erssl.models.headers import checked_preprocessing
from erssl.models.preprocessing import KEYS as PREPROCESSING_KEYS
from erssl.models.preprocessing import set_preprocessing
from erssl.models.reports import listed
from erssl.paths import user_path
from erssl.run.console import say
from erssl.run.result import Result
from erssl.settings.hints import nearest, unknown_setting
from erssl.settings.keys import EXPORT_KEYS


def run(overrides: Sequence[str], console: Console) -> Result:
    """Write a backbone in another format and say how to load it."""
    own: dict[str, str] = {}
    for override in overrides:
        key, sign, value = override.partition("=")
        if not sign or key not in EXPORT_KEYS:
            raise ConfigError(unknown_setting(override, EXPORT_KEYS))
        own[key] = value
    for key in ("checkpoint", "format", "output"):
        if not own.get(key):
            raise ConfigError(f"erssl export needs {key}=<...>: {EXPORT_KEYS[key]}.")
    if own["format"] not in FORMATS:
        raise ConfigError(f"format={own['format']} is unknown; {nearest(own['format'], FORMATS)}")
    backbone = load_backbone(
        own["checkpoint"],
        own.get("arch"),
        allow_partial=_flag(own, "allow_partial"),
        layout=own.get("layout"),
        prefix=own.get("prefix"),
        weights=own.get("weights"),
    )
    report: Any = backbone.report
    architecture: Any = backbone.architecture
    said = _preprocessing(own, architecture.in_channels)
    if said:
        known: Any = backbone.preprocessing
        set_preprocessing(backbone, known | said)
        backbone.report = report = report.where_said(known, said)
    lines = [f"{own['checkpoint']}: {report}"]
    lines += [f"Preprocessing: {listed(known | said)}, as asked for."] if said else []
    for line in lines:
        say(console, line)
    export = export_backbone(
        backbone,
        own["format"],
        user_path(own["output"]),
        pickle=_flag(own, "pickle"),
        overwrite=_flag(own, "overwrite"),
    )
    _print(export, console)
    return Result(export.path, {"largest_difference": export.difference})


def _print(export: Export, console: Console) -> None:
    number, _, _, size = export.images
    lines = [
        f"Written: {export.path}",
        f"Verified: loaded by {export.loader}, it gives the features of the checkpoint on {number} "
        f"images of {size} x {size} pixels; the largest difference is {export.difference:.1e} of "
        "the largest feature.",
        *([export.note] if export.note else []),
        "Load it with:",
        *(f"  {line}" for line in export.usage.splitlines()),
    ]
    for line in lines:
        say(console, line)


def _preprocessing(own: dict[str, str], channels: int) -> dict[str, Any]:
    """What the command says of the images, in place of what the checkpoint says."""
    said = {key: own[key] for key in PREPROCESSING_KEYS if key in own}
    try:
        values = {key: yaml.safe_load(value) for key, value in said.items()}
        if not values:
            return {}
        of_images = {} if channels == RGB else {"channels": channels}
        return checked_preprocessing(of_images | values)
    except ConfigError:
        raise
    except (ValueError, TypeError, yaml.YAMLError) as error:
        given = ", ".join(f"{key}={value}" for key, value in said.items())
        raise ConfigError(
            f"{given} describes no images; write image_size=224, mean=[0.485,0.456,0.406] and std= "
            "alike, interpolation=bicubic, crop_pct=0.875."
        ) from error


def _flag(own: dict[str, str], key: str) -> bool:
    value = own.get(key, "false").lower()
    if value not in ("true", "false"):
        raise ConfigError(f"{key}={own[key]} must be true or false.")
    return value == "true"
