"""Our methods in the place of lightly's, in a script like lightly's ImageNet benchmark."""

import inspect

import pytest
import torch
from lightly.data import LightlyDataset
from lightly.transforms import SimCLRTransform
from lightly.utils.benchmarking import MetricCallback
from PIL import Image
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from erssl.methods import METHODS, available_methods
from erssl.models import BackboneOptions, build_backbone

_WIDTHS = (
    "projection_hidden_dim",
    "projection_dim",
    "prediction_hidden_dim",
    "num_prototypes",
    "decoder_dim",
)


@pytest.mark.parametrize("name", available_methods())
def test_trains_unchanged_on_lightlys_data_set_and_loader(name, tmp_path):
    for label in ("red", "blue"):
        (tmp_path / label).mkdir()
        for index in range(4):
            Image.new("RGB", (40, 40), label).save(tmp_path / label / f"{index}.png")
    masked = name in ("mae", "simmim")
    side = 224 if masked else 32  # a ViT takes no other
    train = LightlyDataset(str(tmp_path), transform=SimCLRTransform(input_size=side))
    to_tensor = v2.Compose([v2.ToImage(), v2.Resize(side), v2.ToDtype(torch.float32, scale=True)])
    val = LightlyDataset(str(tmp_path), transform=to_tensor)
    method = METHODS[name]["model"]
    parameters = inspect.signature(method).parameters
    # The papers' networks take up to 12 GB and half a minute; tests/recipes builds those.
    options: dict[str, object] = {"decoder_depth": 1} if name == "mae" else {}
    options |= {key: 64 for key in _WIDTHS if key in parameters}
    smaller = BackboneOptions("vit_tiny_patch16_224", "timm") if masked else "resnet18"
    options["backbone"] = build_backbone(smaller)
    model = method(batch_size_per_device=4, num_classes=2, **options)
    metrics = MetricCallback()
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[metrics],
    )
    stem = model.backbone.patch_embed.proj if masked else model.backbone.conv1
    before = stem.weight.clone()
    trainer.fit(
        model,
        DataLoader(train, batch_size=4, shuffle=True, drop_last=True),
        DataLoader(val, batch_size=4),
    )
    assert not torch.equal(stem.weight, before)
    assert 0 <= metrics.val_metrics["val_online_cls_top1"][-1] <= 1
