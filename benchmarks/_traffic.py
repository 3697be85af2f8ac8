"""Bytes that a step of each method hands to collectives, by a formula and counted."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from erssl.methods import get_method
from erssl.recipes import read_recipe

Bytes = Counter[str]
PAPER = {"world": 32, "rows": 128}  # MVEB: a batch of 4096 on 32 devices
SCORE_ROWS = 128  # of method=mveb
# Where among a function's arguments that stands which a rank hands over
HANDED_OVER = {"all_gather": 1, "all_reduce": 0, "all_to_all_single": 1, "broadcast": 0}
SIDE = 8  # of the images that are counted with


@dataclass(frozen=True)
class Step:
    """What the bytes of a step depend on.

    Attributes:
        world: Ranks W.
        rows: Images of a rank, n.
        views: Views V.
        dim: Dimension d of the embedding.
        outcomes: Outcomes K: prototypes, or the classes of all heads together.
        clusterings: Of DeepCluster.
        side: Height and width of an image.
        iterations: Of Sinkhorn.
    """

    world: int
    rows: int
    views: int
    dim: int
    outcomes: int = 0
    clusterings: int = 1
    side: int = SIDE
    iterations: int = 3

    def gathered(self, numbers: int) -> Bytes:
        """Gathering with gradient: forward what a rank has, backward the sum of everything."""
        return Counter(all_gather=4 * numbers, all_reduce=4 * numbers * self.world)


def times(count: int, bytes_: Bytes) -> Bytes:
    return Counter({kind: count * number for kind, number in bytes_.items()})


def er(s: Step) -> Bytes:
    of_view = s.gathered(s.rows * s.dim) + s.gathered(s.rows) + s.gathered(1)
    return times(s.views, of_view)


def shared_er(s: Step) -> Bytes:
    """Two views that are each other's target have one alignment; with local views each has one."""
    entropies = times(s.views, s.gathered(s.rows * s.dim) + s.gathered(s.rows))
    return entropies + times(1 if s.views == 2 else s.views, s.gathered(1))


def discrete(s: Step) -> Bytes:
    return times(s.views, s.gathered(s.outcomes) + s.gathered(1))


def mveb(s: Step) -> Bytes:
    """128 rows a score: of fewer rows one group, of a multiple on each rank nothing is sent."""
    if s.rows % SCORE_ROWS == 0:
        return times(2, s.gathered(1))
    rows = 4 * s.rows * s.dim * max(s.world, s.views)
    scores = 4 * s.rows * s.dim * s.views
    return Counter(all_to_all_single=rows + scores) + times(2, s.gathered(1))


def centre(s: Step) -> Bytes:
    """The sum of outputs, and of how many rows."""
    return Counter(all_reduce=4 * (s.outcomes + 1))


def both_views(s: Step) -> Bytes:
    return times(2, s.gathered(s.rows * s.dim))


def rows(count: int) -> Callable[[Step], Bytes]:
    return lambda s: Counter(all_gather=4 * count * s.rows * s.dim)


def moco(s: Step) -> Bytes:
    images = 4 * s.rows * 3 * s.side**2  # shuffled over devices before the key's branch
    return rows(2)(s) + Counter(all_gather=images, broadcast=8 * s.world * s.rows)


FORMULAS: dict[str, Callable[[Step], Bytes]] = {
    "mveb": mveb,
    "mvib": lambda s: both_views(s) + times(2, s.gathered(1)),
    "simclr_er": shared_er,
    "byol_er": er,
    "entrec": shared_er,
    "dino_er": lambda s: discrete(s) + centre(s),
    "swav_er": discrete,
    "deepcluster_er": lambda s: times(s.clusterings, discrete(s)) + rows(1)(s),
    "simclr": both_views,
    "cmc": both_views,
    "mocov2": moco,
    "infomin": moco,
    "mocov3": rows(2),
    "unigrad": rows(2),
    "barlowtwins": both_views,
    "vicreg": both_views,
    "self_classifier": lambda s: times(s.views, s.gathered(s.rows * s.outcomes)),
    "dino": centre,
    "swav": lambda s: times(2, Counter(all_reduce=4 + 4 * s.iterations * s.outcomes)),
    "deepclusterv2": rows(1),
    "byol": lambda s: Counter(),
    "simsiam": lambda s: Counter(),
}


def small_options(name: str) -> dict[str, Any]:
    """What makes a method small enough to count with."""
    return read_recipe(name).small_options


class Backbone(nn.Module):
    """Means of colours, weighted: the loss is what is measured."""

    feature_dim = 3

    def __init__(self) -> None:
        """Begin with weights of 1."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 3)."""
        return self.weight * images.mean(dim=(2, 3))


def measured_step(name: str, views: int) -> Bytes:
    """Bytes that one step of a method hands to each of torch.distributed's functions."""
    torch.manual_seed(dist.get_rank())
    method = get_method(name)(
        4,
        2,
        backbone=Backbone(),
        **small_options(name),
    )
    counted: Bytes = Counter()
    originals = {kind: getattr(dist, kind) for kind in HANDED_OVER}

    def counting(kind: str) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            handed = args[HANDED_OVER[kind]]
            counted[kind] += handed.numel() * handed.element_size()
            return originals[kind](*args, **kwargs)

        return count

    for kind in originals:
        setattr(dist, kind, counting(kind))
    method.multi_view_step([torch.randn(4, 3, SIDE, SIDE) for _ in range(views)]).loss.backward()
    for kind, original in originals.items():
        setattr(dist, kind, original)
    return counted


def step_of(
    name: str, options: dict[str, Any], world: int, rows: int, views: int = 2, side: int = SIDE
) -> Step:
    """The step of a method with its default options but for ``options``."""
    known: dict[str, Any] = {}
    for parent in reversed(get_method(name).__mro__):  # options that a sub-class hands on
        parameters = inspect.signature(parent.__init__).parameters
        known |= {key: each.default for key, each in parameters.items()}
    known |= options
    outcomes = sum(known.get("classes_per_head", ())) or known.get("num_prototypes", 0)
    clusterings = known.get("num_clusterings", 1)
    return Step(world, rows, views, known["projection_dim"], outcomes, clusterings, side)


def at_the_papers_size() -> list[dict[str, Any]]:
    """Formulas at MVEB's batch and each method's own dimensions, two views of 224 pixels."""
    rows = []
    for name, formula in FORMULAS.items():
        step = step_of(name, {}, **PAPER, side=224)
        bytes_ = formula(step)
        setting = {"method": name, "dim": step.dim, "outcomes": step.outcomes, **PAPER}
        ring = received(bytes_, step.world)
        rows.append({**setting, "bytes": dict(bytes_), "received_by_a_ring": ring})
    return rows


def received(bytes_: Bytes, world: int) -> int:
    """Bytes that reach a rank where collectives go round a ring."""
    share = (world - 1) / world
    factor = {"all_gather": world - 1, "all_reduce": 2 * share, "all_to_all_single": share}
    return round(sum(number * factor.get(kind, 1) for kind, number in bytes_.items()))
