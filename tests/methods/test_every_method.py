"""What holds for every method: it learns on digits, keeps its state, fits lightly's benchmark."""

import math

import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer, seed_everything

from erssl.data import SSLDataModule, ViewOptions, default_options
from erssl.methods import METHODS, MultiViewMethod, OptimizerOptions, available_methods, get_method
from erssl.models import BackboneOptions, build_backbone
from erssl.recipes import read_recipe

MASKED = ("mae", "simmim")
MULTI_CROP = [name for name in available_methods() if get_method(name).info.multi_crop]
ADAM = OptimizerOptions("adamw", base_lr=8e-3, weight_decay=1e-6, warmup_epochs=0)
WIDTHS = {
    "resnet18": 512,
    "resnet50": 2048,
    "vit_small_patch16_224": 384,
    "vit_base_patch16_224": 768,
}


def build(name, **options):
    small = read_recipe(name).small_options
    if name == "dino":
        small |= {"head_norm": True}  # as the data set digits has it
    return get_method(name)(64, 10, backbone=backbone_of(name), **small, **options)


def backbone_of(name):
    if name in MASKED:
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        return build_backbone(BackboneOptions("vit_tiny_patch16_224", "timm", options=small))
    channels = {"channels": [8, 16, 16, 16], "stem_width": 8}
    return build_backbone(BackboneOptions("resnet10t", "timm", options=channels))


def fit(method, n_local_views=0, batch_size=128, batches=1.0):
    recipe = "simmim" if isinstance(method, METHODS["simmim"]["model"]) else "digits"
    recipe = "mae" if isinstance(method, METHODS["mae"]["model"]) else recipe
    views = ViewOptions(recipe, n_local_views=n_local_views, local_image_size=16)
    images = default_options("digits", num_workers=0, views=views, pipeline="device")
    data = SSLDataModule(images, batch_size, seed=0)
    trainer = Trainer(
        max_epochs=2,
        limit_train_batches=batches,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    losses = []
    original = method.multi_view_step

    def record(views):
        step = original(views)
        losses.append(step.loss.item())
        return step

    method.multi_view_step = record
    trainer.fit(method, datamodule=data)
    del method.multi_view_step
    return losses


@pytest.mark.parametrize("name", available_methods())
def test_two_epochs_of_digits_lower_the_loss_and_the_state_dict_round_trips(name):
    seed_everything(0)
    method = build(name, optimizer=ADAM)
    losses = fit(method)
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < sum(losses[1:6])  # the first meets an empty queue
    other = build(name)
    other.load_state_dict(method.state_dict())
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(other.eval().embed(images), method.eval().embed(images))


@pytest.mark.parametrize("name", MULTI_CROP)
def test_multi_crop(name):
    seed_everything(0)
    method = build(name, optimizer=ADAM)
    losses = fit(method, n_local_views=2, batch_size=64, batches=10)
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < sum(losses[1:6])


@pytest.mark.parametrize("name", available_methods())
def test_class_contract_of_lightlys_benchmark(name):
    method = METHODS[name]["model"](batch_size_per_device=16, num_classes=10)
    assert isinstance(method, MultiViewMethod)
    network = method.default_backbone
    width = WIDTHS[network.name]
    assert method.online_classifier.classification_head.in_features == width
    side = 224 if network.library == "timm" else 64
    assert method.eval()(torch.randn(2, 3, side, side)).shape == (2, width)
    views = METHODS[name]["transform"](Image.new("RGB", (300, 260), (10, 120, 200)))
    assert [v.shape for v in views[:2]] == [(3, 224, 224)] * (1 if name in MASKED else 2)


@pytest.mark.parametrize("name", available_methods())
def test_logits_and_embeddings_are_what_a_callback_expects(name):
    method = build(name).eval()
    embedding = method.embed(torch.randn(3, 3, 32, 32))
    assert embedding.ndim == 2
    logits = method.logits(embedding)
    assert logits is None or (logits.ndim == 2 and len(logits) == 3)


@pytest.mark.parametrize("name", available_methods())
def test_under_autocast_the_loss_stays_in_float32(name):
    seed_everything(0)
    method = build(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = method.multi_view_step([torch.randn(8, 3, 32, 32) for _ in range(2)])
    assert step.loss.dtype == torch.float32
    step.loss.backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


def test_families_and_views_are_said():
    for name in available_methods():
        info = get_method(name).info
        assert info.paper
        assert info.family
        assert info.target
    assert get_method("mae").info.views == "1 or more"
    assert get_method("dino").info.views == "2, or 2 + local views"
    assert get_method("byol").info.views == "2"
