"""Architectures by name: torchvision's, timm's, and options after commas."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from erssl.errors import ConfigError
from erssl.models.backbones import RESNETS, BackboneOptions
from erssl.models.torchvision_nets import torchvision_names

_SWITCHES = {"true": True, "false": False, "null": None}


def named_architecture(name: str) -> BackboneOptions:
    """Options of an architecture by its name.

    Args:
        name: A torchvision ResNet, the same with ``_cifar``, any timm name or torchvision
            classifier; options of timm's follow after commas, as ``,img_size=224x448``.

    Raises:
        ConfigError: If what follows a comma is no ``key=value``.
    """
    return possible_architectures(name)[0]


def possible_architectures(name: str) -> list[BackboneOptions]:
    """All that a name may mean: timm and torchvision share some, and differ in their weights.

    Raises:
        ConfigError: If what follows a comma is no ``key=value``.
    """
    name, *settings = name.split(",")
    options = dict(_setting(setting) for setting in settings)
    plain = name.removesuffix("_cifar")
    if plain in RESNETS:
        made = BackboneOptions(plain, cifar_stem=plain != name)
        return [dataclasses.replace(made, options=options)]
    import timm

    possible = [BackboneOptions(name, "timm", options=options)]
    if not options and name in torchvision_names():
        torchvisions = BackboneOptions(name)
        possible = [*possible, torchvisions] if timm.is_model(name) else [torchvisions]
    return possible


def _setting(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key.isidentifier():
        raise ConfigError(
            f"arch= has {text!r} after a comma, which is no option; write "
            "arch=<name>,<option>=<value>, as arch=vit_small_patch16_224,num_heads=12."
        )
    return key, _value(value)


def _value(text: str) -> Any:
    """A number, a switch, a size of two numbers such as 224x448, or the text itself."""
    if text.lower() in _SWITCHES:
        return _SWITCHES[text.lower()]
    if re.fullmatch(r"\d+x\d+", text):
        return [int(side) for side in text.split("x")]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
