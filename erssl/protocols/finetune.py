"""``erssl finetune``: backbone and classifier trained on all labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from erssl.protocols.classifier_training import require_pairs, train_seeds
from erssl.protocols.evaluation import Evaluation
from erssl.protocols.subject import read_subject, require_backbone
from erssl.protocols.trainer import probe_trainer, quiet
from erssl.settings.evaluation import FinetuneSettings, read_protocol


def run(words: Sequence[str]) -> int:
    """Judge a backbone by what it becomes."""
    quiet()
    settings, about_data = read_protocol("finetune", FinetuneSettings, words)
    finetune(settings, about_data, Console())
    return 0


def finetune(
    settings: FinetuneSettings, about_data: Sequence[str], console: Console
) -> dict[str, Any]:
    """Train backbone and linear layer on all training images.

    Returns:
        The content of ``results.json``; empty on every process but the first.

    Raises:
        ErsslError: If it cannot be done.
    """
    probe = probe_trainer(settings.trainer, settings.batch_size)
    subject = read_subject(settings, about_data)
    require_backbone(subject, "finetune")
    evaluation = Evaluation("finetune", settings, subject)
    images = len(evaluation.datasets.train)
    settings = evaluation.fit(settings, images, probe.world_size)
    require_pairs(settings, probe, images)
    if probe.is_global_zero:
        evaluation.open(console)
    judged = train_seeds(evaluation, settings, probe)
    if not probe.is_global_zero:
        return {}
    device = probe.strategy.root_device
    return evaluation.finish(judged, device, console, evaluation.neighbours(device, console))
