"""Reading weights files safely: safetensors, and ``torch.load`` with ``weights_only=True``."""

from __future__ import annotations

import argparse
import collections
import pathlib
import pickle
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from erssl.errors import DataError

_ZIP, _PICKLE = b"PK", b"\x80"  # first bytes of torch's own format and of a pickle
SAFETENSORS = ".safetensors"
_VARIANCE = "running_var"  # of a batch normalisation


class _Inert:
    """Stands for an object of a published file that is of no account; nothing of it is run."""

    def __init__(self, *args: object, **keywords: object) -> None:
        """Take what the object's own class would take."""

    def __setstate__(self, state: object) -> None:
        """Leave the state alone."""


def _plain_dict(*factory: object) -> collections.OrderedDict[Any, Any]:
    """In place of a defaultdict, which torch's reader cannot fill."""
    return collections.OrderedDict()


# What published files hold beside tensors. The first few set attributes and run nothing; the others
# are never imported: their names stand for an empty object. Every other name is refused.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    (_plain_dict, "collections.defaultdict"),
    dict,
    list,
    tuple,
    set,
    str,
    int,
    float,
    bool,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "b1")},
    np.float64(0).__reduce__()[0],
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # as older numpy has it
    *(
        (_Inert, name)
        for name in (
            "__main__.exclude_bias_and_norm",  # in LARS's groups: VICReg, old Barlow Twins
            "omegaconf.dictconfig.DictConfig",  # settings: solo-learn
            "omegaconf.listconfig.ListConfig",
            "omegaconf.base.ContainerMetadata",
            "omegaconf.base.Metadata",
            "omegaconf.nodes.AnyNode",
            "omegaconf.nodes.ValueNode",
            "typing.Any",
            "config.CfgNode",  # settings: SimMIM
            "mmengine.logging.history_buffer.HistoryBuffer",  # curves: mmselfsup
        )
    ),
]


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a checkpoint without running anything that is in it.

    Args:
        path: A ``.safetensors`` file, or one that ``torch.save`` wrote.

    Returns:
        The content, nested as it is in the file, and the header of a safetensors file.

    Raises:
        DataError: If there is no such file, or it is truncated, no checkpoint, or holds objects
            whose reading would run code.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder without backbone weights; name a checkpoint file.")
    if not path.is_file():
        raise DataError(f"There is no checkpoint at {path}.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; it was not written to its end.")
    return _read_safetensors(path) if path.suffix == SAFETENSORS else (_read_pickle(path), {})


def check_finite(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Refuse weights that give no finite features.

    Raises:
        DataError: Naming the first of them and how many there are; or one that is no plain tensor.
    """
    odd = [n for n, t in state.items() if t.layout != torch.strided or t.is_quantized or t.is_meta]
    if odd:
        raise DataError(
            f"{path} has sparse or quantised weights, such as {odd[0]}; save the backbone before "
            "it is compressed."
        )
    empty = [n for n, t in state.items() if t.untyped_storage().nbytes() < t.nbytes]
    if empty:
        raise DataError(
            f"{path} declares more values than it holds in {len(empty)} of its weights, such as "
            f"{empty[0]} of shape {tuple(state[empty[0]].shape)}; save contiguous tensors."
        )
    check_values(path, state)


def check_values(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Refuse NaN, infinity, what single precision cannot hold, and variances below 0.

    Half precision is no fault: its values are read into single precision as they are.

    Args:
        path: The file, for the message.
        state: Plain tensors by name.

    Raises:
        DataError: Naming the first of them and how many there are.
    """
    floats = {name: t for name, t in state.items() if t.is_floating_point()}
    bad = [name for name, t in floats.items() if not bool(t.isfinite().all())]
    if bad:
        raise DataError(
            f"{path} has NaN or infinite values in {len(bad)} of its {len(state)} weights, such as "
            f"{bad[0]}; training had diverged, so take an earlier checkpoint."
        )
    wide = [n for n, t in floats.items() if t.dtype == torch.float64]
    large = [n for n in wide if not bool(floats[n].to(torch.float32).isfinite().all())]
    if large:
        raise DataError(
            f"{path} has values in {len(large)} of its weights that single precision cannot hold, "
            f"such as {large[0]}; training had diverged, so take an earlier checkpoint."
        )
    below = [n for n, t in floats.items() if n.endswith(_VARIANCE) and bool((t < 0).any())]
    if below:
        raise DataError(
            f"{path} has variances below 0 in {len(below)} of its normalisations, such as "
            f"{below[0]}, whose root is NaN; the file is damaged or was averaged wrongly, so take "
            "another checkpoint."
        )


def one_line(error: BaseException) -> str:
    """An error's message in one line, for the brackets of a sentence."""
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as weights:
            state = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
            return state, weights.metadata() or {}
    except (SafetensorError, OSError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not a readable safetensors file ({error}); copy or download it again."
        ) from error


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle protocol that is refused right after
            content = torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(_refusal(path, error)) from error
    except Exception as error:  # torch's reader raises nearly anything on damaged files
        if _begins(path, _ZIP) or "unexpected EOF" in str(error):
            raise DataError(f"{path} is truncated; copy or download it again.") from error
        reason = textwrap.shorten(str(error), 200, placeholder=" …").rstrip(".")
        raise DataError(f"{path} is no checkpoint that torch can read ({reason}).") from error
    if isinstance(content, Tensor) or not isinstance(content, Mapping):
        raise DataError(
            f"{path} holds a {type(content).__name__} and no state dict; save model.state_dict()."
        )
    return dict(content)


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    """One sentence of what torch has to say against a file, which takes a paragraph for it."""
    text = " ".join(str(error).split())
    _, separator, rest = text.partition("Unsupported global: GLOBAL ")
    if not separator:
        _, separator, rest = text.partition("Trying to load unsupported GLOBAL ")
    if separator:
        return (
            f"{path} is refused since reading it would call {rest.split()[0].rstrip('.')}, and a "
            "pickle may run any code; save the state dict alone, or ask its author for safetensors."
        )
    if _begins(path, _PICKLE):
        return (
            f"{path} is a plain pickle and not torch's format; a pickle may run any code, so it is "
            "not read. Save the state dict with torch.save or as safetensors."
        )
    if _begins(path, _ZIP):
        reason = text.rpartition("WeightsUnpickler error: ")[2].partition(" Check the doc")[0]
        return f"{path} cannot be read safely ({reason[:200]}); save the state dict alone."
    return f"{path} is no checkpoint that torch can read; give a .pth, .ckpt or .safetensors file."


def _begins(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
