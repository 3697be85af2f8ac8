"""The page and the figure of a study: tables, what was published beside them, panels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from erssl.studies import available_studies, read_study
from erssl.studies.figure import plot_study
from erssl.studies.grid import Axis, Cell, Grid
from erssl.studies.outcome import Outcome
from erssl.studies.page import agreement, metric_table
from erssl.studies.published import Published


def test_published_rows_have_a_value_for_every_column() -> None:
    """A table with a hole would shift its columns."""
    tables = [table for name in available_studies() for table in read_study(name).published]
    assert tables
    for table in tables:
        assert all(len(values) == len(table.columns) for values in table.rows.values())


def test_tables_hold_mean_deviation_gaps_and_failures() -> None:
    """Against numbers made by hand."""
    axes = (Axis("method", {"A": {}, "B": {}}), Axis("batch", {"1": {}, "2": {}}))
    grid = Grid(axes, (Cell(("A", "1"), 0, ()),))
    outcomes = [
        Outcome(("A", "1"), 0, {"knn_top1": 0.5}),
        Outcome(("A", "1"), 1, {"knn_top1": 0.7}),
        Outcome(("A", "2"), 0, {}, "diverged"),
        Outcome(("B", "1"), 0, {"knn_top1": 0.25}),
    ]
    lines = metric_table(grid, outcomes, "knn_top1").splitlines()
    assert lines[0] == "| method | batch: 1 | 2 |"
    assert lines[2] == "| A | 60.0 ± 14.1 | failed |"
    assert lines[3] == "| B | 25.0 | – |"
    outcomes.append(Outcome(("B", "2"), 0, {"knn_top1": 0.375}))
    assert metric_table(grid, outcomes, "knn_top1").splitlines()[3] == "| B | 25.0 | 37.5 |"
    outcomes += [Outcome(("B", n), 1, {"knn_top1": v}) for n, v in (("1", 0.27), ("2", 0.395))]
    row = metric_table(grid, outcomes, "knn_top1").splitlines()[3]
    assert row == "| B | 26.0 ± 1.4 | **38.5 ± 1.4** |"
    outcomes += [Outcome(("B", n), 2, {"knn_top1": v}) for n, v in (("1", 0.5), ("2", 0.4))]
    assert "**" not in metric_table(grid, outcomes, "knn_top1")
    three = Grid((*axes, Axis("rows", {"x": {}, "y": {}})), ())
    deep = [Outcome(("B", "1", "y"), 0, {"knn_top1": 0.5})]
    table = metric_table(three, deep, "knn_top1").splitlines()
    assert table[0] == "| method | batch | rows: x | y |"
    assert table[4] == "| B | 1 | – | 50.0 |"


def test_agreement_is_kendalls_tau_of_the_rows() -> None:
    """Of three rows with one pair the other way round: (2 - 1) / 3."""
    grid = Grid((Axis("m", {"A": {}, "B": {}, "C": {}}),), ())
    table = Published("", "", ("accuracy",), {"A": (1.0,), "B": (2.0,), "C": (3.0,)})
    values = {"A": 0.1, "B": 0.3, "C": 0.2}
    outcomes = [Outcome((k,), 0, {"knn_top1": v}) for k, v in values.items()]
    (sentence,) = agreement(table, grid, outcomes)
    assert "tau +0.33; best published C, here B" in sentence


def test_the_figure_has_what_was_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level where it is known, and titles that fit their panels."""
    figures: list[Any] = []
    monkeypatch.setattr("erssl.studies.figure.save_figure", lambda f, *_: figures.append(f))
    grid = Grid((Axis("method", {"A": {}, "B": {}}),), ())
    metrics = {"knn_top1": 0.5, "untrained_knn_top1": 0.3, "train_nats_below_uniform": 2.0}
    outcomes = [Outcome((label,), 0, metrics) for label in "AB"]
    names = ("knn_top1", "train_nats_below_uniform")
    assert plot_study(grid, outcomes, names, tmp_path / "study.png")
    first, second = figures[0].axes
    assert [line.get_ydata()[0] for line in first.lines] == pytest.approx([50, 30])
    assert [text.get_text() for text in first.texts] == ["untrained"] and not second.texts
    assert second.get_title() == "nats below uniform"
