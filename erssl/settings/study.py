"""The settings of ``erssl study``: its own keys, and the overrides that all its runs get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erssl.errors import ConfigError
from erssl.limits import check_least, check_processes
from erssl.paths import user_path
from erssl.run.plots import Plots
from erssl.settings.compose import compose_config, schema_from

_OF_THE_STORE = ("run_dir", "resume", "overwrite")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """``configs/study.yaml``."""

    study: str | None
    scale: str | None
    store: str
    output: str | None
    seeds: list[int] | None
    plots: Plots
    jobs: int | None
    only: int | None
    dry_run: bool
    retry: bool

    def __post_init__(self) -> None:
        """Refuse values that make no study."""
        check_least(vars(self), {"jobs": 1, "only": 0})
        check_processes("jobs", self.jobs or 0)
        if self.seeds is not None:
            check_seeds(self.seeds)

    @property
    def folder(self) -> Path:
        """Where the page goes."""
        name = Path(str(self.study)).stem
        return user_path(self.output or f"runs/study-{name}-{self.scale}")


def check_seeds(seeds: object) -> tuple[int, ...]:
    """Refuse seeds that are no list of different whole numbers of at least 0.

    Raises:
        ConfigError: If they are not.
    """
    given = tuple(seeds) if isinstance(seeds, (list, tuple)) else ()
    whole = bool(given) and all(type(seed) is int for seed in given)
    if not whole or min(given) < 0 or len(set(given)) < len(given):
        raise ConfigError(f"seeds={seeds} must be different whole numbers of at least 0.")
    return given


def read_study_settings(overrides: Sequence[str]) -> tuple[StudySettings, list[str]]:
    """Settings of ``erssl study``, and the overrides of all its runs.

    Args:
        overrides: The name of a study, keys of ``configs/study.yaml``, and any key of
            ``erssl pretrain``.

    Raises:
        ConfigError: If no study is named or several are, or a value makes no study.
    """
    schema = schema_from(StudySettings)
    own: list[str] = []
    further: list[str] = []
    for override in overrides:
        key, sign, _ = override.partition("=")
        if not sign:
            own.append(f"study={override}")
        else:
            (own if key in schema else further).append(override)
    if of_the_store := [o for o in further if o.partition("=")[0] in _OF_THE_STORE]:
        raise ConfigError(
            f"{of_the_store[0]} is for erssl pretrain; a study says itself where its runs lie and "
            "which go on. Leave it out."
        )
    named = [override for override in own if override.startswith("study=")]
    if len(named) > 1:
        raise ConfigError("erssl study runs one study at a time; name one.")
    config = compose_config("study", own, lambda _: schema, groups={})
    return StudySettings(**config), further
