"""A study as its YAML file says it: a question, published numbers, and a grid of pretrainings.

A file of ``configs/study`` holds ``question``, ``source``, ``axes`` and ``scales``; ``reads:
store`` in place of axes makes it a study of the runs that a store holds. It may hold ``overrides``
of all its runs, ``metrics``, ``published``, ``skip``, ``notes`` and ``transfer``, overrides of
``erssl transfer`` for each finished run. Where ``metrics`` names ``linear_top1``, it is measured
of finished runs that lack it. An axis maps the label of each of its options to overrides of
``erssl pretrain``; the grid is the product of the axes. An option that says ``data`` has images of
its own, and takes no setting of images from the scale or the user. A scale may replace axes and
overrides by its own. What all studies have in common at a scale (images, network, length) is
``configs/study/scale/SCALE.yaml``, so that they share runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erssl.errors import ConfigError
from erssl.paths import user_path
from erssl.settings.arguments import overrides_of
from erssl.settings.study import check_seeds
from erssl.studies.grid import (
    Axis,
    Cell,
    Grid,
    Overrides,
    fixed,
    keys_of,
    places_of,
    product,
    read_axes,
    read_skip,
)
from erssl.studies.published import Published, read_published
from erssl.studies.study_files import available_studies, check_keys, read_file, study_folder

_KEYS = {"question", "source", "axes", "scales", "overrides", "metrics", "published", "skip"}
_KEYS |= {"notes", "reads", "transfer"}
_SCALE_KEYS = {"about", "overrides", "seeds"}
_OWN_SCALE_KEYS = {"about", "overrides", "seeds", "axes", "skip"}
LINEAR = "linear_top1"
METRICS = ("knn_top1", LINEAR, "train_nats_below_uniform", "train_alignment")

DEFAULT_SCALE = "tiny"


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
    linear: bool = False  # ask it of every run, also of one that ended without it

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
        axes = read_axes(own["axes"], self.name) if own.get("axes") else self.axes
        skip = [places_of(rule, axes, self.name) for rule in read_skip(own.get("skip", self.skip))]
        given = dict(override.partition("=")[::2] for override in further)
        options = [option for axis in axes for option in axis.options.values()]
        varied = {"seed"}.union(*(keys_of(fixed(option)) for option in options))
        if clash := sorted(keys_of(given) & varied):
            raise ConfigError(
                f"{clash[0]} varies between the runs of the study {self.name}; leave it out, or "
                "write a study of your own."
            )
        cells = [
            Cell(labels, seed, tuple(overrides_of({"seed": seed, **overrides})))
            for seed in seeds or scale.seeds
            for labels, overrides in product(axes, scale.overrides, given)
            if not any(all(labels[at] == label for at, label in rule.items()) for rule in skip)
        ]
        if not cells:
            raise ConfigError(f"The study {self.name} has no run at scale {scale.name}.")
        return Grid(axes, tuple(cells), (*scale.changed, *further), tuple(further))


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
        axes=read_axes(said.get("axes") or {}, name),
        scales=scales,
        metrics=_texts(said, "metrics") or METRICS,
        published=tuple(read_published(t, about, scales) for t in said.get("published") or ()),
        skip=read_skip(said.get("skip")),
        notes=tuple(" ".join(note.split()) for note in _texts(said, "notes")),
        reads_store=reads is not None,
        transfer=dict(said["transfer"]) if said.get("transfer") else None,
        linear=LINEAR in _texts(said, "metrics"),
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
