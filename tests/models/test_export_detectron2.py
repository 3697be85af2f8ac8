"""The Detectron2 export; what needs Detectron2 itself is skipped where it is not installed."""

import pickle

import pytest
import torch
import torchvision
from torch import nn

from erssl.errors import DataError, RunError
from erssl.models import BackboneOptions, build_backbone
from erssl.models.export import detectron, export_backbone, formats
from erssl.models.export.detectron import detectron2_names, torchvision_names

from .export_sources import PREPROCESSING, same_features, saved_backbone


def installed():
    return pytest.importorskip("detectron2", reason="Detectron2 is built from source, see its docs")


@pytest.fixture(scope="module")
def resnets(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in ("resnet18", "resnet50")}
    return {name: saved_backbone(f, BackboneOptions(name)) for name, f in folders.items()}


@pytest.fixture
def without_detectron2(monkeypatch):
    monkeypatch.setattr(formats, "detectron2_installed", lambda: False)


def converted(state):
    """The loop of Detectron2's tools/convert-torchvision-to-d2.py."""
    names = []
    for name in state:
        if "layer" not in name:
            name = "stem." + name
        for stage in (1, 2, 3, 4):
            name = name.replace(f"layer{stage}", f"res{stage + 1}")
        for number in (1, 2, 3):
            name = name.replace(f"bn{number}", f"conv{number}.norm")
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        names.append(name)
    return names


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_names_are_those_of_detectron2s_converter_and_lead_back(name):
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    named = detectron2_names(state)
    kept = {
        n: t
        for n, t in state.items()
        if not n.startswith("fc.") and not n.endswith("num_batches_tracked")
    }
    assert list(named) == converted(kept)
    assert list(torchvision_names(named)) == list(kept)
    assert all(a is b for a, b in zip(named.values(), kept.values(), strict=True))


def test_names_of_other_networks_are_refused():
    state = build_backbone(BackboneOptions("resnet10t", "timm")).state_dict()  # three stem layers
    with pytest.raises(DataError, match=r"conv1\.0\.weight is not a weight of a torchvision"):
        detectron2_names(state)


def test_file_is_plain_tensors_without_detectron2(resnets, tmp_path, without_detectron2):
    report = export_backbone(resnets["resnet18"], "detectron2", tmp_path / "R-18.pth")
    content = torch.load(report.path, weights_only=True)
    assert {k: v for k, v in content.items() if k != "model"} == {
        "__author__": "erssl",
        "matching_heuristics": True,
    }
    state = resnets["resnet18"].state_dict()
    torch.testing.assert_close(content["model"]["stem.conv1.weight"], state["conv1.weight"])
    torch.testing.assert_close(
        content["model"]["res3.0.shortcut.norm.running_var"],
        state["layer2.0.downsample.1.running_var"],
    )
    assert "its own loader was not available" in report.note
    assert "Detectron2's" not in report.loader


def test_pickle_holds_arrays(resnets, tmp_path, without_detectron2):
    file = export_backbone(
        resnets["resnet18"], "detectron2", tmp_path / "R-18.pkl", pickle=True
    ).path
    content = pickle.loads(file.read_bytes())
    assert content["matching_heuristics"] is True
    named = detectron2_names(resnets["resnet18"].state_dict())
    assert content["model"].keys() == named.keys()
    for name, array in content["model"].items():
        torch.testing.assert_close(torch.from_numpy(array), named[name], rtol=0, atol=0)


@pytest.mark.parametrize("here", [False, True], ids=["without", "with"])
def test_a_wrong_name_leaves_no_file(resnets, tmp_path, monkeypatch, here):
    if here:
        installed()
    monkeypatch.setattr(formats, "detectron2_installed", lambda: here)
    right = detectron._detectron2_name
    swapped = {"conv1.norm": "conv2.norm", "conv2.norm": "conv1.norm"}  # of the same shapes

    def wrong(name):
        name = right(name)
        for old, new in swapped.items():
            if name.startswith("res") and old in name:
                return name.replace(old, new)
        return name

    monkeypatch.setattr(detectron, "_detectron2_name", wrong)
    with pytest.raises(RunError, match="detectron2 export gives other features"):
        export_backbone(resnets["resnet50"], "detectron2", tmp_path / "R-50.pth")
    swapped.clear()
    swapped["shortcut"] = "short_cut"
    with pytest.raises(RunError, match=r"detectron2 export is not read by .*short_?cut"):
        export_backbone(resnets["resnet50"], "detectron2", tmp_path / "R-50.pth")
    assert list(tmp_path.iterdir()) == []


def test_unknown_colours_are_said(tmp_path, without_detectron2):
    backbone = saved_backbone(tmp_path, BackboneOptions("resnet18"), {"image_size": 64})
    report = export_backbone(backbone, "detectron2", tmp_path / "R-18.pth")
    assert "set MODEL.PIXEL_MEAN" in report.note
    assert "PIXEL_MEAN" not in report.usage


@pytest.mark.parametrize("ending", [".pth", ".pkl"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_detectron2_loads_every_weight_and_computes_the_same(resnets, tmp_path, name, ending):
    installed()
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    file = tmp_path / f"weights{ending}"
    report = export_backbone(resnets[name], "detectron2", file, pickle=ending == ".pkl")
    assert report.loader == "Detectron2's DetectionCheckpointer"
    cfg = get_cfg()
    exec(report.usage, {"cfg": cfg})
    assert cfg.INPUT.FORMAT == "RGB"
    assert pytest.approx([255 * v for v in PREPROCESSING["mean"]]) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([255 * v for v in PREPROCESSING["std"]]) == cfg.MODEL.PIXEL_STD
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    resnet = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    DetectionCheckpointer(resnet).load(cfg.MODEL.WEIGHTS)
    expected = detectron2_names(resnets[name].state_dict())
    actual = {n: t for n, t in resnet.state_dict().items() if not n.endswith("batches_tracked")}
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    same_features(resnets[name], Pooled(resnet))


def test_names_fit_the_backbone_of_a_detector(resnets, tmp_path):
    installed()
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone

    report = export_backbone(resnets["resnet50"], "detectron2", tmp_path / "R-50.pth")
    cfg = get_cfg()
    exec(report.usage, {"cfg": cfg})
    stages = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = stages
    # FrozenBatchNorm2d and two frozen stages, as detectors have them unless told otherwise
    fpn = nn.ModuleDict({"backbone": build_resnet_fpn_backbone(cfg, ShapeSpec(channels=3))})
    DetectionCheckpointer(fpn).load(cfg.MODEL.WEIGHTS)
    same_features(resnets["resnet50"], Pooled(fpn["backbone"].bottom_up))


class Pooled(nn.Module):
    def __init__(self, resnet):
        super().__init__()
        self.resnet = resnet

    def forward(self, images):
        return self.resnet(images)["res5"].mean((2, 3))
