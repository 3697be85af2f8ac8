"""``erssl zoo``: the list, a checkpoint's page, fetching, and adding a run of one's own."""

import json
import re
import subprocess
import sys

import pytest
import torch
import yaml

from erssl import load_backbone
from erssl.cli.main import main
from erssl.errors import ConfigError, DataError, RunError
from erssl.models import BackboneOptions, build_backbone, save_backbone
from erssl.models.zoo import own_zoo, zoo_rows
from erssl.models.zoo.downloads import file_digest
from erssl.protocols.model_card import add_to_zoo

PREPROCESSING = {
    "image_size": 32,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "interpolation": "bilinear",
}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))


@pytest.fixture
def run_dir(tmp_path):
    """What a finished run leaves behind, in small."""
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    options = BackboneOptions("resnet18", cifar_stem=True)
    save_backbone(build_backbone(options), folder / "backbone.safetensors", options, PREPROCESSING)
    config = {"epochs": 3, "method": {"name": "mveb", "beta": 0.01}, "seed": 7}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    results = {
        "protocol": "pretrain",
        "dataset": "digits",
        "method": "mveb",
        "metrics": {"knn_top1": 0.9125, "linear_top1": 0.95},
        "seed": 7,
        "config": config,
        "environment": {
            "python": "3.11",
            "device": "a processor",
            "packages": {"torch": "2.15"},
            "command": "erssl pretrain",
        },
        "wall_seconds": 1.0,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_the_list_fits_a_terminal_and_names_what_its_numbers_are(capsys):
    assert main(["zoo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    (mocov2,) = [line.split() for line in lines if line.startswith("mocov2_800ep")]
    assert mocov2 == ["mocov2_800ep", "resnet50", "800", "71.1", "-", "72.3", "39.8", "no"]
    (vit,) = [line.split() for line in lines if line.startswith("dino_vits16")]
    assert vit[3:] == ["77.0", "74.5", "-", "-", "no"]  # the tables are of ResNet-50
    text = " ".join(lines)
    assert "Published, per cent, not measured here" in text and "of the method" in text
    assert all(f"{name} " in text for name in zoo_rows())


def test_a_pages_numbers_are_published_and_have_their_source(capsys):
    assert main(["zoo", "barlowtwins", "resnet-18/simclr/d16/w1.0", "vissl_simclr_100ep"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100 or "https://" in text
    assert re.search(
        r"Published for this file, per cent:\n +linear_top1 +73.5\n +linear_top5", text
    )
    assert "Source: README of facebookresearch/barlowtwins" in text
    assert "image_size 64" in text
    assert "Published of the method SimCLR, not of this file: COCO" in text


def test_help_and_wrong_arguments(capsys):
    assert main(["zoo", "--help"]) == 0
    assert "Examples:" in capsys.readouterr().out
    for overrides, sentence in (
        (["nothing"], "no 'nothing' in the zoo"),
        (["name=x"], "takes names of checkpoints"),
        (["get"], "needs the name"),
        (["get", "mocov2"], "the nearest are mocov2_"),
        (["add"], "one finished run directory"),
        (["add", "a", "b"], "one finished run directory"),
        (["add", "a", "nam=x"], "did you mean name"),
        (["add", "a", "overwrite=yes"], "give true or false"),
    ):
        assert main(["zoo", *overrides]) == 2
        assert sentence in capsys.readouterr().err


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m erssl.cli.main zoo {'mocov2_800ep ' * 40} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "mocov2_800ep"
    assert done.stderr == ""


def test_a_run_is_added_and_loaded_by_name(run_dir, capsys):
    assert main(["zoo", "add", str(run_dir)]) == 0
    assert 'load_backbone("zoo:mine")' in capsys.readouterr().out
    backbone = load_backbone("zoo:mine")
    assert backbone.architecture == BackboneOptions("resnet18", cifar_stem=True)
    assert backbone.preprocessing == PREPROCESSING
    row = zoo_rows()["mine"]
    assert (row.method, row.data, row.epochs, row.seed) == ("mveb", "digits", 3, 7)
    assert row.measured == {"knn_top1": 0.9125, "linear_top1": 0.95} and row.published == {}
    assert main(["zoo", "get", "mine"]) == 0
    assert capsys.readouterr().out.strip() == str(run_dir / "backbone.safetensors")
    assert main(["zoo"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^mine +resnet18_cifar +3 +digits +95.0 +91.2 +yes", text, re.MULTILINE)
    assert main(["zoo", "mine"]) == 0
    text = capsys.readouterr().out
    assert "Measured here (pretrain, on digits):" in text and "Published" not in text


def test_the_model_card_says_how_to_use_the_weights(run_dir):
    row, card = add_to_zoo(run_dir, "renamed", url="https://example.org/backbone.safetensors")
    text = card.read_text()
    assert card == run_dir / "model_card.md" and text.startswith("# renamed\n")
    digest = file_digest(run_dir / "backbone.safetensors")
    assert row.sha256 == digest and digest in text
    for part in ("resnet18_cifar", "image_size 32", "mveb", "digits", "knn_top1 | 0.9125", "torch"):
        assert part in text
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert yaml.safe_load(config)["method"] == {"name": "mveb", "beta": 0.01}
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = code.replace("backbone.safetensors", str(run_dir / "backbone.safetensors"))
    namespace = {}
    exec(code, namespace)
    assert namespace["backbone"](torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    assert "features (N, 512)" in text


def test_a_name_is_replaced_only_when_asked(run_dir):
    add_to_zoo(run_dir)
    with pytest.raises(ConfigError, match=r"already in .*overwrite=true"):
        add_to_zoo(run_dir)
    add_to_zoo(run_dir, overwrite=True)
    for name in ("../mine", "a/b"):
        with pytest.raises(ConfigError, match="cannot be used"):
            add_to_zoo(run_dir, name)
    with pytest.raises(DataError, match="must begin with https"):
        add_to_zoo(run_dir, "other", url="ssh://example.org/file")
    assert list(yaml.safe_load(own_zoo().read_text())["rows"]) == ["mine"]


def test_weights_that_moved_or_changed_are_named(run_dir):
    add_to_zoo(run_dir)
    file = run_dir / "backbone.safetensors"
    file.write_bytes(file.read_bytes() + b"0")
    with pytest.raises(DataError, match="was changed since it was added to the zoo as mine"):
        load_backbone("zoo:mine")
    file.unlink()
    with pytest.raises(DataError, match=f"no longer at {re.escape(str(file))}; .*overwrite=true"):
        load_backbone("zoo:mine")


def test_weights_that_moved_come_from_the_address(run_dir, tmp_path):
    elsewhere = tmp_path / "published.safetensors"
    elsewhere.write_bytes((run_dir / "backbone.safetensors").read_bytes())
    add_to_zoo(run_dir, url=elsewhere.as_uri())
    (run_dir / "backbone.safetensors").unlink()
    assert load_backbone("zoo:mine").feature_dim == 512
    assert zoo_rows()["mine"].path.name == "mine-published.safetensors"


def test_what_is_no_finished_run_is_refused(run_dir, tmp_path):
    with pytest.raises(RunError, match="holds no finished run"):
        add_to_zoo(tmp_path, "other")
    (run_dir / "results.json").write_text("{}")
    with pytest.raises(RunError, match="as a run writes them"):
        add_to_zoo(run_dir)
    assert not own_zoo().exists()


def test_a_run_without_weights_is_refused(run_dir):
    (run_dir / "backbone.safetensors").unlink()
    with pytest.raises(DataError, match="cannot be added to the zoo"):
        add_to_zoo(run_dir)
    assert not own_zoo().exists() and not (run_dir / "model_card.md").exists()
