"""The page of a study: its tables as Markdown, the published ones beside them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from erssl.escaping import markdown_code, markdown_row, markdown_text
from erssl.studies.grid import Grid
from erssl.studies.metrics import is_share, label_of, value_of
from erssl.studies.outcome import Outcome
from erssl.studies.plan import Scale, Study
from erssl.studies.published import Published

NOT_RUN, FAILED = "–", "failed"
PAGE, RECORD, FIGURE = "study.md", "study.json", "study.png"  # of a study's folder


def page(
    study: Study,
    scale: Scale,
    grid: Grid,
    outcomes: Sequence[Outcome],
    figure: str | None,
    settings: str = "",
) -> str:
    """Write the page of a study.

    Args:
        study: The study.
        scale: The scale that was run.
        grid: Its runs.
        outcomes: What each came to, in the order of the grid.
        figure: File name of the figure beside the page.
        settings: A paragraph on what the runs were done with, in Markdown.

    Returns:
        Markdown.
    """
    done = [each for each in outcomes if each.metrics]
    named = f"{markdown_text(study.name)}, scale {markdown_text(scale.name)}"
    lines = [f"# {named}", "", markdown_text(study.question), ""]
    lines += [f"Source: {markdown_text(study.source)}.", ""] if study.source else []
    lines += [f"Scale: {markdown_text(scale.about)}", ""]
    if grid.changed:
        lines += [f"But with {', '.join(map(markdown_code, grid.changed))}.", ""]
    lines += [settings, ""] if settings else []
    lines += [_state(grid, outcomes), ""]
    if figure and done:
        lines += [f"![{markdown_text(study.name)}]({figure})", ""]
    for number, metric in enumerate(study.metrics):
        if number == 0 or any(metric in each.metrics for each in done):
            table_of_metric = metric_table(grid, outcomes, metric)
            lines += [f"## {markdown_text(label_of(metric))}", "", table_of_metric, ""]
    if any("untrained_knn_top1" in each.metrics for each in done):
        values = [each.metrics.get("untrained_knn_top1", math.nan) for each in done]
        lines += [f"Before training: kNN {100 * statistics.fmean(values):.1f} %.", ""]
    for table in study.published:
        lines += [f"## Published: {markdown_text(table.title)}", "", published_table(table), ""]
        source = markdown_text(table.source)
        lines += [f"Source: {source}. Measured at another scale than the tables above.", ""]
        lines += [*agreement(table, grid, outcomes), ""]
    lines += [f"- {markdown_text(note)}" for note in study.notes]
    failures = [each for each in outcomes if each.failure]
    if failures:
        lines += ["", "## Runs that failed", ""]
        reasons = (f"{', '.join(f.labels)}, seed {f.seed}: {f.failure}" for f in failures)
        lines += [f"- {markdown_text(reason)}" for reason in reasons]
    return "\n".join(lines).rstrip() + "\n"


def metric_table(grid: Grid, outcomes: Iterable[Outcome], metric: str) -> str:
    """Markdown table of one metric: the last axis across, named once, and the others down.

    A cell is the mean over the seeds that are finished, with the sample standard deviation where
    there are several; what is not run and what failed is said. The best accuracy of a row
    is bold where it is ahead by more than the deviation.
    """
    cells: dict[tuple[str, ...], list[Outcome]] = {}
    for each in outcomes:
        cells.setdefault(each.labels, []).append(each)
    *down, last = grid.axes
    if not down:
        lines = [markdown_row((last.name, label_of(metric))), "|---|---|"]
        texts = _row([cells.get((label,), []) for label in last.options], metric)
        return "\n".join(
            [
                *lines,
                *map(_line, ([label] for label in last.options), ([text] for text in texts)),
            ]
        )
    first, *others = last.options
    heads = [*(axis.name for axis in down), f"{last.name}: {first}", *others]
    lines = [markdown_row(heads), "|" + "---|" * len(heads)]
    for row in itertools.product(*(axis.options for axis in down)):
        texts = _row([cells.get((*row, label), []) for label in last.options], metric)
        lines.append(_line(row, texts))
    return "\n".join(lines)


def published_table(table: Published) -> str:
    """Markdown table of a paper's numbers."""
    lines = [markdown_row(["", *table.columns]), "|" + "---|" * (1 + len(table.columns))]
    for label, values in table.rows.items():
        texts = [NOT_RUN if value is None else f"{value:g}" for value in values]
        lines.append(_line([label], texts))
    return "\n".join(lines)


def agreement(table: Published, grid: Grid, outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences on how far the order of the rows is the published one, column by column.

    Columns and rows are those of equal labels; kNN top-1 stands for the published accuracy.
    """
    from scipy.stats import kendalltau

    sentences = []
    for index, column in enumerate(table.columns):
        pairs = []
        for row, values in table.rows.items():
            ours = [
                each.metrics["knn_top1"]
                for each in outcomes
                if set(each.labels) <= {row, column} and row in each.labels and each.metrics
            ]
            if ours and values[index] is not None:
                pairs.append((row, float(values[index] or 0.0), statistics.fmean(ours)))
        if len(pairs) < 3:
            continue
        tau = float(kendalltau([p[1] for p in pairs], [p[2] for p in pairs]).statistic)
        best = max(pairs, key=lambda pair: pair[1])[0]
        ours_best = max(pairs, key=lambda pair: pair[2])[0]
        sentences.append(
            f"- {markdown_text(column)}: order of {len(pairs)} rows against the published "
            f"one, Kendall's tau {tau:+.2f}; best published {markdown_text(best)}, here "
            f"{markdown_text(ours_best)}."
        )
    return sentences


def record(study: Study, scale: Scale, grid: Grid, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All that the page is made from, for ``study.json``."""
    return {
        "study": study.name,
        "question": study.question,
        "source": study.source,
        "scale": {"name": scale.name, "about": scale.about, "overrides": scale.overrides},
        "axes": {axis.name: dict(axis.options) for axis in grid.axes},
        "published": [asdict(table) for table in study.published],
        "runs": [asdict(each) for each in outcomes],
    }


def _line(names: Sequence[str], texts: Sequence[str]) -> str:
    """A line of a table: names of options, escaped, and texts of ours."""
    return f"| {' | '.join([*map(markdown_text, names), *texts])} |"


def _row(cells: Sequence[Sequence[Outcome]], metric: str) -> list[str]:
    """The cells of a row as text; bold the best accuracy, where no other is within the deviation.

    The larger standard deviation of the two cells counts. Of cells with one seed none is known, so
    that nothing is bold.
    """
    texts = [_cell(outcomes, metric) for outcomes in cells]
    means = {
        place: statistics.fmean(values)
        for place, outcomes in enumerate(cells)
        if (values := [o.metrics[metric] for o in outcomes if metric in o.metrics])
    }
    if is_share(metric) and len(means) > 1:
        best, *others = sorted(means, key=means.__getitem__, reverse=True)
        spread = {place: _deviation(cells[place], metric) for place in means}
        if all(means[best] - means[o] > max(spread[best], spread[o]) for o in others):
            texts[best] = f"**{texts[best]}**"
    return texts


def _deviation(outcomes: Sequence[Outcome], metric: str) -> float:
    """Sample standard deviation over the seeds; infinite where one seed tells nothing of it."""
    values = [o.metrics[metric] for o in outcomes if metric in o.metrics]
    return statistics.stdev(values) if len(values) > 1 else math.inf


def _cell(outcomes: Sequence[Outcome], metric: str) -> str:
    values = [value_of(metric, o.metrics[metric]) for o in outcomes if metric in o.metrics]
    if not values:
        return FAILED if any(o.failure for o in outcomes) else NOT_RUN
    digits = 1 if is_share(metric) else 2
    text = f"{statistics.fmean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    failed = sum(bool(o.failure) for o in outcomes)
    return f"{text} ({failed} failed)" if failed else text


def _state(grid: Grid, outcomes: Sequence[Outcome]) -> str:
    done = sum(bool(each.metrics) for each in outcomes)
    failed = sum(each.failure is not None for each in outcomes)
    seeds = len({cell.seed for cell in grid.cells})
    text = f"{done} of {len(outcomes)} runs are finished (seeds: {seeds})"
    if failed:
        text += f", {failed} failed"
    users = {each.in_use_by for each in outcomes if each.in_use_by}
    in_use = sum(each.in_use_by is not None for each in outcomes)
    if in_use:
        named = markdown_text(", ".join(sorted(users)))
        text += f", {in_use} are in use by {named}; call `erssl study` again when it has ended"
    missing = len(outcomes) - done - failed - in_use
    if missing:
        text += f", {missing} are missing; `erssl study` goes on with them"
    return text + "."
