"""torchvision's Mask and Faster R-CNN on a pretrained ResNet, close to Detectron2's baseline."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

from erssl.errors import DataError

_FPN_CHANNELS = 256
_STAGES = {f"layer{n + 1}": str(n) for n in range(4)}
_LEVELS = [str(n) for n in range(4)]
Norm = nn.modules.batchnorm._BatchNorm


class AsGiven(GeneralizedRCNNTransform):
    """Normalise and pad alone: images come at the size that they are to have."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Leave the image as it is."""
        return image, target


def build_detector(
    backbone: nn.Module,
    num_classes: int,
    preprocessing: Mapping[str, Sequence[float]],
    rois_per_image: int = 512,
    masks: bool = True,
) -> FasterRCNN:
    """Mask R-CNN or Faster R-CNN with a feature pyramid, all layers of which are trained.

    Body and pyramid have batch normalisation, whose statistics are trained as well; heads have
    none. Number of proposals, samples of the pooling and initial weights of the heads are those of
    Detectron2's baseline.

    Args:
        backbone: A torchvision ResNet; it is copied.
        num_classes: Classes without the background.
        preprocessing: ``mean`` and ``std`` of images in [0, 1].
        rois_per_image: Proposals of an image that the heads are trained on.
        masks: Whether it has a mask head (Mask R-CNN), or boxes alone (Faster R-CNN).

    Returns:
        The detector, in train mode.

    Raises:
        DataError: If not every weight of the backbone has its place in the detector.
    """
    if not all(hasattr(backbone, stage) for stage in dict(_STAGES)):
        name = getattr(getattr(backbone, "architecture", None), "name", type(backbone).__name__)
        raise DataError(
            f"The checkpoint is {name}, which has no {', '.join(dict(_STAGES))}; the detectors are "
            "built on ResNets, so give a checkpoint of resnet50."
        )
    width = int(backbone.feature_dim) // 8  # type: ignore[arg-type]
    channels = [width * 2**stage for stage in range(4)]
    body = BackboneWithFPN(
        copy.deepcopy(backbone), dict(_STAGES), channels, _FPN_CHANNELS, norm_layer=nn.BatchNorm2d
    )
    options: dict[str, Any] = {
        "num_classes": num_classes + 1,
        "rpn_post_nms_top_n_train": 1000,
        "box_batch_size_per_image": rois_per_image,
        "box_roi_pool": MultiScaleRoIAlign(_LEVELS, 7, sampling_ratio=0),
    }
    detector: FasterRCNN
    if masks:
        pool = MultiScaleRoIAlign(_LEVELS, 14, sampling_ratio=0)
        detector = MaskRCNN(body.requires_grad_(True), mask_roi_pool=pool, **options)
    else:
        detector = FasterRCNN(body.requires_grad_(True), **options)
    mean, std = list(preprocessing["mean"]), list(preprocessing["std"])
    detector.transform = AsGiven(0, 0, mean, std)
    _initialise(detector)
    match_weights(backbone, detector)
    return detector.train()


def match_weights(backbone: nn.Module, detector: FasterRCNN) -> dict[str, int]:
    """Make sure that the detector's body carries every weight of the backbone.

    Returns:
        How many convolutions, normalisations and tensors it has from there.

    Raises:
        DataError: If a weight has no partner, or not its value.
    """
    body: nn.Module = detector.backbone.body
    ours, theirs = backbone.state_dict(), body.state_dict()
    lost = [n for n in {**ours, **theirs} if n not in ours or n not in theirs]
    lost += [n for n in ours if n in theirs and not torch.equal(ours[n].cpu(), theirs[n].cpu())]
    if lost:
        raise DataError(
            f"{len(lost)} weights of the backbone are not those of the detector, such as {lost[0]}."
        )
    parts = list(body.modules())
    return {
        "convolutions": sum(isinstance(part, nn.Conv2d) for part in parts),
        "normalisations": sum(isinstance(part, Norm) for part in parts),
        "tensors": len(ours),
    }


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """All weights but those of normalisation layers decay (Detectron2's WEIGHT_DECAY_NORM 0)."""
    norms = [p for m in module.modules() if isinstance(m, Norm) for p in m.parameters(False)]
    known = {id(p) for p in norms}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
    return [
        {"params": others, "weight_decay": weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]


@torch.no_grad()
def refine_statistics(detector: FasterRCNN, batches: Iterable[list[Tensor]]) -> None:
    """Precise batch normalisation (Wu and Johnson 2021, arXiv 2105.07576), as fvcore computes it.

    Args:
        detector: Its running statistics become mean and variance of all values that the layers see
            in the batches, with the weights as they are.
        batches: Training images, on the detector's device.
    """
    norms = [m for m in detector.backbone.modules() if isinstance(m, Norm)]
    moments = [_Moments(norm) for norm in norms]
    training = detector.training
    detector.train()
    for images in batches:
        detector.backbone(detector.transform(images)[0].tensors)
    for each in moments:
        each.finish()
    detector.train(training)


class _Moments:
    """Number, sum and sum of squares of what goes into a layer, over all batches and processes."""

    def __init__(self, norm: Norm) -> None:
        self.norm = norm
        self.sums = torch.zeros(2, norm.num_features, dtype=torch.float64)
        self.count = torch.zeros(1, dtype=torch.float64)
        self.hook = norm.register_forward_pre_hook(self.add)

    def add(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        number = x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        self.sums += number * torch.stack([mean, variance + mean.square()]).double().cpu()
        self.count += number

    def finish(self) -> None:
        self.hook.remove()
        device = self.norm.weight.device
        sums, count = self.sums.to(device), self.count.to(device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(count)
        if not count.item() or self.norm.running_mean is None or self.norm.running_var is None:
            return
        mean, square = sums / count
        self.norm.running_mean.copy_(mean)
        self.norm.running_var.copy_(square - mean.square())


def predictors_of(detector: FasterRCNN) -> list[nn.Module]:
    """What gives scores, boxes and masks."""
    heads = detector.roi_heads
    masks = [heads.mask_predictor] if heads.has_mask() else []
    return [detector.rpn.head, heads.box_predictor, *masks]


@torch.no_grad()
def find(
    detector: FasterRCNN, images: list[Tensor], sizes: list[tuple[int, int]]
) -> list[dict[str, Tensor]]:
    """Boxes, classes, scores and, with a mask head, masks of images, in pixels of their own size.

    Args:
        detector: In eval mode.
        images: Resized images (3, H, W) in [0, 1].
        sizes: Height and width of the images' own.

    Returns:
        For each image ``boxes`` (N, 4), ``labels`` (N,) from 1, ``scores`` (N,) and, with a mask
        head, ``masks`` (N, 1, H, W), probabilities.
    """
    batch, _ = detector.transform(images)
    features = detector.backbone(batch.tensors)
    proposals, _ = detector.rpn(batch, features)
    resized, _ = detector.roi_heads(features, proposals, batch.image_sizes)
    detections: list[dict[str, Tensor]] = detector.transform.postprocess(
        resized, batch.image_sizes, sizes
    )
    return detections


def _initialise(detector: FasterRCNN) -> None:
    """Initial weights of the heads as in Detectron2's FastRCNNConvFCHead and its predictors."""
    heads = detector.roi_heads
    for layer in (heads.box_head.fc6, heads.box_head.fc7):
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
    predictors = [(heads.box_predictor.cls_score, 0.01), (heads.box_predictor.bbox_pred, 0.001)]
    if heads.has_mask():
        predictors.append((heads.mask_predictor.mask_fcn_logits, 0.001))
    for layer, deviation in predictors:
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.zeros_(layer.bias)
