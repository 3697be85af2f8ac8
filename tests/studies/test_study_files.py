"""The studies that are shipped: what their files must hold together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from erssl.layers import flat
from erssl.settings.pretrain import read_settings
from erssl.studies import available_studies, read_study
from erssl.studies.grid import Cell
from erssl.studies.plan import Study
from erssl.studies.store import key_of

Said = dict[str, str]


def said_of(cell: Cell) -> Said:
    """Overrides of a cell by their key."""
    return dict(override.partition("=")[::2] for override in cell.overrides)


def shared_runs(study: Study, size: str) -> list[tuple[str, str]]:
    """Pairs of cells of one seed that are one run.

    Two cells whose overrides give one key two values are two runs. Settings are resolved of the
    others alone: to resolve those of all cells would take half a minute.
    """
    cells = study.grid(study.scale(size), ["data.root=/anywhere"]).cells
    first = [cell for cell in cells if cell.seed == cells[0].seed]
    keys: dict[str, str] = {}

    def key(cell: Cell) -> str:
        if cell.name not in keys:
            keys[cell.name] = key_of(read_settings(list(cell.overrides))[1], "images")
        return keys[cell.name]

    def may_be_one(one: Said, other: Said) -> bool:
        return all(one[name] == other[name] for name in one.keys() & other.keys())

    pairs = [pair for pair in combinations(first, 2) if may_be_one(*map(said_of, pair))]
    return [(one.name, other.name) for one, other in pairs if key(one) == key(other)]


@pytest.mark.parametrize("name", available_studies())
def test_no_two_cells_of_a_study_are_one_run(name: str) -> None:
    """Else a table has the same number twice, and a change that it is said to show is none."""
    study = read_study(name)
    for size in [] if study.reads_store else study.scales:
        assert shared_runs(study, size) == [], size


def test_two_cells_that_are_one_run_are_seen(tmp_path: Path) -> None:
    """By equal overrides, and by one that says what the recipe has anyway."""
    file = tmp_path / "twice.yaml"
    changes: Mapping[str, Any] = {"none": {}, "512": {"batch_size": 512}, "64": {"batch_size": 64}}
    content = {
        "question": "Does the batch matter?",
        "axes": {"model": {"DINO": {"experiment": "dino_imagenet"}}, "batch": dict(changes)},
        "scales": {"imagenet": {}},
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    twice = shared_runs(read_study(str(file)), "imagenet")
    assert twice == [("DINO, none, seed 0", "DINO, 512, seed 0")]
    content["axes"] = {"batch": {"a": {"batch_size": 64}, "b": {"batch_size": 64}}}
    content["overrides"] = {"experiment": "dino_imagenet"}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    assert shared_runs(read_study(str(file)), "imagenet") == [("a, seed 0", "b, seed 0")]


@pytest.mark.parametrize("name", ["er_table2", "entrec_table1"])
def test_imagenet_is_the_length_and_the_batch_of_the_paper(name: str) -> None:
    """400 epochs for every method, and batch 4096 but where the batch is what varies."""
    study = read_study(name)
    cells = study.grid(study.scale("imagenet"), ["data.root=/anywhere"]).cells
    for cell in cells:
        if "2048" in cell.labels or "1024" in cell.labels:
            continue
        config = flat(read_settings(list(cell.overrides))[1])
        small = {"small batch", "512"} & set(cell.labels)
        assert (config["epochs"], config["batch_size"]) == (400, 512 if small else 4096), cell.name
