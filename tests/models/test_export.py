"""Exports, each read by the library that it is for."""

import json
import math

import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import nn

from erssl.errors import ConfigError, DataError, RunError
from erssl.escaping import markdown_text
from erssl.models import BackboneOptions, load_backbone
from erssl.models.export import export_backbone, formats, onnx_files

from .export_sources import PREPROCESSING, same_features, saved_backbone

CIFAR = BackboneOptions("resnet18", cifar_stem=True)
NARROW = BackboneOptions("resnet10t", "timm", options={"channels": [32, 64, 128, 256]})
SHALLOW = {"img_size": 64, "depth": 2, "drop_path_rate": 0.1}
VIT = BackboneOptions("vit_tiny_patch16_224", "timm", options=SHALLOW)
EPSILON = BackboneOptions(
    "vit_tiny_patch16_224", "timm", options=SHALLOW | {"layer_norm_eps": 1e-12}
)
NO_POOL = BackboneOptions("resnet10t", "timm", options=NARROW.options | {"stem_pool": False})
MOBILE = BackboneOptions("mobilenet_v3_small")
RESNET18, RESNET50 = BackboneOptions("resnet18"), BackboneOptions("resnet50")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Backbones by options, each made once."""
    made = {}

    def make(options):
        key = repr(options)
        if key not in made:
            made[key] = saved_backbone(tmp_path_factory.mktemp("source"), options)
        return made[key]

    return make


def used(report):
    """What the printed lines of Python make."""
    namespace = {}
    exec(report.usage, namespace)
    return namespace.get("model", namespace.get("backbone"))


@pytest.mark.parametrize("options", [RESNET18, RESNET50], ids=lambda o: o.name)
def test_torchvision_file_has_all_but_the_classifier(source, options, tmp_path):
    backbone = source(options)
    report = export_backbone(backbone, "torchvision", tmp_path / "weights.pth")
    state = torch.load(report.path, weights_only=True)
    assert type(state) is dict
    model = getattr(torchvision.models, options.name)()
    left = model.load_state_dict(state, strict=False)
    assert (left.missing_keys, left.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    for theirs in (model, used(report)):
        theirs.fc = nn.Identity()
        same_features(backbone, theirs)
    assert report.difference <= 1e-5
    assert report.images == (4, 3, 64, 64)


def test_torchvision_file_with_a_small_stem_says_how_to_change_the_model(source, tmp_path):
    report = export_backbone(source(CIFAR), "torchvision", tmp_path / "weights.pth")
    assert "3x3 convolution without max-pooling" in report.note
    model = used(report)
    model.fc = nn.Identity()
    same_features(source(CIFAR), model)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("options", [RESNET18, NARROW, VIT], ids=lambda o: o.name)
def test_timm_file(source, options, ending, tmp_path):
    report = export_backbone(source(options), "timm", tmp_path / f"weights{ending}")
    model = timm.create_model(
        options.name,
        num_classes=0,
        checkpoint_path=str(report.path),
        **options.options,
    )
    same_features(source(options), model)
    same_features(source(options), used(report))


def test_timm_computes_torchvisions_bottlenecks(source, tmp_path):
    file = export_backbone(source(RESNET50), "timm", tmp_path / "weights.safetensors").path
    model = timm.create_model("resnet50", num_classes=0, checkpoint_path=str(file))
    same_features(source(RESNET50), model)


@pytest.mark.parametrize("options", [RESNET18, NARROW, VIT], ids=lambda o: o.name)
def test_huggingface_folder(source, options, tmp_path):
    report = export_backbone(source(options), "huggingface", tmp_path / "my-0.1")
    assert {f.name for f in report.path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    model = timm.create_model(f"local-dir:{report.path}", pretrained=True, num_classes=0)
    same_features(source(options), model)
    same_features(source(options), used(report))
    config = resolve_model_data_config(model)
    assert list(config["mean"]) == PREPROCESSING["mean"]
    assert list(config["std"]) == PREPROCESSING["std"]
    assert (tuple(config["input_size"]), config["crop_pct"]) == ((3, 64, 64), 1.0)
    assert config["interpolation"] == "bilinear"
    stored = json.loads((report.path / "config.json").read_text())
    assert stored["architecture"] == options.name
    assert (stored["num_classes"], stored["num_features"]) == (0, source(options).feature_dim)
    # what timm says of the weights that it publishes itself
    assert not {"license", "url", "hf_hub_id", "tag", "origin_url"} & set(stored["pretrained_cfg"])
    card = (report.path / "README.md").read_text()
    assert card.startswith("---\n")
    assert r"mean \[0.5, 0.4, 0.3\]" in card


def test_huggingface_folder_is_read_by_transformers_and_as_a_folder(source, tmp_path):
    folder = export_backbone(source(VIT), "huggingface", tmp_path / "folder").path
    read = load_backbone(folder)
    same_features(source(VIT), read)
    assert (read.preprocessing["image_size"], read.preprocessing["crop_pct"]) == (64, 1.0)
    assert {k: read.preprocessing[k] for k in ("mean", "std")} == {
        k: PREPROCESSING[k] for k in ("mean", "std")
    }
    assert not read.report.assumed
    same_features(source(VIT), load_backbone(folder / "model.safetensors"))
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images).pooler_output, source(VIT)(images))
    model.save_pretrained(tmp_path / "again")  # under names of its own
    again = load_backbone(tmp_path / "again")
    same_features(source(VIT), again)
    assert again.preprocessing == read.preprocessing


@pytest.mark.parametrize("options", [NARROW, VIT, MOBILE], ids=lambda o: o.name)
def test_onnx_file_takes_batches_of_any_size(source, options, tmp_path):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    report = export_backbone(source(options), "onnx", tmp_path / "backbone.onnx")
    assert [f.name for f in tmp_path.iterdir()] == ["backbone.onnx"]
    assert report.difference <= 1e-5
    model = onnx.load(report.path)
    assert next(o.version for o in model.opset_import if o.domain == "") >= 18
    assert json.loads(model.metadata_props[-1].value) == PREPROCESSING
    session = onnxruntime.InferenceSession(str(report.path))
    for number in (1, 3):
        images = torch.rand(number, 3, 64, 64)
        (features,) = session.run(["features"], {"images": images.numpy()})
        with torch.no_grad():
            expected = source(options)(images)
        torch.testing.assert_close(torch.from_numpy(features), expected, rtol=1e-4, atol=1e-4)


def test_the_python_of_an_onnx_file_names_the_shape_that_it_takes(tmp_path):
    said = onnx_files.usage(tmp_path / "backbone.onnx", (1, 6, 32, 48))
    assert said.endswith("# images: float32 (N, 6, 32, 48)")


def test_weights_that_share_memory_are_saved_and_exported(tmp_path):
    options = BackboneOptions("coat_tiny", "timm", options={"img_size": 64})
    backbone = saved_backbone(tmp_path, options)  # its position convolutions are shared by stages
    report = export_backbone(backbone, "huggingface", tmp_path / "folder")
    same_features(backbone, load_backbone(report.path))


def test_torchvisions_other_networks_are_exported(source, tmp_path):
    report = export_backbone(source(MOBILE), "torchvision", tmp_path / "weights.pth")
    model = used(report)
    model.classifier[-1] = nn.Identity()
    same_features(source(MOBILE), model)


def test_what_was_assumed_is_in_the_card_and_the_note(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.pth")
    backbone = load_backbone(tmp_path / "vit.pth", "test_vit")
    report = export_backbone(backbone, "huggingface", tmp_path / "folder")
    said = "preprocessing image_size 160, mean [0.5, 0.5, 0.5]"
    written = markdown_text(said)
    assert f"Assumed, since the checkpoint does not say it: {said}" in report.note
    assert (
        f"Assumed by erssl, not said by the checkpoint: {written}"
        in (report.path / "README.md").read_text()
    )


def test_huggingface_folder_takes_a_classifier(source, tmp_path):
    folder = export_backbone(source(NARROW), "huggingface", tmp_path / "folder").path
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=10)
    assert model.fc.out_features == 10
    model.reset_classifier(0)
    same_features(source(NARROW), model)


def test_unknown_preprocessing_is_said_to_be_timms(tmp_path):
    backbone = saved_backbone(tmp_path, BackboneOptions("test_resnet", "timm"), {})
    report = export_backbone(backbone, "huggingface", tmp_path / "folder")
    assert "does not say its mean, std and image size" in report.note
    assert report.images[-1] == 160  # of timm's own configuration
    published = resolve_model_data_config(timm.create_model("test_resnet"))
    actual = resolve_model_data_config(timm.create_model(f"local-dir:{report.path}"))
    for key in ("mean", "std", "input_size"):
        assert tuple(actual[key]) == tuple(published[key])


@pytest.mark.parametrize("options", [CIFAR, NARROW], ids=lambda o: o.name)
def test_safetensors_file_is_read_by_both(source, options, tmp_path):
    backbone = source(options)
    report = export_backbone(backbone, "safetensors", tmp_path / "other.safetensors")
    torch.testing.assert_close(load_file(report.path), backbone.state_dict(), rtol=0, atol=0)
    loaded = used(report)
    same_features(backbone, loaded)
    assert loaded.preprocessing == PREPROCESSING
    with safe_open(report.path, framework="pt") as file:
        assert json.loads(file.metadata()["backbone"])["name"] == options.name


def test_an_export_that_computes_something_else_is_removed(source, tmp_path, monkeypatch):
    def write_another(source, path):
        other = {name: 1.01 * tensor for name, tensor in source.state.items()}
        torch.save(other, path)

    kind = formats.FORMATS["torchvision"]
    monkeypatch.setitem(
        formats.FORMATS,
        "torchvision",
        formats.Format(kind.endings, "", write_another, kind.read, ""),
    )
    with pytest.raises(RunError, match=r"other features .* they differ by \d.* was removed"):
        export_backbone(source(RESNET18), "torchvision", tmp_path / "weights.pth")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "weights.pth").write_bytes(b"precious")
    with pytest.raises(RunError, match="other features"):
        export_backbone(source(RESNET18), "torchvision", tmp_path / "weights.pth", overwrite=True)
    assert (tmp_path / "weights.pth").read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_export_that_lacks_a_weight_is_removed(source, tmp_path, monkeypatch):
    def write_less(source, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    kind = formats.FORMATS["huggingface"]
    monkeypatch.setitem(
        formats.FORMATS, "huggingface", formats.Format((), "", write_less, kind.read, "")
    )
    with pytest.raises(RunError, match=r"huggingface export is not read by .*architecture"):
        export_backbone(source(NARROW), "huggingface", tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "format", "output", "flags", "sentence"),
    [
        (NARROW, "onyx", "a.onnx", {}, "format=onyx is unknown; choose one of torchvision, timm"),
        (
            NARROW,
            "torchvision",
            "a.pth",
            {},
            "is for torchvision's networks and resnet10t is timm's",
        ),
        (VIT, "detectron2", "a.pth", {}, "is for torchvision's networks"),
        (CIFAR, "timm", "a.pth", {}, "3x3 stem .* choose format=torchvision, safetensors or onnx"),
        (CIFAR, "huggingface", "a", {}, "3x3 stem"),
        (CIFAR, "detectron2", "a.pth", {}, "3x3 stem"),
        (NARROW, "timm", "a.bin", {}, r"must end in .safetensors or .pth for format=timm"),
        (NARROW, "huggingface", "a.pth", {}, "must be the name of a folder"),
        (RESNET18, "detectron2", "a.pkl", {}, "must end in .pth .* needs pickle=true"),
        (RESNET18, "detectron2", "a.pth", {"pickle": True}, "must end in .pkl .* pickle=true"),
        (RESNET18, "torchvision", "a.pth", {"pickle": True}, "for format=detectron2 only"),
        (MOBILE, "timm", "a.pth", {}, "format=timm has torchvision's ResNets only"),
        (NO_POOL, "timm", "a.pth", {}, r"without the max-pooling of its stem \(stem_pool\)"),
        (EPSILON, "huggingface", "a", {}, r"another epsilon than timm's \(1e-12\)"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(
    source, options, format, output, flags, sentence, tmp_path
):
    with pytest.raises(ConfigError, match=sentence):
        export_backbone(source(options), format, tmp_path / output, **flags)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays_unless_asked(source, tmp_path):
    backbone = source(NARROW)
    file = tmp_path / "new" / "weights.safetensors"  # the folder is made
    export_backbone(backbone, "timm", file)
    with pytest.raises(RunError, match="exists already; replace it with overwrite=true"):
        export_backbone(backbone, "timm", file)
    export_backbone(backbone, "timm", file, overwrite=True)
    with pytest.raises(RunError, match="is a file; name a folder"):
        export_backbone(backbone, "huggingface", _named(tmp_path / "file", b""))
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(RunError, match="is a folder; name a file in it"):
        export_backbone(backbone, "timm", tmp_path / "folder.pth")
    with pytest.raises(RunError, match="cannot be written"):
        export_backbone(backbone, "timm", tmp_path / "file" / "weights.pth")


def test_a_folder_is_replaced_file_by_file(source, tmp_path):
    (tmp_path / "empty").mkdir()
    export_backbone(source(NARROW), "huggingface", tmp_path / "empty")
    _named(tmp_path / "empty" / ".gitattributes", b"mine")
    with pytest.raises(RunError, match="exists already"):
        export_backbone(source(NARROW), "huggingface", tmp_path / "empty")
    _named(tmp_path / "empty" / "config.json", b"broken")
    export_backbone(source(NARROW), "huggingface", tmp_path / "empty", overwrite=True)
    assert (tmp_path / "empty" / ".gitattributes").read_bytes() == b"mine"
    assert json.loads((tmp_path / "empty" / "config.json").read_text())["num_classes"] == 0
    assert [f.name for f in tmp_path.iterdir()] == ["empty"]


def test_backbones_that_cannot_be_compared_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not say its architecture"):
        export_backbone(nn.Identity(), "timm", tmp_path / "weights.pth")
    (tmp_path / "a").mkdir()
    diverged = saved_backbone(tmp_path / "a", NARROW)
    nn.init.constant_(diverged.layer1[0].conv1.weight, math.nan)
    with pytest.raises(DataError, match="not finite"):
        export_backbone(diverged, "timm", tmp_path / "weights.pth")
    other_size = saved_backbone(tmp_path / "a", VIT, {"image_size": 32})
    with pytest.raises(ConfigError, match="32 x 32 pixels"):
        export_backbone(other_size, "timm", tmp_path / "weights.pth")
    assert not (tmp_path / "weights.pth").exists()


def test_the_backbone_is_left_as_it_was(source, tmp_path):
    backbone = source(NARROW)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.train()
    export_backbone(backbone, "timm", tmp_path / "weights.pth")
    assert backbone.training
    backbone.eval()
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)


def test_loaded_backbones_say_their_architecture(tmp_path):
    saved_backbone(tmp_path, CIFAR)
    assert load_backbone(tmp_path).architecture == CIFAR


def _named(path, content):
    path.write_bytes(content)
    return path
