"""Fine-tuning and evaluation of torchvision's detectors: the way without Detectron2.

``pycocotools`` is imported late and may be absent.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN

from erssl.data.module import start_worker
from erssl.downstream.detection.coco import CocoData, CocoImage
from erssl.downstream.detection.evaluation import Kind, coco_metrics, coco_results
from erssl.downstream.detection.finite import counting, sentence_on
from erssl.downstream.detection.job import Detected, DetectionJob, DetectionOutcome
from erssl.downstream.detection.progress import ProgressLines, told
from erssl.downstream.detection.sampling import BatchOrder, IterationSampler
from erssl.downstream.detection.torchvision_data import (
    TrainingImages,
    ValidationImages,
    collate,
)
from erssl.downstream.detection.torchvision_model import (
    build_detector,
    find,
    match_weights,
    predictors_of,
    refine_statistics,
)
from erssl.downstream.detection.torchvision_training import (
    AroundIterations,
    DetectorTraining,
    about_head,
    require_same_head,
)
from erssl.errors import RunError
from erssl.models.weights_files import check_values
from erssl.run.checkpoint_files import Resumed, WholeCheckpointIO, newest_whole
from erssl.run.directory import LAST_CHECKPOINT, METRICS, read_metrics

_PRECISE = 200  # batches of precise batch normalisation, Detectron2's TEST.PRECISE_BN.NUM_ITER
_PASSES = 4  # over all training images, which few of them are enough for
_DRAWN = 12  # images whose predictions are handed back
_LOG_ALL = 1000  # iterations up to which each is logged
_ENDS = 20  # iterations whose mean loss stands for the begin and the end


def run(job: DetectionJob) -> DetectionOutcome:
    """Train, or go on, or evaluate alone.

    Args:
        job: What the command has read and checked.

    Returns:
        Metrics on the validation images; empty on every process but the first.

    Raises:
        ErsslError: If it cannot be done.
    """
    seed_everything(job.seed, workers=True, verbose=False)
    classes, masks = job.val.class_names, job.recipe.head == "mask"
    detector = build_detector(
        job.backbone, len(classes), job.preprocessing, job.rois_per_image, masks
    )
    matched = match_weights(job.backbone, detector)
    job.say(
        f"{matched['convolutions']} convolutions and {matched['normalisations']} normalisations "
        f"({matched['tensors']} tensors) of the backbone are in the detector, none is missing."
    )
    options: Any = job.backbone.architecture
    about = about_head(classes, options.name, masks)
    goes_on = job.resume or job.eval_only
    resumed_from = newest_whole(job.folder / LAST_CHECKPOINT) if goes_on else None
    trained = job.schedule.iterations
    if job.eval_only:
        trained = _load(job, detector, resumed_from, about)
    else:
        training = DetectorTraining(detector, job.recipe, job.schedule, job.seed, about)
        _train(job, training, resumed_from)
    evaluated = _evaluate(job, detector, trained)
    if evaluated is None:
        return DetectionOutcome({}, {})
    detected, not_finite = evaluated
    facts: dict[str, Any] = {
        "iterations": trained,
        "first_iteration": 0 if resumed_from is None else resumed_from.step,
        "backbone_convolutions": matched["convolutions"],
        "backbone_norms": matched["normalisations"],
        **_losses(job),
    }
    # Images with objects tell more than those without.
    telling = [d for d in detected if job.val.images[d.index].trainable] or detected
    notes = [sentence_on(not_finite)] if not_finite else []
    return DetectionOutcome(_metrics(job, detected), facts, telling[:_DRAWN], notes)


def _train(job: DetectionJob, training: DetectorTraining, resumed_from: Resumed | None) -> None:
    iterations, begin = job.schedule.iterations, 0 if resumed_from is None else resumed_from.step
    job.folder.joinpath(LAST_CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)

    def evaluate() -> Mapping[str, float]:
        evaluated = _evaluate(job, training.detector, training.global_step)
        training.detector.train()
        if evaluated is None:
            return {}
        detected, not_finite = evaluated
        if not_finite:
            job.say(sentence_on(not_finite))
        return _metrics(job, detected)

    around = AroundIterations(
        job.folder,
        job.checkpoint_period,
        job.eval_period,
        evaluate,
        ProgressLines(iterations, begin, job.say),
        job.schedule,
        job.signals,
    )
    parallel = job.devices > 1
    trainer = Trainer(
        accelerator="gpu" if job.device.type == "cuda" else "cpu",
        devices=job.devices,
        strategy="ddp" if parallel else "auto",
        sync_batchnorm=parallel and job.device.type == "cuda",
        max_epochs=1,
        max_steps=iterations,
        log_every_n_steps=1 if iterations <= _LOG_ALL else _ENDS,
        logger=list(job.loggers(None if resumed_from is None else begin)),
        callbacks=[around],
        plugins=[WholeCheckpointIO(keep=2, resumed=resumed_from)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=job.folder,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    rank, processes = trainer.global_rank, trainer.world_size
    loader = _training_loader(job, begin, iterations, rank, processes)
    checkpoint = None if resumed_from is None else resumed_from.path
    trainer.fit(training, loader, ckpt_path=checkpoint, weights_only=True)


def _load(job: DetectionJob, detector: FasterRCNN, resumed_from: Resumed | None, about: str) -> int:
    """Take the weights of the last checkpoint; gives the iterations that they were trained."""
    if resumed_from is None:
        raise RunError(
            f"eval_only=true but {job.folder / LAST_CHECKPOINT} does not exist; train first."
        )
    content = torch.load(resumed_from.path, "cpu", weights_only=True)
    require_same_head(content, about)
    state = content["state_dict"]
    check_values(resumed_from.path, state)
    detector.load_state_dict({n.removeprefix("detector."): t for n, t in state.items()})
    return resumed_from.step


def _training_loader(
    job: DetectionJob, begin: int, end: int, rank: int, processes: int
) -> DataLoader[Any]:
    """Batches of this process from one iteration to another."""
    images: tuple[CocoImage, ...] = job.train.training_images
    wide = [image.width >= image.height for image in images]
    order = BatchOrder(wide, job.schedule.batch_size, job.seed)
    return DataLoader(
        TrainingImages(images, job.min_sizes, job.max_size, job.seed),
        batch_sampler=IterationSampler(order, begin, end, rank, processes),
        num_workers=job.workers,
        worker_init_fn=start_worker,
        collate_fn=collate,
        pin_memory=job.device.type == "cuda",
    )


def _evaluate(
    job: DetectionJob, detector: FasterRCNN, iteration: int
) -> tuple[list[Detected], int] | None:
    """Detections in all validation images, and how many outputs were not finite.

    ``None`` on every process but the first.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    processes = torch.distributed.get_world_size() if distributed else 1
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if job.device.type == "cuda" else job.device
    detector.to(device)
    refine_statistics(detector, _images(job, iteration, rank, processes, device))
    detector.eval()
    images = job.val.images
    data = ValidationImages(images, job.test_size, job.max_size)
    mine = range(rank, len(images), processes)
    loader = DataLoader(
        data,
        sampler=mine,
        num_workers=job.workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
    )
    detections = []
    with counting(predictors_of(detector)) as counted:
        for numbers, tensors in told(loader, "evaluation", len(mine), "images", job.say):
            sizes = [(images[i].height, images[i].width) for i in numbers]
            outputs = find(detector, [t.to(device) for t in tensors], sizes)
            detections += [_detected(i, output) for i, output in zip(numbers, outputs, strict=True)]
    if not distributed:
        return detections, counted.rows
    gathered: list[tuple[list[Detected], int]] = [([], 0) for _ in range(processes)]
    torch.distributed.all_gather_object(gathered, (detections, counted.rows))
    if rank:
        return None
    every = sorted((each for part, _ in gathered for each in part), key=lambda each: each.index)
    return every, sum(rows for _, rows in gathered)


def _images(
    job: DetectionJob, iteration: int, rank: int, processes: int, device: torch.device
) -> Iterator[list[Tensor]]:
    """Training images for precise statistics: those of the iterations that come next."""
    passes = -(-_PASSES * len(job.train.training_images) // job.schedule.batch_size)
    end = iteration + min(_PRECISE, iteration, passes)
    loader = _training_loader(job, iteration, end, rank, processes)
    batches = told(loader, "precise statistics", end - iteration, "batches", job.say)
    for images, _ in batches:
        yield [image.to(device) for image in images]


def _detected(index: int, output: Mapping[str, Tensor]) -> Detected:
    return Detected(
        index,
        [tuple(box) for box in output["boxes"].tolist()],
        [label - 1 for label in output["labels"].tolist()],
        output["scores"].tolist(),
        _codes(output["masks"]) if "masks" in output else None,
    )


def _codes(probabilities: Tensor) -> list[dict[str, Any]]:
    """Run-length codes of masks (N, 1, H, W)."""
    from pycocotools import mask as codes

    binary = (probabilities[:, 0] > 0.5).to(torch.uint8).cpu().numpy()
    masks = [codes.encode(np.asfortranarray(mask)) for mask in binary]
    return [{"size": list(m["size"]), "counts": m["counts"].decode("ascii")} for m in masks]


def _metrics(job: DetectionJob, detections: list[Detected]) -> dict[str, float]:
    data = job.val
    assert isinstance(data, CocoData)  # the settings give this backend no recipe of VOC's
    kinds: Sequence[Kind] = ("bbox", "segm") if job.recipe.head == "mask" else ("bbox",)
    return coco_metrics(coco_results(detections, data), data, kinds, job.evaluator)


def _losses(job: DetectionJob) -> dict[str, Any]:
    """Mean loss of the first and the last iterations that were logged, and how many there were."""
    file = job.folder / METRICS
    curve = read_metrics(file).get("train_loss", []) if file.is_file() else []
    if not curve:
        return {}
    losses = [value for _, value in curve]
    return {
        "first_loss": statistics.fmean(losses[:_ENDS]),
        "last_loss": statistics.fmean(losses[-_ENDS:]),
        "logged_iterations": len(losses),
    }
