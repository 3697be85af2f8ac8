"""Tables of images, tars, names that others open, numbers without bound, variances of weights."""

from __future__ import annotations

import csv
import io
import math
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from erssl.data import default_options, load_datasets
from erssl.errors import printable
from erssl.escaping import csv_table, html_text, markdown_row
from erssl.models import build_backbone, load_backbone, save_backbone

from . import samples
from .commands import run_command
from .harness import Surface, check, run_many
from .strategies import Edit, damaged, edits, names, values

_cells = st.one_of(st.sampled_from(["0.png", "1.png", "a/0.png", "0"]), names)
_rows = st.lists(
    st.tuples(_cells, st.one_of(st.sampled_from(["cat", "dog", "1", "nan", ""]), names), names),
    min_size=1,
    max_size=4,
)
_columns = st.one_of(
    st.just(["path", "label", "split"]),
    st.just(["path", "label", "more"]),
    st.lists(st.one_of(st.sampled_from(["path", "label", "split"]), names), max_size=4),
)


def _act_table(case: tuple[Any, Any, bool, list[Edit], bool], folder: Path) -> None:
    columns, rows, parquet, damage, skip = case
    for name in ("0.png", "1.png"):
        (folder / name).write_bytes(samples.images()["RGB.png"])
    file = folder / ("table.parquet" if parquet else "table.csv")
    if parquet:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet as writer

        arrays = {
            name: [row[i % 3].encode("utf-8", "replace").decode() for row in rows]
            for i, name in enumerate(c.encode("utf-8", "replace").decode() for c in columns)
        }
        made = io.BytesIO()
        writer.write_table(pa.table(arrays), made)
        content = made.getvalue()
    else:
        text = io.StringIO()
        csv.writer(text).writerows([columns, *rows])
        content = text.getvalue().encode("utf-8", "surrogatepass")
    file.write_bytes(damaged(content, damage))
    on_error = "skip" if skip else "raise"
    options = default_options("table", file=str(file), on_error=on_error, num_workers=0)
    datasets = load_datasets(options)
    for index in range(len(datasets.train)):
        datasets.train[index]


_members = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(["0.png", "1.jpg", "a/2.tif", "3.cls", "4", "._5.png"]), names),
        st.sampled_from(["image", "image", "empty", "text", "link", "folder"]),
    ),
    min_size=1,
    max_size=4,
)


def _act_tar(case: tuple[list[tuple[str, str]], list[Edit], str], folder: Path) -> None:
    members, damage, mode = case
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]
        for name, kind in members:
            try:
                info = tarfile.TarInfo(name)
                body = {"image": samples.images()["RGB.png"], "text": b"2\n"}.get(kind, b"")
                info.size = len(body)
                if kind == "link":
                    info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
                elif kind == "folder":
                    info.type = tarfile.DIRTYPE
                tar.addfile(info, io.BytesIO(body))
            except (ValueError, UnicodeError):
                continue  # a name that no tar can have
    (folder / "some.tar").write_bytes(damaged(packed.getvalue(), damage))
    options = default_options("wds", shards=str(folder / "some.tar"), num_workers=0)
    datasets = load_datasets(options)
    for index in range(len(datasets.train)):
        datasets.train[index]


def _act_names(case: list[str], folder: Path) -> None:
    """What is written of a name cannot be a formula, markup, or an order to a terminal."""
    for cell in next(csv.reader(io.StringIO(csv_table([case]), newline=""))):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")) or math.isfinite(float(cell))
    row = markdown_row(case)
    assert "\n" not in row.rstrip("\n")
    assert not any("<" in html_text(name) or '"' in html_text(name) for name in case)
    assert all(printable(name).isprintable() for name in case)


_NUMBERS = (
    "data.num_workers",
    "batch_size",
    "epochs",
    "data.image_size",
    "method.projection_dim",
    "trainer.accumulate_grad_batches",
    "lens.probe_size",
    "seed",
    "checkpoint_every_n_steps",
    "optimizer.base_lr",
    "trainer.gradient_clip_val",
    "keep_checkpoints",
    "data.crop_pct",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
    "trainer.devices",
)
_amounts = st.one_of(
    st.sampled_from(["0", "1", "2", "-1", "0.5", "1e-300", "true", "null", "auto", "[1]"]),
    st.sampled_from(["1e9", "1e30", "1e400", "nan", "inf", "1000000", "10000000000", "9" * 300]),
)


def _act_numbers(case: dict[str, str], folder: Path) -> str | None:
    given = [f"{key}={value}" for key, value in case.items()]
    return run_command(
        ["pretrain", "method=simclr", "data=digits", *samples.TINY_OVERRIDES, "run_dir=run", *given]
    )


_statistics = st.one_of(
    st.floats(width=32), st.sampled_from([-1e-9, 0.0, 1e-45, 1e38, -1.0, math.nan, math.inf, 1.0])
)


def _act_weights(case: list[tuple[int, str, float]], folder: Path) -> None:
    """Weights and statistics of a network that are taken give features that are finite."""
    backbone = samples.backbone()
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    for number, kind, value in case:
        keys = [name for name in state if name.endswith(kind)]
        state[keys[number % len(keys)]].fill_(value)
    other = build_backbone(samples.TINY)
    other.load_state_dict(state)
    save_backbone(other, folder / "x.safetensors", samples.TINY, samples.PREPROCESSING)
    read = load_backbone(folder / "x.safetensors")
    with torch.no_grad():
        features = read(torch.linspace(-2, 2, 2 * 3 * 32 * 32).view(2, 3, 32, 32))
    assert bool(features.isfinite().all())


_mostly_sound: st.SearchStrategy[list[Edit]] = st.one_of(st.just([]), st.just([]), edits)
SURFACES = [
    Surface(
        "tables of images",
        st.tuples(_columns, _rows, st.booleans(), _mostly_sound, st.booleans()),
        _act_table,
        share=10,
        prepare=samples.images,
    ),
    Surface(
        "tars of images",
        st.tuples(_members, _mostly_sound, st.sampled_from(["w", "w", "w", "w:gz"])),
        _act_tar,
        share=10,
        prepare=samples.images,
    ),
    Surface(
        "hostile names", st.lists(st.one_of(names, values.map(str)), min_size=1), _act_names, 8
    ),
    Surface(
        "numbers without bound",
        st.dictionaries(st.sampled_from(_NUMBERS), _amounts, min_size=1, max_size=3),
        _act_numbers,
        share=4,
        prepare=samples.run_files,
    ),
    Surface(
        "weights and variances",
        st.lists(
            st.tuples(
                st.integers(0, 90), st.sampled_from(["running_var", "weight", "bias"]), _statistics
            ),
            min_size=1,
            max_size=2,
        ),
        _act_weights,
        share=8,
        prepare=samples.backbone,
    ),
]


def test_any_table_is_read_or_refused() -> None:
    check(SURFACES[0], 50)


def test_any_tar_is_read_or_refused() -> None:
    check(SURFACES[1], 50)


def test_any_name_is_written_harmlessly() -> None:
    kinds = set()
    run_many(SURFACES[2], 100, lambda case, outcome: kinds.add((outcome.kind, outcome.trace)))
    assert kinds == {("accepted", "")}


def test_any_number_is_taken_or_refused() -> None:
    check(SURFACES[3], 15)


def test_any_weights_give_finite_features_or_are_refused() -> None:
    check(SURFACES[4], 40)
