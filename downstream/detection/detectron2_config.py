"""Detectron2's config of one run: a recipe's file, then what the run itself says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from yaml import YAMLError

from erssl.downstream.detection.job import DetectionJob
from erssl.downstream.detection.recipes import Schedule
from erssl.errors import ConfigError, RunError
from erssl.models.backbones import BackboneOptions
from erssl.models.export.detectron import detectron2_settings

INSTALL = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
PRECISE_BATCHES = 200  # Detectron2's default of TEST.PRECISE_BN.NUM_ITER
LAST = "last_checkpoint"  # the file in which Detectron2 names its newest checkpoint
SETTINGS = "settings"  # under which a checkpoint has the settings that it was trained with
_NORMS = ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
# what may change between the parts of a run, since training does not depend on it
_FREE = (
    "OUTPUT_DIR",
    "VERSION",
    "VIS_PERIOD",
    "CUDNN_BENCHMARK",
    "MODEL.WEIGHTS",
    "MODEL.DEVICE",
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
)


def require_detectron2() -> None:
    """Make sure that Detectron2 is there.

    Raises:
        ConfigError: If it cannot be imported.
    """
    try:
        import detectron2.config
        import detectron2.layers  # noqa: F401  # its compiled part, which another torch breaks
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"backend=detectron2 needs Detectron2, which cannot be imported ({reason}); install it "
            f"by its own guide, {INSTALL}, or choose backend=torchvision."
        ) from error


def config_file(file: str | Path) -> Path:
    """Find a config file.

    Args:
        file: Name of one of erssl's own files, or a path.

    Raises:
        ConfigError: If there is no such file.
    """
    path = Path(file)
    if path.is_file():
        return path
    folder = Path(str(files("erssl.downstream.detection") / "configs"))
    if (folder / path.name).is_file():
        return folder / path.name
    names = sorted(p.name for p in folder.glob("*.yaml"))
    raise ConfigError(
        f"{file} is neither a file nor a config of erssl; choose one of {', '.join(names)}."
    )


def base_config(file: str | Path) -> Any:
    """Detectron2's defaults and a config file.

    Args:
        file: Name of one of erssl's own files, or a path.

    Returns:
        The config (``CfgNode``), not frozen.

    Raises:
        ConfigError: If there is no such file, or it is no config.
    """
    from detectron2.config import get_cfg

    from erssl.downstream.detection import c4

    c4.register()
    path = config_file(file)
    cfg = get_cfg()
    try:
        cfg.merge_from_file(str(path))
    except (KeyError, ValueError, AssertionError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is no config of Detectron2 ({reason}); correct it.") from error
    return cfg


def job_config(
    job: DetectionJob, train: str, val: str, weights: Path, output: Path
) -> tuple[Any, list[str]]:
    """The config of a job.

    Args:
        job: What is trained.
        train: Name of the training images in Detectron2's catalogue.
        val: Name of the images to evaluate on.
        weights: File with the backbone.
        output: Folder that Detectron2 writes to.

    Returns:
        The config (``CfgNode``), frozen, and sentences on what differs from the recipe.
    """
    recipe, schedule = job.recipe, job.schedule
    options: Any = job.backbone.architecture
    check_architecture(options, recipe.neck)
    cfg = base_config(recipe.config)
    cfg.merge_from_list(detectron2_settings(options, job.preprocessing))
    cfg.OUTPUT_DIR, cfg.SEED, cfg.MODEL.WEIGHTS = str(output), job.seed, str(weights)
    cfg.MODEL.DEVICE = str(job.device) if job.devices == 1 else job.device.type
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(job.train.class_names)
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = job.rois_per_image
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (val,)
    cfg.DATALOADER.NUM_WORKERS = job.workers
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = job.min_sizes, job.max_size
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = job.test_size, job.max_size
    # polygons cannot hold a run-length code
    cfg.INPUT.MASK_FORMAT = "bitmask" if job.train.has_codes else "polygon"
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = schedule.batch_size, schedule.base_lr
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = schedule.iterations, decay_steps(schedule)
    cfg.SOLVER.WARMUP_ITERS = schedule.warmup_iterations
    cfg.SOLVER.WARMUP_FACTOR = schedule.warmup_factor
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.MOMENTUM = recipe.weight_decay, recipe.momentum
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.TEST.EVAL_PERIOD = job.checkpoint_period, job.eval_period
    # a small data set has fewer batches than Detectron2 takes; once through it is all there is
    images = len(job.train.training_images)
    batches = max(1, math.ceil(images / schedule.batch_size))
    cfg.TEST.PRECISE_BN.NUM_ITER = min(PRECISE_BATCHES, batches)
    note = plain_norms_without_gpu(cfg)
    cfg.freeze()
    return cfg, [note] if note else []


def decay_steps(schedule: Schedule) -> tuple[int, ...]:
    """The steps of a schedule that it reaches: Detectron2 refuses one at its end.

    Args:
        schedule: The schedule.
    """
    return tuple(sorted({step for step in schedule.steps if 0 < step < schedule.iterations}))


def check_architecture(options: Any, neck: str) -> None:
    """See that Detectron2 can build the backbone.

    Args:
        options: What :func:`erssl.load_backbone` read.
        neck: ``"fpn"`` or ``"c4"``.

    Raises:
        ConfigError: If it is no torchvision ResNet, or C4 has no head for it.
    """
    resnet = isinstance(options, BackboneOptions) and options.is_resnet
    if not resnet or options.cifar_stem:
        name = getattr(options, "name", "of unknown architecture")
        stem = " with a stem for small images" if resnet else ""
        raise ConfigError(
            f"The checkpoint is {name}{stem}, and the detectors are built on torchvision's "
            "ResNets; give a checkpoint of resnet50."
        )
    if neck == "c4" and options.name in ("resnet18", "resnet34"):
        raise ConfigError(
            f"The checkpoint is {options.name}, whose last stage has no bottleneck blocks as the "
            "head of C4 has; choose recipe=mask_rcnn_fpn_1x, or give a checkpoint of resnet50."
        )


def plain_norms_without_gpu(cfg: Any) -> str | None:
    """Put plain batch normalisation in place of the synchronised one where there is no GPU.

    Args:
        cfg: The config; changed in place.

    Returns:
        A sentence that says so, or ``None`` if nothing was changed.
    """
    synchronised = [p for p in _NORMS if "SyncBN" in cfg.MODEL[p].NORM]
    if not synchronised or str(cfg.MODEL.DEVICE).startswith("cuda"):
        return None
    for part in synchronised:
        cfg.MODEL[part].NORM = "BN"
    return (
        f"BN in place of SyncBN, which needs a GPU and on one process (as on the "
        f"{cfg.MODEL.DEVICE}) is the same."
    )


def fingerprint(cfg: Any, images: int) -> dict[str, str]:
    """All settings that the weights of a training depend on, by their dotted names.

    Args:
        cfg: The config.
        images: Number of training images.
    """
    settings = {"training images": str(images)}

    def collect(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                collect(value, f"{name}.")
            elif not any(
                name == free or (free[-1] == "." and name.startswith(free)) for free in _FREE
            ):
                settings[name] = str(list(value) if isinstance(value, tuple) else value)

    collect(cfg, "")
    return settings


def first_iteration(folder: Path, settings: Mapping[str, str]) -> int:
    """Where a run goes on, from its newest checkpoint.

    Args:
        folder: What Detectron2 wrote to.
        settings: The :func:`fingerprint` of the run as it is asked for now.

    Returns:
        Iteration to go on with; 0 where there is no checkpoint.

    Raises:
        RunError: If the checkpoint is of another config, or cannot be read.
    """
    if not (folder / LAST).is_file():
        return 0
    file = folder / (folder / LAST).read_text(encoding="utf-8").strip()
    try:
        content = torch.load(file, "cpu", weights_only=True, mmap=True)
        before, done = content[SETTINGS], int(content["iteration"])
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, UnpicklingError) as error:
        raise RunError(
            f"{file} is no readable checkpoint of a detection; start again in another run_dir."
        ) from error
    differing = [key for key in {**before, **settings} if before.get(key) != settings.get(key)]
    if differing:
        key = differing[0]
        more = f" (and {len(differing) - 1} more settings differ)" if len(differing) > 1 else ""
        raise RunError(
            f"{file} was trained with {key}={before.get(key)}, but now it is "
            f"{settings.get(key)}{more}; resume with the settings of the first part, or start "
            "again in another run_dir."
        )
    return done + 1
