"""What the file of a study says: axes, scales, the grid, and what it may not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erssl.errors import ConfigError
from erssl.protocols.study_transfer import read_study_transfer
from erssl.settings.pretrain import read_settings
from erssl.studies import available_studies, read_study

from .small_study import SMALL, written


@pytest.mark.parametrize("name", available_studies())
def test_every_run_of_every_study_is_one_that_pretrain_takes(name: str) -> None:
    """Composed and checked; one cell a row, to save time, and every option somewhere."""
    study = read_study(name)
    if study.transfer is not None:
        read_study_transfer(study.transfer, ["data_root=/anywhere"])
    for size in study.scales:
        if study.reads_store:
            assert study.scale(size).about
            continue
        grid = study.grid(study.scale(size), ["data.root=/anywhere"])
        told: set[str] = set()
        for cell in grid.cells:
            if set(cell.labels) <= told:
                continue
            told |= set(cell.labels)
            settings, _ = read_settings(list(cell.overrides))
            assert settings.seed == cell.seed
        assert told == {label for axis in grid.axes for label in axis.options}


def test_grid_is_the_product_without_what_is_skipped(tmp_path: Path) -> None:
    """Those of the first seed come first, and later overrides win."""
    study = read_study(written(tmp_path))
    grid = study.grid(study.scale("tiny"), ["epochs=2"], seeds=(0, 1))
    assert [(*cell.labels, cell.seed) for cell in grid.cells] == [
        ("SimCLR", "128", 0),
        ("SimCLR", "256", 0),
        ("MVEB", "128", 0),
        ("SimCLR", "128", 1),
        ("SimCLR", "256", 1),
        ("MVEB", "128", 1),
    ]
    first = dict(word.partition("=")[::2] for word in grid.cells[0].overrides)
    assert (first["batch_size"], first["epochs"], first["seed"]) == ("128", "2", "0")


def test_an_option_with_images_of_its_own_takes_none_of_the_others(tmp_path: Path) -> None:
    """Neither the scale's nor the user's, who may still say theirs for the rest."""
    images = {"as given": {}, "digits": {"data": "digits", "data.image_size": 8, "epochs": 2}}
    study = read_study(written(tmp_path, axes={"images": images}, skip=[]))
    given = ["data=imagefolder", "data.train_dir=/a", "batch_size=32"]
    grid = study.grid(study.scale("tiny"), given)
    first, second = (
        dict(word.partition("=")[::2] for word in cell.overrides) for cell in grid.cells
    )
    assert (first["data"], first["data.train_dir"]) == ("imagefolder", "/a")
    assert first["data.pipeline"] == "lightly"
    own = {key: value for key, value in second.items() if key.partition(".")[0] == "data"}
    assert own == {"data": "digits", "data.image_size": "8"}
    assert (second["epochs"], second["batch_size"]) == ("2", "32")
    with pytest.raises(ConfigError, match="epochs varies"):
        study.grid(study.scale("tiny"), ["epochs=3"])
    views = {"views": {"a": {"data.views.global_scale": [0.5, 1.0]}, "b": {}}}
    varied = read_study(written(tmp_path, axes=views, skip=[]))
    with pytest.raises(ConfigError, match="global_scale varies"):
        varied.grid(varied.scale("tiny"), ["data.views.global_scale=[0.1,1]"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axis": {}}, "has no key 'axis'"),
        ({"question": ""}, "says nothing of question"),
        ({"axes": {}}, "says nothing of axes"),
        ({"axes": {"method": [1]}}, "maps no label"),
        ({"scales": [1]}, "is not written as a study is"),
        ({"scales": {"tiny": 3}}, "is not written as a study is"),
        ({"published": [{"title": "no rows"}]}, "is not written as a study is"),
        ({"skip": 3}, "skip is a list of lists of labels and not 3"),
        ({"skip": [["SimCLR", "1024"]]}, "names '1024', which no axis has"),
        ({"metrics": "knn_top1"}, "metrics is a list of texts and not 'knn_top1'"),
        ({"notes": [3]}, r"notes is a list of texts and not \[3\]"),
        ({"scales": {"tiny": {"seeds": [0, 0]}}}, r"seeds=\[0, 0\] must be different whole"),
        ({"scales": {"tiny": {"seeds": [0.5]}}}, r"seeds=\[0.5\] must be different whole"),
        ({"scales": {"tiny": {"seeds": "01"}}}, "seeds=01 must be different whole"),
        ({"scales": {"tiny": {"axes": [1]}}}, "is not written as a study is"),
        ({"axes": {"batch": {"1": {}, 1: {}}}}, "has a label twice"),
        ({"reads": "folder"}, "a study reads the store, or has axes"),
    ],
)
def test_a_file_that_is_no_study_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """By what it lacks."""
    with pytest.raises(ConfigError, match=said):
        read_study(written(tmp_path, **changes))


def test_a_scale_of_ones_own_says_what_it_is(tmp_path: Path) -> None:
    """Images, network and length."""
    own = {"mine": {**SMALL["scales"]["tiny"], "seeds": [3]}}
    study = read_study(written(tmp_path, scales=own))
    assert study.scale("mine").about == "digits"
    assert {cell.seed for cell in study.grid(study.scale("mine")).cells} == {3}
    silent = read_study(written(tmp_path, scales={"mine": {"seeds": [3]}}))
    with pytest.raises(ConfigError, match="says nothing about its runs"):
        silent.scale("mine")
