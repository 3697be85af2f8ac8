"""A table of a paper, as the file of a study gives it: its numbers, and what they are beside.

``columns`` maps the name of each column to its place in our grid: ``{option: X}`` is the option X
of the last axis, ``{drop: X, from: Y}`` its value at Y minus that at X, ``{change: X, from: Y}``
the other way round, ``{}`` the row alone (a study of one axis) and ``{reason: text}`` nothing of
ours. ``{row}`` in an option stands for the label of the row, where one axis of ours holds rows and
columns. A list of such places compares a column with each. Rows are ours of equal label;
``labels`` maps what is said of rows and options to our labels at a scale that has others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from erssl.errors import ConfigError
from erssl.studies.study_files import check_keys

ROW = "{row}"
_KEYS = {"title", "source", "metric", "columns", "rows", "labels"}
_KINDS = ("option", "drop", "change")
_PLACE_KEYS = {*_KINDS, "from", "reason"}


@dataclass(frozen=True)
class Place:
    """What of ours a column of a paper is beside.

    Attributes:
        kind: ``option`` for a value, ``drop`` from the base to the option, ``change`` to it.
        option: Label of our last axis, or one that holds ``{row}``.
        base: The option that a drop or a change begins at.
    """

    kind: str
    option: str
    base: str | None = None

    @property
    def head(self) -> str:
        """Its name over a column of ours."""
        if self.option == ROW:
            return "here"
        option, base = (str(label).replace(ROW, "…") for label in (self.option, self.base))
        if self.kind == "option":
            return f"here: {option}"
        return f"here: {base} − {option}" if self.kind == "drop" else f"here: {option} − {base}"


@dataclass(frozen=True)
class Column:
    """A column of a paper's table.

    Attributes:
        name: Its heading.
        places: What of ours it is beside.
        reason: Why it is beside nothing.
    """

    name: str
    places: tuple[Place, ...]
    reason: str = ""


@dataclass(frozen=True)
class Published:
    """A table of a paper.

    Attributes:
        title: What it shows.
        source: Paper and table.
        metric: What it measures, by the name of our metric.
        columns: Its columns.
        rows: Values of each row by its label, in the unit of our tables; ``None`` where the paper
            has none.
        labels: Our labels by the paper's, at the scales that have others than the paper.
    """

    title: str
    source: str
    metric: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def label(self, label: str, scale: str) -> str:
        """Our label of a row or an option of the paper, at a scale."""
        return self.labels.get(scale, {}).get(label, label)

    def place(self, place: Place, scale: str) -> Place:
        """A place by the labels of a scale."""
        base = None if place.base is None else self.label(place.base, scale)
        return Place(place.kind, self.label(place.option, scale), base)

    def cells(self, place: Place, row: str, scale: str) -> tuple[tuple[str, ...], ...]:
        """Labels of our cells that a place takes for a row of the paper, the base last."""
        options = (place.option,) if place.base is None else (place.option, place.base)
        return tuple(
            (self.label(option.replace(ROW, row), scale),)
            if ROW in option
            else (self.label(row, scale), self.label(option, scale))
            for option in options
        )


def read_published(said: Mapping[str, Any], about: str, scales: Collection[str]) -> Published:
    """Read a table from the ``published`` of a study.

    Args:
        said: Its keys.
        about: The study, as a message names it.
        scales: Names of its scales.

    Raises:
        ConfigError: If its columns say no place in our grid, a row lacks a value, or a scale is
            none.
    """
    check_keys(said, _KEYS, f"{about}, published,")
    title = str(said["title"])
    about = f"{about}, published {title!r},"
    rows = {
        str(label): tuple(None if value is None else float(value) for value in values)
        for label, values in said["rows"].items()
    }
    if not isinstance(said["columns"], Mapping):
        raise ConfigError(
            f"{about} must map each of its columns to what of ours it is beside, such as "
            "{option: a label of the last axis} or {} for the row itself."
        )
    columns = tuple(_column(str(k), v, about) for k, v in said["columns"].items())
    if not columns or not rows:
        raise ConfigError(f"{about} needs columns and rows.")
    for label, values in rows.items():
        if len(values) != len(columns):
            raise ConfigError(
                f"{about} has {len(columns)} columns and the row {label} {len(values)} values; "
                "write null where the paper has none."
            )
    labels = {
        str(scale): {str(theirs): str(ours) for theirs, ours in mapping.items()}
        for scale, mapping in (said.get("labels") or {}).items()
    }
    if unknown := sorted(set(labels) - set(scales)):
        raise ConfigError(
            f"{about} has labels of the scale {unknown[0]}; the study has {', '.join(scales)}."
        )
    return Published(title, str(said["source"]), str(said["metric"]), columns, rows, labels)


def _column(name: str, said: Any, about: str) -> Column:
    about = f"{about} column {name},"
    places = [each or {} for each in (said if isinstance(said, list) else [said])]
    if not all(isinstance(each, Mapping) for each in places):
        raise ConfigError(f"{about} is no place of ours; write {{option: label}} or another.")
    for each in places:
        check_keys(each, _PLACE_KEYS, about)
    if reasons := [str(each["reason"]) for each in places if "reason" in each]:
        if len(places) > 1 or len(places[0]) > 1:
            raise ConfigError(f"{about} has both a place and a reason for none.")
        return Column(name, (), reasons[0].rstrip("."))
    return Column(name, tuple(_place(each, about) for each in places))


def _place(said: Mapping[str, Any], about: str) -> Place:
    kinds = [kind for kind in _KINDS if kind in said]
    if not kinds and not said:
        return Place("option", ROW)
    if len(kinds) != 1 or (kinds[0] == "option") == ("from" in said):
        raise ConfigError(
            f"{about} must say option, or drop or change with the option that it is from; it says "
            f"{', '.join(map(str, said))}."
        )
    base = str(said["from"]) if "from" in said else None
    return Place(kinds[0], str(said[kinds[0]]), base)
