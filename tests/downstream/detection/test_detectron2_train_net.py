"""``train_net`` in the form that Detectron2's users know, on COCO's and VOC's own names."""

import json
import logging

import pytest
import torch

from erssl.downstream.detection import train_net
from erssl.downstream.detection.coco import CocoSource, read_coco
from erssl.downstream.detection.evaluation import coco_metrics
from erssl.models import build_backbone

from .detectron2_jobs import SMALL, make_coco, needs_detectron2
from .test_voc import make_split

pytestmark = needs_detectron2


@pytest.fixture(autouse=True)
def own_loggers():
    """Detectron2 keeps the console of its first run for good."""
    from detectron2.utils.logger import setup_logger

    yield
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()


@pytest.fixture
def catalogue(monkeypatch):
    """Register data sets for the time of a test, under Detectron2's own names."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    before = {}

    def clear(name):
        if name in DatasetCatalog.list():
            before[name] = (DatasetCatalog[name], MetadataCatalog.get(name))
            DatasetCatalog.pop(name)
            MetadataCatalog.pop(name)

    yield clear
    for name, (reader, about) in before.items():
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
        DatasetCatalog.register(name, reader)
        MetadataCatalog[name] = about


@pytest.fixture
def coco(catalogue, tmp_path):
    from detectron2.data.datasets import register_coco_instances

    root = make_coco(tmp_path / "coco")
    for split in ("train", "val"):
        name = f"coco_2017_{split}"
        catalogue(name)
        file = root / "annotations" / f"instances_{split}2017.json"
        classes = [f"colour {number}" for number in range(3)]
        register_coco_instances(
            name, {"thing_classes": classes}, str(file), str(root / f"{split}2017")
        )
    return root


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    torch.save(build_backbone("resnet18").state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def overrides(tmp_path, checkpoint, *more):
    small = [*SMALL, "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
    sizes = ["INPUT.MIN_SIZE_TRAIN", (48,), "INPUT.MIN_SIZE_TEST", 48, "DATALOADER.NUM_WORKERS", 0]
    run = ["SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (1,), "SEED", 0]
    rest = ["TEST.PRECISE_BN.NUM_ITER", 1, "MODEL.ROI_HEADS.NUM_CLASSES", 3]
    opts = [*small, *sizes, *run, *rest, "OUTPUT_DIR", tmp_path / "out"]
    opts += ["MODEL.WEIGHTS", checkpoint, *more]
    return ["--config-file", "mask_rcnn_R_50_FPN_1x.yaml", "--num-gpus", "1", *map(str, opts)]


def rows(tmp_path):
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def average_precision(tmp_path):
    """In percent, of the predictions that the last evaluation left; its file is deleted."""
    source = CocoSource(
        tmp_path / "coco" / "val2017", tmp_path / "coco/annotations/instances_val2017.json"
    )
    file = tmp_path / "out" / "inference" / "coco_instances_results.json"
    metrics = coco_metrics(json.loads(file.read_text()), read_coco(source, "val"), ("bbox", "segm"))
    file.unlink()
    return {"bbox": 100 * metrics["box_AP"], "segm": 100 * metrics["mask_AP"]}


def test_trains_resumes_and_evaluates(coco, checkpoint, tmp_path, capfd):
    command = overrides(tmp_path, checkpoint)
    assert train_net.main(command) == 0
    assert "20 convolutions and 20 normalisations" in capfd.readouterr().out
    assert (tmp_path / "out" / "model_final.pth").is_file()
    assert train_net.main(["--resume", *command]) == 0
    assert "Goes on at iteration 2" in capfd.readouterr().out
    trained = average_precision(tmp_path)
    assert trained["bbox"] == pytest.approx(rows(tmp_path)[-1]["bbox/AP"])
    assert train_net.main(["--resume", "--eval-only", *command]) == 0
    assert average_precision(tmp_path) == pytest.approx(trained)
    detector = overrides(tmp_path, tmp_path / "out" / "model_final.pth")
    assert train_net.main(["--eval-only", *detector]) == 0
    assert average_precision(tmp_path) == pytest.approx(trained)
    assert train_net.main(["--eval-only", *detector, "MODEL.MASK_ON", "False"]) == 2
    assert "found no partner, such as roi_heads.mask_head" in capfd.readouterr().err


@pytest.mark.parametrize(
    "change, message",
    [
        (["MODEL.ROI_HEADS.NUM_CLASSES", "80"], "has 3 classes and the head 80"),
        (["SOLVER.BASE_LEARNING_RATE", "1"], "are no overrides"),
        (["DATASETS.TRAIN", "('nowhere',)"], "names nowhere, which Detectron2 does not know"),
        (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"], "is not built"),
        (["DATALOADER.ASPECT_RATIO_GROUPING", "False"], "leave it at True"),
        (["MODEL.RESNETS.DEPTH", "34"], "does not fit the detector's backbone"),
    ],
)
def test_bad_input_is_one_sentence(coco, checkpoint, tmp_path, capfd, change, message):
    assert train_net.main([*overrides(tmp_path, checkpoint), *change]) == 2
    said = capfd.readouterr().err.splitlines()[-1]
    assert said.startswith("train_net: ") and message in said


def test_bad_options_are_one_sentence(coco, checkpoint, tmp_path, capfd):
    command = overrides(tmp_path, checkpoint)
    assert train_net.main(["--eval-only", *command]) == 2
    assert "--eval-only needs a trained detector" in capfd.readouterr().err
    assert train_net.main(command[2:]) == 2
    assert "--config-file is missing" in capfd.readouterr().err
    assert train_net.main(["--config-file", "mask_rcnn.yaml"]) == 2
    assert "choose one of" in capfd.readouterr().err
    assert train_net.main(command) == 0
    assert train_net.main(["--resume", *command, "SOLVER.BASE_LR", "0.5"]) == 2
    assert "was trained with SOLVER.BASE_LR=0.02" in capfd.readouterr().err


def test_voc_is_trained_and_evaluated_by_its_own_measure(catalogue, tmp_path, capfd):
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets import register_pascal_voc

    torch.save(build_backbone("resnet50").state_dict(), tmp_path / "resnet50.pth")
    devkit, thing = tmp_path / "VOCdevkit", ("cat", (3, 3, 30, 28), 0)
    for year, split in ((2007, "trainval"), (2012, "trainval"), (2007, "test")):
        folder = make_split(devkit, year, split, [[thing], [thing]])
        name = f"voc_{year}_{split}"
        catalogue(name)
        register_pascal_voc(name, str(folder), split, year)
        MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    command = overrides(tmp_path, tmp_path / "resnet50.pth", "MODEL.RESNETS.DEPTH", 50)
    command += ["MODEL.RESNETS.RES2_OUT_CHANNELS", "256", "MODEL.ROI_HEADS.NUM_CLASSES", "20"]
    command[1] = "faster_rcnn_R_50_C4_voc_24k.yaml"
    assert train_net.main([*command, "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()"]) == 0
    assert {"bbox/AP", "bbox/AP50", "bbox/AP75"} <= set(rows(tmp_path)[-1])
    assert "53 convolutions and 53 normalisations" in capfd.readouterr().out
