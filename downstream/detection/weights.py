"""Weights of a backbone in a Detectron2 detector: which goes where, and that none is left out.

Detectron2's own loader goes by the ends of names and only logs what it does not find; here a
backbone weight without a partner is an error. Nothing in this file imports Detectron2.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erssl.errors import DataError
from erssl.models import load_backbone
from erssl.models.export.detectron import detectron2_names, torchvision_names
from erssl.models.weights_files import check_values

# behind "backbone." of C4, "backbone.bottom_up." of FPN, and "roi_heads." for the res5 of C4
_IN_MODEL = re.compile(r"(?:backbone\.bottom_up|backbone|roi_heads)\.((?:stem|res[2-5]\.\d+)\..+)")
_OF_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy.core.numeric", "_frombuffer"),
}
_OWN = re.compile(r"(stem|res[2-5]\.\d+)\..+")


@dataclass(frozen=True)
class Match:
    """One tensor of the detector's backbone and where its values come from.

    Attributes:
        name: In the detector.
        source: The partner's name in torchvision's ResNet.
        shape: Of both.
    """

    name: str
    source: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class MatchReport:
    """Every weight of a detector's backbone with its source.

    Attributes:
        matches: In the detector's order; complete by construction.
    """

    matches: tuple[Match, ...]

    @property
    def convolutions(self) -> int:
        """Number of convolutions; 53 in a ResNet-50."""
        return sum(len(match.shape) == 4 for match in self.matches)

    @property
    def norms(self) -> int:
        """Number of batch normalisations of four tensors each; 53 in a ResNet-50."""
        return sum(match.name.endswith(".norm.weight") for match in self.matches)

    @property
    def groups(self) -> int:
        """Convolutions and normalisations together; 106 in a ResNet-50."""
        return self.convolutions + self.norms

    def __str__(self) -> str:
        """One sentence with the counts."""
        return (
            f"every weight of the backbone matched: {self.convolutions} convolutions and "
            f"{self.norms} normalisations, {len(self.matches)} tensors; none left at random"
        )

    def table(self) -> str:
        """A line for each convolution and each normalisation: its name, its source, its shape."""
        parts: dict[tuple[str, str], list[Match]] = {}
        for match in self.matches:
            group = match.name.rpartition(".")[0], match.source.rpartition(".")[0]
            parts.setdefault(group, []).append(match)
        lines = []
        for (name, source), members in parts.items():
            tensors = ", ".join(member.name.rpartition(".")[2] for member in members)
            shape = " x ".join(map(str, members[0].shape))
            lines.append(f"{name} <- {source}: {tensors} ({shape})\n")
        return "".join(lines)


def match(model: nn.Module, named: Mapping[str, Tensor]) -> MatchReport:
    """Find the partner of every backbone weight.

    Args:
        model: Detectron2's detector with an FPN or a C4 backbone.
        named: Weights by Detectron2's names, as
            :func:`~erssl.models.export.detectron.detectron2_names` gives them.

    Returns:
        The pairs, which leave out no weight on either side.

    Raises:
        DataError: If a weight of the backbone has no partner, a weight is left over, or a shape
            differs.
    """
    wanted = _backbone_names(model)
    state = model.state_dict()
    missing = [short for short in wanted if short not in named]
    surplus = [name for name in named if name not in wanted]
    wrong = [n for n in wanted if n in named and named[n].shape != state[wanted[n]].shape]
    if not wanted or missing or surplus or wrong:
        first = (missing or surplus or wrong or ["none at all"])[0]
        raise DataError(
            f"The checkpoint does not fit the detector's backbone of {len(wanted)} weights: "
            f"{len(missing)} of them it does not have, {len(surplus)} more it has, {len(wrong)} "
            f"differ in shape, such as {first}; give a checkpoint of the ResNet that "
            "MODEL.RESNETS.DEPTH names."
        )
    sources = dict(zip(named, torchvision_names(named), strict=True))
    return MatchReport(
        tuple(
            Match(full, sources[short], tuple(state[full].shape)) for short, full in wanted.items()
        )
    )


def fill(model: nn.Module, named: Mapping[str, Tensor]) -> MatchReport:
    """Copy the weights of a backbone into a detector.

    Args:
        model: As for :func:`match`; changed in place.
        named: As for :func:`match`.

    Returns:
        What went where.

    Raises:
        DataError: As :func:`match` does; then nothing was copied.
    """
    report = match(model, named)
    wanted, state = _backbone_names(model), model.state_dict()
    with torch.no_grad():
        for short, full in wanted.items():
            state[full].copy_(named[short])
    return report


def unwrapped_module(model: Any) -> nn.Module:
    """Take a network out of the wrapper that several processes need, where it is in one."""
    inner: nn.Module = model.module if hasattr(model, "module") else model
    return inner


def backbone_weights(path: str | Path) -> dict[str, Tensor] | None:
    """Read the weights that ``MODEL.WEIGHTS`` names, of whatever kind the file is.

    Args:
        path: A file in Detectron2's names as ``erssl export format=detectron2`` writes it, or any
            checkpoint that :func:`erssl.load_backbone` reads. A ``.pkl`` may hold arrays and
            nothing that runs code.

    Returns:
        Weights of a backbone by Detectron2's names; ``None`` for a whole detector.

    Raises:
        ErsslError: If it cannot be read.
    """
    state = _detectron2_file(Path(path))
    if state is None:
        return detectron2_names(load_backbone(path).state_dict())
    if not any(_OWN.fullmatch(name) for name in state):
        return None
    check_values(path, state)
    # what a converted classifier has beside its backbone
    kept = {name: v for name, v in state.items() if not name.startswith(("stem.fc.", "fc."))}
    return {n: v for n, v in kept.items() if not n.endswith("num_batches_tracked")}


def is_detector(path: str) -> bool:
    """Whether a file has the weights of a whole detector.

    Args:
        path: What ``MODEL.WEIGHTS`` is; an address on the net is taken for one.
    """
    if "://" in path:
        return True
    state = _detectron2_file(Path(path)) if path else None
    return state is not None and not any(_OWN.fullmatch(name) for name in state)


class _Arrays(pickle.Unpickler):
    """Reads a pickle of arrays, as Detectron2's model zoo has them, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """The few functions that arrays are made by."""
        if (module.replace("numpy._core", "numpy.core"), name) not in _OF_ARRAYS:
            raise DataError(
                f"MODEL.WEIGHTS is refused since reading it would call {module}.{name}, and a "
                "pickle may run any code; give arrays alone, or a .pth file of tensors."
            )
        return super().find_class(module, name)


def _backbone_names(model: nn.Module) -> dict[str, str]:
    """Names within a ResNet, and in the detector, of all that a backbone's checkpoint has."""
    names = {}
    for name in model.state_dict():
        inside = _IN_MODEL.fullmatch(name)
        if inside and not name.endswith("num_batches_tracked"):
            names[inside[1]] = name
    return names


def _detectron2_file(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file under Detectron2's names, or ``None`` if it is another kind of file."""
    content: Any = None
    try:
        if path.suffix == ".pkl":
            with path.open("rb") as file:
                content = _Arrays(file, encoding="latin1").load()
        elif path.suffix in (".pth", ".pt"):
            content = torch.load(path, "cpu", weights_only=True, mmap=True)
    except OSError as error:
        raise DataError(
            f"MODEL.WEIGHTS={path} cannot be read ({error.strerror}); name a file."
        ) from error
    except DataError:
        raise
    except Exception:  # another layout, or broken, of which load_backbone says which
        return None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        return None
    try:
        state = {str(name): torch.as_tensor(values) for name, values in model.items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"MODEL.WEIGHTS={path} has weights that are no arrays ({error})."
        ) from error
    ours = any(_OWN.fullmatch(name) or _IN_MODEL.fullmatch(name) for name in state)
    return state if ours else None
