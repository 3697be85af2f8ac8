"""Several sets of weights in one file: which was taken, how to take another, what to offer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from erssl.errors import DataError
from erssl.models.architectures import architecture_label, infer_architecture
from erssl.models.layouts import BackboneWeights, whole_sets
from erssl.models.state_dicts import at, named_tensors, place_name, places, under

_STEMS = ("conv1.weight", "patch_embed.proj.weight")  # whose shapes tell an architecture
_OFFERED = 3


def other_sets(
    content: Mapping[str, Any], extracted: BackboneWeights
) -> tuple[str, tuple[str, ...]]:
    """Which of several whole sets of weights was taken, and what takes each of the others.

    Args:
        content: What the file holds.
        extracted: The set that was taken.

    Returns:
        A phrase such as ``prefix=backbone. in state_dict``, and the arguments that take each
        other set; nothing where there is no other.
    """
    rule = extracted.layout
    own = under(extracted.named, rule.prefix)
    wanted = {name: tensor for name, tensor in own.items() if not name.startswith(rule.heads)}
    if not wanted:
        return "", ()
    here = (extracted.place, rule.prefix)
    others = [each for each in whole_sets(content, wanted) if each != here]
    several_places = any(place != extracted.place for place, _ in others)
    several_prefixes = any(prefix != rule.prefix for _, prefix in others)
    arguments = [
        _argument(place, prefix, place != extracted.place, prefix != rule.prefix)
        for place, prefix in others
    ]
    taken = _argument(extracted.place, rule.prefix, several_places, several_prefixes)
    return taken, tuple(arguments)


def offer(content: Mapping[str, Any], planned: Mapping[str, Tensor] | None) -> str:
    """What ``prefix=`` would take from a file in which no rule knows the backbone, as a sentence.

    Args:
        content: What the file holds.
        planned: Weights of the architecture, where it is known.
    """
    offers: list[str] = []
    for place in places(content):
        try:
            named = named_tensors(at(content, place))
        except DataError:  # some other container, with names twice
            continue
        for stem in _STEMS if planned is None else (next(iter(planned)),):
            for prefix in [n.removesuffix(stem) for n in named if n.endswith(f".{stem}")]:
                what = _whole(under(named, prefix), planned)
                if what:
                    several = sum(1 for _ in places(content)) > 1
                    offers.append(f"{_argument(place, prefix, several, True)} ({what})")
    if not offers:
        return ""
    more = f" and {len(offers) - _OFFERED} more" if len(offers) > _OFFERED else ""
    return f"a whole backbone is read with {', or '.join(offers[:_OFFERED])}{more}"


def _whole(state: Mapping[str, Tensor], planned: Mapping[str, Tensor] | None) -> str:
    """Name the architecture that weights are a whole backbone of; empty where they are not.

    Shapes tell an architecture by the blocks that are there; that is taken for whole.
    """
    if planned is not None:
        whole = all(n in state and state[n].shape == t.shape for n, t in planned.items())
        return "of this architecture" if whole else ""
    try:
        options = infer_architecture(state)
    except (ValueError, LookupError, TypeError):  # names alike, of something else
        return ""
    return "" if options is None else architecture_label(options)


def _argument(place: tuple[str, ...], prefix: str, with_place: bool, with_prefix: bool) -> str:
    parts = [f"weights={place_name(place)}"] if with_place else []
    parts += ["prefix=" + (prefix.rstrip(".") or "''")] if with_prefix else []
    return " ".join(parts) or f"weights={place_name(place)}"
