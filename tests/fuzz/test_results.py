"""Runs whose results, tables and settings somebody else has written, and a zoo of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from . import samples
from .commands import run_command
from .harness import Surface, check
from .strategies import Change, Edit, as_json, changed, changes, damaged, edits, texts

_tables = st.one_of(
    edits.map(lambda damage: ("damaged", damage)),
    texts.map(lambda text: ("instead", text)),
    st.sampled_from(
        [
            b"step,entropy_k10\n1\n",
            b"step,entropy_k10\nx,y\n",
            b"entropy_k10\n1\n",
            b"step\n",
            b"step,entropy_k10\n1,2,3,4\n",
            b"step,entropy_k10\n1,nan\n2,inf\n",
            b"\n\n",
            b"step,entropy_k10\n1e308,1e308\n-1e308,-1e308\n",
            b"step,alignment\n1,2\n\x00\n",
            b"step,entropy_k$x^$\n1,2\n",
        ]
    ).map(lambda text: ("instead", text)),
)
Table = tuple[str, list[Edit] | bytes]


def _act_report(case: tuple[list[Change], list[Change], list[Edit]], folder: Path) -> str | None:
    about_evaluation, about_run, damage = case
    run = json.loads(samples.run_files()["results.json"])
    for name, content in (
        ("knn", as_json(changed(samples.evaluation_results(), about_evaluation))),
        ("run", damaged(as_json(changed(run, about_run)), damage)),
    ):
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / "results.json").write_bytes(content)
    return run_command(["report", "runs", "output=table"])


def _act_lens(case: tuple[Table, Table, str], folder: Path) -> str | None:
    for name, (kind, value) in zip(("a", "$b^$"), case[:2], strict=True):
        (folder / name).mkdir()
        sound = samples.LENS.encode()
        content = damaged(sound, value) if kind == "damaged" else value  # type: ignore[arg-type]
        (folder / name / "lens.csv").write_bytes(content)  # type: ignore[arg-type]
    return run_command(["lens", "a", "$b^$", f"output={case[2]}"])


_YAML = st.sampled_from(
    [
        b"!!python/object/apply:os.system ['touch ran']\n",
        b"a: !!python/name:os.system\n",
        b"method: ${oc.env:HOME}\n",
        b"method: ${method}\n",
        b"[" * 5000,
        b"a: &a [*a]\n",
        b"- 1\n",
        b"\xff",
        b"x: {y: \n",
        b"a: 1\na: 2\n",
        b"\x00",
        b"? [a]\n: b\n",
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b"*%c," % (c - 1) * 9) for c in range(98, 107)),
    ]
)
_COMMANDS = (
    ["knn", "checkpoint=run", "run_dir=out"],
    ["lens", "checkpoint=run"],
    ["lens", "checkpoint=run", "on=features"],
    ["finetune", "checkpoint=run", "run_dir=out"],
    ["pretrain", "run_dir=run", "resume=true"],
    ["zoo", "add", "run", "name=mine"],
    ["export", "checkpoint=run", "format=safetensors", "output=out.safetensors"],
)  # fmt: skip
_settings = st.one_of(
    changes.map(lambda change: ("changed", change)),
    edits.map(lambda damage: ("damaged", damage)),
    _YAML.map(lambda text: ("instead", text)),
)


def _act_run(case: tuple[int, tuple[str, Any], Table, list[Change]], folder: Path) -> str | None:
    number, (kind, value), checkpoint, about_results = case
    run = samples.write_run(folder / "run")
    config = samples.run_files()["config.yaml"]
    if kind == "changed":
        text = yaml.safe_dump(changed(yaml.safe_load(config), value))
        config = text.encode("utf-8", "surrogatepass")
    else:
        config = damaged(config, value) if kind == "damaged" else value
    (run / "config.yaml").write_bytes(config)
    if checkpoint[0] == "damaged" and number != 5:
        last = run / "checkpoints" / "last.ckpt"
        last.write_bytes(damaged(last.read_bytes(), checkpoint[1]))  # type: ignore[arg-type]
    results = json.loads(samples.run_files()["results.json"])
    (run / "results.json").write_bytes(as_json(changed(results, about_results)))
    try:
        return run_command(_COMMANDS[number])
    finally:
        assert not (folder / "ran").exists(), "a file of settings was run"


_ROW: dict[str, Any] = {
    "method": "SimCLR", "url": "https://nowhere.invalid/a.pth", "epochs": 100,
    "sha256": "0123456789abcdef", "preprocessing": {"image_size": 32, "mean": [0.5] * 3},
    "arch": {"name": "resnet18", "cifar_stem": True}, "measured": {"knn_top1": 0.5},
    "protocol": "pretrain", "data": "digits", "file": "/nowhere/x.safetensors", "note": "x",
}  # fmt: skip
_fields = st.dictionaries(
    st.sampled_from(["file_name", "url", "file", "sha256", "aliases", "layout", "arch", "run"]),
    st.sampled_from(
        [
            "../../up.pth", "/abs/olute.pth", "..", ".", "a/b", "", "x\x00", "~/x.pth", None, 3,
            "file:///etc/hostname", "file:///nowhere", "ftp://x/y", "https://x/%2e%2e%2fup",
            ["resnet50"], {"name": "resnet50", "options": {"checkpoint_path": "x"}}, "zoo",
        ]
    ),
    max_size=3,
)  # fmt: skip


def _act_zoo(case: tuple[dict[str, Any], list[Change], Any, int], folder: Path) -> str | None:
    fields, what, text, number = case
    (folder / "home").mkdir()
    content = yaml.safe_dump(changed({"rows": {"mine": _ROW | fields}}, what))
    content = content if text is None else text.decode("utf-8", "surrogateescape")
    (folder / "home/zoo.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
    overrides = (["zoo"], ["zoo", "mine"], ["zoo", "get", "mine"], ["zoo", "../mine"])
    return run_command(overrides[number])


_often_none: st.SearchStrategy[list[Any]] = st.one_of(st.just([]), st.just([]), changes)
SURFACES = [
    Surface(
        "results of runs",
        st.tuples(changes, changes, st.one_of(st.just([]), st.just([]), edits)),
        _act_report,
        share=4,
        prepare=lambda: (samples.run_files(), samples.evaluation_results()),
    ),
    Surface(
        "lens tables",
        st.tuples(_tables, _tables, st.sampled_from(["lens.png", "a/lens.png", "lens.txt", ""])),
        _act_lens,
        share=1,
    ),
    Surface(
        "run directories",
        st.tuples(
            st.integers(0, len(_COMMANDS) - 1),
            _settings,
            st.one_of(st.just(("sound", [])), edits.map(lambda damage: ("damaged", damage))),
            _often_none,
        ),
        _act_run,
        share=2,
        prepare=samples.run_files,
    ),
    Surface(
        "zoo of one's own",
        st.tuples(_fields, _often_none, st.one_of(st.none(), st.none(), _YAML), st.integers(0, 3)),
        _act_zoo,
        share=4,
        connects=True,
    ),
]


def test_any_results_are_reported_or_refused() -> None:
    check(SURFACES[0], 30)


def test_any_lens_table_is_drawn_or_refused() -> None:
    check(SURFACES[1], 20)


def test_any_run_is_read_or_refused() -> None:
    check(SURFACES[2], 20)


def test_any_zoo_is_read_or_refused() -> None:
    check(SURFACES[3], 30)
