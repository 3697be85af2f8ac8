"""``erssl semi``: backbone and classifier trained on a part of the labels."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from erssl.data import labels_of, listed_subset, stratified_subset, subset_digest
from erssl.data.labelled import Indices
from erssl.files import write_text
from erssl.protocols.classifier_training import require_pairs, train_seeds
from erssl.protocols.evaluation import Evaluation
from erssl.protocols.subject import read_subject, require_backbone
from erssl.protocols.trainer import probe_trainer, quiet
from erssl.run.faults import restarted
from erssl.run.result import Result
from erssl.settings.evaluation import SemiSettings, read_protocol

SUBSET = "subset.txt"


def run(overrides: Sequence[str], console: Console) -> Result:
    """Evaluate a backbone by what few labels make of it."""
    quiet()
    settings, about_data = read_protocol("semi", SemiSettings, restarted(overrides))
    return semi(settings, about_data, console)


def semi(settings: SemiSettings, about_data: Sequence[str], console: Console) -> Result:
    """Train backbone and linear layer on a subset of the training images.

    The subset is kept as ``subset.txt``, the numbers of its images, with its SHA-256 in
    ``config.yaml`` and ``results.json``.

    Returns:
        The folder and its results, which are empty on every process but the first.

    Raises:
        ErsslError: If it cannot be done.
    """
    probe = probe_trainer(settings.trainer, settings.batch_size)
    subject = read_subject(settings, about_data, console)
    require_backbone(subject, "semi")
    evaluation = Evaluation("semi", settings, subject)
    indices = choose(settings, evaluation)
    share = len(indices) / len(evaluation.datasets.train)
    settings = evaluation.fit(settings, len(indices), probe.world_size).with_rates(share)
    evaluation.settings = settings
    require_pairs(settings, probe, len(indices))
    subset = {"images": len(indices), "sha256": subset_digest(indices)}
    with evaluation.opened(console, probe.is_global_zero, subset=subset):
        if probe.is_global_zero:
            write_text(evaluation.path / SUBSET, "".join(f"{i}\n" for i in indices))
        evaluated = train_seeds(evaluation, settings, probe, indices)
        if not probe.is_global_zero:
            return Result(evaluation.path)
        device = probe.strategy.root_device
        compared = evaluation.neighbours(device, console, indices)
        return evaluation.finish(evaluated, device, console, compared, fraction=round(share, 3))


def choose(settings: SemiSettings, evaluation: Evaluation) -> Indices:
    """Numbers of the training images that may be used."""
    images = evaluation.datasets.train
    if settings.share is None:
        return listed_subset(images, settings.fraction)
    return stratified_subset(labels_of(images), settings.share, settings.subset_seed)
