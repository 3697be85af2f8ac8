"""The grid of a study: axes, the product of their options, and what is left out of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from erssl.data.places import is_place
from erssl.errors import ConfigError
from erssl.layers import flat
from erssl.settings.compose import override_value
from erssl.settings.resume import may_change

DATA = "data"  # which images, and the group of their settings
Overrides = dict[str, Any]


@dataclass(frozen=True)
class Axis:
    """One direction of a grid.

    Attributes:
        name: What varies along it.
        options: Overrides of each option by its label, in order.
    """

    name: str
    options: Mapping[str, Overrides]


@dataclass(frozen=True)
class Cell:
    """One place of a grid and one seed: one pretraining.

    Attributes:
        labels: Its option of each axis.
        seed: Its seed.
        overrides: All that is said to ``erssl pretrain``, but where the run lies.
    """

    labels: tuple[str, ...]
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The options and the seed, as a message has them."""
        return ", ".join([*self.labels, f"seed {self.seed}"])


@dataclass(frozen=True)
class Grid:
    """The runs of a study at one scale.

    Attributes:
        axes: What varies between them.
        cells: The runs, those of the first seed first.
        changed: Overrides of all of them that are not those of the scale's description.
        given: Those of them that the user has given.
    """

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    changed: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    def with_given(self, further: Sequence[str]) -> Grid:
        """The same runs, of which more is said on the page."""
        return replace(self, changed=(*self.changed, *further), given=(*self.given, *further))

    @property
    def that_counts(self) -> set[str]:
        """What the user has given, but for where images lie and how a run works."""
        keys = {override: override.partition("=")[0] for override in self.given}
        return {o for o, key in keys.items() if not (is_place(key) or may_change(key))}


def read_axes(said: Mapping[str, Any], study: str) -> tuple[Axis, ...]:
    """The axes that a file says.

    Raises:
        ConfigError: If one has no options, or a label twice.
    """
    axes = []
    for name, options in said.items():
        if not isinstance(options, Mapping) or not options:
            raise ConfigError(f"The axis {name} of the study {study} maps no label to overrides.")
        if len({str(label) for label in options}) < len(options):
            raise ConfigError(f"The axis {name} of the study {study} has a label twice.")
        axes.append(Axis(str(name), {str(k): dict(v or {}) for k, v in options.items()}))
    return tuple(axes)


def read_skip(said: Any) -> tuple[tuple[str, ...], ...]:
    """The rules of ``skip``; anything but a list of lists is refused with a ConfigError."""
    rules = said or ()
    if not isinstance(rules, list | tuple) or not all(isinstance(r, list | tuple) for r in rules):
        raise ConfigError(f"skip is a list of lists of labels and not {said!r}.")
    return tuple(tuple(map(str, rule)) for rule in rules)


def product(
    axes: Sequence[Axis], shared: Overrides, given: Overrides
) -> Iterator[tuple[tuple[str, ...], Overrides]]:
    """Labels and overrides of every cell; what the user has given is the strongest.

    An option that names images of its own (``data``) takes no images of the scale or the user.
    """
    for options in itertools.product(*(axis.options.items() for axis in axes)):
        own: Overrides = {}
        for _, overrides in options:
            own |= overrides
        below, above = (
            {k: v for k, v in each.items() if not (DATA in own and _is_of_images(k))}
            for each in (shared, given)
        )
        yield tuple(label for label, _ in options), {**below, **own, **above}


def _is_of_images(key: str) -> bool:
    return key.partition(".")[0] == DATA


def fixed(option: Overrides) -> Overrides:
    """Of an option what nobody may give for all runs."""
    return {k: v for k, v in option.items() if not (DATA in option and _is_of_images(k))}


def keys_of(overrides: Mapping[str, Any]) -> set[str]:
    """The dotted keys that are set, those inside of a mapping or a text such as ``{a: 1}`` too."""
    read = {
        key: override_value(key, value, text=False)
        if isinstance(value, str) and value.startswith("{")
        else value
        for key, value in overrides.items()
    }
    return set(flat(read))


def places_of(rule: Sequence[str], axes: Sequence[Axis], study: str) -> dict[int, str]:
    """Which option of which axis a rule such as ``[SimCLR, EMA 0.8]`` names.

    Labels may come in any order; one that several axes have is of the first that is not named yet.

    Raises:
        ConfigError: If no axis is left that has a label.
    """
    named: dict[int, str] = {}
    for label in rule:
        free = [at for at, axis in enumerate(axes) if label in axis.options and at not in named]
        if not free:
            raise ConfigError(f"skip of the study {study} names {label!r}, which no axis has.")
        named[free[0]] = label
    return named
