"""Networks of transformers, written by it and read back as timm's, against its own features."""

import json

import pytest
import timm
import torch
from timm.models import _builder
from torch import nn

from erssl import load_backbone
from erssl.errors import ConfigError, DataError
from erssl.models import BackboneOptions, build_backbone
from erssl.models.preprocessing import timm_preprocessing

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"image_size": 32, "patch_size": 8}
WIDE = {"intermediate_size": 64}
MODELS = {
    "ViT": ("ViTModel", "ViTConfig", SMALL | WIDE),
    "ViT with a head": ("ViTForImageClassification", "ViTConfig", SMALL | WIDE),
    "ViT of another activation": ("ViTModel", "ViTConfig", SMALL | WIDE | {"hidden_act": "relu"}),
    "DINOv2": ("Dinov2Model", "Dinov2Config", SMALL),
    "DINOv2 gated": ("Dinov2Model", "Dinov2Config", SMALL | {"use_swiglu_ffn": True}),
    "DINOv2 with registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", SMALL),
    "MAE": ("ViTMAEModel", "ViTMAEConfig", SMALL | WIDE | {"mask_ratio": 0.0}),
    "DINOv3": ("DINOv3ViTModel", "DINOv3ViTConfig", SMALL | WIDE | {"num_register_tokens": 4}),
    "DINOv3 gated": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        SMALL
        | WIDE
        | {"num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu"}
        | {"rope_theta": 50.0},
    ),
}


def written(kind, folder):
    """A model of random weights, every one of them, in a folder."""
    transformers = pytest.importorskip("transformers")
    model_class, config_class, options = MODELS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**options))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", MODELS)
def test_transformers_folders_give_their_class_token(kind, tmp_path):
    model = written(kind, tmp_path)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        own = getattr(model, "vit", model)
        keywords = {"noise": torch.arange(16.0).expand(2, -1)} if kind == "MAE" else {}
        expected = own(images, **keywords).last_hidden_state[:, 0]
        actual = load_backbone(tmp_path)(images)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def build_named(name):
    return build_backbone(BackboneOptions(name, "timm"))


def test_a_file_alone_is_read_by_name_and_options(tmp_path):
    model = written("DINOv2", tmp_path)
    (tmp_path / "config.json").unlink()
    images = torch.rand(2, 3, 32, 32)
    name = "vit_base_patch16_224,embed_dim=32,depth=2,patch_size=8,img_size=32,init_values=1"
    read = load_backbone(tmp_path / "model.safetensors", f"{name},num_heads=4")
    with torch.no_grad():
        expected = model(images).last_hidden_state[:, 0]
        torch.testing.assert_close(read(images), expected, rtol=1e-4, atol=1e-5)


def test_preprocessor_config_is_the_preprocessing(tmp_path):
    written("ViT", tmp_path)
    said = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "resample": 3}
    said |= {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said | {"do_center_crop": True}))
    assert load_backbone(tmp_path).preprocessing == {
        "image_size": 32,
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.6, 0.7],
        "interpolation": "bicubic",
        "crop_pct": 0.8,
    }


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "bert"}, r"is of a model that is not read \(model_type=bert\)"),
        ({"model_type": "vit"}, "does not say what the weights beside it are"),
        ({"model_type": "vit", "num_attention_heads": 4, "hidden_act": "tanh"}, "hidden_act=tanh"),
        ({"architecture": "nothing"}, "is no timm model"),
        ({"architecture": "test_vit", "model_args": {"file": "x"}}, "is not handed on to timm"),
        ([], "holds no settings by name"),
    ],
)
def test_configs_that_do_not_say_what_it_is_are_refused(config, sentence, tmp_path):
    written("ViT", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((ConfigError, DataError), match=sentence):
        load_backbone(tmp_path)


def test_a_folder_of_parts_is_read_and_none_from_elsewhere(tmp_path):
    from safetensors.torch import load_file, save_file

    model = written("ViT", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for part, own in parts.items():
        save_file({name: state[name] for name in own}, tmp_path / part)
    where = {name: part for part, own in parts.items() for name in own}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(images).last_hidden_state[:, 0]
        torch.testing.assert_close(load_backbone(tmp_path)(images), expected, rtol=1e-4, atol=1e-5)
    index.write_text(json.dumps({"weight_map": where | {"more": "../a.safetensors"}}))
    with pytest.raises(DataError, match="which is no part beside it"):
        load_backbone(tmp_path)


FORBIDDEN = {
    "checkpoint_path": "evil.pth",
    "pretrained": True,
    "pretrained_cfg": {"file": "evil.pth"},
    "pretrained_cfg_overlay": {"file": "evil.pth"},
    "cache_dir": "there",
    "features_only": True,
    "global_pool": "../evil.pth",
    "img_size": {"file": "evil.pth"},
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_nothing_that_reads_a_file_is_handed_on_to_timm(name, monkeypatch):
    called = []
    monkeypatch.setattr(timm, "create_model", lambda *a, **k: called.append(k))
    with pytest.raises(ConfigError, match=rf"backbone\.options\.{name}.* handed on to timm"):
        build_backbone(BackboneOptions("test_vit", "timm", options={name: FORBIDDEN[name]}))
    assert not called


def test_a_name_of_timms_brings_its_preprocessing(tmp_path):
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    backbone = load_backbone(tmp_path / "vit.pth", "test_vit")
    published = timm.get_pretrained_cfg("test_vit")
    assert backbone.preprocessing == {
        "image_size": published.input_size[-1],
        "mean": list(published.mean),
        "std": list(published.std),
        "interpolation": published.interpolation,
        "crop_pct": published.crop_pct,
    }
    assert "as timm has it for test_vit" in str(backbone.report)
    # the tag of the weights counts where it is said
    tagged = timm_preprocessing(BackboneOptions("vit_small_patch16_224.dino", "timm"))
    assert tagged["mean"] == [0.485, 0.456, 0.406]
    own_size = timm_preprocessing(BackboneOptions("vit_tiny_patch16_384", "timm"))
    assert own_size["image_size"] == 384


def test_weights_that_timm_publishes_are_read_by_name(tmp_path, monkeypatch):
    torch.manual_seed(3)
    reference = timm.create_model("test_vit", num_classes=1000).eval()
    fetched = []

    def fetch(place, *args, **keywords):
        fetched.append(place)
        return dict(reference.state_dict())

    monkeypatch.setattr(_builder, "load_state_dict_from_hf", fetch)
    backbone = load_backbone("timm:test_vit")
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone(images), expected)
    assert fetched and backbone.preprocessing["image_size"] == 160
    assert not backbone.report.assumed
    monkeypatch.setattr(_builder, "load_state_dict_from_hf", lambda *a, **k: 1 / 0)
    with pytest.raises(DataError, match=r"cannot be fetched .* check the network, or give a file"):
        load_backbone("timm:test_vit")
    for read in (lambda: load_backbone("timm:test_vit.x"), lambda: build_named("test_vit.x")):
        with pytest.raises(ConfigError, match=r"no weights x of test_vit but r160_in1k; name test"):
            read()
    with pytest.raises(ConfigError, match="is no timm model"):
        load_backbone("timm:nothing")
