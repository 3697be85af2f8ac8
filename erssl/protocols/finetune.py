"""``erssl finetune``: backbone and classifier trained on all labels."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from erssl.protocols.classifier_training import require_pairs, train_seeds
from erssl.protocols.evaluation import Evaluation
from erssl.protocols.subject import read_subject, require_backbone
from erssl.protocols.trainer import probe_trainer, quiet
from erssl.run.faults import restarted
from erssl.run.result import Result
from erssl.settings.evaluation import FinetuneSettings, read_protocol


def run(overrides: Sequence[str], console: Console) -> Result:
    """Evaluate a backbone by what it becomes."""
    quiet()
    settings, about_data = read_protocol("finetune", FinetuneSettings, restarted(overrides))
    return finetune(settings, about_data, console)


def finetune(settings: FinetuneSettings, about_data: Sequence[str], console: Console) -> Result:
    """Train backbone and linear layer on all training images.

    Returns:
        The folder and its results, which are empty on every process but the first.

    Raises:
        ErsslError: If it cannot be done.
    """
    probe = probe_trainer(settings.trainer, settings.batch_size)
    subject = read_subject(settings, about_data, console)
    require_backbone(subject, "finetune")
    evaluation = Evaluation("finetune", settings, subject)
    images = len(evaluation.datasets.train)
    settings = evaluation.fit(settings, images, probe.world_size)
    require_pairs(settings, probe, images)
    with evaluation.opened(console, probe.is_global_zero):
        evaluated = train_seeds(evaluation, settings, probe)
        if not probe.is_global_zero:
            return Result(evaluation.path)
        device = probe.strategy.root_device
        return evaluation.finish(evaluated, device, console, evaluation.neighbours(device, console))
