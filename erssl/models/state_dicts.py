"""State dicts inside a file: where they are, and their names without those of wrappers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from erssl.errors import DataError

#: What wrappers put into names: DistributedDataParallel and AveragedModel, torch.compile, FSDP,
#: activation checkpointing, and DeepSpeed or Lightning's Fabric. Of timm's networks iFormer alone
#: has a part of these names itself, and gets it back from the names of the network.
WRAPPERS = frozenset(
    {
        "module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
    }
)
_COUNT = "n_averaged"  # of torch's AveragedModel, which is no weight
_DEPTH = 6  # of containers in a file; vissl's have four


def unwrapped(name: str) -> str:
    """A weight's name without the parts that wrappers have put there, in any order and depth."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def named_tensors(node: Any) -> dict[str, Tensor]:
    """Tensors that a container holds itself, without wrappers' names; empty where it holds none.

    Raises:
        DataError: If a name is there twice, with and without a wrapper.
    """
    if not isinstance(node, Mapping):
        return {}
    tensors = {
        name: tensor
        for name, tensor in node.items()
        if isinstance(name, str) and isinstance(tensor, Tensor) and not _is_count(name)
    }
    named = {unwrapped(name): tensor for name, tensor in tensors.items()}
    if len(named) < len(tensors):
        raise DataError(
            f"The state dict has {len(tensors) - len(named)} names twice, with and without a "
            "wrapper such as module.; save one of the two."
        )
    return named


def at(content: Mapping[str, Any], place: Sequence[str]) -> Any:
    """What stands under a sequence of keys; ``None`` where there is nothing."""
    node: Any = content
    for key in place:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def places(content: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Keys that lead to each container of tensors in a file, those at the top first."""
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    for _ in range(_DEPTH):
        deeper = []
        for place, node in level:
            if any(isinstance(v, Tensor) and isinstance(k, str) for k, v in node.items()):
                yield place
            deeper += [
                ((*place, key), value)
                for key, value in node.items()
                if isinstance(key, str) and isinstance(value, Mapping)
            ]
        level = deeper


def place_name(place: Sequence[str]) -> str:
    """A place as ``weights=`` names it; ``file`` for the top of the file."""
    return ".".join(place) or "file"


def under(named: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights whose names begin with a prefix, without it."""
    return {n.removeprefix(prefix): t for n, t in named.items() if n.startswith(prefix)}


def _is_count(name: str) -> bool:
    return name.rpartition(".")[2] == _COUNT
