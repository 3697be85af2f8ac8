"""What was read from a checkpoint, in numbers and in a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

PREPROCESSING = "preprocessing "  # how an assumption about images begins


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What was found in a checkpoint.

    Attributes:
        layout: Name of the rule by which the backbone was found.
        matched: Number of backbone weights that were read.
        missing: Names that the backbone has and the file has not, or in another shape.
        unexpected: Names of backbone weights in the file that the backbone has no place for.
        heads: Number of weights of heads, which are left out.
        place: Keys that lead to the state dict in the file.
        taken: Which of several sets of weights this is; empty where there is one.
        others: What to say to take each of the other sets.
        assumed: What neither the file nor the zoo says, with the values that were taken.
    """

    layout: str
    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    heads: int
    place: tuple[str, ...] = ()
    taken: str = ""
    others: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    @property
    def counts(self) -> str:
        """The counts alone."""
        return (
            f"{self.matched} backbone weights matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected ({self.layout} layout, {self.heads} of heads left "
            "out)"
        )

    @property
    def assumed_of_network(self) -> tuple[str, ...]:
        """What is assumed of the network itself, and not of how images are prepared."""
        return tuple(each for each in self.assumed if not each.startswith(PREPROCESSING))

    def where_said(self, known: Mapping[str, Any], said: Iterable[str]) -> LoadReport:
        """The report once a user has said how images are prepared; the rest stays assumed.

        Args:
            known: How they are prepared by the checkpoint, or by what was assumed.
            said: Keys of what the user has said.
        """
        assumed = list(self.assumed_of_network)
        rest = {key: known[key] for key in known if key not in {*said, "channels"}}
        for each in self.assumed:
            if each.startswith(PREPROCESSING) and rest:
                assumed.append(f"{PREPROCESSING}{listed(rest)} ({each.rpartition(' (')[2]}")
        return dataclasses.replace(self, assumed=tuple(assumed))

    def __str__(self) -> str:
        """One sentence: the counts, which weights these are, and what is assumed."""
        parts = [self.counts]
        if self.others:
            parts.append(
                f"of {len(self.others) + 1} sets of weights this is {self.taken} (another is read "
                f"with {', or '.join(self.others)})"
            )
        if self.assumed:
            parts.append(f"assumed: {'; '.join(self.assumed)}")
        return "; ".join(parts)


def listed(values: Mapping[str, Any]) -> str:
    """Settings and their values in a line, such as ``image_size 224, std [0.5, 0.5, 0.5]``."""
    return ", ".join(f"{key} {_shown(value)}" for key, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_shown(each) for each in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
