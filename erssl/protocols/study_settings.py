"""What the runs of a study were done with, so that its page can be read alone."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from erssl.errors import named
from erssl.escaping import markdown_code, markdown_text
from erssl.models.architectures import architecture_label
from erssl.settings.pretrain_options import PretrainSettings

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
    said = [
        f"{name} {markdown_text(named(dict.fromkeys(values)))}" for name, values in settings.items()
    ]
    packages = surroundings["packages"]
    versions = [f"{name} {packages[name]}" for name in _PACKAGES if name in packages]
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return (
        f"Settings: {'; '.join(said)}. Written on {day} with {markdown_text(', '.join(versions))} "
        f"by {markdown_code(surroundings['command'])}."
    )
