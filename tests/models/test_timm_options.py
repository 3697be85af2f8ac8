"""Item by item: no way in by which timm could be made to read a file, or fetch one."""

import json
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from erssl.cli.main import main
from erssl.errors import ErsslError
from erssl.models import BackboneOptions, build_backbone, load_backbone, save_backbone
from erssl.models.timm_options import ALLOWED
from erssl.models.zoo import rows as zoo_rows

from ..hostile import Hostile

NAME = "test_vit"
#: Every argument of timm by which weights, code or a place of its own could be named.
FORBIDDEN = (
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "pretrained_strict",
    "pretrained_filter_fn",
    "features_only",
    "out_indices",
    "scriptable",
    "exportable",
    "no_jit",
    "file",
    "url",
    "hf_hub_id",
    "hf_hub_filename",
    "custom_load",
    "state_dict",
    "source",
    "model_args",
    "num_classes",
    "feature_cls",
    "kwargs_filter",
)
KEY = "checkpoint_path"  # by which timm would read a file
NAMES = ("local-dir:{place}", "hf-hub:evil/net", "hf_hub:evil/net", "timm/evil", "{place}/net.pth")


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A folder of weights whose reading would leave a trace; timm may be called for networks."""
    place = tmp_path / "evil"
    place.mkdir()
    content = pickle.dumps(Hostile(tmp_path / "ran"))
    for name in ("net.pth", "pytorch_model.bin", "model.pth"):
        (place / name).write_bytes(content)
    (place / "config.json").write_text(json.dumps({"architecture": NAME}))
    made = timm.create_model

    def create_model(name, **arguments):
        assert not (set(arguments) - ALLOWED - {"num_classes", "in_chans"}), arguments
        assert ":" not in name and "/" not in name
        return made(name, **arguments)

    monkeypatch.setattr(timm, "create_model", create_model)
    yield place
    assert not (tmp_path / "ran").exists()


def weights():
    torch.manual_seed(0)
    return timm.create_model(NAME, num_classes=0).state_dict()


def routes(tmp_path, state, name, options):
    """Each way in which somebody, or somebody's file, may name a network of timm."""
    file = tmp_path / "weights.safetensors"
    save_file(state, file)
    said = BackboneOptions(name, "timm", options=dict(options))
    commas = ",".join([name, *(f"{key}={value}" for key, value in options.items())])
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    config = {"architecture": name, "model_args": options, "pretrained_cfg": options}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors")
    header = tmp_path / "header.safetensors"
    save_backbone(build_backbone(BackboneOptions(NAME, "timm")), header, said)
    row = {"file": str(file), "arch": {"name": name, "library": "timm", "options": options}}
    yield "build_backbone", lambda: build_backbone(said)
    yield "arch= options", lambda: load_backbone(file, said)
    yield "arch= text", lambda: load_backbone(file, commas)
    yield "config.json", lambda: load_backbone(folder)
    yield "header", lambda: load_backbone(header)
    yield "timm:", lambda: load_backbone(f"timm:{commas}")
    yield (
        "zoo row",
        lambda: load_backbone(file, zoo_rows._value("arch", "BackboneOptions", row["arch"])),
    )


@pytest.mark.parametrize("key", FORBIDDEN)
def test_an_argument_that_names_a_source_is_refused_or_left_out(tmp_path, evil, key):
    assert key not in ALLOWED
    state, value = weights(), str(evil / "net.pth")
    for route, act in routes(tmp_path, state, NAME, {key: value}):
        try:
            backbone = act()
        except (ErsslError, ValueError) as error:
            assert key in str(error), route
        else:  # files of others may say it; it is left out, and the weights are the file's
            assert route in ("config.json", "header")
            assert key not in backbone.architecture.options
            if route == "config.json":
                torch.testing.assert_close(backbone.state_dict(), state, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_an_address_is_no_network(tmp_path, evil, name):
    for _, act in routes(tmp_path, weights(), name.format(place=evil), {}):
        with pytest.raises((ErsslError, ValueError)):
            act()


OPTION = f"backbone.options.{KEY} is not handed on to timm"
ADDRESS = "local-dir:{place} is no timm model"


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (
            ["pretrain", "backbone=timm", "backbone.name={name}", "backbone.options.{option}"],
            OPTION,
        ),
        (["pretrain", "backbone=timm", "backbone.name=local-dir:{place}"], ADDRESS),
        (["knn", "checkpoint=random:{name},{option}", "data=digits"], OPTION),
        (["embed", "checkpoint={sound}", "arch={name},{option}", "data=digits"], OPTION),
        (["export", "checkpoint={sound}", "arch={name},{option}", "format=timm"], OPTION),
        (["lens", "checkpoint=timm:{name},{option}", "data=digits"], OPTION),
        (["detect", "checkpoint=timm:local-dir:{place}", "data_root=."], ADDRESS),
        (["segment", "checkpoint=timm:{name},{option}", "data_root=."], OPTION),
    ],
)
def test_commands_refuse_in_one_sentence(tmp_path, evil, capsys, monkeypatch, arguments, refused):
    monkeypatch.chdir(tmp_path)
    sound = tmp_path / "sound.safetensors"
    save_file(weights(), sound)
    named = {"option": f"{KEY}={evil / 'net.pth'}", "place": evil, "name": NAME, "sound": sound}
    more = {"embed": ["output=o.npy"], "export": ["output=o.pth"], "lens": ["output=o"]}
    more["detect"] = ["backend=torchvision"]
    given = [argument.format(**named) for argument in arguments] + more.get(arguments[0], [])
    assert main(given) == 2
    [said] = [line for line in capsys.readouterr().err.splitlines() if "erssl: " in line]
    assert refused.format(place=evil) in said
