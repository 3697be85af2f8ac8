"""Training by Detectron2: it ends, goes on where it was, evaluates as pycocotools does."""

import dataclasses
import json
import math
import pickle

import pytest
import torch

from erssl.downstream.detection import detectron2_backend
from erssl.downstream.detection.coco import coco_layout, read_coco
from erssl.downstream.detection.detectron2_backend import FOLDER, for_processes, run
from erssl.downstream.detection.detectron2_config import job_config
from erssl.downstream.detection.evaluation import coco_metrics
from erssl.downstream.detection.recipes import RECIPES, learning_rate, scaled
from erssl.errors import ConfigError, DataError, RunError

from .detectron2_jobs import SMALL, make_coco, make_job, needs_detectron2

pytestmark = needs_detectron2


class Killed(BaseException):
    """What nobody catches, as a signal."""


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("coco"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few regions and narrow heads."""
    whole = detectron2_backend.job_config

    def job_config(*arguments):
        cfg, notes = whole(*arguments)
        cfg.defrost()
        cfg.merge_from_list(SMALL)
        cfg.freeze()
        return cfg, notes

    monkeypatch.setattr(detectron2_backend, "job_config", job_config)


def rows(folder):
    text = (folder / FOLDER / "metrics.json").read_text()
    return [json.loads(line) for line in text.splitlines()]


def weights(folder):
    return torch.load(folder / FOLDER / "model_final.pth", weights_only=True)["model"]


def stop_before(monkeypatch, iteration):
    from erssl.downstream.detection.detectron2_trainer import Trainer

    step = Trainer.run_step

    def run_step(self):
        if self.iter == iteration:
            raise Killed
        step(self)

    monkeypatch.setattr(Trainer, "run_step", run_step)


def test_trains_and_evaluates(coco, tmp_path):
    said = []
    job = make_job(coco, tmp_path, iterations=3, say=said.append)
    outcome = run(job)
    assert {"box_AP", "box_AP50", "mask_AP75"} <= set(outcome.metrics)
    assert all(0 <= value <= 1 for value in outcome.metrics.values())
    assert outcome.facts["iterations"] == 3 and outcome.facts["backbone_convolutions"] == 20
    assert math.isfinite(outcome.facts["first_loss"])
    assert outcome.notes[0].startswith("BN in place of SyncBN")
    assert [detected.index for detected in outcome.predictions] == [0, 1, 2, 3, 4]
    detected = outcome.predictions[0]
    assert detected.scores == sorted(detected.scores, reverse=True) and detected.scores
    assert detected.masks[0]["size"] == [48, 64]
    assert any("eta" in line or "total_loss" in line for line in said)
    assert any("none left at random" in line for line in said)
    begun = [
        next(i for i, line in enumerate(said) if phase in line)
        for phase in ("Running precise-BN for", "Start inference on 5 batches")
    ]
    assert begun == sorted(begun)
    files = {path.name.partition(".tfevents")[0] for path in (tmp_path / FOLDER).iterdir()}
    assert files >= {"model_final.pth", "log.txt", "config.yaml", "events.out", "metrics.json"}
    table = (tmp_path / FOLDER / "backbone_weights.txt").read_text()
    assert len(table.splitlines()) == 40


def test_average_precision_is_that_of_pycocotools_alone(coco, tmp_path):
    job = make_job(coco, tmp_path, iterations=8, schedule=None)
    job = dataclasses.replace(job, schedule=scaled(job.recipe, 2, 8, 0.01))
    metrics = run(job).metrics
    file = tmp_path / FOLDER / "inference" / "coco_instances_results.json"
    expected = coco_metrics(json.loads(file.read_text()), job.val, ("bbox", "segm"))
    assert expected["box_AP"] > 0
    assert metrics == pytest.approx(expected)


def test_resumed_after_a_kill_it_is_the_run_that_was_not_killed(coco, tmp_path, monkeypatch):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    expected = run(make_job(coco, straight, iterations=7))
    with monkeypatch.context() as patched, pytest.raises(Killed):
        stop_before(patched, 5)
        run(make_job(coco, broken, iterations=7))
    said = []
    outcome = run(make_job(coco, broken, iterations=7, resume=True, say=said.append))
    assert outcome.facts["first_iteration"] == 4  # two were lost, the checkpoint is of four
    assert outcome.facts["backbone_norms"] == expected.facts["backbone_norms"] == 20
    assert any("Goes on at iteration 4" in line for line in said)
    assert outcome.metrics == pytest.approx(expected.metrics)
    for name, values in weights(straight).items():
        torch.testing.assert_close(weights(broken)[name], values, msg=name)
    whole, parts = rows(straight), rows(broken)
    assert [row["iteration"] for row in parts] == [0, 1, 2, 3, 4, 5, 6, 7]  # 7 has the metrics
    for one, other in zip(whole[:7], parts[:7], strict=True):
        assert other["total_loss"] == pytest.approx(one["total_loss"])
        assert other["lr"] == one["lr"]


def test_resumed_rate_is_that_of_the_iteration(coco, tmp_path, monkeypatch):
    from erssl.downstream.detection.detectron2_trainer import Trainer

    seen = []
    step = Trainer.run_step

    def run_step(self):
        seen.append((self.iter, self.optimizer.param_groups[0]["lr"]))
        if len(seen) == 4:
            raise Killed
        step(self)

    monkeypatch.setattr(Trainer, "run_step", run_step)
    job = make_job(coco, tmp_path, iterations=6)
    job = dataclasses.replace(
        job, schedule=dataclasses.replace(job.schedule, warmup_iterations=3, steps=(4, 5))
    )
    with pytest.raises(Killed):
        run(job)
    run(dataclasses.replace(job, resume=True))
    assert [iteration for iteration, _ in seen] == [0, 1, 2, 3, 2, 3, 4, 5]
    for iteration, rate in seen:
        assert rate == pytest.approx(learning_rate(job.schedule, iteration))


def test_killed_before_the_first_checkpoint_it_begins_again(coco, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Killed):
        stop_before(patched, 1)
        run(make_job(coco, tmp_path))
    said = []
    outcome = run(make_job(coco, tmp_path, iterations=2, resume=True, say=said.append))
    assert outcome.facts["first_iteration"] == 0
    assert any("begins at its beginning" in line for line in said)


def test_a_new_training_forgets_the_old_one(coco, tmp_path):
    run(make_job(coco, tmp_path, iterations=2))
    outcome = run(make_job(coco, tmp_path, iterations=3))
    assert outcome.facts["first_iteration"] == 0
    assert not (tmp_path / FOLDER / "model_0000003.pth").exists()


def test_resume_from_another_config_is_refused(coco, tmp_path):
    run(make_job(coco, tmp_path, iterations=2))
    for changed, key in (
        ({"iterations": 9}, "SOLVER.MAX_ITER=2"),
        ({"seed": 4}, "SEED=3"),
        ({"min_sizes": (48,)}, r"INPUT.MIN_SIZE_TRAIN=\[48, 64\]"),
        ({"recipe": "mask_rcnn_c4_1x", "arch": "resnet50"}, "MODEL.BACKBONE.NAME"),
    ):
        settings = {"iterations": 2, "resume": True, **changed}
        with pytest.raises(RunError, match=f"was trained with .*{key}.*resume with the settings"):
            run(make_job(coco, tmp_path, **settings))
    # where and how often it runs may change
    again = {"iterations": 2, "resume": True, "eval_period": 1, "checkpoint_period": 1}
    run(make_job(coco, tmp_path, **again, workers=1))


def test_resume_from_a_broken_checkpoint_is_refused(coco, tmp_path):
    run(make_job(coco, tmp_path, iterations=2))
    (tmp_path / FOLDER / "model_final.pth").write_bytes(b"half")
    with pytest.raises(RunError, match="no readable checkpoint"):
        run(make_job(coco, tmp_path, iterations=2, resume=True))


def test_evaluates_alone(coco, tmp_path):
    with pytest.raises(RunError, match=r"eval_only=true but .* does not exist"):
        run(make_job(coco, tmp_path, eval_only=True))
    trained = run(make_job(coco, tmp_path, iterations=2))
    evaluated = run(make_job(coco, tmp_path, iterations=2, eval_only=True))
    assert evaluated.metrics == pytest.approx(trained.metrics)
    assert evaluated.facts == {"checkpoint": "model_final.pth", "iterations": 2}
    with pytest.raises(RunError, match=r"was trained with SOLVER\.MAX_ITER=2"):
        run(make_job(coco, tmp_path, iterations=3, eval_only=True))


def test_run_length_masks_are_trained_on(tmp_path):
    coded = make_coco(tmp_path / "coded", count=3, codes=True)
    job = make_job(coded, tmp_path / "run", iterations=2)
    assert job.train.has_codes
    assert math.isfinite(run(job).facts["last_loss"])


def test_the_job_reaches_the_config(coco, tmp_path):
    job = make_job(coco, tmp_path, rois_per_image=24, checkpoint_period=7, workers=3)
    cfg, _ = job_config(job, "train", "val", tmp_path / "backbone.pth", tmp_path)
    assert cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE == 24
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert (cfg.SOLVER.CHECKPOINT_PERIOD, cfg.DATALOADER.NUM_WORKERS) == (7, 3)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((48, 64), 96)
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (64, 96)
    assert cfg.TEST.PRECISE_BN.NUM_ITER == 3  # 5 images, 2 in a batch
    assert cfg.MODEL.RESNETS.DEPTH == 18
    assert cfg.MODEL.PIXEL_MEAN == [123.675, 116.28, 103.53]
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SEED) == (2, 0.001, 3)


def test_c4_has_its_fifth_stage_in_the_head(tmp_path):
    coco = make_coco(tmp_path / "coco", count=2)
    job = make_job(coco, tmp_path / "run", "mask_rcnn_c4_1x", "resnet50", iterations=1)
    outcome = run(job)
    assert outcome.facts["backbone_norms"] == 53
    assert {"box_AP", "mask_AP"} <= set(outcome.metrics)


def test_a_training_that_diverges_says_so(coco, tmp_path):
    job = make_job(coco, tmp_path, iterations=8)
    job = dataclasses.replace(
        job, schedule=dataclasses.replace(job.schedule, base_lr=1e20, warmup_iterations=0)
    )
    with pytest.raises(RunError, match=r"diverged at iteration \d.*smaller learning_rate"):
        run(job)


def test_backbones_that_do_not_fit_are_refused(coco, tmp_path):
    from erssl.models import BackboneOptions, build_backbone

    small = build_backbone(BackboneOptions("resnet18", cifar_stem=True))
    with pytest.raises(ConfigError, match=r"resnet18 with a stem for small images"):
        run(make_job(coco, tmp_path, backbone=small))
    vit = build_backbone(BackboneOptions("vit_tiny_patch16_224", "timm"))
    with pytest.raises(ConfigError, match=r"vit_tiny_patch16_224, and the detectors"):
        run(make_job(coco, tmp_path, backbone=vit))
    with pytest.raises(ConfigError, match=r"resnet18, whose last stage"):
        run(make_job(coco, tmp_path, "mask_rcnn_c4_1x"))
    with pytest.raises(ConfigError, match=r"batch_size=2 cannot be shared by 3 devices"):
        run(make_job(coco, tmp_path, devices=3))
    with pytest.raises(ConfigError, match=r"devices=2 needs GPUs"):
        run(make_job(coco, tmp_path, devices=2))


def test_an_image_to_evaluate_on_of_another_size_is_named(coco, tmp_path):
    job = make_job(coco, tmp_path, iterations=1)
    wrong = tuple(dataclasses.replace(image, width=image.width + 8) for image in job.val.images)
    job = dataclasses.replace(job, val=dataclasses.replace(job.val, images=wrong))
    with pytest.raises(DataError, match=r"\.png has \d+ x \d+ pixels but the annotations say"):
        run(job)


def test_boxes_alone_are_enough_for_faster_rcnn(coco, tmp_path):
    train, val = coco_layout(coco)
    job = make_job(
        coco,
        tmp_path,
        "faster_rcnn_fpn_1x",
        iterations=2,
        train=read_coco(train, "train", masks=False),
        val=read_coco(val, "val", masks=False),
    )
    outcome = run(job)
    assert {"box_AP", "box_AP50", "box_AP75"} <= set(outcome.metrics)
    assert not any(name.startswith("mask") for name in outcome.metrics)
    assert all(detected.masks is None for detected in outcome.predictions)


def test_a_detector_that_computes_nan_says_so(coco, tmp_path):
    job = make_job(coco, tmp_path, iterations=2)
    run(job)
    file = tmp_path / FOLDER / "model_final.pth"
    content = torch.load(file, weights_only=True)
    # finite, so that nothing but what it computes is wrong: scores are infinity minus infinity
    content["model"]["roi_heads.box_predictor.cls_score.weight"].fill_(3e38)
    torch.save(content, file)
    said = []
    outcome = run(dataclasses.replace(job, eval_only=True, say=said.append))
    assert any("were NaN or infinite" in note for note in outcome.notes)
    assert any("were NaN or infinite" in line for line in said)


def test_an_image_of_another_size_is_named(coco, tmp_path):
    train, _ = coco_layout(coco)
    data = read_coco(train, "train")
    wrong = tuple(dataclasses.replace(image, width=image.width + 8) for image in data.images)
    job = make_job(coco, tmp_path, train=dataclasses.replace(data, images=wrong))
    with pytest.raises(DataError, match=r"\.png has \d+ x \d+ pixels but the annotations say"):
        run(job)


def test_a_complaint_of_one_of_several_processes_is_one_sentence(monkeypatch):
    import detectron2.engine
    from torch.multiprocessing.spawn import ProcessRaisedException

    from erssl.downstream.detection.detectron2_launch import launch

    def several(said):
        def stopped(*arguments, **places):
            raise ProcessRaisedException(f"Traceback ...\n{said}\n", 1, 4)

        monkeypatch.setattr(detectron2.engine, "launch", stopped)

    several("erssl.errors.DataError: x.png is not 4 x 4 pixels.")
    with pytest.raises(RunError, match=r"^x\.png is not 4 x 4 pixels\.$"):
        launch(print, None, 2)
    several("ValueError: anything")
    with pytest.raises(ProcessRaisedException):
        launch(print, None, 2)


def test_a_job_reaches_other_processes(coco, tmp_path):
    job = make_job(coco, tmp_path)  # with functions of its own
    again = pickle.loads(pickle.dumps(for_processes(job)))
    assert again.train.images == job.train.images
    assert again.schedule == job.schedule


def test_recipes_name_files_that_are_there():
    assert len({recipe.config for recipe in RECIPES.values()}) == len(RECIPES)
