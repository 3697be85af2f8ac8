"""The page of a study: its tables, what is best in them, its scale, runs that are shared."""

from __future__ import annotations

import dataclasses
import math
import statistics

import pytest

from erssl.studies import read_study
from erssl.studies.grid import Axis, Cell, Grid
from erssl.studies.outcome import Outcome
from erssl.studies.page import metric_table, option_table, page, record
from erssl.studies.seeds import deviation, mean, mean_text

KNN = "knn_top1"
BELOW = "train_nats_below_uniform"


def outcomes_of(values: dict[tuple[str, ...], list[float]], metric: str = KNN) -> list[Outcome]:
    """An outcome for each value, a seed each."""
    return [
        Outcome(labels, seed, {metric: value})
        for labels, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


def grid_of(*axes: dict[str, dict[str, object]]) -> Grid:
    """A grid of axes called a, b, ..."""
    return Grid(tuple(Axis(name, axis) for name, axis in zip("abc", axes, strict=False)), ())


def test_tables_hold_mean_deviation_gaps_and_failures() -> None:
    """Against numbers made by hand."""
    axes = (Axis("method", {"A": {}, "B": {}}), Axis("batch", {"1": {}, "2": {}}))
    grid = Grid(axes, (Cell(("A", "1"), 0, ()),))
    outcomes = [
        Outcome(("A", "1"), 0, {KNN: 0.5}),
        Outcome(("A", "1"), 1, {KNN: 0.7}),
        Outcome(("A", "2"), 0, {}, "diverged"),
        Outcome(("B", "1"), 0, {KNN: 0.25}),
    ]
    lines = metric_table(grid, outcomes, KNN).splitlines()
    assert lines[0] == "| method | batch: 1 | 2 |"
    assert lines[2] == "| A | 60.0 ± 14.1 | failed |"
    assert lines[3] == "| B | 25.0 | – |"
    outcomes.append(Outcome(("B", "2"), 0, {KNN: 0.375}))
    assert metric_table(grid, outcomes, KNN).splitlines()[3] == "| B | 25.0 | 37.5 |"
    outcomes += [Outcome(("B", n), 1, {KNN: v}) for n, v in (("1", 0.27), ("2", 0.395))]
    row = metric_table(grid, outcomes, KNN).splitlines()[3]
    assert row == "| B | 26.0 ± 1.4 | **38.5 ± 1.4** |"
    outcomes += [Outcome(("B", n), 2, {KNN: v}) for n, v in (("1", 0.5), ("2", 0.4))]
    assert "**" not in metric_table(grid, outcomes, KNN)
    three = Grid((*axes, Axis("rows", {"x": {}, "y": {}})), ())
    deep = [Outcome(("B", "1", "y"), 0, {KNN: 0.5})]
    table = metric_table(three, deep, KNN).splitlines()
    assert table[0] == "| method | batch | rows: x | y |"
    assert table[4] == "| B | 1 | – | 50.0 |"


def test_accuracies_on_different_images_are_not_compared() -> None:
    """Where the last axis says images, the best of each of them is bold."""
    axes = (Axis("loss", {"A": {}, "B": {}}), Axis("images", {"x": {}, "y": {"data": "digits"}}))
    shares = {("A", "x"): 0.5, ("A", "y"): 0.8, ("B", "x"): 0.4, ("B", "y"): 0.9}
    outcomes = [
        Outcome(labels, seed, {"knn_top1": share + 0.01 * seed})
        for labels, share in shares.items()
        for seed in (0, 1)
    ]
    _, _, first, second = metric_table(Grid(axes, ()), outcomes, "knn_top1").splitlines()
    assert first == "| A | **50.5 ± 0.7** | 80.5 ± 0.7 |"
    assert second == "| B | 40.5 ± 0.7 | **90.5 ± 0.7** |"


def test_the_best_of_a_column_is_bold_where_a_row_has_one_cell() -> None:
    """By the rule of a row: ahead of every other by more than the larger deviation."""
    grid = grid_of({"A": {}, "B": {}, "C": {}})
    values = {("A",): [0.40, 0.42], ("B",): [0.50, 0.52], ("C",): [0.30, 0.34]}
    lines = option_table(grid, outcomes_of(values), [KNN]).splitlines()
    assert lines[:2] == ["| a | kNN top-1 (%) |", "|---|---|"]
    assert lines[2:] == ["| A | 41.0 ± 1.4 |", "| B | **51.0 ± 1.4** |", "| C | 32.0 ± 2.8 |"]
    narrow = grid_of({"A": {}, "B": {}}, {"x": {}})
    two = {(*labels, "x"): seeds for labels, seeds in values.items() if labels != ("C",)}
    assert "| B | **51.0 ± 1.4** |" in metric_table(narrow, outcomes_of(two), KNN)
    one_seed = {labels: seeds[:1] for labels, seeds in values.items()}
    assert "**" not in option_table(grid, outcomes_of(one_seed), [KNN])
    within = {**values, ("A",): [0.48, 0.56]}  # 52.0 ± 5.7 against 51.0
    assert "**" not in option_table(grid, outcomes_of(within), [KNN])
    assert "**" not in option_table(grid, outcomes_of(values, "train_loss"), ["train_loss"])


def test_a_study_of_one_axis_has_one_table_with_a_column_a_metric() -> None:
    """Short heads, whose whole names stand below; a metric that no run has is left out."""
    study = dataclasses.replace(read_study("methods"), metrics=(KNN, BELOW, "linear_top1"))
    outcomes = [
        Outcome(("A",), 0, {KNN: 0.5, BELOW: -3.0}),
        Outcome(("B",), 0, {KNN: 0.25, BELOW: -1.5}),
    ]
    text = page(study, study.scale("tiny"), grid_of({"A": {}, "B": {}}), outcomes, None)
    _, _, table = text.partition("## Results\n\n")
    assert table.splitlines()[:6] == [
        "| a | kNN top-1 (%) | entropy minus uniform (nats) |",
        "|---|---|---|",
        "| A | 50.0 | -3.00 |",
        "| B | 25.0 | -1.50 |",
        "",
        "- entropy minus uniform (nats): entropy minus that of the uniform density (nats), last "
        "batches as logged",
    ]


def test_a_metric_that_no_run_has_is_said() -> None:
    """Such as a misspelt one; linear accuracy is every study's, and may be missing."""
    study = dataclasses.replace(read_study("methods"), metrics=(KNN, "linear_top1", "train_los"))
    outcomes = [
        Outcome(("A",), 0, {KNN: 0.5, "train_loss": 1.0}),
        Outcome(("B",), 0, {}, "it fell"),
    ]
    grid = grid_of({"A": {}, "B": {}})
    text = page(study, study.scale("tiny"), grid, outcomes, None)
    assert "No run has the metric `train_los`; did you mean `train_loss`?" in text
    assert text.count("No run has the metric") == 1
    assert "No run has" not in page(study, study.scale("tiny"), grid, [], None)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([-math.inf, -3.0], "-inf"),
        ([-math.inf], "-inf"),
        ([math.inf, -math.inf], "nan"),
        ([math.nan, 1.0], "nan"),
        ([-2.0, -4.0], "-3.00 ± 1.41"),
        ([-2.0], "-2.00"),
    ],
)
def test_cells_of_a_collapsed_run_are_not_finite_and_have_no_deviation(
    values: list[float], text: str
) -> None:
    """``statistics.stdev`` has no answer to them."""
    outcomes = outcomes_of({("A",): values}, BELOW)
    table = option_table(grid_of({"A": {}}), outcomes, [BELOW]).splitlines()
    assert table == ["| a | entropy minus uniform (nats) |", "|---|---|", f"| A | {text} |"]


def test_mean_and_deviation_are_those_of_the_standard_library() -> None:
    """Where it has them."""
    values = [0.1, 0.25, -3.0]
    assert mean(values) == statistics.fmean(values)
    assert deviation(values) == statistics.stdev(values)
    assert deviation(values[:1]) is None
    assert mean_text(values, 2, sign=True) == "-0.88 ± 1.83"


def _page(grid: Grid, outcomes: list[Outcome], scale: str = "tiny") -> str:
    study = dataclasses.replace(read_study("mveb_beta"), published=())
    return page(study, study.scale(scale), grid, outcomes, None)


def test_the_level_before_training_is_that_of_the_runs_that_have_it() -> None:
    """Each run once, and for each set of images."""
    level = f"untrained_{KNN}"
    outcomes = [
        Outcome(("A",), 0, {KNN: 0.5, level: 0.3}, folder="one"),
        Outcome(("B",), 0, {KNN: 0.5, level: 0.3}, folder="one"),  # the same run
        Outcome(("A",), 1, {KNN: 0.5, level: 0.36}, folder="two"),
        Outcome(("B",), 1, {KNN: 0.5}, folder="three"),
    ]
    grid = grid_of({"A": {}, "B": {"batch_size": 2}})
    assert "Before training: kNN 33.0 ± 4.2 %." in _page(grid, outcomes)
    images = grid_of({"A": {}, "B": {"data": "digits", "epochs": 3}})
    separate = [*outcomes[:1], Outcome(("B",), 0, {KNN: 0.9, level: 0.8})]
    assert "Before training: kNN 30.0 % (A) and 80.0 % (B)." in _page(images, separate)
    for key, level_of_each in (("data.views.n_local_views", False), ("evaluation.knn_k", True)):
        varied = grid_of({"A": {}, "B": {key: 2}})
        assert ("(B)" in _page(varied, separate).partition("Before training")[2]) == level_of_each
    assert "Before training" not in _page(grid, outcomes[3:])


def test_a_page_says_its_scale_what_changed_and_what_it_can_show() -> None:
    """Nothing is said to be what an override has changed."""
    study = read_study("methods")
    scale = study.scale("tiny")
    text = page(study, scale, study.grid(scale, ["data=digits", "epochs=1"]), [], None)
    assert "Scale tiny is: CIFAR-10 images (50,000 to train" in text
    assert " T = 0.1. This page changed: `data=digits`, `epochs=1`. It shows a trend of" in text
    assert "of short runs of a small network, not a paper's result." in text
    large = study.scale("cifar")
    text = page(study, large, study.grid(large), [], None)
    assert "Scale cifar is: CIFAR-10, ResNet-18" in text
    assert "trend" not in text and "changed" not in text


def test_cells_that_are_one_run_are_named() -> None:
    """Equal settings share a folder, which is not two results."""
    outcomes = [Outcome(("A",), seed, {KNN: 0.5}, folder=f"run{seed}") for seed in (0, 1)] + [
        Outcome(("B",), seed, {KNN: 0.5}, folder=f"run{seed}") for seed in (0, 1)
    ]
    said = "One run stands in the cells (A) and (B): they have the same settings."
    assert _page(grid_of({"A": {}, "B": {}}), outcomes).count(said) == 1
    assert "One run" not in _page(grid_of({"A": {}, "B": {}}), outcomes[:2])


def test_the_record_holds_what_the_page_compares() -> None:
    """The order against the paper's is in ``study.json`` too."""
    study = read_study("mveb_target")
    scale = study.scale("tiny")
    grid = study.grid(scale)
    values = {("shared",): [0.3, 0.4], ("momentum",): [0.5, 0.5]}
    content = record(study, scale, grid, outcomes_of(values))
    (compared,) = content["compared"]
    assert compared["ours"] == {"shared": (30.0, 40.0), "momentum": (50.0, 50.0)}
    assert (compared["tau"], compared["best"]) == (1.0, (("momentum",), ("momentum",)))
