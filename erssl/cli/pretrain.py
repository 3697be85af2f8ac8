"""``erssl pretrain``: config -> views -> backbone -> loss -> checkpoint -> weights -> results."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import nn

from erssl.callbacks import LiveProgress, OnlineKNN, ResumableCSVLogger
from erssl.cli._config import GROUPS, group_options
from erssl.cli._settings import EvaluationOptions, PretrainSettings, read_settings
from erssl.data import SSLDataModule
from erssl.errors import ConfigError
from erssl.evaluation import extract_features, knn_accuracy, linear_accuracy
from erssl.methods import MultiViewMethod, get_method
from erssl.models import build_backbone, check_input_size, save_backbone
from erssl.models.backbones import WEIGHTS_FILE
from erssl.report import write_report
from erssl.runs import LAST_CHECKPOINT, RunDirectory, default_run_dir, environment, write_json

_RUN_DIR_VARIABLE = "ERSSL_RUN_DIR"  # how the processes of one run agree on a default run_dir


def help_text() -> str:
    """What ``--help`` prints."""
    groups = "\n".join(f"  {group:<11} {', '.join(group_options(group))}" for group in GROUPS)
    config = (files("erssl.configs") / "pretrain.yaml").read_text(encoding="utf-8")
    keys = config.partition("\n\n")[2]
    return f"""erssl pretrain: train a backbone without labels and say how good it is

Usage: erssl pretrain [key=value ...]

Examples:
  erssl pretrain method=mveb
  erssl pretrain method=entrec method.kind=discrete data=cifar10 data.download=true
  erssl pretrain data=imagefolder data.train_dir=photos/train data.val_dir=photos/val epochs=50
  erssl pretrain data=imagefolder data.train_dir=photos backbone=timm \\
      backbone.name=vit_small_patch16_224 optimizer=adamw trainer.precision=16-mixed
  erssl pretrain experiment=mveb_imagenet_2view data.root=/imagenet trainer.devices=8
  erssl pretrain run_dir=runs/mine resume=true

Choices:
{groups}

Keys (and those of the chosen groups, such as method.beta or trainer.precision):
{keys}"""


def run(words: Sequence[str]) -> int:
    """Read the settings, train, print what came out."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    settings, config = read_settings(list(words))
    pretrain(settings, config, Console())
    return 0


def pretrain(
    settings: PretrainSettings, config: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Train a backbone as the settings say, and leave a run directory behind.

    Args:
        settings: The run.
        config: Its resolved config, kept in the run directory.
        console: Where the closing table goes.

    Returns:
        The content of ``results.json``.

    Raises:
        ErsslError: If the run cannot be done; nothing has been written then.
    """
    began = time.perf_counter()
    seed_everything(settings.seed, workers=True, verbose=False)
    batch_size_per_device = _batch_size_per_device(settings)
    data = SSLDataModule(settings.data, batch_size_per_device, settings.seed)
    method = _build_method(settings, batch_size_per_device, data.datasets.num_classes)
    run_dir = _prepare_run_directory(settings, method)
    run_dir.write_config(config)
    write_json(run_dir.path / "environment.json", environment())
    if data.datasets.skipped:
        console.print(f"{len(data.datasets.skipped)} unreadable files are left out of training.")

    trainer = Trainer(
        **settings.trainer,
        max_epochs=settings.epochs,
        logger=_loggers(run_dir),
        callbacks=_callbacks(settings, data, run_dir),
        enable_model_summary=False,
        default_root_dir=run_dir.path,
        num_sanity_val_steps=0,
        sync_batchnorm=torch.cuda.device_count() > 1,
    )
    metrics: dict[str, float] = {}
    if settings.evaluation.untrained:
        metrics |= _accuracy(method.backbone, data, settings.evaluation, "untrained_")
    checkpoint = run_dir.path / LAST_CHECKPOINT if run_dir.resuming else None
    trainer.fit(method, datamodule=data, ckpt_path=checkpoint, weights_only=True)

    metrics = {
        **_accuracy(method.backbone, data, settings.evaluation),
        **metrics,
        **{
            name: float(trainer.callback_metrics[name])
            for name in ("train_loss", "train_entropy", "train_alignment", "val_online_cls_top1")
            if name in trainer.callback_metrics and data.datasets.labelled
        },
    }
    if _rank() > 0:
        return {}
    return _finish(settings, config, method, metrics, run_dir, time.perf_counter() - began, console)


def _batch_size_per_device(settings: PretrainSettings) -> int:
    """Pictures per step and device, once it is clear which devices there are."""
    accelerator = settings.trainer.get("accelerator")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator={accelerator} but torch {torch.__version__} sees no CUDA device; "
            "choose trainer.accelerator=cpu or auto, or check the driver."
        )
    try:
        probe = Trainer(
            **settings.trainer, logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"Lightning's Trainer refuses these trainer settings ({str(error).rstrip('.')}); "
            "change trainer.*."
        ) from error
    if settings.batch_size % probe.world_size:
        raise ConfigError(
            f"batch_size={settings.batch_size} cannot be shared by {probe.world_size} devices; "
            "choose a multiple."
        )
    return settings.batch_size // probe.world_size


def _build_method(
    settings: PretrainSettings, batch_size_per_device: int, num_classes: int
) -> MultiViewMethod:
    options = dict(settings.method)
    name = options.pop("name")
    views = settings.data.views
    backbone = build_backbone(settings.backbone)
    sizes = [settings.data.image_size, *[views.local_image_size] * bool(views.n_local_views)]
    check_input_size(backbone, sizes)
    method_class = get_method(name)
    if views.n_local_views and "local" not in method_class.info.views:
        raise ConfigError(
            f"data.views.n_local_views={views.n_local_views} but method={name} takes "
            f"{method_class.info.views} views; set data.views.n_local_views=0."
        )
    try:
        return method_class(
            batch_size_per_device,
            num_classes,
            backbone=backbone,
            optimizer=settings.optimizer,
            channels_last=settings.channels_last,
            compile=settings.compile,
            **options,
        )
    except ValueError as error:
        raise ConfigError(f"method={name} cannot be built: {error}") from error


def _prepare_run_directory(settings: PretrainSettings, method: nn.Module) -> RunDirectory:
    path = settings.run_dir or os.environ.get(_RUN_DIR_VARIABLE)
    path = path or str(default_run_dir(settings.method["name"], settings.data.name))
    os.environ[_RUN_DIR_VARIABLE] = path
    first = _rank() == 0
    # Weights, momentum and the same again while a checkpoint replaces the one before.
    need_bytes = 4 * sum(p.numel() * p.element_size() for p in method.parameters())
    try:
        return RunDirectory(
            path,
            resume=settings.resume,
            overwrite=settings.overwrite or not first,
            need_bytes=need_bytes,
        )
    finally:
        if settings.run_dir is not None or not torch.distributed.is_available():
            os.environ.pop(_RUN_DIR_VARIABLE, None)


def _loggers(run_dir: RunDirectory) -> list[Logger]:
    resume_step = None
    if run_dir.resuming:
        checkpoint = torch.load(run_dir.path / LAST_CHECKPOINT, "cpu", weights_only=True, mmap=True)
        resume_step = int(checkpoint["global_step"])
    loggers: list[Logger] = [ResumableCSVLogger(run_dir.path, resume_step)]
    # Without the extra erssl[tensorboard], metrics.csv has the same numbers.
    with contextlib.suppress(ModuleNotFoundError):
        loggers.append(TensorBoardLogger(run_dir.path, "", "", default_hp_metric=False))
    return loggers


def _callbacks(
    settings: PretrainSettings, data: SSLDataModule, run_dir: RunDirectory
) -> list[Callback]:
    callbacks: list[Callback] = []
    evaluation = settings.evaluation
    if data.datasets.val is not None and data.datasets.labelled and evaluation.every_n_epochs:
        callbacks.append(
            OnlineKNN(
                data.eval_dataloader("train"),
                data.eval_dataloader("val"),
                data.datasets.num_classes,
                evaluation.every_n_epochs,
                evaluation.knn_k,
                evaluation.knn_temperature,
            )
        )
    last = Path(LAST_CHECKPOINT)
    checkpoint = ModelCheckpoint(
        run_dir.path / last.parent,
        filename=last.stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    return [*callbacks, LiveProgress(), checkpoint]


def _accuracy(
    backbone: nn.Module, data: SSLDataModule, options: EvaluationOptions, prefix: str = ""
) -> dict[str, float]:
    """kNN and linear accuracy of frozen features, or nothing where there are no labels."""
    if data.datasets.val is None or not data.datasets.labelled:
        return {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = backbone.to(device)
    train, val = (
        extract_features(backbone, data.eval_dataloader(split), device)
        for split in ("train", "val")
    )
    classes = data.datasets.num_classes
    knn = knn_accuracy(train, val, classes, options.knn_k, options.knn_temperature)
    metrics = {f"{prefix}knn_top1": knn}
    if options.linear:
        metrics[f"{prefix}linear_top1"] = linear_accuracy(train, val)
    return metrics


def _finish(
    settings: PretrainSettings,
    config: Mapping[str, Any],
    method: MultiViewMethod,
    metrics: Mapping[str, float],
    run_dir: RunDirectory,
    wall_seconds: float,
    console: Console,
) -> dict[str, Any]:
    """Write weights, results and report, results last: they mark the run as finished."""
    data = settings.data
    preprocessing = {"image_size": data.image_size, "mean": data.mean, "std": data.std}
    save_backbone(method.backbone, run_dir.path / WEIGHTS_FILE, settings.backbone, preprocessing)
    results = run_dir.write_results(
        protocol="pretrain",
        dataset=data.name,
        method=settings.method["name"],
        metrics=metrics,
        seed=settings.seed,
        config=config,
        wall_seconds=wall_seconds,
    )
    write_report(run_dir.path)
    _print_summary(results, run_dir.path, console)
    return results


def _rank() -> int:
    """Number of this process among those of the run."""
    return int(getattr(rank_zero_only, "rank", 0))


def _print_summary(results: Mapping[str, Any], path: Path, console: Console) -> None:
    metrics = results["metrics"]
    if "knn_top1" in metrics:
        table = Table("backbone", "kNN top-1", "linear top-1", box=None, pad_edge=False)
        for label, prefix in (("untrained", "untrained_"), (f"{results['method']}", "")):
            values = [metrics.get(f"{prefix}{protocol}_top1") for protocol in ("knn", "linear")]
            table.add_row(label, *("-" if v is None else f"{v:.1%}" for v in values))
        console.print(table)
    else:
        console.print("There are no labelled validation pictures, so no accuracy was measured.")
    console.print(f"\nRun directory: {path} ({results['wall_seconds']:.0f} s)", soft_wrap=True)
    console.print(
        f"Next: look at {path}/report.md; use the backbone with "
        f'erssl.load_backbone("{path}"); train on real pictures with '
        "erssl pretrain data=cifar10 data.download=true.",
        soft_wrap=True,
    )
