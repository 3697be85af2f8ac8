"""What may stand on the command line, and what every shipped YAML file holds."""

import pytest

from erssl.errors import ConfigError
from erssl.settings.compose import group_options
from erssl.settings.pretrain import read_settings


@pytest.mark.parametrize("group", ["method", "data", "backbone", "optimizer", "experiment"])
def test_every_key_of_every_shipped_config_is_read_by_something(group):
    for option in group_options(group):
        if (group, option) == ("data", "imagenet") or group == "experiment":
            read_settings([f"{group}={option}", "data.root=/imagenet"])
        else:
            read_settings([f"{group}={option}", "optimizer.warmup_epochs=0"])


def test_defaults_are_mveb_on_digits():
    settings, config = read_settings([])
    assert settings.method["name"] == "mveb"
    assert settings.data.name == "digits"
    assert config["method"]["beta"] == 0.01


def test_a_data_set_brings_a_backbone_and_overrides_win():
    settings, _ = read_settings(["data=imagenet", "data.root=/x"])
    assert (settings.backbone.name, settings.optimizer.name) == ("resnet50", "lars")
    settings, _ = read_settings(["data=imagenet", "data.root=/x", "backbone=resnet34"])
    assert (settings.backbone.name, settings.optimizer.name) == ("resnet34", "lars")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["method=mvebb"],
            r"method=mvebb is unknown; did you mean mveb\? Choose from: barlowtwins, byol",
        ),
        (["method=mvbe"], r"did you mean mveb\?"),
        (["data=digit"], r"did you mean digits\?"),
        (["backbone=resnet51"], r"did you mean resnet50\?"),
        (["optimizer=lamb"], "Choose from: adamw, lars, muon, sgd"),
        (["experiment=mveb"], "choose from: barlowtwins_imagenet"),
        (["method.bta=1"], r"key method.bta is unknown; did you mean method.beta\?"),
        (["epoch=3"], r"key epoch is unknown; did you mean epochs\?"),
        (["method=simclr", "method.beta=1"], "key method.beta is unknown"),
        (["data.views.recipy=cifar"], r"did you mean data.views.recipe\?"),
        (["trainer.acelerator=cpu"], r"did you mean trainer.accelerator\?"),
        (["trainer.max_epochs=3"], "key trainer.max_epochs is unknown"),
        (["method.beta=much"], "method.beta=much does not fit; it must be a number"),
        (["method.projection_dim=" + "9" * 300], "must be an integer of at most 64 bits"),
        (["data.std=[nan,1,1]"], r"a list like \[a number\], finite each"),
        (["method.geometry=flat"], "it must be euclidean or sphere"),
        (["method.eta=best"], "it must be a number or auto"),
        (["epochs=2.5"], "epochs=2.5 does not fit; it must be an integer"),
        (["epochs=0"], "epochs must be at least 1 but is 0"),
        (["batch_size=1"], "batch_size must be at least 2"),
        (["resume=1"], "it must be true or false"),
        (["resume=true"], "resume=true needs run_dir"),
        (["optimizer.warmup_epochs=10"], "does not fit into epochs=8"),
        (["optimizer.momentum=1.0"], r"must lie in \[0, 1\)"),
        (["evaluation.knn_k=0"], "evaluation needs knn_k of at least 1"),
        (["seed=4294967296"], "seed must be below"),
        (["method.name=simclr"], "write method=simclr"),
        (["backbone.name=resnet18"], "write backbone=timm backbone.name=resnet18"),
        (["optimizer=lars", "optimizer.weight_decay=0", "epochs=20"], "LARS adaptation off"),
        (["optimizer.base_lr=.inf"], "base_lr"),
        (["data.mean=1"], "data.mean=1 does not fit"),
        (["evaluation=null"], "evaluation"),
        (["trainer.sync_batchnorm=true"], "key trainer.sync_batchnorm is unknown"),
        (["method"], "'method' is not understood"),
        (["--resume"], "'--resume' is not understood"),
        (["epochs=["], "cannot be read"),
        (["method=[mveb,simclr]"], "is unknown"),
    ],
)
def test_wrong_overrides_are_one_sentence(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_settings(overrides)
    assert "\n" not in str(caught.value)


def test_keys_without_a_line_in_the_yaml_are_settable():
    settings, _ = read_settings(
        [
            "data.views.n_local_views=2",
            "data.views.local_image_size=16",
            "trainer.gradient_clip_algorithm=value",
        ]
    )
    assert settings.data.views.recipe == "digits"  # the data set's own, kept
    assert settings.data.views.n_local_views == 2
    assert settings.trainer["gradient_clip_algorithm"] == "value"


@pytest.mark.parametrize("folder", ["a=b", "läufe/x", "it's", "a,b", "photos(1)", "~/x", "2024"])
def test_folder_names_are_taken_as_they_are(folder):
    settings, config = read_settings([f"run_dir={folder}"])
    assert settings.run_dir == config["run_dir"] == folder
