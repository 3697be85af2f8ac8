"""The keys of commands that are not composed of layers, each with what it takes."""

from __future__ import annotations

from importlib.resources import files

import yaml

from erssl.yaml_text import comments_of


def command_keys(command: str) -> dict[str, str]:
    """Keys of ``configs/<command>.yaml``, each with the comment beside it."""
    text = (files("erssl.configs") / f"{command}.yaml").read_text(encoding="utf-8")
    comments = comments_of(text)
    return {key: comments.get(key, "") for key in yaml.safe_load(text) or () if key != "defaults"}


LENS_KEYS = command_keys("lens")
EXPORT_KEYS = command_keys("export")
