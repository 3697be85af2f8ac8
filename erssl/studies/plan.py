"""A study as its YAML file says it: a question, published numbers, and a grid of pretrainings.

A file of ``configs/study`` holds ``question``, ``source``, ``axes`` and ``scales``; ``reads:
store`` in place of axes makes it a study of the runs that a store holds. It may hold ``overrides``
of all its runs, ``metrics``, ``published``, ``skip``, ``notes`` and ``transfer``, overrides of
``erssl transfer`` for each finished run. An axis maps the
label of each of its options to overrides of ``erssl pretrain``; the grid is the product of the
axes. An option that says ``data`` has images of its own, and takes no setting of images from the
scale or the user. A scale may replace axes and overrides by its own. What all studies have in
common at a scale (images, network, length) is ``configs/study/scale/SCALE.yaml``, so that they
share runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erssl.errors import ConfigError
from erssl.paths import user_path
from erssl.settings.arguments import overrides_of
from erssl.settings.compose import override_value
from erssl.settings.study import check_seeds
from erssl.studies.published import Published, read_published
from erssl.studies.study_files import available_studies, check_keys, read_file, study_folder

_KEYS = {"question", "source", "axes", "scales", "overrides", "metrics", "published", "skip"}
_KEYS |= {"notes", "reads", "transfer"}
_SCALE_KEYS = {"about", "overrides", "seeds"}
_OWN_SCALE_KEYS = {"about", "overrides", "seeds", "axes", "skip"}
METRICS = ("knn_top1", "linear_top1", "train_nats_below_uniform", "train_alignment")

DEFAULT_SCALE = "tiny"
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
class Scale:
    """How large the runs of a study are.

    Attributes:
        name: ``tiny``, ``cifar``, ``imagenet``.
        about: One sentence: images, network, length.
        changed: What the study sets against that sentence, where it has none of its own.
        overrides: Of all runs.
        seeds: Of each cell.
    """

    name: str
    about: str
    changed: tuple[str, ...]
    overrides: Overrides
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """The runs of a study at one scale.

    Attributes:
        axes: What varies between them.
        cells: The runs, those of the first seed first.
        changed: Overrides of all of them that are not those of the scale's description.
    """

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A question and how it is answered; see the module."""

    name: str
    question: str
    source: str
    overrides: Overrides
    axes: tuple[Axis, ...]
    scales: Mapping[str, Mapping[str, Any]]
    metrics: tuple[str, ...]
    published: tuple[Published, ...]
    skip: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    reads_store: bool = False
    transfer: Overrides | None = None

    @property
    def default_scale(self) -> str:
        """The scale that is meant where none is named."""
        return DEFAULT_SCALE if DEFAULT_SCALE in self.scales else next(iter(self.scales))

    def scale(self, name: str) -> Scale:
        """What holds for all runs at a scale, the study's own word last.

        Raises:
            ConfigError: If the study has no such scale.
        """
        if name not in self.scales:
            raise ConfigError(
                f"The study {self.name} has no scale {name!r}; choose from: "
                f"{', '.join(self.scales)}."
            )
        own = self.scales[name]
        file = study_folder() / "scale" / f"{name}.yaml"
        shared = read_file(file) if file.is_file() else {}
        check_keys(shared, _SCALE_KEYS, f"The scale {name}")
        if not own.get("about") and not shared:
            raise ConfigError(
                f"The scale {name} of the study {self.name} is its own and says nothing about its "
                "runs; add about: <images, network, length>, and overrides."
            )
        seeds = check_seeds(own.get("seeds", shared.get("seeds", [0])))
        mine = {**self.overrides, **(own.get("overrides") or {})}
        changed = () if own.get("about") else tuple(overrides_of(mine))
        about = str(own.get("about") or shared["about"])
        overrides = {**shared.get("overrides", {}), **mine}
        return Scale(name, about, changed, overrides, seeds)

    def grid(self, scale: Scale, further: Sequence[str] = (), seeds: Sequence[int] = ()) -> Grid:
        """Every run at a scale, those of the first seed first.

        Args:
            scale: The scale.
            further: Overrides of all runs that the user adds, the strongest.
            seeds: In place of the scale's.

        Raises:
            ConfigError: If an override of the user sets what varies between the runs.
        """
        own = self.scales[scale.name]
        axes = _axes(own["axes"], self.name) if own.get("axes") else self.axes
        skip = [_places(rule, axes, self.name) for rule in _skip(own.get("skip", self.skip))]
        given = dict(override.partition("=")[::2] for override in further)
        options = [option for axis in axes for option in axis.options.values()]
        varied = {key for option in options for key in _leaves(_fixed(option))} | {"seed"}
        if clash := sorted(set(_leaves(given)) & varied):
            raise ConfigError(
                f"{clash[0]} varies between the runs of the study {self.name}; leave it out, or "
                "write a study of your own."
            )
        cells = [
            Cell(labels, seed, tuple(overrides_of({"seed": seed, **overrides})))
            for seed in seeds or scale.seeds
            for labels, overrides in _product(axes, scale.overrides, given)
            if not any(all(labels[at] == label for at, label in rule.items()) for rule in skip)
        ]
        if not cells:
            raise ConfigError(f"The study {self.name} has no run at scale {scale.name}.")
        return Grid(axes, tuple(cells), (*scale.changed, *further))


def read_study(name: str) -> Study:
    """Read a study by its name, or from a YAML file of your own by its path.

    Raises:
        ConfigError: If there is no such study, or its file does not say what a study needs.
    """
    own = user_path(name)
    if name.endswith((".yaml", ".yml")):
        file = own
    elif name in available_studies():
        file = study_folder() / f"{name}.yaml"
    else:
        from erssl.settings.hints import nearest

        raise ConfigError(
            f"There is no study {name!r}; {nearest(name, available_studies())} Or give the path "
            "of a YAML file."
        )
    said = read_file(file)
    about = f"The study {file}" if file == own else f"The study {name}"
    check_keys(said, _KEYS, about)
    try:
        return _study(file.stem, said, about)
    except ConfigError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # of another shape
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{about} is not written as a study is ({reason}).") from error


def _study(name: str, said: Mapping[str, Any], about: str) -> Study:
    missing = [key for key in ("question", "scales") if not said.get(key)]
    scales = {str(k): dict(v or {}) for k, v in dict(said.get("scales") or {}).items()}
    reads = said.get("reads")
    if reads not in (None, "store"):
        raise ConfigError(f"{about} reads {reads!r}; a study reads the store, or has axes.")
    if not reads and not said.get("axes") and not all(own.get("axes") for own in scales.values()):
        missing.append("axes")
    if missing:
        raise ConfigError(f"{about} says nothing of {', '.join(missing)}.")
    for scale, own_scale in scales.items():
        check_keys(own_scale, _OWN_SCALE_KEYS, f"{about}, scale {scale},")
    study = Study(
        name=name,
        question=" ".join(str(said["question"]).split()),
        source=str(said.get("source", "")),
        overrides=dict(said.get("overrides") or {}),
        axes=_axes(said.get("axes") or {}, name),
        scales=scales,
        metrics=_texts(said, "metrics") or METRICS,
        published=tuple(read_published(table, about) for table in said.get("published") or ()),
        skip=_skip(said.get("skip")),
        notes=tuple(" ".join(note.split()) for note in _texts(said, "notes")),
        reads_store=reads is not None,
        transfer=dict(said["transfer"]) if said.get("transfer") else None,
    )
    if not reads:
        for scale, own_scale in scales.items():  # what a scale says of its own is read with it
            check_seeds(own_scale.get("seeds", [0]))
            study.grid(Scale(scale, "", (), dict(own_scale.get("overrides") or {}), (0,)))
    return study


def _texts(said: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts; anything else is refused with a ConfigError."""
    texts = said.get(key) or ()
    if not isinstance(texts, list | tuple) or not all(isinstance(each, str) for each in texts):
        raise ConfigError(f"{key} is a list of texts and not {texts!r}.")
    return tuple(texts)


def _skip(said: Any) -> tuple[tuple[str, ...], ...]:
    """The rules of ``skip``; anything but a list of lists is refused with a ConfigError."""
    rules = said or ()
    if not isinstance(rules, list | tuple) or not all(isinstance(r, list | tuple) for r in rules):
        raise ConfigError(f"skip is a list of lists of labels and not {said!r}.")
    return tuple(tuple(map(str, rule)) for rule in rules)


def _axes(said: Mapping[str, Any], study: str) -> tuple[Axis, ...]:
    axes = []
    for name, options in said.items():
        if not isinstance(options, Mapping) or not options:
            raise ConfigError(f"The axis {name} of the study {study} maps no label to overrides.")
        if len({str(label) for label in options}) < len(options):
            raise ConfigError(f"The axis {name} of the study {study} has a label twice.")
        axes.append(Axis(str(name), {str(k): dict(v or {}) for k, v in options.items()}))
    return tuple(axes)


def _product(
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


def _fixed(option: Overrides) -> Overrides:
    """Of an option what nobody may give for all runs."""
    return {k: v for k, v in option.items() if not (DATA in option and _is_of_images(k))}


def _leaves(overrides: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys that are set, those inside of a mapping or a text such as ``{a: 1}`` too."""
    for key, value in overrides.items():
        inner = value
        if isinstance(value, str) and value.startswith("{"):
            inner = override_value(key, value, text=False)
        if isinstance(inner, Mapping):
            yield from _leaves({f"{key}.{name}": each for name, each in inner.items()})
        else:
            yield key


def _places(rule: Sequence[str], axes: Sequence[Axis], study: str) -> dict[int, str]:
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
