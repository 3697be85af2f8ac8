"""A backbone in a Detectron2 detector: the same features, every weight accounted for."""

import pickle

import pytest
import torch
from torch import nn

from erssl.downstream.detection.weights import backbone_weights, fill, is_detector, match
from erssl.errors import DataError, ErsslError
from erssl.models import build_backbone
from erssl.models.export.detectron import detectron2_names, write_detectron2

from .detectron2_jobs import needs_detectron2

pytestmark = needs_detectron2
FPN, C4 = "mask_rcnn_R_50_FPN_1x.yaml", "mask_rcnn_R_50_C4_1x.yaml"


def detector(file, *settings):
    from detectron2.modeling import build_model

    from erssl.downstream.detection.detectron2_config import base_config, plain_norms_without_gpu

    cfg = base_config(file)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *settings])
    plain_norms_without_gpu(cfg)
    return build_model(cfg)


@pytest.fixture(scope="module", params=[FPN, C4])
def model(request):
    return detector(request.param)


@pytest.fixture(scope="module")
def backbone():
    """A ResNet-50 whose norms are as uneven as those of a trained one."""
    torch.manual_seed(0)
    resnet = build_backbone("resnet50").eval()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return resnet


def stages_of_torchvision(resnet, images):
    x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
    stages = []
    for layer in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        x = layer(x)
        stages.append(x)
    return stages


def stages_of_detectron2(model, images):
    if hasattr(model.backbone, "bottom_up"):
        return list(model.backbone.bottom_up(images).values())
    resnet = model.backbone
    x = resnet.stem(images)
    stages = []
    for stage in (resnet.res2, resnet.res3, resnet.res4):
        x = stage(x)
        stages.append(x)
    return [*stages, model.roi_heads.res5[:3](x)]


def test_every_stage_computes_what_torchvision_computes(model, backbone):
    fill(model, detectron2_names(backbone.state_dict()))
    model.eval()
    generator = torch.Generator().manual_seed(1)
    raw = torch.randint(0, 256, (1, 3, 96, 128), generator=generator).float()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    normalised = (raw / 255 - mean) / std  # as torchvision does
    ours = model.preprocess_image([{"image": raw[0]}]).tensor  # as Detectron2 does
    ours = ours[:, :, :96, :128]  # which pads
    torch.testing.assert_close(ours, normalised, atol=1e-4, rtol=0)
    with torch.no_grad():
        expected = stages_of_torchvision(backbone, normalised)
        actual = stages_of_detectron2(model, ours)
    assert [tuple(f.shape) for f in actual] == [tuple(e.shape) for e in expected]
    assert len(actual) == 4
    for left, right in zip(actual, expected, strict=True):
        assert float((left - right).abs().max() / right.abs().max()) < 1e-4


def test_report_names_every_weight_once(model, backbone):
    state = backbone.state_dict()
    report = match(model, detectron2_names(state))
    assert (report.convolutions, report.norms, report.groups) == (53, 53, 106)
    weights = [name for name in state if not name.endswith("num_batches_tracked")]
    assert sorted(m.source for m in report.matches) == sorted(weights)
    assert len(report.matches) == 53 + 4 * 53
    assert len(report.table().splitlines()) == 106
    assert "res3.0.shortcut.norm <- layer2.0.downsample.1: weight, bias" in report.table()
    assert "53 convolutions and 53 normalisations, 265 tensors; none left at random" in str(report)
    # and all that the backbone has: nothing but counters is outside the report
    modules = [model.backbone, getattr(model.roi_heads, "res5", None)]
    if hasattr(model.backbone, "bottom_up"):
        modules = [model.backbone.bottom_up]
    own = sum(len([n for n in m.state_dict() if "num_batches" not in n]) for m in modules)
    extra = 0 if len(modules) == 1 else 4  # the norm after res5 begins anew
    assert own - extra == len(report.matches)


def test_agrees_with_the_loader_of_detectron2(model, backbone, tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer

    write_detectron2(backbone.state_dict(), tmp_path / "backbone.pth")
    report = fill(model, detectron2_names(backbone.state_dict()))
    ours = {m.name: model.state_dict()[m.name].clone() for m in report.matches}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    DetectionCheckpointer(model).load(str(tmp_path / "backbone.pth"))
    for name, values in ours.items():
        torch.testing.assert_close(model.state_dict()[name], values, atol=0, rtol=0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda named: named.pop("res4.5.conv3.norm.running_var"),
        lambda named: named.pop("stem.conv1.weight"),
        lambda named: named.update({"res4.6.conv1.weight": torch.zeros(1)}),
        lambda named: named.update({"res2.0.conv1.weight": torch.zeros(1, 1, 1, 1)}),
    ],
    ids=["one norm missing", "stem missing", "one too many", "another shape"],
)
def test_one_weight_amiss_is_refused(model, backbone, damage):
    named = detectron2_names(backbone.state_dict())
    damage(named)
    name = next(n for n in model.state_dict() if n.endswith("stem.conv1.weight"))
    before = model.state_dict()[name].clone()
    with pytest.raises(DataError, match=r"does not fit the detector's backbone of 265 weights"):
        fill(model, named)
    assert torch.equal(model.state_dict()[name], before)


@pytest.mark.parametrize("name", ["resnet18", "resnet101"])
def test_another_architecture_is_refused(model, name):
    named = detectron2_names(build_backbone(name).state_dict())
    with pytest.raises(DataError, match=r"MODEL\.RESNETS\.DEPTH"):
        match(model, named)


def test_weights_come_from_files_of_either_kind(tmp_path):
    state = build_backbone("resnet18").state_dict()
    expected = detectron2_names(state)
    torch.save(state, tmp_path / "torchvision.pth")
    write_detectron2(state, tmp_path / "detectron2.pth")
    write_detectron2(state, tmp_path / "detectron2.pkl")
    for name in ("torchvision.pth", "detectron2.pth", "detectron2.pkl"):
        actual = backbone_weights(tmp_path / name)
        assert list(actual) == list(expected)
        assert all(torch.equal(actual[n], expected[n]) for n in expected)
        assert not is_detector(str(tmp_path / name))


def test_a_detector_is_told_from_a_backbone(tmp_path):
    whole = {
        f"backbone.bottom_up.{n}": v
        for n, v in detectron2_names(build_backbone("resnet18").state_dict()).items()
    }
    torch.save(
        {"model": {**whole, "roi_heads.box_predictor.bbox_pred.bias": torch.zeros(4)}},
        tmp_path / "model_final.pth",
    )
    assert backbone_weights(tmp_path / "model_final.pth") is None
    assert is_detector(str(tmp_path / "model_final.pth"))
    assert is_detector("https://example.org/model_final.pkl")
    assert not is_detector("")


def test_files_that_are_neither_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        backbone_weights(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ErsslError):
        backbone_weights(tmp_path / "text.pth")
    with (tmp_path / "list.pkl").open("wb") as file:
        pickle.dump([1, 2], file)
    with pytest.raises(ErsslError):
        backbone_weights(tmp_path / "list.pkl")
