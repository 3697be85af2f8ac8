"""The linear layer of a trained classifier as a file, with the names of its classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from erssl.errors import RunError
from erssl.files import write_bytes

HEAD = "head.safetensors"
_CLASSES = "classes"


class Head(NamedTuple):
    """A linear layer.

    Attributes:
        weight: (C, feature_dim), float32.
        bias: (C,), float32.
        classes: Names of the C classes.
    """

    weight: Tensor
    bias: Tensor
    classes: tuple[str, ...]


def save_head(path: Path, head: nn.Module, classes: Sequence[str]) -> None:
    """Write a linear layer, whole or not at all.

    Args:
        path: The file.
        head: A layer with ``weight`` (C, feature_dim) and ``bias`` (C,).
        classes: Names of the C classes, which the header keeps.
    """
    state = {n: t.detach().cpu().float().contiguous() for n, t in head.state_dict().items()}
    write_bytes(path, save(state, metadata={_CLASSES: json.dumps(list(classes))}))


def read_head(path: Path) -> Head:
    """Read what :func:`save_head` has written.

    Raises:
        RunError: If there is none, it cannot be read, or it lacks the names of its classes.
    """
    again = "train it again with overwrite=true"
    if not path.is_file():
        raise RunError(f"{path} does not exist: the run kept no classifier; {again}.")
    try:
        with safe_open(path, framework="pt") as file:
            names = (file.metadata() or {}).get(_CLASSES)
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
        classes = tuple(map(str, json.loads(names))) if names is not None else ()
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} is no classifier that can be read; {again}.") from error
    if not classes:
        raise RunError(f"{path} does not name its classes, as of an earlier erssl; {again}.")
    if weight.ndim != 2 or bias.shape != weight.shape[:1] or len(classes) != len(weight):
        raise RunError(f"{path} holds no linear layer of its {len(classes)} classes; {again}.")
    return Head(weight, bias, classes)
