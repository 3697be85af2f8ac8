"""The torchvision backend: weights, statistics, and a run that is stopped and goes on."""

import csv
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from erssl.downstream.detection.coco import coco_layout, read_coco
from erssl.downstream.detection.job import DetectionJob
from erssl.downstream.detection.progress import told
from erssl.downstream.detection.recipes import RECIPES, learning_rate, scaled
from erssl.downstream.detection.torchvision_backend import run
from erssl.downstream.detection.torchvision_model import (
    build_detector,
    find,
    match_weights,
    parameter_groups,
    refine_statistics,
)
from erssl.errors import DataError, RunError
from erssl.models import BackboneOptions, build_backbone
from erssl.protocols.loggers import make_loggers

STATISTICS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}


def resnet(name="resnet18", seed=0):
    torch.manual_seed(seed)
    backbone = build_backbone(name)
    for part in backbone.modules():  # else they cannot be told from fresh ones
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.1, 0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    return backbone.eval()


@pytest.mark.parametrize(("name", "parts"), [("resnet18", 20), ("resnet34", 36), ("resnet50", 53)])
def test_every_weight_of_the_backbone_is_in_the_detector(name, parts):
    backbone = resnet(name)
    detector = build_detector(backbone, 2, STATISTICS, rois_per_image=8)
    matched = match_weights(backbone, detector)
    assert matched == {"convolutions": parts, "normalisations": parts, "tensors": 6 * parts}
    image = torch.rand(1, 3, 64, 96)
    detector.eval()
    with torch.no_grad():
        stages = detector.backbone.body(image)
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(image))))
        for number in range(4):
            x = getattr(backbone, f"layer{number + 1}")(x)
            assert torch.allclose(stages[str(number)], x, atol=1e-6)


def test_all_layers_are_trained_and_normalise_by_batch():
    detector = build_detector(resnet(), 2, STATISTICS)
    assert all(p.requires_grad for p in detector.parameters())
    norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20 + 8  # body, and two for each level of the pyramid
    decaying, others = parameter_groups(detector, 1e-4)
    assert (decaying["weight_decay"], others["weight_decay"]) == (1e-4, 0)
    assert len(others["params"]) == 2 * len(norms)
    assert len(decaying["params"]) + len(others["params"]) == len(list(detector.parameters()))


def test_a_weight_that_is_lost_is_named():
    backbone = resnet()
    detector = build_detector(backbone, 2, STATISTICS)
    nn.init.zeros_(detector.backbone.body.layer2[0].conv1.weight)
    with pytest.raises(DataError, match=r"1 weights .* such as layer2\.0\.conv1\.weight"):
        match_weights(backbone, detector)


def test_images_are_normalised_by_the_backbones_statistics_and_not_resized():
    detector = build_detector(resnet(), 2, STATISTICS)
    image = torch.rand(3, 50, 70)
    images, _ = detector.transform([image])
    assert (images.image_sizes, images.tensors.shape) == ([(50, 70)], (1, 3, 64, 96))
    mean, std = (torch.tensor(STATISTICS[key])[:, None, None] for key in ("mean", "std"))
    assert torch.allclose(images.tensors[0, :, :50, :70], (image - mean) / std)


def test_precise_statistics_are_those_of_all_batches_together():
    detector = build_detector(resnet(), 2, STATISTICS).eval()
    batches = [[torch.rand(3, side, 64) for _ in range(2)] for side in (64, 64, 96)]
    norm, conv = detector.backbone.body.bn1, detector.backbone.body.conv1
    with torch.no_grad():
        inputs = [detector.transform(batch)[0].tensors for batch in batches]
        values = torch.cat([conv(x).transpose(0, 1).flatten(1) for x in inputs], dim=1)
    refine_statistics(detector, batches)
    assert torch.allclose(norm.running_mean, values.mean(1), atol=1e-5)
    assert torch.allclose(norm.running_var, values.var(1, correction=0), atol=1e-5)
    assert not detector.training and not norm._forward_pre_hooks


def test_what_is_found_is_in_pixels_of_the_images_own_size():
    detector = build_detector(resnet(), 2, STATISTICS).eval()
    detector.roi_heads.score_thresh, detector.roi_heads.detections_per_img = 0.0, 5
    image = torch.rand(3, 64, 96)
    (same,) = find(detector, [image], [(64, 96)])
    assert len(same["boxes"]) == 5
    (double,) = find(detector, [image], [(128, 192)])
    assert torch.allclose(double["boxes"], 2 * same["boxes"], atol=1e-3)
    assert double["masks"].shape[1:] == (1, 128, 192)


@pytest.fixture
def job(coco, tmp_path):
    train, val = (
        read_coco(source, split)
        for source, split in zip(coco_layout(coco), ("train", "val"), strict=True)
    )
    recipe = RECIPES["mask_rcnn_fpn_1x"]
    return DetectionJob(
        backbone=resnet(),
        preprocessing=STATISTICS,
        recipe=recipe,
        schedule=scaled(recipe, 2, iterations=6),
        train=train,
        val=replace(val, images=val.images[:1]),  # each has a hundred masks to predict
        folder=tmp_path / "straight",
        seed=5,
        resume=False,
        eval_only=False,
        workers=0,
        device=torch.device("cpu"),
        devices=1,
        min_sizes=(64, 80),
        max_size=128,
        test_size=64,
        rois_per_image=8,
        eval_period=0,
        checkpoint_period=2,
        say=lambda line: None,
        loggers=partial(make_loggers, tmp_path / "straight"),
    )


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [
            {k: float(v) for k, v in row.items() if v and k != "epoch"}
            for row in csv.DictReader(file)
            if row["train_loss"]
        ]


class Killed(BaseException):
    """As good as ``kill -9``: nothing is saved on the way out."""


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(job, monkeypatch):
    from erssl.downstream.detection import torchvision_training as training

    straight = run(replace(job, checkpoint_period=6))
    said = []
    folder = job.folder.with_name("stopped")
    stopped = replace(job, folder=folder, eval_period=4, loggers=partial(make_loggers, folder))
    step = training.DetectorTraining.training_step

    def until_the_sixth(self, batch):
        if self.global_step == 5:
            self.trainer.loggers[0].save()
            raise Killed
        return step(self, batch)

    monkeypatch.setattr(training.DetectorTraining, "training_step", until_the_sixth)
    # The evaluation between changes running statistics, but not what comes after.
    with pytest.raises(Killed):
        run(stopped)
    monkeypatch.setattr(training.DetectorTraining, "training_step", step)
    resumed = run(replace(stopped, resume=True, say=said.append))
    assert resumed.facts["first_iteration"] == 4
    phases = ["iteration 6/6 ", "precise statistics: ", "evaluation: 1 images"]
    begun = [next(i for i, line in enumerate(said) if line.startswith(each)) for each in phases]
    assert begun == sorted(begun)
    assert resumed.metrics == straight.metrics
    one, other = rows(job.folder), rows(stopped.folder)
    assert [row["step"] for row in other] == [0, 1, 2, 3, 4, 5]
    assert [row["lr"] for row in other] == pytest.approx(
        [learning_rate(job.schedule, i) for i in range(6)]
    )
    assert other == one  # every loss of every iteration, to the last bit
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (job.folder, stopped.folder)
    )
    same = [
        n for n in first if "running_" in n or "tracked" in n or torch.equal(first[n], second[n])
    ]
    assert same == list(first)

    done = run(replace(job, resume=True))  # of a run that is finished: evaluated once more
    assert done.metrics == straight.metrics
    other_head = replace(job.val, class_names=("square", "disc"))
    with pytest.raises(RunError, match=r"2 classes \(square, bar\), but .* \(square, disc\)"):
        run(replace(job, eval_only=True, val=other_head))


def test_a_phase_is_said_with_how_far_it_is():
    said = []
    assert list(told("abc", "evaluation", 3, "images", said.append, seconds=0)) == ["a", "b", "c"]
    done = ["evaluation: 1 of 3 images done", "evaluation: 2 of 3 images done"]
    assert said == ["evaluation: 3 images", *done]
    said.clear()
    assert list(told("ab", "evaluation", 2, "images", said.append)) == ["a", "b"]
    assert said == ["evaluation: 2 images"]


def test_nothing_to_evaluate(job):
    with pytest.raises(RunError, match=r"last\.ckpt does not exist; train first"):
        run(replace(job, eval_only=True))


def test_loss_that_is_not_finite_ends_the_run(job):
    steep = replace(job, schedule=scaled(job.recipe, 2, iterations=6, lr=1e12))
    with pytest.raises(RunError, match="not finite; start again with a lower learning_rate"):
        run(steep)


@pytest.mark.parametrize(
    "options", [BackboneOptions("mobilenet_v3_small"), BackboneOptions("test_vit", "timm")]
)
def test_a_backbone_without_a_resnets_stages_is_refused(options):
    with pytest.raises(DataError, match=f"is {options.name}, which has no layer1"):
        build_detector(build_backbone(options), 2, STATISTICS)
