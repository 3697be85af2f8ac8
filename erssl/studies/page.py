"""The page of a study: its tables as Markdown, the published ones beside them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

from erssl.errors import listed_and
from erssl.escaping import markdown_code, markdown_row, markdown_text
from erssl.studies.comparison import compare
from erssl.studies.grid import DATA, Grid
from erssl.studies.metrics import digits_of, is_share, label_of, title_of, value_of
from erssl.studies.outcome import Outcome, untrained_levels
from erssl.studies.plan import DEFAULT_SCALE, LINEAR, Scale, Study
from erssl.studies.published_page import published_lines
from erssl.studies.seeds import deviation, mean, mean_text

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
    lines += [_of_scale(scale, grid), ""]
    lines += [settings, ""] if settings else []
    lines += [" ".join([_state(grid, outcomes), *_shared(outcomes)]), ""]
    if figure and done:
        lines += [f"![{markdown_text(study.name)}]({figure})", ""]
    first, *others = study.metrics
    metrics = [first, *(m for m in others if any(m in each.metrics for each in done))]
    if len(grid.axes) == 1:
        lines += ["## Results", "", option_table(grid, outcomes, metrics), ""]
        lines += [*_in_full(metrics), ""]
    else:
        for metric in metrics:
            table_of_metric = metric_table(grid, outcomes, metric)
            lines += [f"## {markdown_text(label_of(metric))}", "", table_of_metric, ""]
    lines += _of_no_run(study.metrics, done)
    lines += _before_training(grid, outcomes)
    for table in study.published:
        lines += published_lines(table, scale, grid, outcomes)
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
    there are several; what is not run and what failed is said. The best accuracy of a row, of a
    column where a row has one cell or a column images of its own, is bold where it is ahead by
    more than the deviation.
    """
    cells = _by_labels(outcomes)
    *down, last = grid.axes
    first, *others = last.options
    heads = [*(axis.name for axis in down), f"{last.name}: {first}", *others]
    rows = list(itertools.product(*(axis.options for axis in down)))
    places = [[(*row, option) for option in last.options] for row in rows]
    own_images = any(DATA in overrides for overrides in last.options.values())
    of_columns = own_images or not others
    compared = list(zip(*places, strict=True)) if of_columns else places
    bold = {
        _best({labels: cells.get(labels, []) for labels in group}, metric) for group in compared
    }
    lines = [markdown_row(heads), "|" + "---|" * len(heads)]
    for row, row_places in zip(rows, places, strict=True):
        texts = [_cell(cells.get(labels, []), metric, labels in bold) for labels in row_places]
        lines.append(f"| {' | '.join([*map(markdown_text, row), *texts])} |")
    return "\n".join(lines)


def option_table(grid: Grid, outcomes: Iterable[Outcome], metrics: Sequence[str]) -> str:
    """Markdown table of a study of one axis: its options down, and the metrics across.

    Cells are those of :func:`metric_table`; the best accuracy of a column is bold.
    """
    cells = _by_labels(outcomes)
    (axis,) = grid.axes
    of_options: dict[tuple[str, ...], list[Outcome]] = {
        (option,): cells.get((option,), []) for option in axis.options
    }
    best = {metric: _best(of_options, metric) for metric in metrics}
    heads = [axis.name, *map(title_of, metrics)]
    lines = [markdown_row(heads), "|" + "---|" * len(heads)]
    for labels, of in of_options.items():
        texts = [_cell(of, metric, labels == best[metric]) for metric in metrics]
        lines.append(f"| {' | '.join([*map(markdown_text, labels), *texts])} |")
    return "\n".join(lines)


def _in_full(metrics: Sequence[str]) -> list[str]:
    """What columns are whose heads are short."""
    short = [m for m in metrics if title_of(m) != label_of(m)]
    return [f"- {markdown_text(title_of(m))}: {markdown_text(label_of(m))}" for m in short]


def _of_no_run(metrics: Sequence[str], done: Sequence[Outcome]) -> list[str]:
    """Which metrics no finished run has, and what may have been meant.

    Linear accuracy is one of every study's, and measured where its file names it.
    """
    known = sorted({name for each in done for name in each.metrics})
    lines = []
    for metric in metrics:
        if known and metric not in known and metric != LINEAR:
            close = get_close_matches(metric, known, n=1, cutoff=0.5)
            meant = f"; did you mean {markdown_code(close[0])}?" if close else "."
            lines += [f"No run has the metric {markdown_code(metric)}{meant}", ""]
    return lines


def _by_labels(outcomes: Iterable[Outcome]) -> dict[tuple[str, ...], list[Outcome]]:
    """The runs of each cell."""
    cells: dict[tuple[str, ...], list[Outcome]] = {}
    for each in outcomes:
        cells.setdefault(each.labels, []).append(each)
    return cells


def record(study: Study, scale: Scale, grid: Grid, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """All that the page is made from, for ``study.json``."""
    return {
        "study": study.name,
        "question": study.question,
        "source": study.source,
        "scale": {"name": scale.name, "about": scale.about, "overrides": scale.overrides},
        "axes": {axis.name: dict(axis.options) for axis in grid.axes},
        "published": [asdict(table) for table in study.published],
        "compared": [
            asdict(column)
            for table in study.published
            for column in compare(table, scale, grid, outcomes)
        ],
        "runs": [asdict(each) for each in outcomes],
    }


def _best(
    cells: Mapping[tuple[str, ...], Sequence[Outcome]], metric: str
) -> tuple[str, ...] | None:
    """Labels of the cell with the best accuracy, if no other is within the deviation.

    The larger standard deviation of the two cells counts. Of cells with one seed none is known, so
    that none is the best.
    """
    values = {labels: _values(outcomes, metric) for labels, outcomes in cells.items()}
    means = {labels: mean(of) for labels, of in values.items() if of}
    if not is_share(metric) or len(means) < 2 or not all(map(math.isfinite, means.values())):
        return None
    spread = {labels: _known(deviation(values[labels])) for labels in means}
    best, *others = sorted(means, key=means.__getitem__, reverse=True)
    ahead = all(means[best] - means[o] > max(spread[best], spread[o]) for o in others)
    return best if ahead else None


def _known(spread: float | None) -> float:
    """A deviation; infinite where it is not known, so that nothing is ahead by more."""
    return math.inf if spread is None else spread


def _values(outcomes: Sequence[Outcome], metric: str) -> list[float]:
    """The values of a metric over the seeds that have it, in the unit of its label."""
    return [value_of(metric, o.metrics[metric]) for o in outcomes if metric in o.metrics]


def _cell(outcomes: Sequence[Outcome], metric: str, bold: bool) -> str:
    """The cell of a table, in Markdown."""
    values = _values(outcomes, metric)
    failed = sum(bool(o.failure) for o in outcomes)
    if not values:
        return FAILED if failed else NOT_RUN
    text = mean_text(values, digits_of(metric))
    text = f"{text} ({failed} failed)" if failed else text
    return f"**{text}**" if bold else text


def _of_scale(scale: Scale, grid: Grid) -> str:
    """What the scale is, what this page changed of it, and what its runs can show."""
    text = f"Scale {markdown_text(scale.name)} is: {markdown_text(scale.about.rstrip('.'))}."
    if grid.changed:
        text += f" This page changed: {', '.join(map(markdown_code, grid.changed))}."
    if scale.name == DEFAULT_SCALE:
        text += " It shows a trend of short runs of a small network, not a paper's result."
    return text


def _shared(outcomes: Sequence[Outcome]) -> list[str]:
    """Say which cells are one run, since their settings are the same."""
    cells: dict[tuple[str, int], list[str]] = {}
    for each in outcomes:
        if each.folder:
            cells.setdefault((each.folder, each.seed), []).append(", ".join(each.labels))
    groups = dict.fromkeys(tuple(names) for names in cells.values() if len(names) > 1)
    return [
        f"One run stands in the cells {listed_and([f'({markdown_text(n)})' for n in names])}: they "
        "have the same settings."
        for names in groups
    ]


def _before_training(grid: Grid, outcomes: Sequence[Outcome]) -> list[str]:
    """The accuracy of the networks before training, for each set of images and network."""
    levels = untrained_levels(grid, outcomes, "knn_top1")
    texts = []
    for labels, values in levels.items():
        of = f" ({markdown_text(', '.join(labels))})" if labels else ""
        texts.append(f"{mean_text(values, digits_of('knn_top1'))} %{of}")
    return [f"Before training: kNN {listed_and(texts)}.", ""] if texts else []


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
