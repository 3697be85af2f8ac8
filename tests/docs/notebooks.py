"""Run the notebooks: ``python -m tests.docs.notebooks`` writes their outputs again."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
_NUMBER = re.compile(r"[-+]?\d[\d.e+-]*")


def read(path: Path) -> Any:
    """Read a notebook as it is kept."""
    return nbformat.read(path, as_version=4)


def execute(path: Path, folder: Path) -> Any:
    """Run a notebook from its first cell to its last, in a process of its own.

    Args:
        path: The notebook; it is not changed.
        folder: The working folder, which gets the files that it writes.

    Returns:
        The notebook with its outputs.

    Raises:
        CellExecutionError: If a cell raises.
    """
    notebook = read(path)
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources=place, record_timing=False
    )
    return client.execute()


def outputs(notebook: Any) -> list[list[tuple[str, str]]]:
    """Give the kinds of the outputs of each code cell and their text, its numbers left out.

    Numbers differ with versions and processors, figures with fonts.
    """
    return [
        [(kind, _text(content)) for output in cell.outputs for kind, content in _parts(output)]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def _parts(output: Any) -> list[tuple[str, str]]:
    if output.output_type == "stream":
        return [(output.name, output.text)]
    kinds = sorted(output.data)  # in whatever order they came
    return [(kind, "" if kind == "image/png" else output.data[kind]) for kind in kinds]


def _text(content: str) -> str:
    return " ".join(_NUMBER.sub("#", content).split())


def main() -> None:
    """Write the outputs of every notebook again."""
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, Path(folder))
        notebook.metadata.language_info = {"name": "python"}  # not the version that ran it
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
