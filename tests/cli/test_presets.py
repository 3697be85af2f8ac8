"""What the presets hold, typed in from the papers' code, and what may be said otherwise."""

import dataclasses
from importlib.resources import files

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from erssl.cli.main import main
from erssl.errors import ConfigError
from erssl.evaluation.classifier import ClassifierOptions, make_optimizer
from erssl.settings.compose import group_options
from erssl.settings.evaluation import (
    FinetuneSettings,
    KnnSettings,
    LinearSettings,
    SemiSettings,
    read_protocol,
)

SETTINGS = {
    "knn": KnnSettings,
    "linear": LinearSettings,
    "semi": SemiSettings,
    "finetune": FinetuneSettings,
}
COLUMNS = (
    "epochs",
    "batch_size",
    "optimizer",
    "momentum",
    "weight_decay",
    "lr_per_256",
    "schedule",
    "final_lr",
    "head_init",
)
# SGD with momentum 0.9 everywhere; crops of torchvision's default area, flipped.
TRAININGS = {
    ("linear", "mveb"): (50, 4096, "lars", 0.9, 0.0, True, "epoch", 0.0, "normal"),
    ("linear", "simsiam"): (90, 4096, "lars", 0.9, 0.0, True, "epoch", 0.0, "normal"),
    ("linear", "vicreg"): (100, 256, "sgd", 0.9, 1e-6, False, "epoch", 0.0, "normal"),
    ("linear", "barlowtwins"): (100, 256, "sgd", 0.9, 1e-6, False, "epoch", 0.0, "normal"),
    ("linear", "lightly"): (90, 256, "sgd", 0.9, 0.0, True, "step", 1e-3, "torch"),
    ("semi", "mveb"): (60, 256, "sgd", 0.9, 0.0, False, "epoch", 0.0, "normal"),
    ("semi", "vicreg"): (20, 256, "sgd", 0.9, 0.0, False, "epoch", 0.0, "normal"),
    ("semi", "barlowtwins"): (20, 256, "sgd", 0.9, 0.0, False, "epoch", 0.0, "normal"),
    ("finetune", "lightly"): (30, 256, "sgd", 0.9, 0.0, True, "step", 1e-3, "torch"),
}
LINEAR_LR = {"mveb": 0.1, "simsiam": 0.1, "vicreg": 0.02, "barlowtwins": 0.3, "lightly": 0.1}
# Backbone and head, at one and at ten per cent.
SEMI_LR = {
    "mveb": ((0.002, 0.8), (0.003, 0.4)),
    "vicreg": ((0.03, 0.08), (0.01, 0.1)),
    "barlowtwins": ((0.005, 0.5), (0.005, 0.5)),
}
KNN = {"lightly": (200, 0.1), "mveb": (200, 0.1), "dino": (20, 0.07)}
DEFAULTS = {"knn": "lightly", "linear": "auto", "semi": "auto", "finetune": "auto"}


def read(command, *overrides):
    return read_protocol(command, SETTINGS[command], ["checkpoint=x", *overrides])[0]


@pytest.mark.parametrize("command", SETTINGS)
def test_every_preset_is_in_these_tables(command):
    known = {"knn": KNN, "linear": LINEAR_LR, "semi": SEMI_LR, "finetune": ["lightly"]}[command]
    auto = [] if command == "knn" else ["auto"]
    assert sorted([*known, *auto]) == group_options(f"preset/{command}")
    assert read(command).preset == DEFAULTS[command]


@pytest.mark.parametrize(("command", "preset"), TRAININGS)
def test_a_preset_trains_as_its_papers_code_does(command, preset):
    settings = read(command, f"preset={preset}")
    actual = tuple(getattr(settings, column) for column in COLUMNS)
    assert actual == TRAININGS[command, preset]
    assert (settings.preset, settings.crop_scale, settings.flip) == (preset, (0.08, 1.0), True)


@pytest.mark.parametrize("preset", LINEAR_LR)
def test_a_linear_preset_has_its_papers_rate_and_a_frozen_backbone(preset):
    settings = read("linear", f"preset={preset}")
    assert (settings.head_lr, settings.backbone_lr) == (LINEAR_LR[preset], None)


@pytest.mark.parametrize("preset", SEMI_LR)
def test_a_semi_supervised_preset_has_its_papers_rates_of_the_nearer_fraction(preset):
    one, ten = SEMI_LR[preset]
    settings = read("semi", f"preset={preset}", "fraction=any-list.txt")
    for share, rates in ((0.01, one), (0.02, one), (0.05, ten), (0.1, ten), (1.0, ten)):
        actual = settings.with_rates(share)
        assert (actual.backbone_lr, actual.head_lr) == rates, share


def test_fine_tuning_has_lightlys_one_rate():
    settings = read("finetune")
    assert (settings.backbone_lr, settings.head_lr) == (0.05, 0.05)


@pytest.mark.parametrize("preset", KNN)
def test_a_knn_preset_has_its_papers_neighbours(preset):
    settings = read("knn", f"preset={preset}")
    assert (settings.k, settings.temperature) == KNN[preset]


def test_defaults_of_the_options_are_the_linear_preset_of_mveb():
    settings = read("linear", "preset=mveb")
    for field in dataclasses.fields(ClassifierOptions):
        assert getattr(settings, field.name) == getattr(ClassifierOptions(), field.name)


def test_the_linear_rate_is_1_6_at_the_papers_batch():
    settings = read("linear", "preset=mveb")
    head = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(settings, head, None, settings.batch_size)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.6)


OTHER = {
    "epochs": 7,
    "batch_size": 128,
    "head_lr": 0.7,
    "backbone_lr": 0.6,
    "momentum": 0.5,
    "weight_decay": 0.25,
    "final_lr": 0.5,
    "k": 3,
    "temperature": 0.5,
    "one_percent": [0.25, 0.5],
    "ten_percent": [0.125, 0.5],
    "crop_scale": [0.5, 0.75],
}


def composed(command, *overrides):
    with initialize_config_module("erssl.configs", version_base="1.3"):
        return OmegaConf.to_container(compose(command, overrides=list(overrides)))


def otherwise(value, key):
    swaps = {"sgd": "lars", "lars": "sgd", "epoch": "step", "step": "epoch"}
    swaps |= {"normal": "torch", "torch": "normal", True: "false", False: "true"}
    return swaps[value] if isinstance(value, str | bool) else OTHER[key]


@pytest.mark.parametrize(
    ("command", "preset"),
    [(c, p) for c in SETTINGS for p in group_options(f"preset/{c}") if p != "auto"],
)
def test_every_value_of_a_preset_may_be_said_otherwise(command, preset):
    text = group_text(command, preset)
    assert len(text) > 2
    new = {key: otherwise(value, key) for key, value in text.items() if key != "preset"}
    overrides = [f"{key}={value}".replace(" ", "") for key, value in new.items()]
    settings = read(command, f"preset={preset}", *overrides)
    for key, value in new.items():
        actual = getattr(settings, key)
        shown = str(list(actual) if isinstance(actual, tuple) else actual)
        assert shown.lower() == str(value), key


def group_text(command, preset):
    file = files("erssl.configs").joinpath("preset", command, f"{preset}.yaml")
    return OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))


def test_rates_that_are_said_go_before_the_presets():
    settings = read("semi", "preset=mveb", "fraction=0.1", "head_lr=0.9").with_rates(0.1)
    assert (settings.backbone_lr, settings.head_lr) == (0.003, 0.9)
    settings = read("semi", "fraction=0.1", "ten_percent=[0.5,0.25]").with_rates(0.1)
    assert (settings.backbone_lr, settings.head_lr) == (0.5, 0.25)


@pytest.mark.parametrize("command", SETTINGS)
def test_help_mentions_every_key_and_every_preset(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for key in composed(command):
        shown = "trainer.*" if key == "trainer" else f"{key}:"
        shown = "preset=" if key == "preset" else shown
        assert f"\n  {shown}" in text or f"\n{shown}" in text, key
    for preset in group_options(f"preset/{command}"):
        assert preset in text
    assert "data, data.*" in text


@pytest.mark.parametrize("command", SETTINGS)
def test_examples_of_the_help_are_understood(command, capsys):
    main([command, "--help"])
    lines = capsys.readouterr().out.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) > 1
    for line in lines:
        overrides = line.partition("   the same")[0].split()
        assert overrides[:2] == ["erssl", command]
        read_protocol(command, SETTINGS[command], overrides[2:])


@pytest.mark.parametrize(
    ("command", "override", "sentence"),
    [
        ("knn", "preset=dyno", r"preset=dyno is unknown; did you mean dino\?"),
        ("linear", "preset=mvebb", r"did you mean mveb\? Choose from: auto, barlowtwins, lightly"),
        ("linear", "epoch=3", r"The key epoch is unknown; did you mean epochs\?"),
        ("linear", "backbone_lr=0.1", "key backbone_lr is unknown"),  # frozen
        ("linear", "mode=cached_", "it must be augmented or cached"),
        ("linear", "trainer.max_epochs=3", "key trainer.max_epochs is unknown"),
        ("linear", "trainer.limit_val_batches=3", "key trainer.limit_val_batches is unknown"),
        ("linear", "trainer.fast_dev_run=true", "key trainer.fast_dev_run is unknown"),
        ("linear", "trainer.acelerator=cpu", r"did you mean trainer.accelerator\?"),
        ("linear", "optimizer=adam", "it must be sgd or lars"),
        ("linear", "schedule=daily", "it must be epoch or step"),
        ("linear", "head_lr=null", "head_lr=null does not fit; it must be a number"),
        ("linear", "crop_scale=0.5", "crop_scale=0.5 does not fit; it must be a list like"),
        ("linear", "crop_scale=[0.5,2]", "0 < low <= high <= 1"),
        ("linear", "epochs=0", "epochs must be at least 1 but is 0"),
        ("linear", "seeds=0", "seeds must be at least 1"),
        ("linear", "resume=true", "resume=true needs run_dir"),
        ("linear", "features_dtype=int8", "it must be float32 or float16 or auto"),
        ("knn", "epochs=3", "key epochs is unknown"),
        ("knn", "k=0", "k of at least 1"),
        ("knn", "temperature=0", "temperature above 0"),
        ("knn", "temperature=.inf", "temperature=.inf does not fit; it must be a number"),
        ("knn", "resume=true", "key resume is unknown"),
        ("knn", "seed=-1", r"seed must lie in \[0, 2\*\*32\)"),
        ("semi", "fractions=0.1", r"did you mean fraction\?"),
        ("semi", "mode=cached", "key mode is unknown"),
        ("semi", "one_percent=[0.1]", "one_percent"),
        ("finetune", "backbone_lr=null", "backbone_lr=null does not fit; it must be a number"),
        ("finetune", "fraction=0.1", "key fraction is unknown"),
    ],
)
def test_wrong_overrides_are_one_sentence(command, override, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        read(command, override)
    assert "\n" not in str(caught.value)


def test_an_evaluation_needs_a_checkpoint():
    with pytest.raises(ConfigError, match="needs checkpoint="):
        read_protocol("knn", KnnSettings, [])


def test_seeds_end_below_torchs_largest():
    read("linear", f"seed={2**32 - 2}", "seeds=2")
    with pytest.raises(ConfigError, match="seed \\+ seeds"):
        read("linear", f"seed={2**32 - 2}", "seeds=3")
