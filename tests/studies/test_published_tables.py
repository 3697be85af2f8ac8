"""The tables of papers beside ours: how they are read, and how the two are compared."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from erssl.errors import ConfigError
from erssl.studies import available_studies, read_study
from erssl.studies.grid import Axis, Cell, Grid
from erssl.studies.outcome import Outcome
from erssl.studies.plan import Scale
from erssl.studies.published import Place, Published, read_published
from erssl.studies.published_page import published_lines

SCALE = Scale("tiny", "", (), {}, (0,))
TABLE: dict[str, Any] = {
    "title": "linear top-1 (%)",
    "source": "a paper",
    "metric": "linear_top1",
    "columns": {"4096": {"option": "big"}, "drop": {"drop": "small", "from": "big"}},
    "rows": {"A": [70, 1.5], "B": [72.25, 9], "C": [68, None]},
}
BATCH = Axis("batch", {"big": {"batch_size": 256}, "small": {"batch_size": 32}})


def grid_of(*axes: Axis, skip: tuple[tuple[str, ...], ...] = ()) -> Grid:
    """Every cell of the axes, of seeds 0 and 1."""
    cells = [
        Cell(labels, seed, ("data=cifar10",))
        for seed in (0, 1)
        for labels in itertools.product(*(axis.options for axis in axes))
        if labels not in skip
    ]
    return Grid(axes, tuple(cells))


def outcomes_of(
    values: dict[tuple[str, ...], list[float]], metric: str = "knn_top1"
) -> list[Outcome]:
    """An outcome for each value, a seed each."""
    return [
        Outcome(labels, seed, {metric: value})
        for labels, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


def lines_of(said: dict[str, Any], grid: Grid, outcomes: list[Outcome], **of: Any) -> list[str]:
    """The section on a table, without empty lines."""
    scale = Scale(**{**vars(SCALE), **of})
    lines = published_lines(
        read_published(said, "The study x", ("tiny", "imagenet")), scale, grid, outcomes
    )
    return [line for line in lines if line]


def method(*names: str) -> Axis:
    """An axis of methods."""
    return Axis("method", {name: {} for name in names})


def test_values_and_drops_stand_beside_the_papers() -> None:
    """All by hand: drops over the seeds that have both, the smallest drop the best."""
    values = {
        ("A", "big"): [0.30, 0.40],
        ("A", "small"): [0.29, 0.38],  # drops 1 and 2
        ("B", "big"): [0.50],
        ("B", "small"): [0.90, 0.45],  # -40, and none of seed 1
        ("C", "big"): [0.20],
    }
    lines = lines_of(TABLE, grid_of(method("A", "B", "C"), BATCH), outcomes_of(values))
    assert lines == [
        "## Published: linear top-1 (%)",
        "|  | 4096, paper | here: big | drop, paper | here: big − small |",
        "|---|---|---|---|---|",
        "| A | 70.00 | 35.0 ± 7.1 | 1.5 | 1.5 ± 0.7 |",
        "| B | 72.25 | 50.0 | 9.0 | -40.0 |",
        "| C | 68.00 | 20.0 | – | – |",
        "Source: a paper. Ours are of scale tiny, which is not the paper's: compare orders and "
        "signs, not values. The paper's metric is linear top-1; our kNN top-1 stands for it. "
        "Here big is `batch_size=256` and small is `batch_size=32`. "
        "Orders are of the means; a difference below the deviation over the seeds is none.",
        "- Column 4096: our kNN top-1 orders the 3 rows as the paper's linear top-1 does "
        "(Kendall's tau +1.00). Best in the paper: B; here: B.",
        "- Column drop: our drop of kNN top-1 orders the 2 rows the other way round from the "
        "paper's drop of linear top-1. Best in the paper: A; here: B.",
    ]


def test_a_change_is_the_other_way_round_and_best_where_it_is_largest() -> None:
    """EntRec's table has changes, where ER's has drops."""
    table = TABLE | {
        "columns": {"change": {"change": "small", "from": "big"}},
        "rows": {"A": [-3], "B": [0.5]},
    }
    values = {
        ("A", "big"): [0.3],
        ("A", "small"): [0.2],
        ("B", "big"): [0.2],
        ("B", "small"): [0.3],
    }
    lines = lines_of(table, grid_of(method("A", "B"), BATCH), outcomes_of(values))
    assert "|  | change, paper | here: small − big |" in lines
    assert "| A | -3.0 | -10.0 |" in lines and "| B | +0.5 | +10.0 |" in lines
    assert lines[-1].endswith(
        "our change of kNN top-1 orders the 2 rows as the paper's change of linear top-1 does. "
        "Best in the paper: B; here: B."
    )


def test_kendalls_tau_counts_the_pairs() -> None:
    """Of three rows with one pair the other way round: (2 - 1) / 3; equal rows have no order."""
    table = TABLE | {"columns": {"top-1": {}}, "rows": {"A": [1], "B": [2], "C": [3]}}
    grid = grid_of(method("A", "B", "C"))
    *_, line = lines_of(table, grid, outcomes_of({("A",): [0.1], ("B",): [0.3], ("C",): [0.2]}))
    assert "orders the 3 rows otherwise than the paper's linear top-1" in line
    assert "(Kendall's tau +0.33). Best in the paper: C; here: B." in line
    *_, line = lines_of(table, grid, outcomes_of({("A",): [0.3], ("B",): [0.3], ("C",): [0.1]}))
    assert "(Kendall's tau -0.82). Best in the paper: C; here: A and B." in line  # -2 / √(3 · 2)
    *_, line = lines_of(table, grid, outcomes_of({(row,): [0.3] for row in "ABC"}))
    assert line == "- Column top-1: the 3 rows are equal in the paper or here, and have no order."


def test_what_has_no_counterpart_is_said() -> None:
    """A column, a row, a run, an option of another scale; nothing is compared by chance."""
    table = TABLE | {
        "columns": {
            "4096": {"option": "big"},
            "512": {"option": "tiny"},
            "other": {"reason": "nobody trains it."},
            "alone": {},
            "small": {"option": "small"},
        },
        "rows": {row: [value] * 5 for value, row in enumerate(["A", "B", "D, big", "E"])},
    }
    grid = grid_of(method("A", "B", "C"), BATCH, skip=(("A", "small"), ("B", "small")))
    values = {("A", "big"): [0.3], ("B", "big"): [0.2], ("C", "small"): [0.9]}
    lines = lines_of(table, grid, outcomes_of(values))
    assert lines[-5:] == [
        "- Column 4096: our kNN top-1 orders the 2 rows the other way round from the paper's "
        "linear top-1. Best in the paper: B; here: A. Without a number here: D, big; E.",
        "- Column 512 cannot be compared: there is no batch tiny at scale tiny.",
        "- Column other cannot be compared: nobody trains it.",
        "- Column alone cannot be compared: the study has 2 axes at scale tiny.",
        "- Column small cannot be compared: none of its rows is run at scale tiny.",
    ]
    one = lines_of(TABLE, grid_of(method("A", "B"), BATCH), outcomes_of({("A", "big"): [0.3]}))
    assert one[-2].endswith("cannot be compared: only A has a number in the paper and here.")
    assert one[-1].endswith(
        "cannot be compared: none of its rows has a number in the paper and here."
    )
    none = lines_of(TABLE, grid_of(method("A", "B"), BATCH), [])
    assert "stands for it" not in " ".join(none)


def test_a_label_of_both_axes_is_taken_for_neither_of_them_twice() -> None:
    """The row x of the option x is one cell, and a run without accuracy is none."""
    axes = (method("x", "y"), Axis("change", {"x": {}, "none": {}}))
    table = TABLE | {"columns": {"c": {"option": "none"}}, "rows": {"x": [2], "y": [1]}}
    values = {("x", "x"): [0.9], ("x", "none"): [0.2], ("y", "none"): [0.3]}
    outcomes = [*outcomes_of(values), Outcome(("y", "x"), 0, {"train_loss": 1.0})]
    lines = lines_of(table, grid_of(*axes), outcomes)
    assert "| x | 2 | 20.0 |" in lines and "| y | 1 | 30.0 |" in lines


def test_labels_of_a_scale_and_rows_within_an_option_find_their_cells() -> None:
    """By position at a small scale, and by a form where one axis holds rows and columns."""
    scaled = TABLE | {"labels": {"tiny": {"big": "256", "small": "32", "A": "ours"}}}
    grid = grid_of(method("ours", "B"), Axis("batch", {"256": {}, "32": {}}))
    lines = lines_of(scaled, grid, outcomes_of({("ours", "256"): [0.5], ("B", "256"): [0.4]}))
    assert "| A | 70.00 | 50.0 | 1.5 | – |" in lines
    assert "|  | 4096, paper | here: 256 | drop, paper | here: 256 − 32 |" in lines
    assert "cannot be compared: there is no batch big" in lines_of(scaled, grid, [], name="x")[-2]

    forms = [{"option": "fixed, {row}"}, {"option": "grown, {row}"}]
    table = TABLE | {"columns": {"MVEB": forms}, "rows": {"128": [1], "256": [2]}}
    labels = [f"{rule}, {batch}" for rule in ("fixed", "grown") for batch in (128, 256)]
    values = dict(zip([(label,) for label in labels], [[0.1], [0.2], [0.4], [0.3]], strict=True))
    lines = lines_of(table, grid_of(method(*labels)), outcomes_of(values))
    assert "|  | MVEB, paper | here: fixed, … | here: grown, … |" in lines
    assert "| 256 | 2 | 20.0 | 30.0 |" in lines
    assert lines[-2].startswith(
        "- Column MVEB (here: fixed, …): our kNN top-1 orders the 2 rows as"
    )
    assert "the other way round" in lines[-1]


def test_the_papers_scale_and_metric_are_said_where_they_are_ours() -> None:
    """ImageNet at scale imagenet, with nothing changed but where it lies."""
    table = TABLE | {"columns": {"top-1": {}}, "rows": {"A": [1], "B": [2]}}

    def said(name: str, *changed: str, data: str = "imagenet") -> str:
        cells = tuple(Cell((row,), 0, (f"data={data}", "seed=0")) for row in "AB")
        grid = Grid((method("A", "B"),), cells, ("method=mine", *changed), changed)
        outcomes = outcomes_of({("A",): [0.1], ("B",): [0.2]}, "linear_top1")
        return " ".join(lines_of(table, grid, outcomes, name=name))

    assert "Ours are of the paper's scale." in said("imagenet", "data.root=/somewhere")
    assert "The metric is linear top-1, in the paper and here." in said("imagenet")
    assert "our linear top-1 orders the 2 rows as" in said("imagenet")
    assert "but for what this page changed: compare" in said("imagenet", "epochs=1")
    assert "scale, but of other images" in said("imagenet", data="imagefolder")
    assert "which is not the paper's" in said("cifar")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": {}}, "needs columns and rows"),
        ({"columns": {}, "rows": {"A": []}}, "needs columns and rows"),
        ({"rows": {"A": [1]}}, "has 2 columns and the row A 1 values; write null where"),
        ({"rows": {"A": [1, 2, 3]}}, "has 2 columns and the row A 3 values"),
        ({"columns": ["4096", "drop"]}, "must map each of its columns to what of ours"),
        ({"columns": {"a": {"drop": "x"}, "b": {}}}, "column a, must say option, or drop or"),
        ({"columns": {"a": {"option": "x", "from": "y"}, "b": {}}}, "column a, must say option"),
        ({"columns": {"a": {"drop": "x", "change": "y"}, "b": {}}}, "it says drop, change"),
        ({"columns": {"a": {"place": "x"}, "b": {}}}, "has no key 'place'"),
        ({"columns": {"a": "x", "b": {}}}, "column a, is no place of ours"),
        ({"columns": {"a": {"reason": "r", "option": "x"}, "b": {}}}, "both a place and a reason"),
        ({"label": {}}, "has no key 'label'"),
        ({"labels": {"tny": {"big": "256"}}}, "labels of the scale tny; the study has tiny"),
    ],
)
def test_a_table_that_says_no_place_is_refused(changes: dict[str, Any], said: str) -> None:
    """In a sentence that names the study, the table and what lacks."""
    with pytest.raises(ConfigError, match=said) as caught:
        read_published(TABLE | changes, "The study x", ("tiny",))
    assert str(caught.value).startswith("The study x, published")


def _tables() -> list[tuple[str, str, Published, Grid]]:
    tables = []
    for name in available_studies():
        study = read_study(name)
        for size, table in itertools.product(study.scales, study.published):
            grid = study.grid(study.scale(size), ["data.root=/anywhere"])
            tables.append((name, size, table, grid))
    return tables


@pytest.mark.parametrize(("name", "size", "table", "grid"), _tables())
def test_every_published_column_has_cells_at_every_scale_or_a_reason(
    name: str, size: str, table: Published, grid: Grid
) -> None:
    """Each number of a paper at each scale, but for the cells that the study says it lacks."""
    lacking = {
        ("entrec_table1", "tiny"): {"CMC"},  # two networks of colour channels
        ("mveb_batch", "tiny"): {"2048", "4096"},
        ("mveb_batch", "cifar"): {"2048", "4096"},
    }.get((name, size), set())
    cells = {cell.labels for cell in grid.cells}
    for number, column in enumerate(table.columns):
        assert bool(column.places) != bool(column.reason)
        for each in column.places:
            missing = {
                row
                for row, values in table.rows.items()
                if values[number] is not None and not cells.issuperset(table.cells(each, row, size))
            }
            assert missing == lacking, column.name


def test_published_numbers_are_beside_what_the_paper_says() -> None:
    """ER's drops are drops, EntRec's changes are changes, each from the large batch."""
    er, entrec = (read_study(name).published[0] for name in ("er_table2", "entrec_table1"))
    assert [column.places for column in er.columns] == [
        (Place("option", "none"),),
        (Place("drop", "small batch", "none"),),
        (Place("drop", "EMA 0.8", "none"),),
    ]
    changes = [entrec.place(column.places[0], "tiny") for column in entrec.columns[1:]]
    assert changes == [Place("change", batch, "256") for batch in ("128", "64", "32")]
