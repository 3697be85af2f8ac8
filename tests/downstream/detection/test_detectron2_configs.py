"""The config files: what they build, and that they agree with the recipes."""

import math
from importlib.resources import files

import pytest
import torch
from torch import nn

from erssl.downstream.detection.detectron2_config import (
    base_config,
    decay_steps,
    plain_norms_without_gpu,
)
from erssl.downstream.detection.recipes import RECIPES, learning_rate, scaled

from .detectron2_jobs import needs_detectron2

pytestmark = needs_detectron2
HEADS = "mask_rcnn_R_50_FPN_1x_4conv1fc.yaml"
CONFIGS = [*(recipe.config for recipe in RECIPES.values()), HEADS]


@pytest.fixture(params=CONFIGS)
def cfg(request):
    config = base_config(request.param)
    config.MODEL.DEVICE = "cpu"
    return config


def is_c4(cfg):
    return cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm"


def test_no_config_file_is_forgotten():
    folder = files("erssl.downstream.detection") / "configs"
    names = {file.name for file in folder.iterdir() if file.name.endswith(".yaml")}
    assert names - {"Base-RCNN-FPN.yaml", "Base-RCNN-C4.yaml"} == set(CONFIGS)


def test_says_what_the_recipe_asks_for(cfg):
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 0
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is False
    assert cfg.MODEL.RESNETS.DEPTH == 50
    assert cfg.MODEL.RESNETS.NORM == "SyncBN"
    assert ("" if is_c4(cfg) else "SyncBN") == cfg.MODEL.FPN.NORM
    assert cfg.INPUT.FORMAT == "RGB"
    torch.testing.assert_close(
        torch.tensor(cfg.MODEL.PIXEL_MEAN) / 255, torch.tensor([0.485, 0.456, 0.406])
    )
    torch.testing.assert_close(
        torch.tensor(cfg.MODEL.PIXEL_STD) / 255, torch.tensor([0.229, 0.224, 0.225])
    )
    assert cfg.TEST.PRECISE_BN.ENABLED and cfg.TEST.PRECISE_BN.NUM_ITER == 200
    assert cfg.TEST.EVAL_PERIOD > 0 and cfg.SOLVER.MAX_ITER % cfg.TEST.EVAL_PERIOD == 0
    assert cfg.MODEL.WEIGHTS == ""


def test_agrees_with_its_recipe():
    for recipe in RECIPES.values():
        cfg = base_config(recipe.config)
        solver, inputs = cfg.SOLVER, cfg.INPUT
        assert (solver.MAX_ITER, tuple(solver.STEPS)) == (recipe.iterations, recipe.steps)
        assert (recipe.batch_size, recipe.base_lr) == (solver.IMS_PER_BATCH, solver.BASE_LR)
        assert recipe.warmup_iterations == solver.WARMUP_ITERS
        assert recipe.warmup_factor == solver.WARMUP_FACTOR
        assert (recipe.weight_decay, recipe.momentum) == (solver.WEIGHT_DECAY, solver.MOMENTUM)
        assert (solver.WEIGHT_DECAY_NORM, solver.GAMMA) == (0.0, 0.1)
        assert tuple(inputs.MIN_SIZE_TRAIN) == recipe.min_sizes
        assert (recipe.max_size,) * 2 == (inputs.MAX_SIZE_TRAIN, inputs.MAX_SIZE_TEST)
        assert recipe.test_size == inputs.MIN_SIZE_TEST
        assert cfg.MODEL.MASK_ON is (recipe.head == "mask")
        assert is_c4(cfg) is (recipe.neck == "c4")
        assert (20 if recipe.data == "voc" else 80) == cfg.MODEL.ROI_HEADS.NUM_CLASSES


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    "batch, iterations", [(16, None), (2, 300), (2, 7), (4, 3), (4, 2), (3, 1)]
)
def test_learning_rate_is_that_of_detectron2_at_every_iteration(name, batch, iterations):
    from detectron2.solver import build_lr_scheduler

    schedule = scaled(RECIPES[name], batch, iterations)
    cfg = base_config(RECIPES[name].config)
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER = schedule.base_lr, schedule.iterations
    cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = decay_steps(schedule), schedule.warmup_iterations
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=schedule.base_lr)
    scheduler = build_lr_scheduler(cfg, optimizer)
    wrong = []
    for iteration in range(schedule.iterations):
        scheduler.last_epoch = iteration
        rate = scheduler.get_lr()[0]
        expected = learning_rate(schedule, iteration)
        if not math.isclose(rate, expected, rel_tol=1e-6):
            wrong.append((iteration, rate, expected))
    assert not wrong


def test_builds_a_detector_of_which_all_is_trained(cfg):
    from detectron2.engine.hooks import get_bn_modules
    from detectron2.layers import FrozenBatchNorm2d
    from detectron2.modeling import build_model

    note = plain_norms_without_gpu(cfg)
    assert note is not None and note.startswith("BN in place of SyncBN")
    model = build_model(cfg).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in model.modules())
    assert len(get_bn_modules(model)) == len(norms)  # precise BN reaches all of them
    in_resnet = sum(".conv" in n or "shortcut" in n for n in norms if ".res" in n or "stem" in n)
    assert in_resnet == 53
    beyond = {
        n for n in norms if not (".res" in n and n != "roi_heads.res5.norm") and "stem" not in n
    }
    if is_c4(cfg):
        assert beyond == {"roi_heads.res5.norm"}
        assert norms["roi_heads.res5.norm"].num_features == 2048
        assert isinstance(model.roi_heads.res5[-1], nn.BatchNorm2d)
    else:
        pyramid = {
            f"backbone.fpn_{kind}{level}.norm"
            for kind in ("lateral", "output")
            for level in (2, 3, 4, 5)
        }
        heads = beyond - pyramid
        assert pyramid <= beyond
        assert len(heads) == (4 + 4 if cfg.MODEL.ROI_BOX_HEAD.NUM_CONV else 0)


def test_norms_are_synchronised_where_there_is_a_gpu(cfg):
    cfg.MODEL.DEVICE = "cuda"
    before = cfg.dump()
    assert plain_norms_without_gpu(cfg) is None
    assert cfg.dump() == before
    from detectron2.layers import get_norm

    assert type(get_norm(cfg.MODEL.RESNETS.NORM, 8)) is nn.SyncBatchNorm
