"""The zoo: published checkpoints by name, and the user's own beside them.

``zoo.yaml`` beside this file has the published ones; ``zoo.yaml`` in the user's folder
(:func:`erssl.paths.erssl_home`) has the same kind of rows. Files lie where ``torch.hub`` keeps its
own, so that whatever it fetched before is not fetched again.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from erssl.errors import ConfigError, DataError
from erssl.files import write_text
from erssl.models.weights_files import one_line
from erssl.models.zoo.downloads import check_sums, download
from erssl.models.zoo.rows import ZooRow, check_name, read_row
from erssl.paths import erssl_home
from erssl.yaml_text import read_yaml_text

__all__ = ["ZooRow", "add_row", "own_zoo", "zoo_file", "zoo_row", "zoo_rows"]

_PARTS = ("archs", "families", "rows")  # the first two hold what rows share
_builtin: dict[str, ZooRow] = {}


def zoo_rows() -> dict[str, ZooRow]:
    """All rows by name: the built-in ones, then the user's own.

    Raises:
        DataError: If the user's file cannot be read, or has a row of a built-in name.
    """
    if not _builtin:
        text = (files("erssl.models.zoo") / "zoo.yaml").read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        _builtin.update({n: read_row(n, row, "zoo.yaml") for n, row in content["rows"].items()})
    own = {name: read_row(name, row, str(own_zoo()), own=True) for name, row in _own_rows().items()}
    for name in own:
        if name in _names(_builtin):
            raise DataError(
                f"{own_zoo()} has a row {name}, which is a name of the built-in zoo; rename it."
            )
    return {**_builtin, **own}


def zoo_row(name: str) -> ZooRow:
    """The row of a name, or of another name of it.

    Raises:
        DataError: If there is none, with the nearest names.
    """
    names = _names(zoo_rows())
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"the nearest are {', '.join(close)}; " if close else ""
        raise DataError(f"There is no {name!r} in the zoo; {hint}erssl zoo lists them all.")
    return names[name]


def zoo_file(name: str) -> tuple[Path, ZooRow]:
    """The file of a row, downloaded where it is not there yet, and checked where a sum is known.

    Args:
        name: A name in :func:`zoo_rows`, or another name of a row.

    Returns:
        The file and its row.

    Raises:
        DataError: If the name is unknown, the file cannot be fetched, or it is not the one that
            the row describes.
    """
    row = zoo_row(name)
    file = row.path
    if file.is_file():
        check_sums(file, row)
    elif row.url is None:
        raise DataError(
            f"The weights of {row.name} are no longer at {file}; move them back, or add the run "
            "again from where it is now with erssl zoo add <run directory> overwrite=true."
        )
    else:
        download(row, file)
    return file, row


def own_zoo() -> Path:
    """The file with the user's own rows; it need not exist."""
    return erssl_home() / "zoo.yaml"


def add_row(name: str, fields: Mapping[str, Any], overwrite: bool = False) -> ZooRow:
    """Add a row to the user's own.

    Args:
        name: Letters, digits, ``.``, ``_`` and ``-``.
        fields: What stands in the file, plain values under the names that :class:`ZooRow` has.
        overwrite: Replace a row of that name.

    Returns:
        The row as it will be read.

    Raises:
        ConfigError: If the name cannot be used or is taken.
        DataError: If the user's file cannot be read, or a field does not fit.
    """
    check_name(name)
    rows = _own_rows()
    taken = zoo_rows()
    if name in _names(taken) and name not in rows:
        raise ConfigError(f"name={name} is a name of the built-in zoo; choose another name.")
    if name in rows and not overwrite:
        raise ConfigError(
            f"name={name} is already in {own_zoo()}; replace it with overwrite=true, or choose "
            "another name."
        )
    row = read_row(name, dict(fields), str(own_zoo()), own=True)
    _write({"rows": {**rows, name: dict(fields)}})
    return row


def _names(rows: Mapping[str, ZooRow]) -> dict[str, ZooRow]:
    """Rows by every name that they have."""
    return {name: row for row in rows.values() for name in (row.name, *row.aliases)}


def _own_rows() -> dict[str, Any]:
    file = own_zoo()
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(read_yaml_text(file)) or {}
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise DataError(
            f"{file} is not valid YAML ({one_line(error)}); repair or delete it."
        ) from error
    if not isinstance(content, dict) or set(content) - set(_PARTS):
        raise DataError(
            f"{file} must have its rows under the key rows, as the built-in zoo.yaml has them; "
            "repair or delete it."
        )
    rows = content.get("rows") or {}
    if not isinstance(rows, dict):
        raise DataError(f"The rows of {file} must be a mapping of names; repair or delete it.")
    return rows


def _write(content: Mapping[str, Any]) -> None:
    file = own_zoo()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))
