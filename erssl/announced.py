"""What other packages announce under our entry-point groups, and the YAML files beside it.

Importing an announced module registers what it holds. The files beside the modules are found
without importing one, hence without torch.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

ENTRY_POINT_GROUPS = {
    "method": "erssl.methods",
    "data": "erssl.datasets",
    "views": "erssl.views",
}
"""Config groups, and the entry-point group under which others add to each."""


def load_announced(group: str) -> None:
    """Import every module that is announced for a config group."""
    for entry_point in entry_points(group=ENTRY_POINT_GROUPS[group]):
        entry_point.load()


def announces(group: str) -> bool:
    """Whether any package announces something for a config group."""
    return bool(entry_points(group=ENTRY_POINT_GROUPS[group]))


def announced_file(group: str, name: str) -> Path | None:
    """The file ``<name>.yaml`` beside an announced module; ``None`` where there is none."""
    files = (folder / f"{name}.yaml" for folder in announced_folders(group))
    return next((file for file in files if file.is_file()), None)


def announced_folders(group: str) -> list[Path]:
    """Folders of the modules that are announced for a config group, none of which is imported."""
    folders = []
    for entry_point in entry_points(group=ENTRY_POINT_GROUPS[group]):
        top, *inner = entry_point.module.split(".")
        spec = find_spec(top)
        if spec is None:
            continue
        if spec.submodule_search_locations is None:
            folders += [Path(spec.origin).parent] if spec.origin else []
        for location in spec.submodule_search_locations or ():
            module = Path(location, *inner)
            folders.append(module if module.is_dir() else module.parent)
    return folders
