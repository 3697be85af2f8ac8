"""What the runs of a study were done with, so that its page can be read alone."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from erssl.escaping import markdown_code, markdown_text
from erssl.models.architectures import architecture_label
from erssl.settings.pretrain_options import PretrainSettings

_SHOWN = 4  # values of a setting that differs between the runs
_PACKAGES = ("erssl", "torch", "lightly")


def settings_paragraph(runs: Sequence[PretrainSettings], surroundings: Mapping[str, Any]) -> str:
    """Write command, images, epochs, batch, network, versions and date in one paragraph.

    Args:
        runs: Settings of each run.
        surroundings: What :func:`erssl.run.directory.environment` gave.

    Returns:
        Markdown.
    """
    settings = {
        "images": (run.data.name for run in runs),
        "epochs": (run.epochs for run in runs),
        "batch": (run.batch_size for run in runs),
        "network": (architecture_label(run.backbone) for run in runs),
    }
    said = [f"{name} {markdown_text(_values(values))}" for name, values in settings.items()]
    packages = surroundings["packages"]
    versions = [f"{name} {packages[name]}" for name in _PACKAGES if name in packages]
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return (
        f"Settings: {'; '.join(said)}. Written on {day} with {markdown_text(', '.join(versions))} "
        f"by {markdown_code(surroundings['command'])}."
    )


def _values(values: Iterable[Any]) -> str:
    different = list(dict.fromkeys(str(value) for value in values))
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return ", ".join(different[:_SHOWN]) + more
