"""The training of a pretraining, and what is measured before and after it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from timm.layers.norm_act import convert_sync_batchnorm

from erssl.callbacks import ERLens, NonFiniteGuard, OnlineKNN, RunCheckpoint, SeededSteps
from erssl.errors import DataError, RunError, counted
from erssl.protocols.pretrain_measures import accuracy
from erssl.protocols.pretrain_preparation import Prepared
from erssl.protocols.trainer import make_trainer, train
from erssl.run.directory import LAST_CHECKPOINT, LENS, LENS_FIGURE, METRICS, read_lens
from erssl.run.lens_figure import plot_lens
from erssl.run.signals import SignalWatch


def train_and_measure(
    run: Prepared,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    signals: SignalWatch,
) -> dict[str, float]:
    """Measure, train, measure again.

    Args:
        run: What is trained.
        callbacks: What is read meanwhile, and what shows it.
        loggers: Where values go.
        signals: Tells when the training shall stop.

    Returns:
        What was measured, by name; nothing on every process but the first.

    Raises:
        RunError: If the weights are not finite any more.
    """
    settings, device = run.settings, run.probe.strategy.root_device
    if run.probe.world_size > 1 and device.type == "cuda":
        # timm's, since torch's and so Lightning's would drop the activation of BatchNormAct2d
        convert_sync_batchnorm(run.method)
    before = _measure_before(run)
    curves = [each for each in callbacks if isinstance(each, OnlineKNN)]
    own = next((each for each in curves if not each.name), None)
    if own is not None:  # which then need not be read twice
        own.untrained = before.get("untrained_knn_top1")
    kept = RunCheckpoint(run.path / LAST_CHECKPOINT, settings.checkpoint_every_n_steps, signals)
    _train(run, [*callbacks, *_guards(run), kept], loggers, signals)
    if not run.first:
        return {}
    logged = ["train_loss", "train_nats_below_uniform", "train_alignment"]
    if run.data.datasets.labelled and run.data.trains_with_labels:
        logged.append("val_online_cls_top1")
    last = None if own is None else own.last
    run.tell("Evaluation.")
    after = accuracy(run.method.backbone, run.data, settings.evaluation, device, read=last)
    for probe in (each for each in curves if each.name):
        after[f"knn_top1_{probe.name}"] = probe.measure(run.method.to(device))
    logged_last = {name: kept.metrics[name] for name in logged if name in kept.metrics}
    return {**after, **before, **logged_last}


def _measure_before(run: Prepared) -> dict[str, float]:
    """The accuracy of the weights that the run begins with, where it is asked for and known."""
    settings = run.settings
    known = settings.checkpoint is None or hasattr(run.method.backbone, "report")
    if not (run.first and settings.evaluation.untrained and known):
        return {}
    run.tell("Evaluation before the training.")
    device = run.probe.strategy.root_device
    return accuracy(run.method.backbone, run.data, settings.evaluation, device, "untrained_")


def _guards(run: Prepared) -> list[Callback]:
    """What makes random numbers follow from the step, and watches for values not finite."""
    settings = run.settings
    return [
        SeededSteps(settings.seed),
        NonFiniteGuard(settings.on_nonfinite, run.path, settings.save_nonfinite_batch),
    ]


def _train(
    run: Prepared, callbacks: list[Callback], loggers: Sequence[Logger], signals: SignalWatch
) -> None:
    settings = run.settings
    trainer = make_trainer(
        settings.trainer,
        run.path,
        settings.epochs,
        callbacks,
        run.resumed_from,
        settings.keep_checkpoints,
        loggers,
    )
    run.tell(f"Training for {counted(settings.epochs, 'epoch')}.")
    try:
        train(trainer, run.method, run.data, run.resumed_from)
        signals.training_ends()
        for lens in (each for each in callbacks if isinstance(each, ERLens)):
            lens.on_train_end(
                trainer, run.method
            )  # which Lightning leaves out after the last epoch
    except BaseException:  # such as a collapse, which the lens shows; what went wrong is said first
        with contextlib.suppress(OSError, DataError):
            _draw_lens(run)
        raise
    _draw_lens(run)
    if not all(bool(p.isfinite().all()) for p in run.method.backbone.parameters()):
        raise RunError(
            "Training diverged: the backbone's weights are not finite any more; lower "
            f"optimizer.base_lr, and see {run.path / METRICS} for the step at which it began."
        )


def _draw_lens(run: Prepared) -> None:
    """Draw what the lens has read so far."""
    if run.first and (run.path / LENS).is_file():
        readings = {run.settings.method["name"]: read_lens(run.path / LENS)}
        plot_lens(readings, run.path / LENS_FIGURE, run.settings.plots)
