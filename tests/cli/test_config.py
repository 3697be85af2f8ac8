"""What may stand on the command line, and what every shipped YAML file holds."""

import re
from importlib.resources import files

import pytest

from erssl.errors import ConfigError
from erssl.methods import get_method
from erssl.settings.compose import group_options
from erssl.settings.pretrain import read_settings

EXPERIMENTS = [
    "entrec_imagenet",
    "mveb_batchsize_ablation",
    "mveb_imagenet_2view",
    "mveb_imagenet_multicrop",
]


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


def test_a_data_set_brings_backbone_and_optimiser_and_words_win():
    settings, _ = read_settings(["data=imagenet", "data.root=/x"])
    assert (settings.backbone.name, settings.optimizer.name) == ("resnet50", "lars")
    settings, _ = read_settings(["data=imagenet", "data.root=/x", "backbone=resnet34"])
    assert (settings.backbone.name, settings.optimizer.name) == ("resnet34", "lars")


def test_two_view_recipe_is_the_papers():
    # MVEB, section 6.1, typed in here from the paper's text.
    settings, _ = read_settings(["experiment=mveb_imagenet_2view", "data.root=/x"])
    method, optimizer = settings.method, settings.optimizer
    assert (settings.epochs, settings.batch_size, settings.backbone.name) == (800, 4096, "resnet50")
    assert (method["beta"], method["eta"], method["geometry"]) == (0.01, 0.01, "euclidean")
    assert (method["projection_hidden_dim"], method["projection_dim"]) == (2048, 2048)
    assert (method["target"], method["momentum_start"], method["momentum_end"]) == (
        "momentum",
        0.996,
        1.0,
    )
    assert (optimizer.name, optimizer.base_lr, optimizer.weight_decay) == ("lars", 0.4, 1e-6)
    assert (optimizer.momentum, optimizer.trust_coefficient) == (0.9, 0.001)
    assert (optimizer.warmup_epochs, optimizer.final_lr_ratio) == (10, 1e-3)


def test_multi_crop_recipe_adds_the_crops_and_nothing_else():
    two, _ = read_settings(["experiment=mveb_imagenet_2view", "data.root=/x"])
    many, _ = read_settings(["experiment=mveb_imagenet_multicrop", "data.root=/x"])
    assert (many.method, many.optimizer, many.epochs) == (two.method, two.optimizer, two.epochs)
    views = many.data.views
    assert (views.n_local_views, views.local_image_size) == (6, 96)
    assert (views.global_scale, views.local_scale) == ((0.4, 1.0), (0.05, 0.4))


def test_ablation_and_entrec_recipes():
    settings, _ = read_settings(["experiment=mveb_batchsize_ablation", "data.root=/x"])
    assert (settings.epochs, settings.method["target"]) == (100, "shared")
    assert settings.method["projection_dim"] == settings.method["projection_hidden_dim"] == 8192
    assert (settings.optimizer.name, settings.optimizer.base_lr) == ("sgd", 0.05)
    assert settings.optimizer.weight_decay == 1e-4
    settings, _ = read_settings(["experiment=entrec_imagenet", "data.root=/x"])
    assert (settings.epochs, settings.batch_size) == (400, 4096)
    assert settings.method["leave_one_out"] is False


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_recipe_trains_its_method_on_views_that_it_takes(name):
    settings, _ = read_settings([f"experiment={name}", "data.root=/x"])
    info, views = get_method(settings.method["name"]).info, settings.data.views
    assert name.startswith(settings.method["name"])
    assert views.n_local_views == 0 or info.multi_crop
    assert views.n_views >= info.min_views
    assert (settings.data.name, settings.data.image_size) == ("imagenet", 224)


def test_recipes_of_masked_methods_bring_a_vision_transformer():
    for name, beta2 in (("mae", 0.95), ("simmim", 0.999)):
        settings, _ = read_settings([f"experiment={name}_imagenet", "data.root=/x"])
        assert (settings.backbone.library, settings.backbone.name) == (
            "timm",
            "vit_base_patch16_224",
        )
        assert (settings.optimizer.name, settings.optimizer.beta2) == ("adamw", beta2)
    assert settings.backbone.options == {"init_values": 0.1, "drop_path_rate": 0.1}
    assert settings.trainer["gradient_clip_val"] == 5.0


def test_er_recipes_are_the_papers():
    # ER paper: 400 epochs, batch 4096, LARS, κ = 10, each device its own entropy, self term kept.
    for name in ("simclr_er", "byol_er", "dino_er"):
        settings, _ = read_settings([f"experiment={name}_imagenet", "data.root=/x"])
        assert (settings.epochs, settings.batch_size) == (400, 4096)
        assert settings.optimizer.name == "lars"
        assert settings.method["gather_distributed"] is False
        if name == "dino_er":
            assert settings.method["num_prototypes"] == 60000
        else:
            assert (settings.method["kappa"], settings.method["leave_one_out"]) == (10.0, False)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_of_a_recipe_has_its_source(name):
    text = (files("erssl.configs") / "experiment" / f"{name}.yaml").read_text()
    body = text.partition("defaults:")[2].partition("\n\n")[2]
    values = [line for line in body.splitlines() if re.match(r"\s*\w+: \S", line)]
    assert len(values) > 3
    bare = [v for v in values if "#" not in v and "n_local_views: 0" not in v]
    assert bare == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["method=mvebb"],
            r"method=mvebb is unknown; did you mean mveb\? Choose from: barlowtwins, byol",
        ),
        (["data=digit"], r"did you mean digits\?"),
        (["backbone=resnet51"], r"did you mean resnet50\?"),
        (["optimizer=lamb"], "Choose from: adamw, lars, sgd"),
        (["experiment=mveb"], "Choose from: barlowtwins_imagenet"),
        (["method.bta=1"], r"key method.bta is unknown; did you mean method.beta\?"),
        (["epoch=3"], r"key epoch is unknown; did you mean epochs\?"),
        (["method=simclr", "method.beta=1"], "key method.beta is unknown"),
        (["data.views.recipy=cifar"], r"did you mean data.views.recipe\?"),
        (["trainer.acelerator=cpu"], r"did you mean trainer.accelerator\?"),
        (["trainer.max_epochs=3"], "key trainer.max_epochs is unknown"),
        (["method.beta=much"], "method.beta=much does not fit; it must be a number"),
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
def test_wrong_words_are_one_sentence(words, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_settings(words)
    assert "\n" not in str(caught.value)


def test_keys_without_a_line_in_the_yaml_are_settable():
    settings, _ = read_settings(
        [
            "data.views.n_local_views=2",
            "data.views.local_image_size=16",
            "trainer.max_time=00:00:01:00",
        ]
    )
    assert settings.data.views.recipe == "digits"  # the data set's own, kept
    assert settings.data.views.n_local_views == 2
    assert settings.trainer["max_time"] == "00:00:01:00"


@pytest.mark.parametrize("folder", ["a=b", "läufe/x", "it's", "a,b", "photos(1)", "~/x", "2024"])
def test_folder_names_are_taken_as_they_are(folder):
    settings, config = read_settings([f"run_dir={folder}"])
    assert settings.run_dir == config["run_dir"] == folder
