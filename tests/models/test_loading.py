"""torchvision's ResNet-18 (and timm's ViT) renamed into each published layout, and read back."""

import argparse
import collections
import pathlib
import pickle
import re
import sys
import types

import numpy as np
import pytest
import timm
import torch
import torchvision
from omegaconf import OmegaConf
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from erssl import load_backbone
from erssl.errors import ConfigError, DataError
from erssl.models import BackboneOptions, build_backbone
from erssl.models.architectures import infer_architecture
from erssl.models.layouts import LAYOUTS, find_backbone

from ..hostile import Hostile


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # statistics that no fresh network has
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def backbone_of(model):
    return {n: t for n, t in model.state_dict().items() if not n.startswith("fc.")}


def mlp(prefix, *layers):
    return {f"{prefix}{n}.weight": torch.zeros(8, 8) for n in layers}


def files(model):
    """Each layout as its project's code writes it (the paths are of those repositories)."""
    whole, own = model.state_dict(), backbone_of(model)
    sequential = nn.Sequential(*list(model.children())[:-1]).state_dict()
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(2))], 0.1, momentum=0.9).state_dict()
    # moco/main_moco.py and moco/builder.py
    moco = prefixed("module.encoder_q.", own) | mlp("module.encoder_q.fc.", 0, 2)
    moco |= prefixed("module.encoder_k.", {n: t + 1 for n, t in own.items()})
    moco |= {"module.queue": torch.zeros(128, 64), "module.queue_ptr": torch.zeros(1)}
    yield "MoCo", {"epoch": 200, "arch": "resnet18", "state_dict": moco, "optimizer": sgd}
    # moco-v3/moco/builder.py
    mocov3 = prefixed("module.base_encoder.", own) | mlp("module.base_encoder.fc.", 0, 1, 3)
    mocov3 |= prefixed("module.momentum_encoder.", {n: t + 1 for n, t in own.items()})
    yield "MoCo v3", {"state_dict": mocov3, "scaler": {"scale": 1.0, "_growth_tracker": 0}}
    # simsiam/simsiam/builder.py
    simsiam = prefixed("module.encoder.", own) | mlp("module.encoder.fc.", 0, 1, 3, 6)
    yield "SimSiam", {"state_dict": simsiam | mlp("module.predictor.", 0, 3), "arch": "resnet18"}
    # swav: the published file is a bare state dict; main_swav.py has it under state_dict
    swav = prefixed("module.", own | mlp("projection_head.", 0, 3) | mlp("prototypes", ""))
    yield "torchvision, timm, SwAV", swav
    yield "torchvision, timm, SwAV", {"epoch": 3, "state_dict": swav, "optimizer": sgd}
    # dino/main_dino.py: a teacher with batch normalisation is wrapped, too
    heads = mlp("module.head.mlp.", 0, 2)
    dino = {
        "student": prefixed("module.backbone.", {n: t + 1 for n, t in own.items()}) | heads,
        "teacher": prefixed("module.backbone.", own) | heads,
        "epoch": 100,
        "args": argparse.Namespace(arch="resnet18", output_dir=pathlib.Path("x")),
        "best_acc": np.float64(75.3),
    }
    yield "DINO", dino
    yield "torchvision, timm, SwAV", own  # dino_resnet50_pretrain.pth, resnet50.pth of others
    # barlowtwins/main.py
    twins = prefixed("module.backbone.", own) | mlp("module.projector.", 0, 3)
    yield "Barlow Twins, VICReg", {"epoch": 9, "model": twins, "optimizer": sgd}
    # BYOL: yaox12's, lucidrains's and its Lightning example
    yaox = prefixed("module.online_network.encoder.", sequential)
    yaox |= prefixed("module.target_network.encoder.", {n: t + 1 for n, t in sequential.items()})
    yield "BYOL", {"model": yaox, "steps": 4}
    lucid = prefixed("online_encoder.net.", whole) | mlp("online_predictor.net.", 0)
    yield "BYOL", prefixed("net.", whole) | lucid
    yield "BYOL", {"state_dict": prefixed("learner.", prefixed("net.", whole) | lucid)}
    # solo-learn: methods/base.py; settings are an omegaconf config
    solo = (
        prefixed("backbone.", own) | mlp("projector.", 0, 3) | {"classifier.weight": torch.ones(2)}
    )
    solo |= prefixed("momentum_backbone.", {n: t + 1 for n, t in own.items()})
    settings = OmegaConf.create({"method": "byol", "crops": [1, {"size": 224}]})
    yield "solo-learn", {"state_dict": solo, "hyper_parameters": {"cfg": settings}}
    old = {n.replace("backbone", "encoder"): t for n, t in solo.items()}
    yield "solo-learn", {"state_dict": old, "hyper_parameters": collections.defaultdict(int, a=1)}
    # lightly/benchmarks: BYOL and TiCo, whose other names begin alike; and compiled
    lightly = prefixed("backbone.", own) | mlp("projection_head.layers.", 0, 3)
    lightly |= prefixed("teacher_backbone.", own) | prefixed("backbone_momentum.", own)
    lightly |= {"online_classifier.linear.weight": torch.ones(2)}
    yield "erssl, lightly, mmselfsup", {"state_dict": lightly, "hyper_parameters": {"n": 1}}
    compiled = prefixed("backbone._orig_mod.", own)
    yield "erssl, lightly, mmselfsup", {"state_dict": compiled}
    # lightly's tutorials
    yield "lightly, Sequential", {"state_dict": prefixed("backbone.", sequential)}
    # MVEB: project/model.py and pretrainer.py
    mveb = prefixed("module.encoder.", sequential) | mlp("module.projector.", 0, 3)
    mveb |= prefixed("module.momentum_encoder.", {n: t + 1 for n, t in sequential.items()})
    yield "MVEB", {"model": mveb, "optimizer": sgd, "scaler": {}, "step": 1, "epoch": 2, "F": None}
    # PyContrast's learning/contrast_trainer.py
    contrast = prefixed("module.encoder.", own) | mlp("module.head.", 0, 2)
    yield "PyContrast", {"opt": argparse.Namespace(method="InfoMin"), "model": contrast}
    # vissl's log_hooks.py
    trunk = {"base_model": {"model": {"trunk": prefixed("_feature_blocks.", own), "heads": {}}}}
    yield "vissl", {"phase_idx": 1, "classy_state_dict": trunk}
    extractor = {"trunk": prefixed("base_model._feature_blocks.", own)}
    yield "vissl", {"classy_state_dict": {"base_model": {"model": extractor}}}
    yield "MVEB", {"state_dict": mveb}  # saved by other hands
    yield "MVEB", mveb
    yield "torchvision, timm, SwAV", {"model": whole, "epoch": 4}  # torchvision's references
    worse = {n: t + 1 for n, t in whole.items()}
    yield "timm, weight average", {"state_dict": worse, "state_dict_ema": whole, "arch": "resnet18"}


@pytest.fixture(scope="module")
def every(resnet):
    return list(files(resnet))


@pytest.mark.parametrize("number", range(24))
def test_a_resnet_comes_back_equal_from_every_layout(resnet, every, tmp_path, number):
    name, content = every[number]
    torch.save(content, tmp_path / "file.pth.tar")
    backbone = load_backbone(tmp_path / "file.pth.tar")
    expected = backbone_of(resnet)
    torch.testing.assert_close(backbone.state_dict(), expected, rtol=0, atol=0)
    assert (backbone.report.layout, backbone.report.matched) == (name, len(expected))
    assert backbone.report.missing == backbone.report.unexpected == ()
    assert backbone.architecture == BackboneOptions("resnet18")
    assert backbone.preprocessing["image_size"] == 224
    assert not backbone.training


def test_every_rule_of_the_table_is_read_by_a_test(every):
    assert len(every) == 24
    read = {find_backbone(content).layout for _, content in every}
    elsewhere = ("MAE", "lightly zoo", "lightly, timm", "DINO student", "transformers")
    elsewhere += ("torchvision, DeiT, weight average",)
    assert read | {rule for rule in LAYOUTS if rule.name in elsewhere} == set(LAYOUTS)


def test_safetensors_and_older_files_without_step_counts_are_read(resnet, tmp_path):
    own = {n: t for n, t in backbone_of(resnet).items() if not n.endswith("num_batches_tracked")}
    save_file(own, tmp_path / "model.safetensors")
    backbone = load_backbone(tmp_path / "model.safetensors")
    assert backbone.report.matched == len(own)
    images = torch.randn(2, 3, 64, 64)
    features = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), features(images))


def test_a_layout_may_be_named(resnet, tmp_path):
    own = backbone_of(resnet)
    student = {n: t + 1 for n, t in own.items()}
    both = {"student": prefixed("module.backbone.", student), "teacher": prefixed("backbone.", own)}
    torch.save(both, tmp_path / "dino.pth")
    backbone = load_backbone(tmp_path / "dino.pth", layout="DINO student")
    torch.testing.assert_close(backbone.conv1.weight, student["conv1.weight"])
    with pytest.raises(ConfigError, match="layout=dino is unknown; choose one of: 'MoCo'"):
        load_backbone(tmp_path / "dino.pth", layout="dino")


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
@pytest.mark.parametrize("cifar_stem", [False, True])
def test_shapes_tell_the_resnet_and_its_stem(name, cifar_stem):
    options = BackboneOptions(name, cifar_stem=cifar_stem)
    assert infer_architecture(build_backbone(options).state_dict()) == options


def test_solo_learns_small_stem_is_padded_by_two(tmp_path):
    options = BackboneOptions("resnet18", cifar_stem=True, stem_padding=2)
    reference = build_backbone(options).eval()
    state = prefixed("backbone.", reference.state_dict()) | mlp("classifier", "")
    torch.save({"state_dict": state | mlp("projector.", 0)}, tmp_path / "solo.ckpt")
    backbone = load_backbone(tmp_path / "solo.ckpt")
    assert backbone.architecture == options
    assert backbone.preprocessing == {}  # small images have no usual size and statistics
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images))
    assert backbone.conv1(images).shape[-1] == 34


SMALL = {"depth": 12, "embed_dim": 192, "num_heads": 3}


def vit(**options):
    torch.manual_seed(1)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize(("patch", "size"), [(16, 224), (8, 96), (14, 98)])
def test_vits_are_read_by_their_shapes(tmp_path, patch, size):
    reference = vit(patch_size=patch, img_size=size)
    torch.save(reference.state_dict(), tmp_path / "vit.pth")
    backbone = load_backbone(tmp_path / "vit.pth")
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images))
    assert backbone.feature_dim == 192


def test_moco_v3_vits_have_twelve_heads_and_dino_teachers_of_vits_no_wrapper(tmp_path):
    torch.manual_seed(2)
    reference = timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=12).eval()
    state = prefixed("module.base_encoder.", reference.state_dict())
    state |= mlp("module.base_encoder.head.", 0, 3)
    torch.save({"state_dict": state, "arch": "vit_small"}, tmp_path / "vit.pth.tar")
    backbone = load_backbone(tmp_path / "vit.pth.tar")
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images))
    teacher = prefixed("backbone.", reference.state_dict()) | mlp("head.mlp.", 0)
    torch.save({"teacher": teacher}, tmp_path / "dino.pth")
    assert load_backbone(tmp_path / "dino.pth").blocks[0].attn.num_heads == 6
    assert load_backbone(tmp_path / "dino.pth").preprocessing["interpolation"] == "bicubic"
    torch.save(reference.state_dict(), tmp_path / "bare.pth")  # as DINO's dino_deitsmall16_pretrain
    assert load_backbone(tmp_path / "bare.pth").preprocessing["interpolation"] == "bicubic"
    assert backbone.preprocessing["interpolation"] == "bilinear"  # MoCo v3's own


def test_what_no_shape_shows_of_a_transformer_is_said_and_can_be_overridden(tmp_path):
    torch.manual_seed(2)
    twelve = timm.create_model("vit_tiny_patch16_224", num_classes=0, num_heads=12, img_size=32)
    torch.save(twelve.eval().state_dict(), tmp_path / "vit.pth")
    assumed = load_backbone(tmp_path / "vit.pth")
    assert "num_heads 3, one for 64 channels" in str(assumed.report)
    assert "square images of 32 pixels (" in str(assumed.report)
    (otherwise,) = re.findall(r"arch=(\S+)num_heads=<number>", str(assumed.report))
    named = load_backbone(tmp_path / "vit.pth", f"{otherwise}num_heads=12")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(named(images), twelve(images))
    third = timm.create_model("vit_tiny_patch16_224", no_embed_class=True, img_size=32)
    torch.save(third.state_dict(), tmp_path / "vit3.pth")
    said = "square images of 32 pixels, and no position for the class token"
    assert said in str(load_backbone(tmp_path / "vit3.pth").report)
    named = load_backbone(tmp_path / "vit.pth", "vit_tiny_patch16_224,num_heads=12")
    with torch.no_grad():
        torch.testing.assert_close(named(images), twelve(images))
    clip = timm.create_model("vit_tiny_patch16_224", num_classes=0, pre_norm=True, img_size=32)
    torch.save(clip.state_dict(), tmp_path / "vit.pth")
    assert "act_layer gelu, where OpenAI's CLIP" in str(load_backbone(tmp_path / "vit.pth").report)
    wide = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=(32, 48)).eval()
    torch.save(wide.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(DataError, match=r"ViTs of square images\).*img_size=224x448"):
        load_backbone(tmp_path / "vit.pth")
    read = load_backbone(tmp_path / "vit.pth", "vit_tiny_patch16_224,img_size=32x48")
    images = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(read(images), wide(images))
    with pytest.raises(ConfigError, match=r"'heads' after a comma, which is no option"):
        load_backbone(tmp_path / "vit.pth", "vit_tiny_patch16_224,heads")


def test_mae_leaves_its_decoder_behind(tmp_path):
    reference = vit()
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 197, 8)}
    decoder |= mlp("decoder_blocks.0.attn.", "qkv")
    torch.save({"model": reference.state_dict() | decoder}, tmp_path / "mae.pth")
    backbone = load_backbone(tmp_path / "mae.pth")
    assert (backbone.report.layout, backbone.report.heads) == ("MAE", 3)
    torch.testing.assert_close(backbone.state_dict(), reference.state_dict())


def test_dinov2_registers_are_read_as_timm_reads_them(tmp_path):
    options = {"patch_size": 14, "img_size": 98, "init_values": 1.0}
    plain = vit(**options).state_dict()
    published = plain | {
        "register_tokens": torch.randn(1, 4, 192),
        "mask_token": torch.zeros(1, 192),
    }
    torch.save(published, tmp_path / "dinov2.pth")
    backbone = load_backbone(tmp_path / "dinov2.pth")
    reference = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, reg_tokens=4, no_embed_class=True, **options
    ).eval()
    reference.load_state_dict(checkpoint_filter_fn(dict(published), reference))
    images = torch.randn(2, 3, 98, 98)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), reference(images))


def test_lightlys_own_zoo_networks_are_read(tmp_path):
    from lightly.models import ResNetGenerator

    torch.manual_seed(0)
    resnet = ResNetGenerator("resnet-9", 0.125)
    last = list(resnet.children())[-1].in_features
    features = nn.Sequential(
        nn.BatchNorm2d(3),
        *list(resnet.children())[:-1],
        nn.Conv2d(last, 16, 1),
        nn.AdaptiveAvgPool2d(1),
    ).eval()
    for branch in ("model.backbone.", "model.features."):
        state = prefixed(branch, features.state_dict()) | mlp("model.projection_head.", 0)
        torch.save({"state_dict": state}, tmp_path / "zoo.pth")
        backbone = load_backbone(tmp_path / "zoo.pth")
        images = torch.randn(2, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(backbone(images), features(images).flatten(1))
        assert (backbone.report.layout, backbone.feature_dim) == ("lightly zoo", 16)


def test_a_named_architecture_keeps_what_only_the_layout_knows(tmp_path):
    torch.manual_seed(2)
    twelve = timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=12).eval()
    moco = {"state_dict": prefixed("module.base_encoder.", twelve.state_dict())}
    torch.save(moco, tmp_path / "vit.pth.tar")
    backbone = load_backbone(tmp_path / "vit.pth.tar", "vit_small_patch16_224")
    assert backbone.blocks[0].attn.num_heads == 12
    small = build_backbone(BackboneOptions("resnet18", cifar_stem=True)).state_dict()
    heads = mlp("projector.", 0) | mlp("classifier", "")
    torch.save({"state_dict": prefixed("backbone.", small) | heads}, tmp_path / "solo.ckpt")
    assert load_backbone(tmp_path / "solo.ckpt", "resnet18_cifar").conv1.padding == (2, 2)
    supervised = prefixed("backbone.", small) | mlp("classifier", "")  # nobody's projector
    torch.save({"state_dict": supervised}, tmp_path / "plain.ckpt")
    assert load_backbone(tmp_path / "plain.ckpt").conv1.padding == (1, 1)


def test_preprocessing_that_nobody_said_is_called_assumed(tmp_path):
    torch.save(build_backbone("resnet18").state_dict(), tmp_path / "resnet.pth")
    backbone = load_backbone(tmp_path / "resnet.pth")
    assert "assumed: preprocessing image_size 224, mean [0.485, 0.456" in str(backbone.report)
    reference = vit(patch_size=8, img_size=32)
    torch.save(reference.state_dict(), tmp_path / "vit.pth")
    assert load_backbone(tmp_path / "vit.pth").preprocessing == {"image_size": 32}


def test_weights_that_cannot_be_told_apart_or_are_of_another_kind_are_refused(tmp_path):
    state = build_backbone("resnet18").state_dict()
    torch.save(prefixed("module.", state) | state, tmp_path / "twice.pth")
    with pytest.raises(DataError, match="has 120 names twice"):
        load_backbone(tmp_path / "twice.pth")
    torch.save({n: t.to(torch.int8) for n, t in state.items()}, tmp_path / "int8.pth")
    with pytest.raises(DataError, match=r"conv1.weight of type torch.int8 for torch.float32"):
        load_backbone(tmp_path / "int8.pth")
    torch.save(state | {"conv1.weight": state["conv1.weight"].to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(DataError, match=r"sparse or quantised weights, such as conv1.weight"):
        load_backbone(tmp_path / "sparse.pth")


def test_arch_says_what_shapes_do_not(tmp_path):
    reference = timm.create_model("resnet10t", num_classes=0)
    torch.save({"state_dict": prefixed("backbone.", reference.state_dict())}, tmp_path / "t.ckpt")
    with pytest.raises(DataError, match="holds no backbone in any known layout"):
        load_backbone(tmp_path / "t.ckpt")
    backbone = load_backbone(tmp_path / "t.ckpt", "resnet10t")
    torch.testing.assert_close(backbone.state_dict(), reference.state_dict(), rtol=0, atol=0)
    wide = torchvision.models.wide_resnet50_2()
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    with pytest.raises(DataError, match=r"layer1.0.conv1.weight of shape \(128, 64, 1, 1\) for"):
        load_backbone(tmp_path / "wide.pth")
    assert load_backbone(tmp_path / "wide.pth", "wide_resnet50_2").feature_dim == 2048
    with pytest.raises(ConfigError, match="resnet51 is no timm model"):
        load_backbone(tmp_path / "wide.pth", "resnet51")


def test_less_than_every_weight_is_refused_with_counts_unless_allowed(resnet, tmp_path):
    state = {n: t for n, t in backbone_of(resnet).items() if not n.startswith("layer4.1.")}
    state |= {"layer4.1.conv1.weight": torch.zeros(1, 1, 1, 1)}
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(DataError, match="108 backbone weights matched, 10 missing"):
        load_backbone(tmp_path / "part.pth", "resnet18")
    backbone = load_backbone(tmp_path / "part.pth", "resnet18", allow_partial=True)
    assert len(backbone.report.missing) == 10  # 2 convolutions, 2 normalisations but their counts
    assert backbone.report.unexpected == ("layer4.1.conv1.weight",)
    torch.testing.assert_close(backbone.layer4[0].state_dict(), resnet.layer4[0].state_dict())
    with pytest.raises(DataError, match="does not fit resnet34"):
        load_backbone(tmp_path / "part.pth", "resnet34")


@pytest.mark.parametrize("plain", [False, True])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, plain):
    trace = tmp_path / "it-ran"
    content = {"state_dict": {"conv1.weight": torch.zeros(1)}, "extra": Hostile(trace)}
    if plain:
        (tmp_path / "evil.pth").write_bytes(pickle.dumps(Hostile(trace)))
    else:
        torch.save(content, tmp_path / "evil.pth")
    with pytest.raises(DataError, match="a pickle may run any code"):
        load_backbone(tmp_path / "evil.pth")
    assert not trace.exists()


def test_names_that_are_let_pass_are_never_imported(resnet, tmp_path, monkeypatch):
    """VICReg's full checkpoint holds a function of its script, which could be anything."""
    called = []
    module = types.ModuleType("__main__")
    module.exclude_bias_and_norm = lambda p: called.append(p)
    module.exclude_bias_and_norm.__module__ = "__main__"
    module.exclude_bias_and_norm.__qualname__ = "exclude_bias_and_norm"
    monkeypatch.setitem(sys.modules, "__main__", module)
    own = prefixed("module.backbone.", backbone_of(resnet))
    content = {"model": own, "optimizer": {"filter": module.exclude_bias_and_norm}}
    torch.save(content, tmp_path / "vicreg.pth")
    monkeypatch.delattr(module, "exclude_bias_and_norm")
    assert load_backbone(tmp_path / "vicreg.pth").report.layout == "Barlow Twins, VICReg"
    assert called == []


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.pth", b"", "is empty; it was not written to its end"),
        ("text.pth", b"hello, this is no checkpoint", "is no checkpoint that torch can read"),
        ("png.pth", b"\x89PNG\r\n\x1a\n" + bytes(64), "is no checkpoint that torch can read"),
        ("junk.safetensors", b"\xff" * 64, "is not a readable safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        load_backbone(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, zipped, share):
    file = tmp_path / "cut.pth"
    state = build_backbone("resnet18").state_dict()
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(DataError, match=r"is truncated|is no checkpoint"):
        load_backbone(file)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = build_backbone("resnet18").state_dict()
    state["layer2.0.bn1.running_var"][3] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(DataError, match=r"in 1 of its 120 weights, such as layer2.0.bn1.running_"):
        load_backbone(tmp_path / "nan.pth", allow_partial=True)


def test_places_without_weights_are_refused(tmp_path):
    with pytest.raises(DataError, match="There is no checkpoint at"):
        load_backbone(tmp_path / "nowhere.pth")
    with pytest.raises(DataError, match="name a finished run directory"):
        load_backbone(tmp_path)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match="holds a list and no state dict"):
        load_backbone(tmp_path / "list.pth")
    torch.save({"state_dict": {"head.weight": torch.zeros(2)}}, tmp_path / "head.pth")
    with pytest.raises(DataError, match=r"in any known layout .*state_dict\); name"):
        load_backbone(tmp_path / "head.pth")
