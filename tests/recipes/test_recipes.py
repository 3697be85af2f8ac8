"""Layers, sources, recipes of third parties, and runs of earlier builds."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import subprocess
import sys
from importlib.resources import files

import pytest
import yaml
from omegaconf import OmegaConf

from erssl.cli.main import main
from erssl.errors import ConfigError
from erssl.layers import (
    Layer,
    flat,
    forget_config_file,
    merge_layers,
    parse_config_file,
    read_config_file,
    register_config_file,
)
from erssl.methods import (
    METHODS,
    OptimizerOptions,
    SimCLR,
    available_methods,
    get_method,
    register_method,
)
from erssl.recipes import REGISTERED, read_recipe, recipe_from_text
from erssl.run.directory import RunDirectory
from erssl.settings.compose import config_layers, group_options
from erssl.settings.pretrain import read_settings, read_sources, run_settings
from erssl.yaml_text import commented_yaml, comments_of

THEIRS = """# Theirs: of nobody.
defaults:
  - simclr

method:
  name: theirs
  temperature: 0.5 # ours

optimizer:
  base_lr: 0.7 # measured
"""


def test_a_layer_that_names_another_kind_begins_its_node_anew():
    values, sources = merge_layers(
        [
            Layer("one", {"optimizer": {"name": "lars", "trust": 1, "lr": 0.3}, "epochs": 1}),
            Layer("two", {"optimizer": {"lr": 0.4}}),
            Layer("three", {"optimizer": {"name": "sgd", "momentum": 0.9}}),
            Layer("four", {"optimizer": {"name": "sgd", "lr": [1, 2]}}),
        ]
    )
    assert values == {"optimizer": {"name": "sgd", "momentum": 0.9, "lr": [1, 2]}, "epochs": 1}
    assert sources == {
        "epochs": "one",
        "optimizer.name": "four",
        "optimizer.momentum": "three",
        "optimizer.lr": "four",
    }


def test_comments_of_values_survive_writing_and_reading():
    values = {"a": {"b": 1e-6, "c": ["x", "y"], "d": None}, "e": "no # comment", "f": {}, "g": []}
    comments = {"a.b": "one", "a.c": "two: it's # odd", "e": "three", "f": "four", "g": "five"}
    text = commented_yaml(values, comments)
    assert OmegaConf.to_container(OmegaConf.create(text)) == values
    assert comments_of(text) == comments


@pytest.mark.parametrize(
    ("overrides", "key", "value", "source"),
    [
        ([], "optimizer.base_lr", 0.05, "method simsiam"),
        (["optimizer=lars"], "optimizer.base_lr", 0.4, "override optimizer=lars"),
        (["optimizer.base_lr=1"], "optimizer.base_lr", 1, "override"),
        ([], "epochs", 100, "data imagenet"),
        (["experiment=simsiam_imagenet"], "batch_size", 512, "experiment simsiam_imagenet"),
        (["experiment=simsiam_imagenet"], "optimizer.base_lr", 0.05, "method simsiam"),
        (["experiment=simsiam_imagenet", "batch_size=8"], "batch_size", 8, "override"),
        ([], "data.views.recipe", "mocov2", "method simsiam"),
        (["data.views.recipe=byol"], "data.views.global_scale", None, "default"),
        (["data.views.recipe=mocov2"], "data.views.global_scale", (0.2, 1.0), "method simsiam"),
        ([], "data.image_size", 224, "default"),
        ([], "seed", 0, "default"),
        (["data=digits"], "optimizer.base_lr", 0.12, "data digits"),
        (["data=digits", "optimizer=lars"], "optimizer.base_lr", 0.4, "override optimizer=lars"),
        (["data=cifar10", "method=dino"], "method.head_norm", True, "data cifar10"),
        (["data=cifar10"], "backbone.name", "resnet18", "data cifar10"),
        (["data=cifar10"], "optimizer.name", "sgd", "method simsiam"),
        (["data=cifar10"], "optimizer.base_lr", 0.05, "method simsiam"),
        (["data=cifar10"], "data.views.recipe", "cifar", "data cifar10"),
        (["data=cifar10", "method=simclr"], "optimizer.name", "sgd", "data cifar10"),
        (["data=cifar10", "method=simclr"], "optimizer.base_lr", 0.12, "data cifar10"),
        (["experiment=simsiam_imagenet", "data=cifar10"], "epochs", 100, None),
    ],
)
def test_every_value_comes_from_the_topmost_layer_that_says_it(overrides, key, value, source):
    base = {"method": "simsiam", "data": "imagenet"}
    said = {override.partition("=")[0] for override in overrides}
    overrides = [*overrides, *(f"{k}={v}" for k, v in base.items() if k not in said)]
    overrides += [] if "data=digits" in overrides else ["data.root=/x"]
    if source is None:  # an experiment that sets no epochs of its own would take the data set's
        settings, _, sources = read_sources(overrides)
        assert (settings.epochs, sources["epochs"]) == (100, "experiment simsiam_imagenet")
        return
    _, resolved, sources = read_sources(overrides)
    actual = flat(resolved)[key]
    assert (tuple(actual) if isinstance(value, tuple) else actual) == value
    assert sources[key] == source


def test_a_warm_up_that_nobody_asked_for_is_cut_to_fit():
    overrides = ["method=simclr", "data=imagenet", "data.root=/x", "epochs=5"]
    settings, _, sources = read_sources(overrides)
    assert settings.optimizer.warmup_epochs == 0
    assert "a tenth of epochs" in sources["optimizer.warmup_epochs"]
    with pytest.raises(ConfigError, match="does not fit into epochs=5"):
        read_sources([*overrides, "optimizer.warmup_epochs=10"])


@pytest.mark.parametrize("group", ["method", "experiment"])
def test_every_value_of_a_recipe_says_where_it_comes_from(group):
    plain = ("name:", "library: timm", "options: {}", "gather_distributed: true")
    for option in group_options(group):
        text = (files("erssl.configs") / group / f"{option}.yaml").read_text()
        body = re.split(r"\n(?:earlier|small):", text)[0]
        values = [line for line in body.splitlines() if re.match(r"\s*\w+: \S", line)]
        bare = [v for v in values if "#" not in v and not v.strip().startswith(plain)]
        assert bare == [], option


def test_experiments_hold_only_what_their_method_has_not():
    for option in group_options("experiment"):
        text = (files("erssl.configs") / "experiment" / f"{option}.yaml").read_text()
        own = flat({k: v for k, v in yaml.safe_load(text).items() if k != "defaults"})
        method = read_settings([f"experiment={option}", "data.root=/x"])[0].method["name"]
        _, plain = read_settings([f"method={method}", "data=imagenet", "data.root=/x"])
        plain = flat(plain)
        repeated = {k for k, v in own.items() if k != "epochs" and plain.get(k) == v}
        allowed = {"optimizer.momentum", "optimizer.final_lr_ratio"}  # of another optimiser
        allowed.add("data.views.local_image_size")  # of local views, which the method has not
        if option in ("infomin_imagenet", "mocov2_imagenet"):
            allowed.add("batch_size")  # the paper's is the data set's
        if option == "cifar10_cpu":
            allowed.add("batch_size")  # that of data=cifar10 is another
        assert repeated <= allowed, option


def test_config_of_a_run_says_where_values_come_from_and_is_read_by_anyone(tmp_path):
    overrides = ["method=simsiam", "data=cifar10", "optimizer.base_lr=1", f"run_dir={tmp_path}"]
    settings, resolved, sources = read_sources(overrides)
    RunDirectory(tmp_path).write_config(resolved, sources)
    text = (tmp_path / "config.yaml").read_text()
    assert re.search(r"\n  base_lr: 1 # override\n", text)
    assert re.search(r"\n  weight_decay: 0.0001 # method simsiam\n", text)
    assert re.search(r"\nepochs: 200 # data cifar10\n", text)
    assert flat(yaml.safe_load(text)).keys() == flat(resolved).keys()
    assert run_settings(tmp_path, []) == settings
    again, _, kept = read_sources([*overrides, "resume=true", "trainer.devices=1"])
    assert dataclasses.replace(again, resume=False, trainer=settings.trainer) == settings
    assert kept["optimizer.weight_decay"] == "method simsiam"
    assert kept["trainer.devices"] == "override"


@pytest.mark.parametrize(
    ("name", "had"),
    [
        ("simclr", {"loss_scale": 1.0, "output_norm": False}),
        ("cmc", {"loss_scale": 1.0, "output_norm": False}),
        ("simclr_er", {"output_norm": False}),
        ("entrec", {"output_norm": False}),
        ("byol", {"loss_scale": 1.0}),
        ("dino", {"head_norm": True}),
        ("dino_er", {"head_norm": True, "local_view_weight": 1.0}),
        ("swav_er", {"local_view_weight": 1.0}),
    ],
)
def test_a_run_of_an_earlier_build_keeps_what_it_had(name, had, tmp_path):
    started = [f"experiment={name}_imagenet"]
    overrides = started if name != "swav_er" else ["method=swav_er", "data=imagenet"]
    overrides = [*overrides, "data.root=/x", f"run_dir={tmp_path}"]
    _, resolved, _ = read_sources(overrides)
    for key in had:  # which that build did not know, nor these
        resolved["method"].pop(key)
    for key in ("bias_base_lr", "exclude_norms", "warmup_start_ratio"):
        resolved["optimizer"].pop(key)
    resolved["optimizer"]["weight_decay"] = 0.3
    RunDirectory(tmp_path).write_config(resolved)
    for more in ([], overrides):  # with the overrides that started it, too
        settings, _, _ = read_sources([*more, f"run_dir={tmp_path}", "resume=true"])
        assert {k: settings.method[k] for k in had} == had
        options = settings.optimizer
        assert (options.weight_decay, options.warmup_start_ratio) == (0.3, 0.0)
        assert (options.exclude_norms, options.bias_base_lr) == (True, None)


@pytest.fixture
def forgotten():
    """Let no method of a test stay known."""
    yield
    for name in ("theirs", "mine"):
        METHODS.pop(name, None)
        REGISTERED.pop(name, None)
    sys.modules.pop("their_package.methods", None)
    sys.modules.pop("their_package", None)


def test_a_third_party_ships_its_recipe_beside_its_module(monkeypatch, tmp_path, forgotten, capsys):
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "theirs.yaml").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    entry = importlib.metadata.EntryPoint("any", "their_package.methods", "erssl.methods")
    monkeypatch.setattr("erssl.announced.entry_points", lambda group: [entry])
    recipe = read_recipe("theirs")  # nothing of theirs is imported
    assert recipe.values["optimizer"]["base_lr"] == 0.7

    (package / "__init__.py").write_text("")
    (package / "methods.py").write_text(
        "from erssl.methods import SimCLR, register_method\n"
        "@register_method('theirs')\n"
        "class Theirs(SimCLR):\n"
        "    pass\n"
    )
    overrides = ["method=theirs", "data=imagenet", "data.root=/x"]
    settings, _, sources = read_sources(overrides)
    assert settings.optimizer == dataclasses.replace(SimCLR.default_optimizer, base_lr=0.7)
    assert settings.method == {"name": "theirs", "temperature": 0.5}
    assert sources["optimizer.base_lr"] == "method theirs"
    assert get_method("theirs").default_optimizer == settings.optimizer
    assert METHODS["theirs"]["transform"] is not None
    assert main(["methods", "theirs"]) == 0
    shown = capsys.readouterr().out
    assert "base_lr: 0.7 # measured" in shown
    assert "weight_decay: 1.0e-06 # simclr: section 2.2" in shown


def test_a_method_may_be_given_its_recipe_or_say_it_in_the_class(forgotten, tmp_path):
    @register_method("mine", recipe={"optimizer": {"name": "sgd", "base_lr": 2.0}})
    class Mine(SimCLR):
        pass

    assert Mine.default_optimizer == OptimizerOptions("sgd", base_lr=2.0)
    assert read_settings(["method=mine", "data=cifar10"])[0].optimizer.base_lr == 2.0
    METHODS.pop("mine")

    file = tmp_path / "other.yaml"
    file.write_text(THEIRS.replace("theirs", "mine"))

    @register_method("mine", recipe=file)
    class Again(SimCLR):
        pass

    assert read_settings(["method=mine"])[0].method["temperature"] == 0.5
    METHODS.pop("mine")

    @register_method("mine")
    class Plain(SimCLR):
        default_optimizer = OptimizerOptions("sgd", base_lr=3.0)

    settings, _ = read_settings(["method=mine", "data=imagenet", "data.root=/x"])
    assert settings.optimizer == Plain.default_optimizer
    assert settings.data.views.recipe == "simclr"
    assert SimCLR.default_optimizer.name == "lars"  # its own is another class's


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("method: {name: other}\n", "its method.name is other"),
        ("method: {name: mine}\nepochs: 3\n", "it sets epochs, but a recipe sets method"),
        ("method: {name: mine}\ndata: {name: digits}\n", "of data only its views"),
        ("defaults: [mine]\nmethod: {name: mine}\n", "names itself in its defaults"),
        ("method: [\n", "no YAML of keys and values"),
        ("method: {name: mine, kappa: 1, kappa: 2}\n", "no YAML of keys and values"),
        ("- method\n", "a list, not keys and values"),
    ],
)
def test_what_is_no_recipe_is_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        recipe_from_text("mine", text)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"optimizer": {"base_lrr": 1.0}}, r"optimizer\.base_lrr, .* mean optimizer\.base_lr\?"),
        ({"optimizer": {"base_lr": -1.0}}, r"recipe of method=mine does not fit: .*base_lr"),
        ({"optimizer": {"base_lr": "high"}}, r"recipe of method=mine does not fit"),
        ({"data": {"views": {"recipee": "dino"}}}, r"data\.views\.recipee"),
    ],
)
def test_what_a_recipe_sets_wrongly_is_named(values, sentence, forgotten):
    class Mine(SimCLR):
        pass

    with pytest.raises(ConfigError, match=sentence):
        register_method("mine", recipe=values)(Mine)


def test_recipes_are_read_without_torch():
    code = (
        "import sys; from erssl.recipes import read_recipe; "
        "from erssl.settings.compose import config_layers; from erssl.layers import merge_layers; "
        "read_recipe('deepcluster_er'); "
        "merge_layers(config_layers('pretrain', {'experiment': 'mveb_imagenet_multicrop'})); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", available_methods())
def test_what_the_command_prints_of_a_method_is_what_it_trains_by(name):
    recipe = read_recipe(name)
    shown = OmegaConf.to_container(OmegaConf.create(recipe.text))
    assert shown == recipe.values
    method = get_method(name)
    assert OptimizerOptions(**shown["optimizer"]) == method.default_optimizer


def test_an_experiment_chooses_optimiser_and_backbone_over_its_methods_recipe():
    """MVEB's recipe has LARS and a ResNet-50; what an experiment chooses lies over both."""
    text = """# @package _global_
defaults:
  - override /method: mveb
  - override /optimizer: adamw
  - override /backbone: resnet18

optimizer:
  base_lr: 0.002
"""
    register_config_file("experiment", "chosen", parse_config_file(text, "experiment"))
    try:
        values, _ = merge_layers(config_layers("pretrain", {"experiment": "chosen"}))
    finally:
        forget_config_file("experiment", "chosen")
    own = read_config_file("optimizer/adamw").values["optimizer"]
    assert values["optimizer"] == {**own, "base_lr": 0.002}
    assert values["backbone"]["name"] == "resnet18"
    assert values["method"]["name"] == "mveb"
