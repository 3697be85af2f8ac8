"""Data sets and view recipes of other packages, and what earlier builds wrote of ours."""

import dataclasses
import importlib.metadata
import sys

import numpy as np
import pytest
import torch
import yaml

from erssl.data import (
    DATASETS,
    RECIPES,
    DataOptions,
    SSLDataModule,
    ViewOptions,
    available_datasets,
    build_views,
    default_options,
    register_dataset,
    register_views,
)
from erssl.data.views import available_views
from erssl.errors import ConfigError
from erssl.layers import forget_config_file
from erssl.settings.compose import group_options
from erssl.settings.evaluation_resume import check_same_settings
from erssl.settings.pretrain import read_settings, run_settings

from .data_images import noise

TILES = """
import numpy as np
from erssl.data import Datasets, DataOptions, register_dataset
from erssl.data.datasets import ImagesInMemory

@register_dataset("tiles")
class Tiles(DataOptions):
    user_sized = True
    needs_val = "give data.val=true"

    image_size: int = 16
    file: str | None = None
    val: bool = False

    def load(self):
        pixels = np.load(self.file)
        images = ImagesInMemory(pixels, np.arange(len(pixels)) % 2)
        return Datasets(images, images if self.val else None, 2, ("a", "b"))
"""
CONFIG = """# @package _global_
data:
  name: tiles
  views:
    recipe: spots
epochs: 3
"""
SPOTS = """
from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
from erssl.data import register_views

@register_views("spots", n_global=3)
def spots(crops):
    return [T.Compose([T.RandomCrop(crops.image_size), T.ToTensor()])] * 3
"""


@pytest.fixture
def other_package(tmp_path, monkeypatch):
    """A package that announces a data set and a recipe of views."""
    package = tmp_path / "their_images"
    package.mkdir()
    for name, content in (
        ("__init__.py", ""),
        ("sources.py", TILES),
        ("tiles.yaml", CONFIG),
        ("recipes.py", SPOTS),
    ):
        (package / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    announced = {
        "erssl.datasets": "their_images.sources",
        "erssl.views": "their_images.recipes",
    }

    def entries(group):
        module = announced.get(group)
        return [importlib.metadata.EntryPoint("any", module, group)] if module else []

    monkeypatch.setattr("erssl.announced.entry_points", entries)
    yield package
    DATASETS.pop("tiles", None)
    RECIPES.pop("spots", None)
    for module in [name for name in sys.modules if name.startswith("their_images")]:
        del sys.modules[module]


def test_another_package_adds_a_data_set_and_a_recipe_of_views(other_package, tmp_path):
    np.save(tmp_path / "tiles.npy", np.zeros((8, 20, 20, 3), np.uint8))
    assert "tiles" in available_datasets() and "tiles" in group_options("data")
    assert "spots" in available_views()
    settings, config = read_settings(["data=tiles", f"data.file={tmp_path / 'tiles.npy'}"])
    assert settings.epochs == 3  # of the file beside the module
    assert settings.data.views == ViewOptions("spots")
    data = SSLDataModule(settings.data, batch_size=4, seed=0)
    views, targets = next(iter(data.train_dataloader()))
    assert [tuple(view.shape) for view in views] == [(4, 3, 16, 16)] * 3
    assert targets.shape == (4,)
    with pytest.raises(ConfigError, match=r"data\.fiel is unknown; did you mean data\.file"):
        read_settings(["data=tiles", "data.fiel=x"])
    with pytest.raises(ConfigError, match=r"data\.root=x is not read by data\.name=tiles"):
        default_options("tiles", root="x")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(config)))
    again = run_settings(tmp_path, ["data.val=true"]).data
    assert (again.file, again.val) == (str(tmp_path / "tiles.npy"), True)


def test_a_class_registered_in_a_program_needs_no_file():
    config = {"batch_size": 6, "data": {"views": {"recipe": "cifar"}}}

    @register_dataset("mine", config)
    class Mine(DataOptions):
        count: int = 3

    try:
        settings, _ = read_settings(["data=mine", "data.count=5"])
        assert (settings.data, settings.batch_size) == (
            Mine(count=5, views=ViewOptions("cifar"), pipeline="lightly"),
            6,
        )
        with pytest.raises(ConfigError, match=r"'mine' is taken by .*Mine; register .*Other"):

            @register_dataset("mine")
            class Other(DataOptions):
                pass

        with pytest.raises(ConfigError, match="is not the data set mine"):
            Mine(name="digits")
    finally:
        del DATASETS["mine"]
        forget_config_file("data", "mine")


def test_a_recipe_of_views_says_what_it_can():
    @register_views("half", global_scale=(0.2, 0.5), any_scale=True)
    def half(crops):
        assert crops.global_scale == (0.2, 0.4)
        return [lambda image: torch.zeros(3, crops.image_size, crops.image_size)] * 2

    try:
        options = ViewOptions("half", global_scale=(0.2, 0.4))
        assert len(build_views(options, 8, (0.5,) * 3, (0.5,) * 3)(noise((9, 9)))) == 2
        with pytest.raises(ConfigError, match=r"choose one of cifar, .*, digits, dino, swav"):
            ViewOptions("half", n_local_views=1)
        with pytest.raises(ConfigError, match="'half' is taken by"):
            register_views("half")(lambda crops: [])
    finally:
        del RECIPES["half"]


EARLIER = {  # what every run wrote of its data before a data set had options of its own
    "root": None,
    "train_dir": None,
    "val_dir": None,
    "val_fraction": None,
    "download": False,
    "on_error": "raise",
    "verify": True,
    "exif": False,
}


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("digits", {}),
        ("cifar10", {"root": "data", "download": False}),
        ("imagefolder", {"train_dir": "photos", "on_error": "skip", "exif": False}),
        ("imagenet", {"root": "/imagenet", "verify": True, "val_dir": None}),
    ],
)
def test_runs_and_evaluations_of_earlier_builds_go_on(tmp_path, name, read):
    _, config = read_settings([f"data={name}"])
    stored = {**config, "data": {**config["data"], **EARLIER, **read}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(plain(stored)))
    data = run_settings(tmp_path, []).data
    assert {key: getattr(data, key) for key in read} == read
    again, _ = read_settings(["resume=true", f"run_dir={tmp_path}"])
    assert again.data == data
    # an evaluation keeps its data under the same keys, beside seeds and the like
    evaluation = {"checkpoint": "run", "seeds": 1, "data": stored["data"]}
    file.write_text(yaml.safe_dump(plain(evaluation)))
    now = plain(dataclasses.asdict(data))
    check_same_settings(file, {"checkpoint": "run", "seeds": 1, "data": now})
    with pytest.raises(ConfigError, match=r"data\.image_size=8 differs"):
        changed = {**now, "image_size": 8}
        check_same_settings(file, {"checkpoint": "run", "seeds": 1, "data": changed})


def plain(node):
    """Lists for tuples, as YAML has them."""
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(value) for value in node] if isinstance(node, list | tuple) else node
