"""What is tried: damage to files, values where others are expected, names of all kinds."""

from __future__ import annotations

import copy
import json
import struct
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

_EXTREMES = (0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1)
DEEP, HUGE = "@@deep@@", "@@huge@@"  # become JSON that no encoder writes


@dataclass(frozen=True)
class Edit:
    """Damage to bytes, at a share of their length."""

    kind: str
    at: float
    value: bytes = b""

    def of(self, content: bytes) -> bytes:
        """The damaged bytes."""
        at = int(self.at * len(content))
        before, after = content[:at], content[at:]
        if self.kind == "cut":
            return before
        if self.kind == "drop":
            return before + after[len(self.value) :]
        if self.kind == "insert":
            return before + self.value + after
        if self.kind == "repeat":
            return before + after[:64] * len(self.value) + after
        if self.kind == "flip" and after:
            return before + bytes([after[0] ^ (1 << len(self.value) % 8)]) + after[1:]
        return before + self.value[: len(after)] + after[len(self.value) :]


def _numbers() -> st.SearchStrategy[bytes]:
    """Extreme numbers as files have them: lengths, offsets, sizes."""
    formats = st.sampled_from(["<H", ">H", "<I", ">I", "<Q", ">Q"])
    pairs = st.tuples(formats, st.sampled_from(_EXTREMES))
    return pairs.map(lambda p: struct.pack(p[0], p[1] % 256 ** struct.calcsize(p[0])))


# half of the damage is where headers are
_place = st.one_of(st.floats(0, 1), st.floats(0, 0.05))
edits = st.lists(
    st.one_of(
        st.builds(Edit, st.just("flip"), _place, st.binary(max_size=8)),
        st.builds(Edit, st.just("put"), _place, st.one_of(_numbers(), st.binary(max_size=12))),
        st.builds(Edit, st.sampled_from(["cut", "drop", "insert", "repeat"]), _place, st.binary()),
    ),
    max_size=3,
)


def damaged(content: bytes, damage: list[Edit]) -> bytes:
    """Bytes after all damage."""
    for edit in damage:
        content = edit.of(content)
    return content


names = st.one_of(
    st.sampled_from(
        [
            "../up", "../../../up.png", "/abs/olute", "~", "~nobody/x", ".", "..", "", " ",
            "a/b", "a\\b", "con", "x" * 300, "ä", "$x^$", "[bold]", "[/]", "%s", "{0}", "-",
            "a,b", "\udcff", "new\nline", "tab\t", "<b>&", "`", "|", "=", "#", "'", '"', "\x00",
        ]
    ),
    st.text(max_size=12),
)  # fmt: skip
_plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**63, -(2**63), 10**400, -(10**9), 10**9]),
    st.floats(),
    names,
    st.sampled_from([DEEP, HUGE]),
)
values = st.recursive(
    _plain,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=5,
)


@dataclass(frozen=True)
class Change:
    """A change somewhere in nested lists and dictionaries."""

    steps: tuple[int, ...]
    kind: str
    value: Any

    def of(self, tree: Any) -> Any:
        """The changed tree; the one that was given stays as it is."""
        tree = copy.deepcopy(tree)
        node, holder, key = tree, None, None
        for step in self.steps:
            if not isinstance(node, (list, dict)) or not node:
                break
            keys = list(node) if isinstance(node, dict) else range(len(node))
            holder, key = node, keys[step % len(keys)]
            node = holder[key]
        if holder is None:
            return self.value
        if self.kind == "drop":
            del holder[key]
        elif self.kind == "twice" and isinstance(holder, list):
            holder.append(copy.deepcopy(node))
        elif self.kind == "more" and isinstance(node, dict):
            node["more"] = self.value
        else:
            holder[key] = self.value
        return tree


changes = st.lists(
    st.builds(
        Change,
        st.lists(st.integers(0, 40), min_size=1, max_size=5).map(tuple),
        st.sampled_from(["put", "put", "put", "drop", "twice", "more"]),
        values,
    ),
    max_size=3,
)


def changed(tree: Any, what: list[Change]) -> Any:
    """A tree after all changes."""
    for change in what:
        tree = change.of(tree)
    return tree


def as_json(tree: Any) -> bytes:
    """JSON, with the marks replaced by what no encoder writes."""
    text = json.dumps(tree)
    text = text.replace(f'"{DEEP}"', "[" * 20_000 + "]" * 20_000)
    return text.replace(f'"{HUGE}"', "9" * 6000).encode("utf-8", "surrogatepass")


texts = st.one_of(
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")),
    st.binary(max_size=40),
    st.sampled_from([b"\xff\xfe", b"\x00" * 20, b"\n" * 5, b"x" * 200_000, b"../../up\n", b"/\n"]),
)
