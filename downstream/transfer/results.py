"""The suite's table: ours among the published rows, as Markdown, CSV, JSON and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from erssl.downstream.transfer.table import TRANSFER_DATASETS
from erssl.escaping import markdown_row, markdown_text
from erssl.evaluation.published import published, published_value
from erssl.files import write_json, write_rows, write_text
from erssl.run.plots import GREY, Plots, plain, run_style, save_figure, shortened

AVERAGE = "average"
_LEGEND = 4  # names in a line below the figure, at most


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: Who.
        values: Per cent by data set.
        spread: Standard deviation over seeds, by data set.
        published: Whether somebody else has printed it.
        incomplete: Data sets of which only a part was there.
        printed_average: What its authors print, which need not be the mean of rounded values.
    """

    name: str
    values: Mapping[str, float]
    spread: Mapping[str, float]
    published: bool
    incomplete: Sequence[str] = ()
    printed_average: float | None = None

    @property
    def average(self) -> float | None:
        """Mean of the eleven, or ``None`` where one is missing or a part."""
        if self.printed_average is not None:
            return self.printed_average
        if set(self.values) != set(TRANSFER_DATASETS) or self.incomplete:
            return None
        return sum(self.values.values()) / len(self.values)


def published_rows(mode: str) -> list[Row]:
    """What MVEB's tables print for linear evaluation or fine-tuning."""
    values: dict[str, dict[str, float]] = {}
    for name, dataset in TRANSFER_DATASETS.items():
        for group in (published(f"transfer_{mode}", name) or [])[:1]:
            for method, metrics in group["rows"].items():
                values.setdefault(method, {})[name] = metrics[dataset.metric]
    return [
        Row(
            method,
            percents,
            {},
            published=True,
            printed_average=published_value(f"transfer_{mode}", AVERAGE, method, "mean"),
        )
        for method, percents in values.items()
    ]


def markdown(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The table in Markdown."""
    header = ["", *names, AVERAGE]
    lines = [markdown_row(header), "|" + "---|" * len(header)]
    for row in rows:
        name = markdown_text(row.name)
        label = f"{name} (published)" if row.published else f"**{name}**"
        cells = [_cell(row, name) for name in names]
        average = "-" if row.average is None else f"{row.average:.1f}"
        lines.append(f"| {' | '.join([label, *cells, average])} |")
    note = ["\\* a part of the data set: not comparable with published rows.\n"]
    parts = any(row.incomplete for row in rows)
    return "\n".join([*lines, "", *(note if parts else [])])


def write_table(
    folder: Path, rows: Sequence[Row], names: Sequence[str], mode: str, plots: Plots = "png"
) -> None:
    """Write ``transfer.md``, ``transfer.csv``, ``transfer.json`` and ``transfer.png``.

    Args:
        folder: Where they go.
        rows: Ours first, then the published ones.
        names: Data sets, the columns.
        mode: ``linear`` or ``finetune``.
        plots: Format of the figure beside PNG.
    """
    title = {"linear": "linear evaluation", "finetune": "fine-tuning"}[mode]
    text = f"# Transfer, {title}: metric of each data set in per cent\n\n{markdown(rows, names)}\n"
    write_text(folder / "transfer.md", text + "\n![transfer](transfer.png)\n")
    write_rows(folder / "transfer.csv", _cells(rows, names))
    content = [
        {
            "name": row.name,
            "published": row.published,
            "values": {n: row.values[n] for n in names if n in row.values},
            "std": dict(row.spread),
            "incomplete": list(row.incomplete),
            "average": row.average,
        }
        for row in rows
    ]
    write_json(folder / "transfer.json", {"mode": mode, "unit": "percent", "rows": content})
    plot_transfer(rows, names, folder / "transfer.png", plots)


def _cell(row: Row, name: str) -> str:
    if name not in row.values:
        return "-"
    spread = f" ± {row.spread[name]:.1f}" if name in row.spread else ""
    return f"{row.values[name]:.1f}{spread}{'*' if name in row.incomplete else ''}"


def _cells(rows: Sequence[Row], names: Sequence[str]) -> Iterator[list[object]]:
    yield ["name", "published", *names, AVERAGE, *(f"{name}_std" for name in names)]
    for row in rows:
        values = [row.values.get(name) for name in names]
        spreads = [row.spread.get(name) for name in names]
        yield [row.name, row.published, *values, row.average, *spreads]


def plot_transfer(
    rows: Sequence[Row], names: Sequence[str], path: Path, plots: Plots = "png"
) -> None:
    """Draw a column for each data set, in which every row has a place and a marker of its own.

    Of a data set of which only a part was there, published rows are left out: they are no measure
    of it.

    Args:
        rows: Ours first, then the published ones.
        names: Data sets, the columns.
        path: The PNG to write.
        plots: Format that it is also written in; see `save_figure`.
    """
    from matplotlib.figure import Figure

    parts = {name for row in rows for name in row.incomplete}
    shown_of = [
        (row, [n for n in names if n in row.values and not (row.published and n in parts)])
        for row in rows
    ]
    drawn = [(row, shown) for row, shown in shown_of if shown]
    labels = [plain(shortened(_label(row), 44)) for row, _ in drawn]
    width = max(6.0, 1.4 + 1.15 * len(names))
    columns = max(1, min(_LEGEND, int(width / (0.4 + 0.078 * max(map(len, labels), default=1)))))
    height = 3.6 + 0.18 * -(-len(drawn) // columns)
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for index, (row, shown) in enumerate(drawn):
        offset = index * 0.8 / (len(drawn) - 1) - 0.4 if len(drawn) > 1 else 0.0
        style = run_style(index) | {"linestyle": "none"}
        style |= {"markersize": 5} if row.published else {"markersize": 8, "zorder": 3}
        axes.errorbar(
            [names.index(name) + offset for name in shown],
            [row.values[name] for name in shown],
            yerr=[row.spread.get(name, 0.0) for name in shown],
            label=labels[index],
            **style,
        )
    for border in range(1, len(names)):
        axes.axvline(border - 0.5, color=GREY, linewidth=0.5, alpha=0.5)
    marked = [f"{name}*" if name in parts else name for name in names]
    axes.set_xticks(range(len(names)), marked, fontsize=8)
    if parts:
        axes.set_xlabel("* a part of the data set: not comparable with published rows", fontsize=8)
    axes.set(xlim=(-0.55, len(names) - 0.45), ylabel="per cent")
    axes.margins(y=0.1)
    axes.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    save_figure(figure, path, plots)


def _label(row: Row) -> str:
    return f"{row.name} (published)" if row.published else row.name
