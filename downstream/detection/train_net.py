"""Training and evaluation in the form that Detectron2's users know.

``python -m erssl.downstream.detection.train_net --config-file mask_rcnn_R_50_FPN_1x.yaml
--num-gpus 8 MODEL.WEIGHTS <checkpoint>``. The config is a file of erssl by its name or any path;
``MODEL.WEIGHTS`` is any checkpoint that :func:`erssl.load_backbone` reads, a file of
``erssl export format=detectron2``, or a whole detector. The data lie where Detectron2 looks for
them: below ``DETECTRON2_DATASETS``, as its own guide says.
"""

from __future__ import annotations

import logging
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erssl.data.options import loader_processes
from erssl.downstream.detection.coco import (
    CocoImage,
    CocoSource,
    check_same_categories,
    read_coco,
)
from erssl.downstream.detection.coco_data import Split
from erssl.downstream.detection.detectron2_config import (
    LAST,
    base_config,
    config_file,
    plain_norms_without_gpu,
    require_detectron2,
)
from erssl.downstream.detection.detectron2_launch import launch
from erssl.downstream.detection.evaluation import GROUND_TRUTH, ground_truth
from erssl.downstream.detection.image_files import check_sizes
from erssl.downstream.detection.voc import VocSplit, read_split
from erssl.errors import ConfigError, DataError, ErsslError, printable


def make_config(arguments: Namespace) -> tuple[Any, str | None]:
    """Detectron2's config of a command line.

    Args:
        arguments: What Detectron2's parser gives.

    Returns:
        The config (``CfgNode``), frozen, and a sentence on what this machine cannot do.

    Raises:
        ConfigError: If the file or an override is wrong.
    """
    cfg = base_config(arguments.config_file)
    # by hand only: a machine without a GPU trains too
    if not _has_gpu():
        cfg.MODEL.DEVICE = "cpu"
    try:
        cfg.merge_from_list(arguments.opts or [])
    except (KeyError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{' '.join(arguments.opts)} are no overrides ({reason}); give KEY VALUE pairs, such "
            "as SOLVER.BASE_LR 0.01."
        ) from error
    note = plain_norms_without_gpu(cfg)
    cfg.freeze()
    return cfg, note


def check_data(cfg: Any) -> None:
    """Read the data sets of a config once, to find what is wrong before any training.

    Args:
        cfg: The config.

    Raises:
        ErsslError: If a data set is unknown or broken, or has other classes than the head.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    sets = []
    splits: list[tuple[str, Split]] = [(name, "train") for name in cfg.DATASETS.TRAIN]
    splits += [(name, "val") for name in cfg.DATASETS.TEST]
    for name, split in splits:
        if name not in DatasetCatalog.list():
            raise ConfigError(
                f"DATASETS names {name}, which Detectron2 does not know; register it, or use "
                "erssl detect, which takes folders."
            )
        about = MetadataCatalog.get(name)
        if about.get("evaluator_type") == "coco":
            source = CocoSource(Path(about.image_root), Path(about.json_file), name)
            data = read_coco(source, split, masks=cfg.MODEL.MASK_ON)
            vars(about).pop(GROUND_TRUTH, None)  # of an earlier call, which pycocotools changed
            about.set(**{GROUND_TRUTH: ground_truth(data)})  # masks that were checked
            sets.append(data)
            _check_files(data.images, name, data.notes)
        elif about.get("evaluator_type") == "pascal_voc":
            _check_files(
                read_split(VocSplit(Path(about.dirname), about.year, about.split))[0], name
            )
        classes = about.get("thing_classes")
        if classes is not None and len(classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            raise DataError(
                f"{name} has {len(classes)} classes and the head "
                f"{cfg.MODEL.ROI_HEADS.NUM_CLASSES}; set MODEL.ROI_HEADS.NUM_CLASSES "
                f"{len(classes)}."
            )
    for other in sets[1:]:
        check_same_categories(sets[0], other)


def work(arguments: Namespace) -> Any:
    """What each process does: train and evaluate, or evaluate alone.

    Args:
        arguments: What Detectron2's parser gives.

    Returns:
        Detectron2's results, in percent by task.

    Raises:
        ErsslError: If it cannot be done.
    """
    from detectron2.engine import default_setup

    from erssl.downstream.detection.detectron2_trainer import Trainer

    cfg, note = make_config(arguments)
    default_setup(cfg, arguments)
    if note:
        logging.getLogger("detectron2.erssl").warning(note)
    check_data(cfg)
    if arguments.eval_only:
        return _evaluate(cfg, arguments.resume)
    trainer = Trainer(cfg, arguments.resume)
    trainer.resume_or_load(arguments.resume)
    trainer.train()
    return trainer.results


def main(command_line: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        command_line: Its arguments; those of the process where nothing is given.

    Returns:
        0, or 2 after an error of the input, which is printed in one sentence.
    """
    try:
        require_detectron2()
        from detectron2.engine import default_argument_parser

        arguments = default_argument_parser().parse_args(command_line)
        if not arguments.config_file:
            raise ConfigError(
                "--config-file is missing; give one of erssl's, such as mask_rcnn_R_50_FPN_1x.yaml."
            )
        arguments.config_file = str(config_file(arguments.config_file))
        gpus = arguments.num_gpus if _has_gpu() else 1
        launch(
            work,
            arguments,
            gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
        )
    except ErsslError as error:
        print(f"train_net: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def _check_files(images: Sequence[CocoImage], name: str, notes: Sequence[str] = ()) -> None:
    """Compare headers with annotations, and say what was noticed: once for all processes."""
    from detectron2.utils import comm

    if not comm.is_main_process():
        return
    for note in (*notes, *check_sizes(images, name, loader_processes(None))):
        logging.getLogger("detectron2.erssl").warning(note)


def _evaluate(cfg: Any, resume: bool) -> Any:
    """Evaluate the newest checkpoint of the folder, or the detector that ``MODEL.WEIGHTS`` is."""
    from erssl.downstream.detection.detectron2_checkpoints import load_detector
    from erssl.downstream.detection.detectron2_trainer import Trainer
    from erssl.downstream.detection.weights import is_detector

    folder, weights = Path(cfg.OUTPUT_DIR), cfg.MODEL.WEIGHTS
    if resume and (folder / LAST).is_file():
        weights = str(folder / (folder / LAST).read_text(encoding="utf-8").strip())
    if not is_detector(weights):
        raise ConfigError(
            f"--eval-only needs a trained detector, and MODEL.WEIGHTS={weights} is none; name a "
            "checkpoint of a training, or give --resume with its OUTPUT_DIR."
        )
    model = Trainer.build_model(cfg)
    load_detector(model, weights)
    return Trainer.test(cfg, model)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
