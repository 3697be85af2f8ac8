"""The figure of a study: what is joined, what is marked, and what is told apart."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erssl.studies.figure import plot_study
from erssl.studies.grid import Axis, Grid
from erssl.studies.outcome import Outcome

KNN, BELOW = "knn_top1", "train_nats_below_uniform"


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draw outcomes over axes, and give the figure."""
    figures: list[Any] = []
    monkeypatch.setattr(
        "erssl.studies.figure.save_figure", lambda figure, *_: figures.append(figure)
    )

    def draw(axes: list[list[str]], outcomes: list[Outcome], *metrics: str) -> Any:
        grid = Grid(
            tuple(Axis(f"axis {n}", {key: {} for key in axis}) for n, axis in enumerate(axes)), ()
        )
        assert plot_study(grid, outcomes, metrics or (KNN,), tmp_path / "study.png")
        return figures[-1]

    return draw


def curves(axes: Any) -> list[Any]:
    """The lines of series: not the marks of what is missing, nor levels."""
    return [line for line in axes.lines if line.get_marker() != "x" and line.get_linestyle() != ":"]


def test_the_level_before_training_and_short_titles(drawn: Any) -> None:
    """A level where it is known, and titles that fit their panels."""
    metrics = {KNN: 0.5, f"untrained_{KNN}": 0.3, BELOW: 2.0}
    first, second = drawn([["A", "B"]], [Outcome((x,), 0, metrics) for x in "AB"], KNN, BELOW).axes
    assert [line.get_ydata()[0] for line in first.lines] == pytest.approx([50, 30])
    assert [text.get_text() for text in first.texts] == ["untrained"] and not second.texts
    assert second.get_title() == "entropy minus uniform (nats)"


def test_levels_before_training_are_each_sets_of_images(tmp_path: Path, monkeypatch: Any) -> None:
    """One at each option of the last axis; none where another axis varies them."""
    figures: list[Any] = []
    monkeypatch.setattr(
        "erssl.studies.figure.save_figure", lambda figure, *_: figures.append(figure)
    )
    images = Axis("images", {"own": {}, "digits": {"data": "digits"}})
    loss = Axis("loss", {"A": {}, "B": {}})
    for axes in ((loss, images), (images, loss)):
        outcomes = [
            Outcome(labels, 0, {KNN: 0.5, f"untrained_{KNN}": 0.8 if "digits" in labels else 0.3})
            for labels in itertools.product(*(axis.options for axis in axes))
        ]
        plot_study(Grid(axes, ()), outcomes, [KNN], tmp_path / "study.png")
    last, first = (
        [line for line in figure.axes[0].lines if line.get_linestyle() == ":"] for figure in figures
    )
    assert [(list(line.get_xdata()), line.get_ydata()[0]) for line in last] == [
        ([-0.4, 0.4], 30),
        ([0.6, 1.4], 80),
    ]
    assert not first


@pytest.mark.parametrize(
    ("options", "joined", "sideways"),
    [
        (["0.01", "0.1", "1e0"], True, False),
        (["64 rows", "256 rows", "1024 rows"], True, False),
        (["512", "64"], True, False),
        (["MVEB", "ER"], False, False),
        (["1", "2", "alone"], False, False),
        (["1", "3", "2"], False, False),  # no order
        (["2 GELU", "2 ReLU"], False, False),
        (["0 (reconstruction alone)", "1", "entropy alone"], False, True),
        (["1 (as the paper has it)", "2"], True, True),
        (["1.2.3", "1.2.4"], False, False),
        (["one"], False, False),
    ],
)
def test_only_numbers_in_order_are_joined(
    drawn: Any, options: list[str], joined: bool, sideways: bool
) -> None:
    """A line between two methods would be read as values between them."""
    outcomes = [Outcome((o,), 0, {KNN: 0.1 * n}) for n, o in enumerate(options)]
    (axes,) = drawn([options], outcomes[1:] + outcomes[:1]).axes  # the first option last
    (line,) = curves(axes)
    assert (line.get_linestyle() != "None") == joined
    places, values = (line.get_xdata(), line.get_ydata())[:: -1 if sideways else 1]
    assert list(places) == list(range(len(options)))  # by place, whatever came first
    assert list(values) == pytest.approx([10.0 * n for n in range(len(options))])
    ticks = axes.get_yticklabels() if sideways else axes.get_xticklabels()
    assert [tick.get_text() for tick in ticks] == options
    assert not sideways or all(tick.get_rotation() == 0 for tick in ticks)


def test_what_failed_or_collapsed_is_marked_and_breaks_its_line(drawn: Any) -> None:
    """A tick without a mark would be one that was not run."""
    outcomes = [
        Outcome(("1",), 0, {KNN: 0.3, BELOW: -1.0}),
        Outcome(("2",), 0, {}, "diverged"),
        Outcome(("3",), 0, {KNN: 0.4, BELOW: -math.inf}),
        Outcome(("4",), 0, {KNN: 0.5, BELOW: -2.0}),
    ]
    first, second = drawn([["1", "2", "3", "4", "5"]], outcomes, KNN, BELOW).axes
    for axes, expected, said in (
        (first, [30, math.nan, 40, 50, math.nan], {"failed": 1}),
        (second, [-1, math.nan, math.nan, -2, math.nan], {"failed": 1, "-inf": 2}),
    ):
        np.testing.assert_allclose(curves(axes)[0].get_ydata(), expected)
        assert {text.get_text(): text.xy[0] for text in axes.texts} == said
        marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "x"]
        assert marks == list(said.values())


@pytest.mark.parametrize("axes", [["ABCDEFGHI", "12"], ["ABC", "xyz", "12"], ["ABCDE", "12"]])
def test_nine_series_are_told_apart(drawn: Any, axes: list[str]) -> None:
    """By colour and dashes where they are joined, by colour and marker where not."""
    outcomes = [Outcome(labels, 0, {KNN: 0.5}) for labels in itertools.product(*axes)]
    (panel,) = drawn([list(axis) for axis in axes], outcomes).axes
    lines = panel.lines
    assert len(lines) == len(outcomes) / 2
    assert all(list(line.get_xdata()) == [0, 1] for line in lines)
    for parts in (
        lambda line: (line.get_color(), str(line._dash_pattern)),
        lambda line: (line.get_color(), line.get_marker(), line.get_markerfacecolor()),
    ):
        assert len({parts(line) for line in lines}) == len(lines)


def test_more_series_have_a_line_of_panels_each(drawn: Any) -> None:
    """Twelve are four lines of three, on one scale; the legend says what of."""
    axes = [list("ABCD"), list("xyz"), ["256", "64"]]
    outcomes = [Outcome(labels, 0, {KNN: 0.5, BELOW: -1.0}) for labels in itertools.product(*axes)]
    figure = drawn(axes, outcomes, KNN, BELOW)
    assert len(figure.axes) == 8
    assert [len(panel.lines) for panel in figure.axes] == [3] * 8
    assert [panel.get_ylabel() for panel in figure.axes] == ["A", "", "B", "", "C", "", "D", ""]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["x", "y", "z"]
    assert legend.get_title().get_text() == "axis 1"
    assert len({panel.get_ylim() for panel in figure.axes[::2]}) == 1
