"""Checkpoints of every format, damaged and made up."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from erssl import load_backbone
from erssl.run.checkpoint_files import newest_whole
from erssl.run.directory import LAST_CHECKPOINT

from . import samples
from .harness import Surface, check
from .strategies import Change, Edit, as_json, changed, changes, damaged, edits, names, values


@dataclass(frozen=True)
class Hostile:
    """Writes a file when it is unpickled by something that calls what a pickle names."""

    place: str

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.place}",)


def _saved(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _bomb(entries: int, size: int) -> bytes:
    """A zip file that becomes far larger than it is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": {}}, 2))
        for number in range(entries):
            archive.writestr(f"archive/data/{number}", b"\0" * size)
    return file.getvalue()


@dataclass(frozen=True)
class Weight:
    """A tensor whose size is declared and not stored, or of an odd kind."""

    shape: tuple[int, ...]
    kind: str

    def make(self) -> torch.Tensor:
        if self.kind == "declared":
            return torch.zeros(()).expand(self.shape)
        if self.kind == "sparse":
            return torch.zeros(2, 2).to_sparse()
        if self.kind == "quantised":
            return torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.quint8)
        if self.kind == "nan":
            return torch.full((2, 2), float("nan"))
        return torch.zeros((2,) * len(self.shape), dtype=getattr(torch, self.kind))


def _real(content: Any) -> Any:
    """Content with its tensors."""
    if isinstance(content, dict):
        return {key: _real(value) for key, value in content.items()}
    return content.make() if isinstance(content, Weight) else content


_KINDS = ("declared", "sparse", "quantised", "nan", "complex64", "int64", "bool", "bfloat16")
_shapes = st.sampled_from([(), (0,), (3,), (2**40,), (2**20, 2**20), (64, 3, 7, 7), (1, 197, 384)])
_state_names = st.sampled_from(
    [
        "conv1.weight", "module.conv1.weight", "patch_embed.proj.weight", "pos_embed",
        "layer1.0.conv1.weight", "bn1.running_mean", "backbone.0.weight", "encoder.0.weight",
        "0.running_mean", "1.weight", "7.weight", "reg_token", "register_tokens", "cls_token",
        "backbone.conv1.weight", "fc.weight", "blocks.0.attn.qkv.weight", "teacher",
    ]
)  # fmt: skip
_tensors = st.builds(Weight, _shapes, st.sampled_from(_KINDS))
_states = st.dictionaries(
    st.one_of(_state_names, names), st.one_of(_tensors, _tensors, values), max_size=6
)
_contents = st.one_of(
    _states,
    st.dictionaries(
        st.sampled_from(["state_dict", "model", "teacher", "student", "erssl", "state_dict_ema"]),
        st.one_of(_states, values),
        max_size=3,
    ),
    values,
    st.builds(lambda x: {"state_dict": {"conv1.weight": x}}, _tensors),
)


@dataclass(frozen=True)
class Altered:
    """The network's own weights with some exchanged, and another header."""

    tensors: dict[int, Weight]
    header: list[Change]

    def of(self) -> dict[str, Any]:
        state = dict(samples.backbone().state_dict())
        keys = list(state)
        for number, weight in self.tensors.items():
            state[keys[number % len(keys)]] = weight.make()
        header = {"backbone": samples.options_of(), "preprocessing": samples.PREPROCESSING}
        state = {f"backbone.{name}": tensor for name, tensor in state.items()}
        return {"state_dict": state, "erssl": changed(header, self.header)}


def _safetensors(header: list[Change], sizes: list[Change], damage: list[Edit]) -> bytes:
    """Our own file with another header."""
    content = samples.checkpoints()["ours.safetensors"]
    (length,) = struct.unpack("<Q", content[:8])
    about = json.loads(content[8 : 8 + length])
    own = about.pop("__metadata__")
    told = {key: json.loads(text) for key, text in own.items()}
    told = changed(told, header)
    if isinstance(told, dict):
        own = {key: as_json(value).decode("utf-8", "replace") for key, value in told.items()}
    about = (
        {"__metadata__": own} | changed(about, sizes) if sizes else about | {"__metadata__": own}
    )
    packed = as_json(about)
    return damaged(struct.pack("<Q", len(packed)) + packed + content[8 + length :], damage)


_hostile = st.sampled_from([Hostile("ran")])
_files = st.one_of(
    st.tuples(st.sampled_from(list(range(4))), edits).map(lambda p: ("damaged", *p)),
    st.tuples(_contents, st.booleans()).map(lambda p: ("made", *p)),
    st.builds(Altered, st.just({}), st.one_of(st.just([]), changes)).map(lambda a: ("altered", a)),
    st.builds(Altered, st.dictionaries(st.integers(0, 90), _tensors, max_size=2), changes).map(
        lambda altered: ("altered", altered)
    ),
    st.tuples(changes, st.one_of(st.just([]), changes), st.one_of(st.just([]), edits)).map(
        lambda p: ("safetensors", *p)
    ),
    st.tuples(_hostile, st.sampled_from(["pickle", "zip", "legacy", "state"])).map(
        lambda p: ("hostile", *p)
    ),
    st.binary(max_size=60).map(lambda b: ("bytes", b)),
    st.tuples(st.integers(0, 2), st.sampled_from([10**3, 10**8])).map(lambda p: ("bomb", *p)),
)
_own = st.just(None)  # the ending that suits the content
_endings = st.one_of(_own, _own, st.sampled_from([".pth", ".safetensors", ".pkl", ".pth.tar", ""]))
_archs = st.sampled_from(
    [None, None, None, None, "resnet18_cifar", "vit_tiny_patch16_224", "resnet9999"]
)


def _content(made: tuple[Any, ...]) -> bytes:
    kind, *rest = made
    if kind == "damaged":
        return damaged(list(samples.checkpoints().values())[rest[0]], rest[1])
    if kind == "made":
        return _saved(_real(rest[0]), rest[1])
    if kind == "altered":
        return _saved(rest[0].of())
    if kind == "safetensors":
        return _safetensors(*rest)
    if kind == "hostile":
        how = rest[1]
        if how == "pickle":
            return pickle.dumps(rest[0])
        content = {"state_dict": {"conv1.weight": rest[0]}} if how == "state" else rest[0]
        return _saved(content, how != "legacy")
    return _bomb(*rest) if kind == "bomb" else rest[0]


def _act(case: tuple[tuple[Any, ...], str | None, Any, bool], folder: Path) -> None:
    made, ending, arch, partly = case
    if ending is None:
        ending = ".safetensors" if made[0] == "safetensors" or made[:2] == ("damaged", 0) else ".pt"
    file = folder / f"checkpoint{ending}"
    file.write_bytes(_content(made))
    try:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").symlink_to(file)
        load_backbone(file, arch, allow_partial=partly)
        newest_whole(folder / LAST_CHECKPOINT)
    finally:
        assert not (folder / "ran").exists(), "a pickle was run"


SURFACE = Surface(
    "checkpoints",
    st.tuples(_files, _endings, _archs, st.booleans()),
    _act,
    share=20,
    prepare=lambda: (samples.checkpoints(), samples.backbone()),
)


def test_any_checkpoint_is_read_or_refused() -> None:
    check(SURFACE, 60)
