"""Runs on grey images and on images of many channels: trained, read back, evaluated, exported."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from rich.console import Console
from timm.models import adapt_input_conv

import erssl
from erssl.data.bands import as_shown
from erssl.errors import ConfigError, DataError
from erssl.models import BackboneOptions, build_backbone, save_backbone, with_channels
from erssl.protocols import embed, export, knn, linear, predict, pretrain
from erssl.protocols.subject import require_rgb
from erssl.yaml_text import read_settings_file

TINY = BackboneOptions("resnet10t", "timm", options={"channels": [32, 32, 32, 64]})
QUIET = Console(quiet=True)
SMALL = ["epochs=1", "batch_size=8", "data.image_size=32", "data.views.recipe=cifar"]
SMALL += ["data.num_workers=0", "lens.probe_size=4", "trainer.accelerator=cpu", "seed=0"]
SMALL += ["optimizer.warmup_epochs=0"]


@pytest.fixture
def bands(tmp_path: Path) -> Path:
    """Twelve images of five channels in two classes."""
    draws = np.random.default_rng(0)
    for number in range(12):
        folder = tmp_path / "bands" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        values = draws.integers(0, 3000 * (1 + number % 2), (34, 36, 5))
        np.save(folder / f"{number}.npy", values.astype(np.uint16))
    return tmp_path / "bands"


def of(folder: Path, channels: int) -> list[str]:
    words = ["data=imagefolder", f"data.train_dir={folder}", f"data.val_dir={folder}"]
    return [*words, f"data.channels={channels}"]


def weights_of(file: Path, options: BackboneOptions, channels: int = 3) -> torch.nn.Module:
    torch.manual_seed(1)
    backbone = build_backbone(options).eval()
    said = {"image_size": 32, "mean": [0.5] * channels, "std": [0.2] * channels}
    said |= {"channels": channels} if channels != 3 else {}
    save_backbone(backbone, file, options, said)
    return backbone


def test_a_run_on_five_channels_is_read_back_evaluated_embedded_and_exported(tmp_path, bands):
    run = tmp_path / "run"
    words = ["method=mveb", "backbone=resnet10_small", *of(bands, 5), *SMALL, f"run_dir={run}"]
    pretrain.run(words, QUIET)
    config = read_settings_file(run / "config.yaml")
    assert len(config["data"]["mean"]) == 5 and config["backbone"]["in_channels"] == 5
    assert "# measured on at most 1,000 of the 12" in (run / "config.yaml").read_text()
    every = [np.load(file) / 65535 for file in sorted(bands.rglob("*.npy"))]
    pixels = np.concatenate([image.reshape(-1, 5) for image in every])
    assert config["data"]["mean"] == pytest.approx(pixels.mean(0).tolist(), rel=1e-3)
    assert config["data"]["std"] == pytest.approx(pixels.std(0).tolist(), rel=1e-3)
    backbone = erssl.load_backbone(run)
    images = torch.randn(2, 5, 32, 32)
    assert backbone.preprocessing["channels"] == 5
    assert backbone(images).shape == (2, backbone.feature_dim)
    ready = backbone.transform()(np.load(bands / "class0" / "0.npy"))
    assert ready.shape == (5, 32, 32) and backbone(ready[None]).isfinite().all()
    result = knn.run([f"checkpoint={run}", "plots=false", f"run_dir={tmp_path / 'knn'}"], QUIET)
    trained = json.loads((run / "results.json").read_text())["metrics"]["knn_top1"]
    assert result.metrics["top1"] == pytest.approx(trained)
    embed.run([f"checkpoint={run}", f"output={tmp_path / 'all.npy'}"], QUIET)
    assert np.load(tmp_path / "all.npy").shape == (24, backbone.feature_dim)
    for format, name in (
        ("timm", "b.pth"),
        ("huggingface", "folder"),
        ("safetensors", "b.safetensors"),
    ):
        path = tmp_path / name
        export.run([f"checkpoint={run}", f"format={format}", f"output={path}"], QUIET)
        if format == "huggingface":
            model = timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=0).eval()
            assert torch.allclose(model(images), backbone(images), atol=1e-5)
            assert model.pretrained_cfg["input_size"][0] == 5
        if format != "timm":
            again = erssl.load_backbone(path)
            assert torch.allclose(again(images), backbone(images), atol=1e-5)
            assert again.preprocessing["mean"] == pytest.approx(backbone.preprocessing["mean"])
    with pytest.raises(DataError, match="takes 5 channels"):
        require_rgb(backbone, "detect")
    with pytest.raises(ConfigError, match=r"takes images of 5; leave data\.channels out"):
        knn.run([f"checkpoint={run}", "data.channels=3"], QUIET)


@pytest.mark.parametrize("method", ["mae", "simclr"])
def test_a_grey_run_reconstructs_or_compares_one_channel(tmp_path, method):
    for number in range(8):
        levels = np.random.default_rng(number).integers(0, 255, (32, 32), dtype=np.uint8)
        (tmp_path / "grey").mkdir(exist_ok=True)
        Image.fromarray(levels).save(tmp_path / "grey" / f"{number}.png")
    words = [f"method={method}", "data=imagefolder", f"data.train_dir={tmp_path / 'grey'}"]
    words += ["data.channels=1", "data.pipeline=device", *SMALL, f"run_dir={tmp_path / 'run'}"]
    if method == "mae":
        words += ["backbone=timm", "backbone.name=vit_tiny_patch16_224", "data.views.recipe=mae"]
        words += ["backbone.options.img_size=32", "backbone.options.depth=1"]
        words += ["method.decoder_depth=1", "method.decoder_dim=32", "method.decoder_heads=2"]
    else:
        words += ["backbone=resnet10_small"]
    pretrain.run(words, QUIET)
    backbone = erssl.load_backbone(tmp_path / "run")
    assert backbone(torch.randn(1, 1, 32, 32)).shape == (1, backbone.feature_dim)


@pytest.mark.parametrize(
    "options",
    [
        BackboneOptions("resnet18", cifar_stem=True),
        BackboneOptions("mobilenet_v3_small"),
        BackboneOptions("vit_tiny_patch16_224", "timm", options={"img_size": 32, "depth": 1}),
        BackboneOptions("convnext_atto", "timm"),
    ],
    ids=lambda options: options.name + "_cifar" * options.cifar_stem,
)
@pytest.mark.parametrize("channels", [1, 4])
def test_rgb_weights_are_adapted_as_timm_adapts_them(tmp_path, options, channels):
    rgb = weights_of(tmp_path / "rgb.safetensors", options)
    adapted = with_channels(erssl.load_backbone(tmp_path / "rgb.safetensors"), channels)
    assert adapted.architecture.in_channels == channels
    assert adapted.preprocessing == {"image_size": 32, "channels": channels}
    assert f"adapted from 3 to {channels} channels" in str(adapted.report)
    changed = 0
    for name, weights in rgb.state_dict().items():
        expected, got = weights, adapted.state_dict()[name]
        if got.shape != weights.shape:
            expected, changed = adapt_input_conv(channels, weights), changed + 1
        assert torch.equal(got, expected), name
    assert changed == 1
    if channels == 1:  # a grey image is seen as its RGB one, whose channels are alike
        grey = torch.randn(2, 1, 32, 32)
        with torch.no_grad():
            assert torch.allclose(adapted(grey), rgb(grey.expand(-1, 3, -1, -1)), atol=1e-4)


def test_a_run_starts_from_rgb_weights_on_other_channels(tmp_path, bands):
    rgb = weights_of(tmp_path / "rgb.safetensors", TINY)
    run = tmp_path / "run"
    words = ["method=byol", f"checkpoint={tmp_path / 'rgb.safetensors'}", *of(bands, 5), *SMALL]
    words += [f"run_dir={run}", "optimizer.base_lr=1e-30", "optimizer=sgd"]
    pretrain.run(words, QUIET)
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    expected = adapt_input_conv(5, rgb.state_dict()["conv1.0.weight"])
    for branch in ("backbone", "target_backbone"):
        assert torch.allclose(state[f"{branch}.conv1.0.weight"], expected, atol=1e-7), branch
    assert len(read_settings_file(run / "config.yaml")["data"]["mean"]) == 5
    again = [*words[:-3], "resume=true", f"run_dir={run}"]
    pretrain.run(again, QUIET)  # finished, with the same settings


def test_weights_of_other_channels_bring_them_and_are_adapted_to_none(tmp_path, bands):
    options = dataclasses.replace(TINY, in_channels=5)
    weights_of(tmp_path / "five.safetensors", options, 5)
    start = [f"checkpoint={tmp_path / 'five.safetensors'}", *SMALL, f"run_dir={tmp_path / 'run'}"]
    pretrain.run(["method=simclr", *start, *of(bands, 5)[:-1]], QUIET)
    assert read_settings_file(tmp_path / "run/config.yaml")["data"]["mean"] == [0.5] * 5
    with pytest.raises(ConfigError, match=r"images of 5 channels and data\.channels is 4"):
        pretrain.run(["method=simclr", *start, *of(bands, 4)], QUIET)


def test_the_channels_of_foreign_weights_are_seen_by_their_shapes(tmp_path):
    network = torchvision.models.resnet18()
    network.conv1 = torch.nn.Conv2d(4, 64, 7, 2, 3, bias=False)
    torch.save(network.state_dict(), tmp_path / "four.pth")
    vit = timm.create_model("vit_tiny_patch16_224", in_chans=2, num_classes=0)
    torch.save(vit.state_dict(), tmp_path / "two.pth")
    for file, arch, channels in (("four", "resnet18", 4), ("two", "vit_tiny_patch16_224", 2)):
        for said in (None, arch):
            backbone = erssl.load_backbone(tmp_path / f"{file}.pth", arch=said)
            assert backbone.architecture.in_channels == channels
            assert backbone.preprocessing["channels"] == channels
            assert "mean" not in backbone.preprocessing


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.channels=0"], "data.channels=0 is not a number of channels"),
        (["data.channels=4"], "data.channels=4 cannot be had"),
        (["data.channels=1", "backbone.in_channels=3"], "leave it out, since it follows"),
        (
            ["backbone=timm", "backbone.name=resnet18", "backbone.options.in_chans=4"],
            "data.channels",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(tmp_path, words, said):
    run = tmp_path / "run"
    with pytest.raises((ConfigError, DataError), match=said):
        pretrain.run(["method=mveb", "data=digits", *words, f"run_dir={run}"], QUIET)
    assert not run.exists()


@pytest.mark.parametrize("channels", [1, 5])
def test_a_classifier_of_other_channels_predicts_and_shows(tmp_path, bands, channels):
    if channels == 1:
        for file in bands.rglob("*.npy"):
            level = (np.load(file)[..., 0] % 256).astype(np.uint8)
            Image.fromarray(level).save(file.with_suffix(".png"))
            file.unlink()
    weights = tmp_path / "weights.safetensors"
    weights_of(weights, dataclasses.replace(TINY, in_channels=channels), channels)
    trained, table = tmp_path / "linear", tmp_path / "predictions.csv"
    words = [
        f"checkpoint={weights}",
        *of(bands, channels),
        "mode=cached",
        "epochs=1",
        "plots=false",
    ]
    result = linear.run([*words, "data.num_workers=0", f"run_dir={trained}"], QUIET)
    predicted = predict.run([f"checkpoint={trained}", f"output={table}"], QUIET)
    assert predicted.metrics["top1"] == pytest.approx(result.metrics["top1"])
    assert Image.open(table.with_suffix(".png")).size[0] > 100
    words = [f"checkpoint={weights}", *of(bands, channels), "neighbors=2", "map=pca"]
    embed.run([*words, f"output={tmp_path / 'all.npy'}"], QUIET)
    assert "data:image/jpeg" in (tmp_path / "all.html").read_text()


def test_many_channels_are_shown_by_the_first_three_stretched():
    values = torch.stack([torch.tensor([[0.0, 2.0, 4.0]]) * 10**c - 7 for c in range(5)])
    assert np.asarray(as_shown(values)).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]
    assert np.asarray(as_shown(torch.ones(2, 1, 1))).tolist() == [[[0] * 3]]
