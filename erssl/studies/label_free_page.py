"""The page and the figure of the study of readings without labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from erssl.errors import counted
from erssl.escaping import markdown_row, markdown_text
from erssl.run.plots import Plots, plain, save_figure
from erssl.studies.plan import Scale, Study
from erssl.studies.ranking import Ranked, ReadRun, Tau

_MANY = 40  # runs from which on the question asks for an answer


def label_free_page(
    study: Study,
    scale: Scale,
    ranked: Sequence[Ranked],
    runs: Sequence[ReadRun],
    left_out: Mapping[str, str],
    figure: str,
) -> str:
    """Write the page, as Markdown.

    Args:
        study: The study.
        scale: Which runs it is of.
        ranked: τ of each reading, best first.
        runs: The runs.
        left_out: Why a run of the store is not among them, by its folder.
        figure: File name of the figure beside the page.
    """
    methods = Counter(run.method for run in runs)
    settings = len({run.setting for run in runs})
    lines = [f"# {markdown_text(study.name)}", "", markdown_text(study.question), ""]
    lines += [f"Source: {markdown_text(study.source)}.", ""] if study.source else []
    listed = ", ".join(f"{markdown_text(name)} {count}" for name, count in methods.most_common())
    lines += [
        f"{markdown_text(scale.about)} {counted(len(runs), 'run')} of "
        f"{counted(settings, 'setting')}: {listed}.",
        "",
    ]
    if len(runs) < _MANY:
        lines += [f"Fewer than {_MANY} runs: nothing is answered yet.", ""]
    lines += [f"![τ of each reading]({figure})", ""]
    heads = ("reading", "runs", "τ, all pairs", "τ within methods", "τ across methods")
    lines += [markdown_row(heads), "|---|---|---|---|---|"]
    lines += [
        markdown_row((r.name, str(r.runs), _text(r.every), _text(r.within), _text(r.across)))
        for r in ranked
    ]
    lines += [
        "",
        "Kendall's τ-b with kNN top-1 over pairs of runs of one setting (images, network, "
        "neighbours); in brackets the 5 % and 95 % of a bootstrap over runs. Copies of a run, and "
        "trainings of equal settings, count once.",
        "",
    ]
    lines += [f"- {markdown_text(note)}" for note in study.notes]
    if left_out:
        lines += ["", "## Runs that were left out", ""]
        lines += [f"- {markdown_text(f'{name}: {why}')}" for name, why in left_out.items()]
    return "\n".join(lines).rstrip() + "\n"


def plot_taus(ranked: Sequence[Ranked], path: Path, plots: Plots = "png") -> None:
    """Draw τ of each reading within and across methods, with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 1.6 + 0.27 * len(ranked)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for offset, (label, color) in enumerate((("within", "tab:blue"), ("across", "tab:orange"))):
        for place, each in enumerate(ranked):
            tau: Tau = getattr(each, label)
            if math.isfinite(tau.value):
                y = place + 0.3 * offset - 0.15
                axes.plot([tau.low, tau.high], [y, y], color=color, linewidth=1.2)
                axes.plot(tau.value, y, "o", color=color, markersize=4)
        axes.plot([], [], "o-", color=color, markersize=4, label=f"{label} methods")
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(ranked)), [plain(each.name) for each in ranked], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel("Kendall's τ with kNN top-1", fontsize=9)
    axes.grid(axis="x", alpha=0.25)
    figure.legend(fontsize=8, loc="outside upper center", ncols=2)
    save_figure(figure, path, plots)


def _text(tau: Tau) -> str:
    if not math.isfinite(tau.value):
        return "–"
    return f"{tau.value:+.2f} [{tau.low:+.2f}, {tau.high:+.2f}] ({tau.pairs})"
