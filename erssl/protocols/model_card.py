"""A finished run as a row of the user's zoo, and the model card that goes with its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erssl.errors import DataError, RunError
from erssl.escaping import markdown_block, markdown_code, markdown_row, markdown_text
from erssl.files import write_text
from erssl.models import load_backbone
from erssl.models.loading import WEIGHTS_FILE
from erssl.models.zoo import ZooRow, add_row
from erssl.models.zoo.downloads import file_digest
from erssl.models.zoo.rows import check_name
from erssl.paths import user_path
from erssl.run.directory import CONFIG, RESULTS
from erssl.run.summary import read_results

MODEL_CARD = "model_card.md"


def add_to_zoo(
    run_dir: str | Path, name: str | None = None, url: str | None = None, overwrite: bool = False
) -> tuple[ZooRow, Path]:
    """Add a finished run to the user's zoo and write ``model_card.md`` into its directory.

    Args:
        run_dir: The run directory of ``erssl pretrain``.
        name: What to call it; ``None`` for the directory's own name.
        url: Where others will find its ``backbone.safetensors``.
        overwrite: Replace what has that name.

    Returns:
        The row, and the model card.

    Raises:
        RunError: If there is no finished run.
        ConfigError: If the name cannot be used or is taken.
        DataError: If its weights cannot be read.
    """
    path = user_path(run_dir).resolve()
    name = path.name if name is None else name
    check_name(name)
    results, config = _read(path)
    try:
        backbone: Any = load_backbone(path)
    except DataError as error:
        raise DataError(f"{run_dir} cannot be added to the zoo: {error}") from error
    weights = path / WEIGHTS_FILE
    fields = {
        "method": results["method"] or "",
        "data": results["dataset"],
        "epochs": results["config"].get("epochs"),
        "seed": results["seed"],
        "arch": {k: v for k, v in dataclasses.asdict(backbone.architecture).items() if v != {}},
        "preprocessing": dict(backbone.preprocessing),
        "file": str(weights),
        "url": url,
        "sha256": file_digest(weights),
        "protocol": results["protocol"],
        "measured": {k: float(v) for k, v in results["metrics"].items()},
        "run": str(path),
    }
    row = add_row(name, {k: v for k, v in fields.items() if v not in (None, "", {})}, overwrite)
    card = path / MODEL_CARD
    write_text(card, _card(row, backbone, results, config))
    return row, card


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """Results and config of a run; both are there once it is finished."""
    if not (path / RESULTS).is_file():
        raise RunError(
            f"{path} holds no finished run (it has no {RESULTS}); name the run directory of a "
            "finished erssl pretrain."
        )
    try:
        results = read_results(path / RESULTS)
        return results, (path / CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} has no {RESULTS} and {CONFIG} as a run writes them; name the run directory of "
            "a finished erssl pretrain."
        ) from error


def _card(row: ZooRow, backbone: Any, results: Mapping[str, Any], config: str) -> str:
    library = backbone.architecture.library
    environment = results["environment"]
    packages = environment.get("packages", {})
    facts = {
        "Method": row.method or "not known",
        "Data": row.data,
        "Epochs": "not known" if row.epochs is None else row.epochs,
        "Seed": row.seed,
        "Architecture": f"{row.architecture} ({library})",
        "Preprocessing": _listed(row.preprocessing) or "none",
        f"sha256 of {WEIGHTS_FILE}": row.sha256,
        "Address": row.url or "not published",
    }
    numbers = [markdown_row((key, f"{value:.4f}")) for key, value in row.measured.items()]
    lines = [
        f"# {markdown_text(row.name)}",
        "",
        "| | |",
        "|---|---|",
        *map(markdown_row, facts.items()),
        "",
        "## How to load it",
        "",
        "```python",
        "from erssl import load_backbone",
        "",
        f'backbone = load_backbone("{WEIGHTS_FILE}")  # or "zoo:{row.name}" where it was added',
        "backbone.preprocessing  # how to prepare images",
        "```",
        "",
        f"Images (N, {backbone.architecture.in_channels}, H, W) give features "
        f"(N, {backbone.feature_dim}); the names in the file are those of {library}.",
        "",
        "## Measured",
        "",
        *(["| metric | value |", "|---|---|", *numbers] if numbers else ["Nothing was measured."]),
        "",
        f"By the protocol {row.protocol} on {markdown_text(row.data)}: the last epoch, on the "
        "validation split; accuracies lie in [0, 1]. k, temperature and the rest stand in the "
        "config.",
        "",
        "## Config",
        "",
        *markdown_block(config, "yaml"),
        "",
        "## Environment",
        "",
        f"- Command: {markdown_code(environment.get('command', 'not known'))}",
        f"- Python {markdown_text(environment.get('python', 'not known'))} on "
        f"{markdown_text(environment.get('device', 'a device that is not known'))}",
        *(f"- {markdown_text(f'{name} {version}')}" for name, version in packages.items()),
    ]
    return "\n".join(lines) + "\n"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
