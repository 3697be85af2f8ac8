"""Many results in one table: Markdown, HTML, CSV, and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erssl.errors import DataError
from erssl.escaping import csv_table, html_text, markdown_row, markdown_text
from erssl.paths import user_path
from erssl.run.directory import RESULTS

_COLUMNS = ("method", "protocol", "setting", "dataset", "seed")
_METRICS = ("top1", "top5", "mean_per_class", "best_on_val_top1")  # the others: in the CSV file
# What erssl pretrain measures at its end, by the beginning of the metric's name.
_AT_THE_END = {
    "knn_": "kNN at the end of pretraining",
    "knn_whitened_": "kNN of whitened features at the end of pretraining",
    "linear_": "logistic regression at the end of pretraining",
    "untrained_knn_": "kNN before training",
    "untrained_knn_whitened_": "kNN of whitened features before training",
    "untrained_linear_": "logistic regression before training",
}
_TOLD = {  # by other columns, or of no account for the result
    "checkpoint",
    "data",
    "run_dir",
    "overwrite",
    "resume",
    "plots",
    "seed",
    "seeds",
    "cache",
    "cache_dir",
    "data.root",
    "data.train_dir",
    "data.val_dir",
    "data.num_workers",
    "preset",
    "mode",
    "fraction",
    "k",
    "epochs",
    "trainer.accelerator",
    "trainer.devices",
}
_SETTING = ("preset", "mode", "fraction", "k", "epochs")
_LARGEST = 1e100  # of a metric
_KEYS = {"protocol", "dataset", "method", "metrics", "seed", "config", "environment"}


@dataclass(frozen=True)
class Summary:
    """Results side by side.

    Attributes:
        results: Contents of ``results.json`` files, in the order in which they were named.
        folders: Where each lies.
    """

    results: tuple[Mapping[str, Any], ...]
    folders: tuple[Path, ...]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Columns and metrics of each line; a pretraining has one for each of its readings."""
        pairs = zip(self.results, self.folders, strict=True)
        return [entry for result, folder in pairs for entry in _entries(result, folder)]

    def header(self) -> list[str]:
        """Names of the columns that some line has something in."""
        held = {name for entry in self.entries for name, value in entry.items() if value != ""}
        return [name for name in (*_COLUMNS, *_METRICS, "folder") if name in held]

    def rows(self) -> list[list[str]]:
        """Cells of the table, accuracies in per cent."""
        return [
            [
                _percent(entry, name) if name in _METRICS else str(entry.get(name, ""))
                for name in self.header()
            ]
            for entry in self.entries
        ]

    def markdown(self) -> str:
        """The table in Markdown, with what is published for the same protocols."""
        lines = [markdown_row(self.header()), "|" + "---|" * len(self.header())]
        lines += map(markdown_row, self.rows())
        published = (f"- {markdown_text(line)}" for line in self.published())
        return "\n".join([*lines, "", _NOTE, "", *published, ""])

    def html(self, image: str | None = None) -> str:
        """The table as a page of its own."""
        head = "".join(f"<th>{html_text(name)}</th>" for name in self.header())
        body = "".join(
            "<tr>" + "".join(f"<td>{html_text(cell)}</td>" for cell in row) + "</tr>\n"
            for row in self.rows()
        )
        drawn = f'<p><img src="{html_text(image)}" alt="accuracies"></p>\n' if image else ""
        notes = "".join(f"<li>{html_text(line)}</li>\n" for line in self.published())
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>erssl report'
            f"</title>\n<style>{_STYLE}</style></head>\n<body><h1>Results</h1>\n"
            f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"
            f"<p>{_NOTE}</p>\n<ul>\n{notes}</ul>\n{drawn}</body></html>\n"
        )

    def csv(self) -> str:
        """Every metric of every line of the table, unrounded."""
        entries = self.entries
        names = list(dict.fromkeys(name for entry in entries for name in entry))
        return csv_table([names, *([entry.get(name) for name in names] for entry in entries)])

    def published(self) -> list[str]:
        """What is published for the same protocols, each once."""
        from erssl.run.report import published_lines

        lines = [line for r in self.results for line in published_lines(r.get("published"))]
        return list(dict.fromkeys(lines))


def collect(places: Iterable[str | Path]) -> Summary:
    """Find the ``results.json`` of folders, or of the folders in them.

    Raises:
        DataError: If a place holds none, or one that cannot be read.
    """
    files: list[Path] = []
    for place in places:
        path = user_path(place)
        results = [path / RESULTS] if (path / RESULTS).is_file() else sorted(path.rglob(RESULTS))
        if not path.exists():
            raise DataError(
                f"There is no file or folder {place}; name run directories, or a folder of them."
            )
        if not results:
            raise DataError(
                f"There is no {RESULTS} in {place}; name run directories, or a folder of them."
            )
        files += [file for file in results if file not in files]
    return Summary(
        tuple(read_results(file) for file in files), tuple(file.parent for file in files)
    )


def probe_metrics(result: Mapping[str, Any]) -> dict[str, str]:
    """The metrics of further sets of images, and what each set is called.

    Args:
        result: The content of the ``results.json`` of a pretraining.
    """
    probes = result["config"].get("evaluation", {}).get("probes")
    names = probes if isinstance(probes, dict) else {}
    return {f"knn_top1_{n}": f"{n}" for n in names if f"knn_top1_{n}" in result["metrics"]}


def read_results(file: Path) -> dict[str, Any]:
    """The content of a ``results.json``, whose values can be written and drawn.

    Raises:
        DataError: If it is not what a run writes.
    """
    from erssl.run.report import published_lines

    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(content, dict) and content.keys() >= _KEYS):
            raise ValueError("keys are missing")
        if not all(isinstance(content[key], dict) for key in ("metrics", "config", "environment")):
            raise ValueError("metrics, config and environment are no groups of keys")
        if not all(_is_number(value) for value in content["metrics"].values()):
            raise ValueError("metrics are no numbers")
        if not isinstance(content["config"].get("evaluation", {}), dict):
            raise ValueError("config.evaluation is no group of keys")
        if not all(isinstance(content[key], str | None) for key in ("method", "dataset")):
            raise ValueError("method and dataset are no names")
        published_lines(content.get("published"))
        json.dumps(content, ensure_ascii=False).encode()  # half a character cannot be written
        return dict(content)
    except (ValueError, OSError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file} is not what a run writes ({type(error).__name__}: {error}); delete it, or "
            "leave its folder out."
        ) from error


def _is_number(value: object) -> bool:
    """Whether it can be drawn and written, which a whole number of 400 digits cannot."""
    return isinstance(value, int | float) and not _LARGEST < abs(value) < math.inf


def _entries(result: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    config, metrics = result["config"], result["metrics"]
    common = {"dataset": result["dataset"], "seed": result["seed"], "folder": str(folder)}
    common |= {"wall_seconds": result.get("wall_seconds", "")}
    if result["protocol"] == "pretrain":
        rows = []
        probes = probe_metrics(result)
        k = config.get("evaluation", {}).get("knn_k")
        for prefix, protocol in _AT_THE_END.items():
            own = {
                key.removeprefix(prefix): value
                for key, value in metrics.items()
                if _beginning(key) == prefix and key not in probes
            }
            said = f"k={k}" if "knn" in prefix and k is not None else ""
            line = {"method": result["method"], "protocol": protocol, "setting": said} | common
            if own:
                rows.append(line | own)
            if prefix == "knn_":  # on further sets of images
                rows += [
                    line | {"dataset": name, "top1": metrics[key]} for key, name in probes.items()
                ]
        return rows
    settings = [f"{k}={config[k]}" for k in _SETTING if config.get(k) is not None]
    command = str(result["environment"].get("command", "")).split()[2:]
    settings += [o for o in command if "=" in o and o.partition("=")[0] not in _TOLD]
    said = " ".join(dict.fromkeys(settings))
    own = {"method": result["method"], "protocol": result["protocol"], "setting": said}
    return [own | common | metrics]


def _beginning(metric: str) -> str | None:
    """What says how a pretraining's metric was measured: the longest of the beginnings."""
    return max(filter(metric.startswith, _AT_THE_END), key=len, default=None)


def _percent(entry: Mapping[str, Any], name: str) -> str:
    if name not in entry:
        return "-"
    spread = entry.get(f"{name}_std")
    return f"{100 * entry[name]:.2f}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


_NOTE = (
    "Per cent, ± standard deviation over seeds where there are several; of the last epoch but for "
    "best_on_val."
)
_STYLE = (
    "body{font:15px sans-serif;margin:2em}table{border-collapse:collapse}"
    "th,td{padding:.3em .8em;border-bottom:1px solid #ccc;text-align:left}"
)
