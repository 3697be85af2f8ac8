"""Detectron2's trainer with the pieces that the recipes need: imported only where Detectron2 is."""

from __future__ import annotations

import json
import logging
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import DatasetEvaluators
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, JSONWriter, TensorboardXWriter

from erssl.downstream.detection.coco_data import CocoImage
from erssl.downstream.detection.detectron2_checkpoints import Checkpointer, Kept
from erssl.downstream.detection.detectron2_config import SETTINGS, fingerprint, first_iteration
from erssl.downstream.detection.detectron2_evaluation import make_evaluator, not_finite
from erssl.downstream.detection.finite import NOT_FINITE, counting, sentence_on
from erssl.downstream.detection.image_files import size_fault
from erssl.downstream.detection.sampling import (
    BatchOrder,
    IterationSampler,
    PreparedRecords,
    record_loader,
)
from erssl.downstream.detection.weights import MatchReport, backbone_weights, fill, unwrapped_module
from erssl.errors import ConfigError, DataError
from erssl.files import write_text

METRICS = "metrics.json"
PERIOD = 20  # iterations from one row of metrics.json to the next, as in Detectron2 ...
LOG_ALL = 2000  # ... but every iteration of a training as short as this
WEIGHTS_TABLE = "backbone_weights.txt"
logger = logging.getLogger("detectron2.erssl")


class Trainer(DefaultTrainer):
    """Detectron2's own trainer; the same images at the same iteration, resumed or not.

    Attributes:
        report: What of the backbone was matched; ``None`` where the weights are of a whole
            detector, or a run goes on.
    """

    report: MatchReport | None = None

    def __init__(self, cfg: Any, resume: bool = False) -> None:
        """Build model, optimiser, loader and hooks.

        Args:
            cfg: Detectron2's config, frozen.
            resume: Go on with the newest checkpoint in ``OUTPUT_DIR``, if there is one.

        Raises:
            ConfigError: If the config asks for an order of images that is not built.
            RunError: If that checkpoint is of another config, or cannot be read.
        """
        _check_loader(cfg)
        records = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN, filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        self._wide = [record["width"] >= record["height"] for record in records]
        self._records = DatasetFromList(records)  # one buffer, which loader processes share
        self._settings = fingerprint(cfg, len(records))
        self._seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        folder = Path(cfg.OUTPUT_DIR)
        self._first = first_iteration(folder, self._settings) if resume else 0
        if comm.is_main_process():
            _keep_rows(folder / METRICS, self._first)
        super().__init__(cfg)

    @property
    def results(self) -> Any:
        """What the last evaluation gave, in percent by task; ``None`` before there was one."""
        return getattr(self, "_last_eval_results", None)

    @classmethod
    def build_model(cls, cfg: Any) -> Any:
        """The detector; its long description goes to no log."""
        return build_model(cfg)

    def build_train_loader(self, cfg: Any) -> Any:
        """Batches from the first iteration of this part of the run on."""
        return self._loader(cfg, self._first)

    @classmethod
    def build_test_loader(cls, cfg: Any, dataset_name: str) -> Any:
        """Images to evaluate on; complaints about one name it."""
        mapper = _Prepare(DatasetMapper(cfg, False))
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    def build_hooks(self) -> list[Any]:
        """Detectron2's hooks, repeatable ones where it has a choice."""
        self.checkpointer = Checkpointer(
            self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        self.checkpointer.add_checkpointable(SETTINGS, Kept(self._settings))
        without_workers = self.cfg.clone()
        without_workers.defrost()
        without_workers.DATALOADER.NUM_WORKERS = 0
        precise = _PreciseBN(
            self.cfg.TEST.EVAL_PERIOD,
            self.model,
            self._loader(without_workers, 0),
            self.cfg.TEST.PRECISE_BN.NUM_ITER,
        )
        usual = super().build_hooks()
        ours = [precise if isinstance(hook, hooks.PreciseBN) else hook for hook in usual]
        rows = [] if not comm.is_main_process() else [self._rows()]
        return [_Seeds(self._seed), *ours, *rows]

    def build_writers(self) -> list[Any]:
        """Console and TensorBoard, without what a resumed part writes again."""
        printer = CommonMetricPrinter(self.max_iter)
        return [printer, TensorboardXWriter(self.cfg.OUTPUT_DIR, purge_step=self._first)]

    def _rows(self) -> Any:
        """``metrics.json``: values of single iterations, where Detectron2 smooths over 20.

        A resumed part has no smoothed values of its own before its twentieth iteration.
        """
        file = str(Path(self.cfg.OUTPUT_DIR) / METRICS)
        period = 1 if self.max_iter <= LOG_ALL else PERIOD
        return hooks.PeriodicWriter([JSONWriter(file, window_size=1)], period)

    def resume_or_load(self, resume: bool = True) -> None:
        """Read the newest checkpoint, or the weights to start from.

        Raises:
            ErsslError: If a weight of the backbone finds no partner.
        """
        weights = self.cfg.MODEL.WEIGHTS
        resume = resume and self.checkpointer.has_checkpoint()
        local = bool(weights) and "://" not in weights
        named = backbone_weights(weights) if local and not resume else None
        if named is None:
            super().resume_or_load(resume)
            if resume:
                logger.info("Goes on at iteration %d.", self.start_iter)
            elif not weights:
                logger.warning("MODEL.WEIGHTS is empty: the backbone begins with random weights.")
            return
        self.report = fill(unwrapped_module(self.model), named)
        logger.info("Weights of %s: %s.", Path(weights).name, self.report)
        if comm.is_main_process():
            write_text(Path(self.cfg.OUTPUT_DIR) / WEIGHTS_TABLE, self.report.table())

    @classmethod
    def build_evaluator(cls, cfg: Any, dataset_name: str, output_folder: Any = None) -> Any:
        """COCO's or VOC's evaluation, and some predictions to draw."""
        return DatasetEvaluators(make_evaluator(cfg, dataset_name))

    @classmethod
    def test(cls, cfg: Any, model: Any, evaluators: Any = None) -> Any:
        """Evaluate, and add the number of outputs that were not finite, where there were any.

        Args:
            cfg: Detectron2's config.
            model: The detector.
            evaluators: Those to use; ``None`` for :meth:`build_evaluator`'s.

        Returns:
            Results by task, of several data sets by data set.
        """
        with counting(_predictors(model)) as outputs:
            results = super().test(cfg, model, evaluators)
        rows = sum(comm.gather(outputs.rows)) + not_finite(results)
        if rows and comm.is_main_process():
            logger.warning(sentence_on(rows))
            results[NOT_FINITE] = {NOT_FINITE: float(rows)}
        return results

    def _loader(self, cfg: Any, first: int) -> Any:
        processes, rank, seed = comm.get_world_size(), comm.get_rank(), self._seed
        order = BatchOrder(self._wide, cfg.SOLVER.IMS_PER_BATCH, seed)
        sampler = IterationSampler(order, first, sys.maxsize, rank, processes)
        records = PreparedRecords(self._records, _Prepare(DatasetMapper(cfg, True)), seed)
        return record_loader(records, sampler, cfg.DATALOADER.NUM_WORKERS)


def _predictors(model: Any) -> list[torch.nn.Module]:
    """What gives scores, boxes and masks."""
    names = (
        "proposal_generator.rpn_head",
        "roi_heads.box_predictor",
        "roi_heads.mask_head.predictor",
    )
    parts = dict(getattr(model, "module", model).named_modules())
    return [parts[name] for name in names if name in parts]


def _check_loader(cfg: Any) -> None:
    """Refuse keys that Detectron2 reads and this trainer's own order does not."""
    only = {"SAMPLER_TRAIN": "TrainingSampler", "ASPECT_RATIO_GROUPING": True}
    for key, value in only.items():
        if cfg.DATALOADER[key] != value:
            raise ConfigError(
                f"DATALOADER.{key}={cfg.DATALOADER[key]} is not built, since a resumed run could "
                f"not go on with its order; leave it at {value}."
            )
    processes = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH={cfg.SOLVER.IMS_PER_BATCH} cannot be shared by {processes} "
            "processes; choose a multiple."
        )


class _Prepare:
    """Detectron2's mapper, whose complaints about an image name the image."""

    def __init__(self, mapper: Any) -> None:
        self.mapper = mapper

    def __call__(self, record: Any) -> Any:
        try:
            return self.mapper(record)
        except SizeMismatchError as error:
            image = CocoImage(0, Path(record["file_name"]), record["width"], record["height"], ())
            raise DataError(size_fault(image)) from error
        except OSError as error:
            raise DataError(
                f"{record['file_name']} cannot be read ({error}); repair or remove it."
            ) from error


class _Seeds(HookBase):
    """Chance within the model, such as which proposals are sampled, by the iteration alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_step(self) -> None:
        numbers = np.random.SeedSequence((self.seed, self.trainer.iter, comm.get_rank()))
        torch.manual_seed(int(numbers.generate_state(1)[0]))


class _PreciseBN(hooks.PreciseBN):
    """Statistics of the same images each time, so that a resumed run has them too."""

    def update_stats(self) -> None:
        self._data_iter = None
        super().update_stats()


def read_rows(file: Path) -> list[dict[str, float]]:
    """What was written to ``metrics.json``, a dictionary for each time.

    Args:
        file: The file; a last line that a kill cut short is left out.
    """
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _keep_rows(file: Path, end: int) -> None:
    """Drop what is written again: all from iteration ``end`` on."""
    if file.is_file():
        kept = [row for row in read_rows(file) if row["iteration"] < end]
        write_text(file, "".join(f"{json.dumps(row)}\n" for row in kept))
