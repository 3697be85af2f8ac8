"""A row of the zoo: what it may say, and the checks that keep it honest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import torch

from erssl.errors import ConfigError, DataError
from erssl.models.architectures import architecture_label
from erssl.models.backbones import BackboneOptions
from erssl.models.layouts import LAYOUTS
from erssl.models.named import named_architecture
from erssl.models.weights_files import one_line

SCHEMES = ("https", "http", "file")
_PREPROCESSING = ("image_size", "mean", "std", "interpolation", "crop_pct", "channels")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HEXADECIMAL = re.compile(r"[0-9a-f]{6,64}")


@dataclass(frozen=True)
class ZooRow:
    """A checkpoint that can be named.

    Attributes:
        name: Its name, as in ``zoo:<name>``.
        method: The method, as its authors write it.
        arch: The backbone; ``None`` where names and shapes in the file tell.
        layout: Name of the rule by which the file is read; ``None`` to try them all.
        url: Where the file is published.
        file: Where a file of the user's own lies.
        file_name: What the file is called in the folder of ``torch.hub``.
        aliases: Other names of the row.
        data: What it was trained on.
        paper: arXiv id.
        epochs: Of pretraining.
        batch: Images a step.
        seed: Of a run of the user's own.
        sha256: The first digits of the file's, or all.
        md5: The same.
        preprocessing: What differs from the layout's usual ``mean``, ``std``, ``image_size`` or
            ``interpolation`` of evaluation images.
        published: Numbers that the file's authors measured, in per cent as printed.
        measured: What a run of the user's own measured, accuracies in [0, 1].
        protocol: Of ``measured``.
        source: Where ``published`` and the rest was read.
        note: What else is worth knowing, in a sentence.
        run: Run directory of the user's own.
        own: Whether it is the user's own.
    """

    name: str
    method: str
    arch: BackboneOptions | None = None
    layout: str | None = None
    url: str | None = None
    file: str | None = None
    file_name: str = ""
    aliases: tuple[str, ...] = ()
    data: str = ""
    paper: str = ""
    epochs: int | None = None
    batch: int | None = None
    seed: int | None = None
    sha256: str = ""
    md5: str = ""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    published: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    protocol: str = ""
    source: str = ""
    note: str = ""
    run: str = ""
    own: bool = False

    @property
    def path(self) -> Path:
        """Where the file is, or where it will be put."""
        if self.file and (self.url is None or Path(self.file).is_file()):
            return Path(self.file)
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file_name

    @property
    def cached(self) -> bool:
        """Whether the file is on this machine."""
        return self.path.is_file()

    @property
    def architecture(self) -> str:
        """The short name of the backbone; empty where only the file tells."""
        return architecture_label(self.arch) if self.arch else ""


def check_name(name: str) -> None:
    """Refuse names of the user's own that are no plain file names.

    Raises:
        ConfigError: Saying which there may be.
    """
    if not _PLAIN_NAME.fullmatch(name):
        raise ConfigError(
            f"name={name} cannot be used; begin with a letter or digit and go on with those, '.', "
            "'_' or '-', at most 100 in all."
        )


def read_row(name: Any, fields: Any, where: str, own: bool = False) -> ZooRow:
    """Check what a file says of a checkpoint.

    Args:
        name: The row's name.
        fields: What stands under it.
        where: The file, for the error's sentence.
        own: Whether it is the user's own.

    Returns:
        The row.

    Raises:
        DataError: If something in it cannot be used.
    """
    try:
        return _read(name, fields, own)
    except (ValueError, TypeError) as error:
        reason = one_line(error) if isinstance(error, TypeError) else str(error).rstrip(".")
        raise DataError(f"The row {name} of {where} cannot be used: {reason}.") from error


def _read(name: Any, fields: Any, own: bool) -> ZooRow:
    if own:
        check_name(str(name))
    if not isinstance(fields, Mapping):
        raise ValueError("it must be a mapping of fields")
    kinds = {f.name: str(f.type) for f in dataclasses.fields(ZooRow)}
    unknown = sorted(set(fields) - (set(kinds) - {"name", "own"}))
    if unknown:
        raise ValueError(f"there is no field {unknown[0]}")
    values = {key: _value(key, kinds[key], value) for key, value in fields.items()}
    row = ZooRow(**{"method": "", **values}, name=str(name), own=own)
    if row.url is None and row.file is None:
        raise ValueError("it has neither url nor file")
    if row.url is not None and urlsplit(row.url).scheme not in SCHEMES:
        raise ValueError(f"url={row.url} must begin with https://, http:// or file://")
    if row.layout is not None and row.layout not in {rule.name for rule in LAYOUTS}:
        raise ValueError(f"layout={row.layout} is unknown")
    for digits in (row.sha256, row.md5):
        if digits and not _HEXADECIMAL.fullmatch(digits):
            raise ValueError(f"{digits} is no checksum of 6 to 64 small hexadecimal digits")
    if unknown := sorted(set(row.preprocessing) - set(_PREPROCESSING)):
        raise ValueError(f"preprocessing has no {unknown[0]}, only {', '.join(_PREPROCESSING)}")
    return dataclasses.replace(row, file_name=_file_name(row))


def _value(key: str, kind: str, value: Any) -> Any:
    """The field's value in its own type; refuses YAML's other readings of it."""
    if key == "arch":
        if isinstance(value, str):
            return named_architecture(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return BackboneOptions(**value)
        raise ValueError("arch must be a name, or the fields of BackboneOptions")
    if key == "aliases" and isinstance(value, list):
        return tuple(str(other) for other in value)
    if value is None and "None" in kind:
        return None
    if kind.startswith("str"):
        fits = isinstance(value, str)
    elif kind.startswith("int"):
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif "float" in kind:
        numbers = value.values() if isinstance(value, Mapping) else [None]
        fits = all(isinstance(number, (int, float)) for number in numbers)
    else:
        fits = kind.startswith("dict") and isinstance(value, Mapping)
    if not fits:
        wanted = {"str": "text, in quotes where it looks like a number", "int": "a whole number"}
        raise ValueError(
            f"{key}={value} must be {wanted.get(kind[:3], 'a list or mapping of values')}"
        )
    return value


def _file_name(row: ZooRow) -> str:
    """Name in the folder of torch.hub, which no row may leave."""
    name = row.file_name
    if not name and row.url is not None:
        name = PurePosixPath(unquote(urlsplit(row.url).path)).name
        name = f"{row.name}-{name}" if row.own and name else name  # two projects' model.pth
    if row.url is not None and (not name or name.startswith(".") or {"/", "\\", "\0"} & set(name)):
        raise ValueError(f"file_name={name} is no plain file name")
    return name
