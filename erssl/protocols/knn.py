"""``erssl knn``: weighted nearest neighbours on frozen features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console

from erssl.evaluation import classification_metrics, knn_scores, whitened
from erssl.evaluation.knn import cut_sentence
from erssl.evaluation.rows import moved
from erssl.evaluation.whitening import check_whitening
from erssl.protocols.evaluation import OWN_FEATURES, Evaluated, Evaluation, best_device
from erssl.protocols.subject import read_subject
from erssl.run.console import say
from erssl.run.result import Result
from erssl.settings.evaluation import KnnSettings, read_protocol


def run(overrides: Sequence[str], console: Console) -> Result:
    """Evaluate a backbone by its nearest neighbours."""
    settings, about_data = read_protocol("knn", KnnSettings, overrides)
    return knn(settings, about_data, console)


def knn(settings: KnnSettings, about_data: Sequence[str], console: Console) -> Result:
    """Classify the validation images by their neighbours among the training images.

    Returns:
        The folder and its results.

    Raises:
        ErsslError: If it cannot be done.
    """
    subject = read_subject(settings, about_data, console)
    evaluation = Evaluation("knn", settings, subject)
    if settings.whiten:
        width = int(getattr(subject.backbone, "feature_dim", 0))
        check_whitening(len(evaluation.datasets.train), width)
    asked = settings.k
    k = min(asked, len(evaluation.datasets.train))
    if settings.whiten and settings.features_dtype == "auto":  # small deviations count there
        settings = dataclasses.replace(settings, features_dtype="float32")
    evaluation.settings = settings = dataclasses.replace(evaluation.placed(settings), k=k)
    if k < asked:
        say(console, cut_sentence(asked, k))
    with evaluation.opened(console):
        device = best_device()
        train, val = evaluation.features(settings, device, console)
        if settings.whiten:
            train, val = whitened(train, val, evaluation.path / OWN_FEATURES)
        classes = evaluation.datasets.num_classes
        try:
            bank, queries = (moved(each, device) for each in (train, val))
            scores = knn_scores(bank, queries, classes, k, settings.temperature).cpu()
        except torch.cuda.OutOfMemoryError:  # slower, but features of any number fit
            scores = knn_scores(train, val, classes, k, settings.temperature)
        evaluated = Evaluated([classification_metrics(scores, val.labels)], scores.argmax(dim=1))
        setting: dict[str, Any] = {"k": k, "temperature": settings.temperature}
        if settings.whiten:  # as no published number was measured
            setting["whiten"] = True
        return evaluation.finish(evaluated, device, console, **setting)
