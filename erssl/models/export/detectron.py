"""ResNets under Detectron2's names, and what Detectron2 has to be told to build the same network.

Detectron2's own converter (tools/convert-torchvision-to-d2.py) has the same rules; it writes pickle
files only. ``detectron2`` is imported late and may be absent.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erssl.errors import DataError
from erssl.models.backbones import BackboneOptions, build_backbone

AUTHOR = "erssl"  # anything but "Caffe2", whose names Detectron2 would translate once more
_RESNET_NAME = re.compile(r"(conv1|bn1|layer[1-4]\.\d+\.(conv[1-3]|bn[1-3]|downsample\.[01]))\.\w+")


def detectron2_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a torchvision ResNet as Detectron2's ResNet names them.

    ``conv1`` and ``bn1`` become the stem, ``layer1`` to ``layer4`` become ``res2`` to ``res5``, a
    batch normalisation becomes the ``norm`` of its convolution, ``downsample`` the ``shortcut``.
    Classifier and batch counters have no place there and are left out.

    Args:
        state: Weights by torchvision's names.

    Returns:
        The same tensors by Detectron2's names, in the same order.

    Raises:
        DataError: If a name is not of a torchvision ResNet.
    """
    kept = [n for n in state if not n.startswith("fc.") and not n.endswith("num_batches_tracked")]
    foreign = [name for name in kept if not _RESNET_NAME.fullmatch(name)]
    if foreign:
        raise DataError(
            f"{foreign[0]} is not a weight of a torchvision ResNet; Detectron2's names exist for "
            "those only."
        )
    return {_detectron2_name(name): state[name] for name in kept}


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of Detectron2's ResNet as torchvision names them.

    Args:
        state: Weights by Detectron2's names, without a prefix such as ``backbone.bottom_up.``.

    Returns:
        The same tensors by torchvision's names, in the same order.
    """
    return {_torchvision_name(name): tensor for name, tensor in state.items()}


def detectron2_settings(options: BackboneOptions, preprocessing: Mapping[str, Any]) -> list[Any]:
    """Keys and values that make ``build_resnet_backbone`` build the network of these weights.

    Args:
        options: A torchvision ResNet.
        preprocessing: Of the images that it was trained on, values in [0, 1].

    Returns:
        List for ``cfg.merge_from_list``: key, value, key, value ... Detectron2's images have
        values in [0, 255], hence mean and std times 255.
    """
    depth = int(options.name.removeprefix("resnet"))
    settings: list[Any] = ["MODEL.RESNETS.DEPTH", depth]
    if depth < 50:
        settings += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
    # torchvision halves the resolution in the 3x3 convolution, Detectron2's MSRA weights before it
    settings += ["MODEL.RESNETS.STRIDE_IN_1X1", False, "INPUT.FORMAT", "RGB"]
    for key, values in (("MEAN", preprocessing.get("mean")), ("STD", preprocessing.get("std"))):
        if values is not None:
            settings += [f"MODEL.PIXEL_{key}", [round(255 * float(v), 4) for v in values]]
    return settings


def write_detectron2(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as Detectron2's checkpointer reads them.

    Args:
        state: Weights by torchvision's names, on the CPU.
        path: A ``.pth`` file of plain tensors, or a ``.pkl`` file of arrays as in the model zoo.
    """
    named = detectron2_names(state)
    arrays = path.suffix == ".pkl"
    content = {
        "model": {name: t.numpy() for name, t in named.items()} if arrays else named,
        "__author__": AUTHOR,
        "matching_heuristics": True,  # so that the names fit behind backbone.bottom_up. as well
    }
    with path.open("wb") as file:
        if arrays:
            pickle.dump(content, file)
        else:
            torch.save(content, file)


def read_by_detectron2(options: BackboneOptions, path: Path) -> nn.Module:
    """Load a file with Detectron2's checkpointer into Detectron2's ResNet.

    Args:
        options: The torchvision ResNet that was written.
        path: The file of :func:`write_detectron2`.

    Returns:
        Module in eval mode giving ``res5``, pooled, as features (N, d).

    Raises:
        ImportError: If Detectron2 is not installed.
        DataError: If a weight of the file or of the network found no partner.
    """
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    class Checkpointer(DetectionCheckpointer):
        """Keeps what Detectron2 only logs."""

        unmatched: tuple[str, ...] = ()

        def _load_model(self, checkpoint: Any) -> Any:
            incompatible = super()._load_model(checkpoint)
            wrong = [name for name, *_ in incompatible.incorrect_shapes]
            self.unmatched = (*incompatible.missing_keys, *incompatible.unexpected_keys, *wrong)
            return incompatible

    cfg = get_cfg()
    cfg.merge_from_list(detectron2_settings(options, {}))
    stages = ["res2", "res3", "res4", "res5"]
    cfg.merge_from_list(["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0])
    cfg.merge_from_list(["MODEL.RESNETS.OUT_FEATURES", stages])
    resnet = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    checkpointer = Checkpointer(resnet)
    checkpointer.load(str(path))
    if checkpointer.unmatched:
        raise DataError(
            f"{len(checkpointer.unmatched)} weights found no partner in Detectron2's ResNet, such "
            f"as {checkpointer.unmatched[0]}."
        )
    return PooledResNet(resnet).eval()


def read_without_detectron2(options: BackboneOptions, path: Path) -> nn.Module:
    """Read a file back under torchvision's names: says nothing about Detectron2's own loader.

    Args:
        options: The torchvision ResNet that was written.
        path: The file of :func:`write_detectron2`.

    Returns:
        Module in eval mode giving features (N, d).

    Raises:
        DataError: If the names do not lead back to all weights of the ResNet.
    """
    if path.suffix == ".pkl":
        with path.open("rb") as file:
            content = pickle.load(file)  # written by this process a moment ago
        named = {name: torch.from_numpy(array) for name, array in content["model"].items()}
    else:
        named = torch.load(path, "cpu", weights_only=True)["model"]
    backbone = build_backbone(options)
    missing, unexpected = backbone.load_state_dict(torchvision_names(named), strict=False)
    lost = [*unexpected, *(n for n in missing if not n.endswith("num_batches_tracked"))]
    if lost:
        raise DataError(
            f"{len(lost)} weights do not come back under their torchvision names, such as "
            f"{lost[0]}."
        )
    return backbone.eval()


class PooledResNet(nn.Module):
    """The last stage of Detectron2's ResNet, pooled as torchvision does.

    Attributes:
        resnet: Detectron2's ResNet with ``res5`` among its outputs.
    """

    def __init__(self, resnet: nn.Module) -> None:
        """Wrap the network."""
        super().__init__()
        self.resnet = resnet

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, d) of images (N, 3, H, W)."""
        stages: dict[str, Tensor] = self.resnet(images)
        return stages["res5"].mean((2, 3))


def _detectron2_name(name: str) -> str:
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer(\d)", lambda stage: f"res{int(stage[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def _torchvision_name(name: str) -> str:
    name = re.sub(r"^res(\d)", lambda stage: f"layer{int(stage[1]) - 1}", name)
    name = re.sub(r"\bconv(\d)\.norm\b", r"bn\1", name.removeprefix("stem."))
    return name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")
