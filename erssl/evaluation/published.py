"""What others published under a protocol, to be printed beside a result of ours."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

LABEL = "published"


def published(protocol: str, dataset: str, **setting: Any) -> list[dict[str, Any]] | None:
    """Published numbers of a protocol on a data set.

    Each group is one table of one source under one setting: numbers of two groups do not compare.
    A released file's own numbers are in the zoo (:class:`erssl.models.zoo.ZooRow`).

    Args:
        protocol: ``"linear"``, ``"linear_online"``, ``"knn"``, ``"semi"``, ``"finetune"``,
            ``"transfer_linear"``, ``"transfer_finetune"``, ``"coco_detection"``,
            ``"voc_detection"`` or ``"cost"``.
        dataset: Such as ``"imagenet"`` or ``"dtd"``; ``"average"`` of the eleven transfer sets.
        **setting: What the groups' own settings must say, such as ``fraction=0.01`` or
            ``epochs=100``; a group that does not say it is left out.

    Returns:
        Groups for ``results.json``, each with ``label`` (always ``"published"``), ``source``,
        ``setting``, ``unit`` (``"percent"``, or ``"hours"`` of a cost), ``rows``
        ``{method: {metric: value}}`` and, where there is more to say, ``note``; ``None`` where
        nothing is known.

    Example:
        >>> for group in published("semi", "imagenet", fraction=0.01):
        ...     print(group["source"], group["rows"].get("MVEB"))
        MVEB (arXiv 2403.19078), semi-supervised table {'top1': 57.5, 'top5': 82.1}
        README of google-research/simclr; ResNet-50 1x without selective kernels None
    """
    groups = [
        {key: value for key, value in group.items() if key not in ("protocol", "dataset")}
        for group in _groups()
        if (group["protocol"], group["dataset"]) == (protocol, dataset)
        and setting.items() <= group["setting"].items()
    ]
    return [{"label": LABEL, **copy.deepcopy(group)} for group in groups] or None


def published_value(protocol: str, dataset: str, method: str, metric: str) -> float | None:
    """A method's number in the first group of ``published.yaml`` under a protocol.

    One group only, so that a column of such numbers has one source.

    Args:
        protocol: As in :func:`published`.
        dataset: As in :func:`published`.
        method: As its authors write it.
        metric: Such as ``"top1"`` or ``"box_ap"``.

    Returns:
        The number, or ``None`` where that group has none.
    """
    groups = published(protocol, dataset)
    value = groups[0]["rows"].get(method, {}).get(metric) if groups else None
    return None if value is None else float(value)


@cache
def _groups() -> tuple[dict[str, Any], ...]:
    import yaml

    text = (files("erssl.evaluation") / "published.yaml").read_text(encoding="utf-8")
    return tuple(group for entry in yaml.safe_load(text) for group in _expanded(entry))


def _expanded(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A table as one group for each of its data sets; any other entry as it is."""
    group = {"unit": "percent", **entry}
    table = group.pop("table", None)
    if table is None:
        yield group
        return
    for column, (dataset, metric) in enumerate(table.items()):
        rows = {method: {metric: values[column]} for method, values in entry["rows"].items()}
        yield {**group, "dataset": dataset, "rows": rows}
