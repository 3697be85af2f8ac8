"""The section of a study's page on a paper's table: its numbers beside ours, and what agrees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

from erssl.errors import listed_and
from erssl.escaping import markdown_code, markdown_row, markdown_text
from erssl.studies.comparison import Compared, compare
from erssl.studies.grid import Grid
from erssl.studies.metrics import digits_of, name_of
from erssl.studies.outcome import Outcome
from erssl.studies.plan import Scale
from erssl.studies.published import Published
from erssl.studies.seeds import mean_text

PAPER_SCALE = "imagenet"  # whose settings and images are those of the papers
_ABSENT = "–"
_NOISE = "Orders are of the means; a difference below the deviation over the seeds is none."


def published_lines(
    table: Published, scale: Scale, grid: Grid, outcomes: Sequence[Outcome]
) -> list[str]:
    """Write the section of a page on a published table, in Markdown."""
    compared = compare(table, scale, grid, outcomes)
    said = [f"Source: {markdown_text(table.source)}.", _scale(scale, grid)]
    if any(each.metrics for each in outcomes):
        said.append(_metric(table, compared[0].metric))
    said += _options(compared, grid)
    if any(each.tau is not None for each in compared):
        said.append(_NOISE)
    return [
        f"## Published: {markdown_text(table.title)}",
        "",
        *_table(table, compared),
        "",
        " ".join(said),
        "",
        *(f"- {_sentence(each, table)}" for each in compared),
        "",
    ]


def _table(table: Published, compared: Sequence[Compared]) -> list[str]:
    """The published values, and behind each column what of ours it is beside."""
    heads, cells = [""], {row: [row] for row in table.rows}
    for number, column in enumerate(table.columns):
        heads.append(f"{column.name}, paper")
        sign = "+" if any(place.kind == "change" for place in column.places) else ""
        form = f"{sign}.{_digits(v[number] for v in table.rows.values())}f"
        for row, values in table.rows.items():
            value = values[number]
            cells[row].append(_ABSENT if value is None else f"{value:{form}}")
        for each in compared:
            if each.column == column.name and each.place is not None:
                heads.append(each.place.head)
                signed, digits = each.place.kind == "change", digits_of(each.metric)
                for row, ours in each.ours.items():
                    cells[row].append(mean_text(ours, digits, signed) if ours else _ABSENT)
    return [markdown_row(heads), "|" + "---|" * len(heads), *map(markdown_row, cells.values())]


def _digits(values: Iterable[float | None]) -> int:
    """Digits behind the point that a column was published with."""
    powers = (Decimal(str(v)).normalize().as_tuple().exponent for v in values if v is not None)
    return max((-power for power in powers if isinstance(power, int) and power < 0), default=0)


def _scale(scale: Scale, grid: Grid) -> str:
    """Whether ours are measured as the paper's are."""
    images = {o for cell in grid.cells for o in cell.overrides if o.startswith("data=")}
    if scale.name != PAPER_SCALE:
        differs = f"of scale {markdown_text(scale.name)}, which is not the paper's"
    elif images != {f"data={PAPER_SCALE}"}:
        differs = "of the paper's scale, but of other images"
    elif grid.that_counts:
        differs = "of the paper's scale, but for what this page changed"
    else:
        return "Ours are of the paper's scale."
    return f"Ours are {differs}: compare orders and signs, not values."


def _metric(table: Published, metric: str) -> str:
    """Which metric of ours is beside the paper's."""
    if metric == table.metric:
        return f"The metric is {name_of(metric)}, in the paper and here."
    return f"The paper's metric is {name_of(table.metric)}; our {name_of(metric)} stands for it."


def _options(compared: Sequence[Compared], grid: Grid) -> list[str]:
    """What our options set, where their labels do not say it."""
    options = grid.axes[-1].options
    places = [each.place for each in compared if each.place is not None]
    meant = []
    for label in dict.fromkeys(label for p in places for label in (p.base, p.option) if label):
        overrides = options.get(label, {})
        if not all(str(value) in label for value in overrides.values()):
            settings = ", ".join(markdown_code(f"{key}={v}") for key, v in overrides.items())
            meant.append(f"{markdown_text(label)} is {settings}")
    return [f"Here {listed_and(meant)}."] if meant else []


def _sentence(compared: Compared, table: Published) -> str:
    """How the order of a column is to the paper's, or why that cannot be said."""
    place = compared.place
    several = any(c.name == compared.column and len(c.places) > 1 for c in table.columns)
    beside = f" ({place.head})" if place is not None and several else ""
    column = f"Column {markdown_text(compared.column + beside)}"
    if place is None or compared.reason:
        return f"{column} cannot be compared: {markdown_text(compared.reason)}."
    of = "" if place.kind == "option" else f"{place.kind} of "
    paper, here = f"{of}{name_of(table.metric)}", f"{of}{name_of(compared.metric)}"
    if compared.tau is None:
        said = f"the {compared.rows} rows are equal in the paper or here, and have no order."
    else:
        said = f"our {here} orders the {compared.rows} rows {_order(compared, paper)}"
    if compared.left_out:
        said += f" Without a number here: {markdown_text('; '.join(compared.left_out))}."
    return f"{column}: {said}"


def _order(compared: Compared, paper: str) -> str:
    """The order against the paper's, and the best of both."""
    tau = compared.tau or 0.0
    if math.isclose(tau, 1):
        said = f"as the paper's {paper} does"
    elif math.isclose(tau, -1):
        said = f"the other way round from the paper's {paper}"
    else:
        said = f"otherwise than the paper's {paper}"
    measure = f" (Kendall's tau {tau:+.2f})" if compared.rows > 2 else ""
    in_paper, here = (markdown_text(listed_and(rows)) for rows in compared.best)
    return f"{said}{measure}. Best in the paper: {in_paper}; here: {here}."
