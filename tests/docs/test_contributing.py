"""The examples of CONTRIBUTING.md do what it says of them."""

import importlib
import re
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from erssl.data import DATASETS, available_datasets
from erssl.errors import ConfigError
from erssl.layers import forget_config_file
from erssl.methods.optimizer import OptimizerOptions
from erssl.models import BackboneOptions, build_backbone, save_backbone
from erssl.protocols import knn, linear

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUIET = Console(quiet=True)


@pytest.fixture
def tiles(tmp_path, monkeypatch):
    """The data set of the page, its images, and weights to evaluate on them."""
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "Tiles" in c)
    (tmp_path / "tiles_of_the_page.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names = vars(importlib.import_module("tiles_of_the_page"))
    labels = np.arange(20) % 2
    pixels = np.random.default_rng(0).integers(0, 128, (20, 16, 16, 3))
    pixels[1::2] += 120
    np.savez(tmp_path / "tiles.npz", x=pixels.astype(np.uint8), y=labels)
    options = BackboneOptions("resnet10t", "timm", options={"channels": [32, 32, 32, 64]})
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
    assert results[0].metrics == results[1].metrics and results[0].metrics["top1"] >= 0.5
    assert len(list((tmp_path / "home" / "features").iterdir())) >= 1
    words = [*overrides, "mode=cached", "epochs=1", f"run_dir={tmp_path / 'linear'}"]
    assert "top1" in linear.run(words, QUIET).metrics


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
        row = next(
            line for line in keys.splitlines() if line.startswith("|") and f"`{name}`" in line
        )
        assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == set(DATASETS[name].own_options())
    for option in fields(OptimizerOptions):
        assert re.search(rf"`(optimizer\.)?{option.name}`", keys), option.name
