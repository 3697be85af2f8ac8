"""Backbones as a run leaves them, for the tests of their export."""

import torch
from torch import nn

from erssl.models import build_backbone, load_backbone, save_backbone

PREPROCESSING = {"image_size": 64, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.21, 0.22]}


def saved_backbone(folder, options, preprocessing=PREPROCESSING, seed=0):
    """A backbone file whose batch normalisations all differ, so that none can be mistaken."""
    torch.manual_seed(seed)
    backbone = build_backbone(options)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.0)
            for tensor in (module.bias, module.running_mean):
                nn.init.uniform_(tensor, -0.2, 0.2)
    save_backbone(backbone, folder / "backbone.safetensors", options, preprocessing)
    return load_backbone(folder)


def same_features(ours, theirs):
    """Compare on images that the export itself has not seen."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, actual = ours(images), theirs.eval()(images).flatten(1)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
