"""Fine-tuning a detector with Detectron2, the framework of the published numbers.

Detectron2 is imported late: this module is importable without it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from erssl.downstream.detection.detectron2_config import (
    LAST,
    check_architecture,
    fingerprint,
    first_iteration,
    job_config,
    require_detectron2,
)
from erssl.downstream.detection.detectron2_launch import launch
from erssl.downstream.detection.detectron2_logs import logging_to
from erssl.downstream.detection.finite import sentence_on
from erssl.downstream.detection.job import Detected, DetectionJob, DetectionOutcome
from erssl.downstream.detection.weights import match, unwrapped_module
from erssl.errors import ConfigError, RunError
from erssl.files import write_json, write_text
from erssl.models.export.detectron import detectron2_names, write_detectron2

FOLDER = "detectron2"  # below the run directory
RESUME_FROM = f"{FOLDER}/{LAST}"  # without which there is nothing to resume
_WEIGHTS = "backbone.pth"
_RESULTS = "outcome.json"
_ENDS = 20  # rows of metrics.json whose mean loss stands for an end of the curve


def run(job: DetectionJob) -> DetectionOutcome:
    """Fine-tune a detector and evaluate it, or evaluate one that was fine-tuned.

    Args:
        job: What is trained, on what, and where.

    Returns:
        Metrics, facts and predictions.

    Raises:
        ErsslError: If Detectron2 is not there, the backbone does not fit, or the run in the folder
            is another one.
    """
    require_detectron2()
    check_architecture(job.backbone.architecture, job.recipe.neck)
    if job.schedule.batch_size % job.devices:
        raise ConfigError(
            f"batch_size={job.schedule.batch_size} cannot be shared by {job.devices} devices; "
            f"choose a multiple of {job.devices}."
        )
    if job.devices > 1 and job.device.type != "cuda":
        raise ConfigError(
            f"devices={job.devices} needs GPUs, and the device is {job.device.type}; set devices=1."
        )
    folder = job.folder / FOLDER
    begun = (folder / LAST).is_file()
    if job.eval_only and not begun:
        raise RunError(
            f"eval_only=true but {folder / LAST} does not exist; train first, without eval_only."
        )
    if not (begun and (job.resume or job.eval_only)):
        if job.resume:
            job.say(f"{folder} holds no checkpoint yet: the training begins at its beginning.")
        shutil.rmtree(folder, ignore_errors=True)  # a later resume must not find another run's
    folder.mkdir(parents=True, exist_ok=True)
    state = {n: t.detach().cpu().contiguous() for n, t in job.backbone.state_dict().items()}
    write_detectron2(state, folder / _WEIGHTS)
    (folder / _RESULTS).unlink(missing_ok=True)
    if job.devices > 1:
        job = for_processes(job)
    launch(_work, job, job.devices, dist_url="auto")
    return _outcome(folder)


def for_processes(job: DetectionJob) -> DetectionJob:
    """The job without what cannot go to another process: functions that this one made.

    Args:
        job: The job; as it is, it can have functions of any kind.
    """
    return dataclasses.replace(job, say=print, loggers=_no_loggers)


def _no_loggers(iteration: int | None) -> tuple[()]:
    """Detectron2 has its own writers."""
    return ()


def _work(job: DetectionJob) -> None:
    """What each process does; the first one writes the results."""
    from detectron2.utils import comm
    from detectron2.utils.env import seed_all_rng

    from erssl.downstream.detection.detectron2_data import forget, register

    folder, first = job.folder / FOLDER, comm.is_main_process()
    names = [register(job.train), register(job.val)]
    try:
        with logging_to(folder, job.say if first else None):
            cfg, notes = job_config(job, names[0], names[1], folder / _WEIGHTS, folder)
            if first:
                write_text(folder / "config.yaml", cfg.dump())
            seed_all_rng(job.seed + comm.get_rank())
            results, facts = (_evaluate if job.eval_only else _train)(cfg, job)
    finally:
        forget(names)
    if first:
        from erssl.downstream.detection.detectron2_evaluation import metrics_of, not_finite

        metrics = metrics_of(results or {})
        if rows := not_finite(results or {}):
            notes = [*notes, sentence_on(rows)]
        write_json(folder / _RESULTS, {"metrics": metrics, "facts": facts, "notes": notes})


def _train(cfg: Any, job: DetectionJob) -> tuple[Any, dict[str, Any]]:
    from erssl.downstream.detection.detectron2_trainer import METRICS, Trainer, read_rows

    trainer = Trainer(cfg, job.resume)
    trainer.resume_or_load(job.resume)
    try:
        trainer.train()
    except FloatingPointError as error:
        raise RunError(
            f"The training diverged at iteration {trainer.iter}: its loss or boxes are not finite; "
            f"choose a smaller learning_rate than {cfg.SOLVER.BASE_LR:g}."
        ) from error
    rows = read_rows(Path(cfg.OUTPUT_DIR) / METRICS)
    losses = [row["total_loss"] for row in rows if "total_loss" in row]
    # a part that goes on has filled in nothing; the first one did
    model = unwrapped_module(trainer.model)
    report = trainer.report or match(model, detectron2_names(job.backbone.state_dict()))
    facts: dict[str, Any] = {
        "backbone": str(report),
        "backbone_convolutions": report.convolutions,
        "backbone_norms": report.norms,
        "iterations": cfg.SOLVER.MAX_ITER,
        "first_iteration": trainer.start_iter,
        "first_loss": statistics.fmean(losses[:_ENDS]) if losses else None,
        "last_loss": statistics.fmean(losses[-_ENDS:]) if losses else None,
    }
    return trainer.results, facts


def _evaluate(cfg: Any, job: DetectionJob) -> tuple[Any, dict[str, Any]]:
    from erssl.downstream.detection.detectron2_checkpoints import load_detector
    from erssl.downstream.detection.detectron2_trainer import Trainer, logger

    folder = Path(cfg.OUTPUT_DIR)
    done = first_iteration(folder, fingerprint(cfg, len(job.train.training_images)))
    name = (folder / LAST).read_text(encoding="utf-8").strip()
    logger.info("Evaluates %s, of %d iterations.", name, done)
    model = Trainer.build_model(cfg)
    load_detector(model, str(folder / name))
    return Trainer.test(cfg, model), {"checkpoint": name, "iterations": done}


def _outcome(folder: Path) -> DetectionOutcome:
    from erssl.downstream.detection.detectron2_evaluation import DRAWN

    content = json.loads((folder / _RESULTS).read_text(encoding="utf-8"))
    drawn = json.loads((folder / DRAWN).read_text(encoding="utf-8"))
    predictions = [
        Detected(**{**shown, "boxes": [tuple(box) for box in shown["boxes"]]}) for shown in drawn
    ]
    return DetectionOutcome(predictions=predictions, **content)
