"""The examples of CONTRIBUTING.md do what it says of them."""

import importlib
import inspect
import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import erssl
import erssl.protocols
from erssl.data import DATASETS, RECIPES, ViewOptions, available_datasets, build_views
from erssl.data.views import recipes
from erssl.errors import ConfigError
from erssl.layers import forget_config_file, read_config_file
from erssl.methods import METHODS
from erssl.methods.optimizer import OptimizerOptions
from erssl.models import BackboneOptions, build_backbone, layouts, save_backbone
from erssl.models.export import export_backbone, formats
from erssl.protocols import knn, linear
from erssl.protocols.evaluation import Evaluated
from erssl.recipes import REGISTERED, read_recipe
from erssl.settings.names import check_names

from ..models.export_sources import saved_backbone
from .pages import block
from .test_typed_commands import examples, typed

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUIET = Console(quiet=True)


@pytest.fixture
def tiles(tmp_path, monkeypatch):
    """The data set of the page, its images, and weights to evaluate on them."""
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    code = block("CONTRIBUTING.md", "Tiles")
    (tmp_path / "tiles_of_the_page.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names = vars(importlib.import_module("tiles_of_the_page"))
    labels = np.arange(20) % 2
    pixels = np.random.default_rng(0).integers(0, 128, (20, 16, 16, 3))
    pixels[1::2] += 120
    np.savez(tmp_path / "tiles.npz", x=pixels.astype(np.uint8), y=labels)
    options = BackboneOptions("resnet10t", "timm", options={"channels": [32, 32, 32, 64]})
    torch.manual_seed(0)
    save_backbone(build_backbone(options).eval(), tmp_path / "w.safetensors", options, {})
    overrides = [f"data.{key}={tmp_path / 'tiles.npz'}" for key in ("file", "val_file")]
    overrides += ["data=tiles", "data.image_size=16", "data.num_workers=0", "plots=false"]
    yield names, [f"checkpoint={tmp_path / 'w.safetensors'}", *overrides]
    DATASETS.pop("tiles")
    forget_config_file("data", "tiles")
    del sys.modules["tiles_of_the_page"]


@pytest.mark.parametrize("told", [True, False])
def test_the_data_set_of_the_page_is_evaluated(tiles, tmp_path, told, monkeypatch):
    names, overrides = tiles
    if not told:  # every image tells then
        untold = property(lambda rows: None, lambda rows, value: None)
        monkeypatch.setattr(names["Rows"], "fingerprint", untold, raising=False)
    results = [knn.run([*overrides, f"run_dir={tmp_path / str(i)}"], QUIET) for i in range(2)]
    assert results[0].metrics == results[1].metrics and results[0].metrics["top1"] >= 0.9
    assert len(list((tmp_path / "home" / "features").iterdir())) >= 1
    trained = [*overrides, "mode=cached", "epochs=1", f"run_dir={tmp_path / 'linear'}"]
    assert "top1" in linear.run(trained, QUIET).metrics


@pytest.mark.parametrize(
    ("file", "sentence"), [(None, "has no data.file"), ("x", "cannot be read")]
)
def test_the_data_set_of_the_page_refuses_missing_files(tiles, file, sentence):
    with pytest.raises(ConfigError, match=sentence):
        tiles[0]["Tiles"](file=file).load()


def test_the_table_of_keys_has_those_of_every_data_set_and_of_the_optimiser():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    keys = text.split("\n## Keys\n")[1].split("\n## ")[0]
    for name in set(available_datasets()) - {"object", "digits"}:
        rows = [line for line in keys.splitlines() if line.startswith("|") and f"`{name}`" in line]
        assert len(rows) == 1, f"docs/data.md#keys needs a row of the keys of data={name}"
        shown = set(re.findall(r"`(\w+)`", rows[0].split("|")[2]))
        assert shown == set(DATASETS[name].own_options()), name
    for option in fields(OptimizerOptions):
        assert re.search(rf"`(optimizer\.)?{option.name}`", keys), option.name


@pytest.fixture
def with_config(tmp_path, monkeypatch):
    """Lets a file of the page be one of ours."""
    folder = tmp_path / "configs"
    shutil.copytree(Path(__file__).parents[2] / "configs", folder)
    for module in ("layers", "recipes", "settings.commands", "settings.keys"):
        monkeypatch.setattr(f"erssl.{module}.files", lambda _: folder)

    def write(name, text):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")

    return write


def test_the_method_of_the_page_computes_its_loss_and_has_its_recipe(with_config):
    with_config("method/wang_isola", block("CONTRIBUTING.md", "name: wang_isola", "yaml"))
    page = {"__name__": "page"}
    try:
        exec(block("CONTRIBUTING.md", "class WangIsola"), page)
        recipe = read_recipe("wang_isola")
        method = page["WangIsola"](4, 2, backbone=_Pixels(), **recipe.small_options)
    finally:
        METHODS.pop("wang_isola", None)
        REGISTERED.pop("wang_isola", None)
    assert method.default_optimizer.base_lr == 0.12
    views = list(torch.rand(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    step = method.eval().multi_view_step(views)
    z = [method.embed(view).detach().double().numpy() for view in views]
    z = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in z]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    spread = [np.mean([np.exp(-2 * ((a[i] - a[j]) ** 2).sum()) for i, j in pairs]) for a in z]
    expected = ((z[0] - z[1]) ** 2).sum(axis=1).mean() + np.log(spread).mean()
    assert step.loss.item() == pytest.approx(expected, abs=1e-6)


class _Pixels(torch.nn.Flatten):
    feature_dim = 12


def test_commands_of_the_page_are_found_by_their_files(with_config, tmp_path, monkeypatch, tiles):
    """One that takes ``data=`` and one that does not, the second from Python."""
    folder = tmp_path / "protocols"
    folder.mkdir()
    monkeypatch.setattr(erssl.protocols, "__path__", [*erssl.protocols.__path__, str(folder)])
    for name in ("means", "spectrum"):
        (folder / f"{name}.py").write_text(block("CONTRIBUTING.md", f'read_protocol("{name}"'))
        with_config(name, block("CONTRIBUTING.md", f"# erssl {name}:", "yaml"))
        shown = list(typed(examples(tmp_path / "configs" / f"{name}.yaml")))
        assert shown and all(command == name for command, *_ in shown)
        for command, *overrides in shown:
            check_names(command, overrides)
    assert {"means", "spectrum"} <= set(dir(erssl))
    assert list(inspect.signature(erssl.means).parameters)[:2] == ["checkpoint", "data"]
    assert list(inspect.signature(erssl.spectrum).parameters)[:2] == ["checkpoint", "backbone"]
    checkpoint = tiles[1][0].partition("=")[2]
    means = importlib.import_module("erssl.protocols.means")
    result = means.run([*tiles[1], f"run_dir={tmp_path / 'means'}"], QUIET)
    assert result.metrics["top1"] >= 0.9 and (result.path / "report.md").is_file()
    monkeypatch.setattr(means, "Evaluated", lambda metrics, _: Evaluated(metrics))
    plotted = [override.replace("plots=false", "plots=true") for override in tiles[1]]
    bare = means.run([*plotted, f"run_dir={tmp_path / 'bare'}"], QUIET)  # without predictions
    assert bare.metrics == result.metrics and not list(bare.path.glob("confusion*"))
    result = erssl.spectrum(checkpoint, run_dir=tmp_path / "spectrum", quiet=True)
    assert 0 < result.metrics["rank_share"] <= 1 and (result.path / "report.md").is_file()
    with pytest.raises(ConfigError, match="The key data is unknown; choose from"):
        erssl.spectrum(checkpoint, data="digits", quiet=True)


def test_a_file_with_keys_of_a_whole_config_has_to_say_so(with_config):
    text = block("CONTRIBUTING.md", "name: tiles", "yaml")
    with_config("data/tiles", text.partition("\n")[2])
    with pytest.raises(ConfigError, match=r"tiles\.yaml is no file of data: .* '# @package _gl"):
        read_config_file("data/tiles")


def test_the_recipe_of_views_of_the_page_makes_views():
    try:
        exec(block("CONTRIBUTING.md", '@register_views("turned"'), dict(vars(recipes)))
        options = ViewOptions("turned")
        ramp = np.linspace(20, 120, 30).astype(np.uint8)  # from left to right
        image = Image.fromarray(np.broadcast_to(ramp[None, :, None], (30, 30, 3)).copy())
        views = build_views(options, 8, (0.5,) * 3, (0.5,) * 3)(image)
        assert [tuple(view.shape) for view in views] == [(3, 8, 8)] * 2
        for view in views:  # turned by a quarter: from one end of the height to the other
            assert torch.equal(view, view[..., :1].expand_as(view))
            assert (view.amax(1) - view.amin(1)).max() > 0
        assert RECIPES["turned"].global_scale == (0.5, 1.0)
    finally:
        RECIPES.pop("turned", None)


def test_the_layout_of_the_page_is_read(tmp_path, monkeypatch):
    (row,) = eval(f"({block('CONTRIBUTING.md', 'Layout(')})", {"Layout": layouts.Layout})
    monkeypatch.setattr(layouts, "LAYOUTS", (row, *layouts.LAYOUTS))
    state = build_backbone(BackboneOptions("resnet18")).state_dict()
    theirs = {f"vision.{name}": tensor for name, tensor in state.items()}
    theirs["vision.proj.weight"] = torch.ones(4, 512)
    torch.save({"student": theirs}, tmp_path / "theirs.pth")
    backbone = erssl.load_backbone(tmp_path / "theirs.pth")
    assert "Two towers layout" in str(backbone.report)
    assert backbone.preprocessing["interpolation"] == "bicubic"
    torch.testing.assert_close(backbone.state_dict(), state, rtol=0, atol=0)


def test_the_export_format_of_the_page_is_written_and_read_back(tmp_path, monkeypatch):
    monkeypatch.setitem(formats.FORMATS, "numpy", None)  # so that it is not there afterwards
    exec(block("CONTRIBUTING.md", 'FORMATS["numpy"]'), dict(vars(formats)))
    backbone = saved_backbone(tmp_path, BackboneOptions("resnet18"))
    report = export_backbone(backbone, "numpy", tmp_path / "weights.npz")
    names: dict[str, Any] = {}
    exec(report.usage, names)
    for name, tensor in backbone.state_dict().items():
        assert np.array_equal(names["weights"][name], tensor.numpy()), name
