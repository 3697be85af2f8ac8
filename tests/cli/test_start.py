"""Runs that start from weights, runs whose backbone is frozen at first, and runs made longer."""

import json
import math
import shutil

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from erssl import load_backbone
from erssl.cli.main import main
from erssl.methods import OptimizerOptions, get_method
from erssl.methods.optimizer import build_optimizer
from erssl.models import BackboneOptions, build_backbone
from erssl.models.zoo import own_zoo
from erssl.protocols.build import build_method
from erssl.protocols.header import _method
from erssl.protocols.start import load_heads, method_of_start, start_of, told
from erssl.settings.pretrain import read_settings, read_sources

from .test_pretrain import TINY, UNMEASURED

START = [override for override in TINY if not override.startswith("backbone")]
QUICK = (*UNMEASURED, "trainer.limit_train_batches=2", "lens.probe_size=0")


def state_of(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_a_run_starts_from_a_run_backbone_heads_and_images(tiny_run, tmp_path, capsys):
    overrides = [*START, "method=simclr", f"checkpoint={tiny_run}", "data=digits"]
    settings, _ = read_settings([*overrides, "data.mean=[0.3,0.3,0.3]"])
    assert settings.backbone == BackboneOptions("test_resnet", "timm")
    assert (settings.data.image_size, settings.data.mean) == (28, (0.3, 0.3, 0.3))
    method = build_method(settings, 10, 8, start_of(settings, False))
    assert load_heads(method, settings) == ["projection_head"]
    trained = state_of(tiny_run)
    for name, tensor in method.state_dict().items():
        if name.startswith(("backbone.", "projection_head.")):
            torch.testing.assert_close(tensor, trained[name], rtol=0, atol=0)
    unchosen, _, sources = read_sources([*START, f"checkpoint={tiny_run}", "data=digits"])
    assert unchosen.method["name"] == "mveb" and sources["method.name"] == "default"
    assert method_of_start(unchosen) == "simclr"
    assert _method(unchosen, sources) == "Method: mveb (the default; the checkpoint is of simclr)"
    run_dir = tmp_path / "run"
    assert main(["pretrain", *overrides, *QUICK, "epochs=1", f"run_dir={run_dir}"]) == 0
    out = capsys.readouterr().out
    assert f"Starts from {tiny_run}: " in out and "projection_head too" in out
    for file in ("header.txt", "report.md"):
        assert "Starts from " in (run_dir / file).read_text()
    assert "Method: simclr\n" in out and "Trained at 28 x 28 pixels, mean 0.25" in out
    probe = sum(name.startswith("online_classifier.") for name in trained)
    assert probe > 0 and f"{probe} of heads left out); projection_head too" in out
    heads = sum(n.startswith(("projection_head.", "online_classifier.")) for n in trained)
    assert load_backbone(tiny_run / "checkpoints" / "last.ckpt").report.heads == heads
    assert told(settings, start_of(settings, False), []).count("theirs have other shapes") == 1
    assert "of another method, simclr" in told(unchosen, start_of(unchosen, False), [])
    assert "(of the checkpoint)" in out
    assert load_backbone(run_dir).preprocessing["image_size"] == 28
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["checkpoint"] == str(tiny_run)


def test_targets_begin_as_copies_and_foreign_files_have_no_heads(tiny_run, tmp_path):
    torch.manual_seed(4)
    weights = build_backbone(BackboneOptions("test_resnet", "timm")).state_dict()
    torch.save({"state_dict": weights}, tmp_path / "file.pth")
    overrides = [*START, "method=byol", "method.prediction_hidden_dim=16"]
    overrides += [f"checkpoint={tmp_path / 'file.pth'}", "arch=test_resnet", "data.image_size=32"]
    settings, _ = read_settings(overrides)
    method = build_method(settings, 10, 8, start_of(settings, False))
    assert load_heads(method, settings) == []
    for branch in (method.backbone, method.target_backbone):
        torch.testing.assert_close(branch.state_dict(), weights, rtol=0, atol=0)
    # the heads of another method that fit are taken, and the target is a copy of them
    settings, _ = read_settings([*overrides[:-3], f"checkpoint={tiny_run}"])
    method = build_method(settings, 10, 8, start_of(settings, False))
    heads = load_heads(method, settings)
    assert "prediction_head" not in heads
    for name in ("backbone", "projection_head"):
        online, target = method.get_submodule(name), method.get_submodule(f"target_{name}")
        torch.testing.assert_close(target.state_dict(), online.state_dict(), rtol=0, atol=0)


@pytest.fixture(params=["zoo", "timm", "huggingface"])
def published(request, tmp_path, monkeypatch):
    """What names published weights, those weights, and what takes them away again."""
    torch.manual_seed(5)
    network = timm.create_model("test_resnet", num_classes=0)
    place = tmp_path / "published"
    place.mkdir()
    if request.param == "timm":

        def fetch(*args, **keywords):
            if not place.exists():
                raise OSError("no route to host")
            return dict(network.state_dict())

        monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", fetch)
        return "timm:test_resnet", network.state_dict(), place
    if request.param == "huggingface":
        timm.models.save_for_hf(network, str(place), safe_serialization=True)
        return str(place), network.state_dict(), place
    monkeypatch.setenv("TORCH_HOME", str(place / "torch"))
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    state = {f"module.encoder_q.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, place / "moco.pth.tar")
    address = (place / "moco.pth.tar").as_uri()
    arch = {"name": "test_resnet", "library": "timm"}
    row = {"method": "MoCo v2", "url": address, "arch": arch, "layout": "MoCo"}
    own_zoo().parent.mkdir()
    own_zoo().write_text(yaml.safe_dump({"rows": {"mine": row}}))
    return "zoo:mine", network.state_dict(), place


def test_a_run_starts_from_published_weights_and_goes_on_without_them(published, tmp_path, capsys):
    checkpoint, weights, place = published
    run_dir = tmp_path / "run"
    overrides = [*START, *QUICK, "method=simclr", "data=digits", "data.image_size=32"]
    overrides += [f"checkpoint={checkpoint}", "freeze_epochs=1", "keep_checkpoints=2", "epochs=2"]
    assert main(["pretrain", *overrides, f"run_dir={run_dir}"]) == 0
    assert f"Starts from {checkpoint}: " in " ".join(capsys.readouterr().out.split())
    first = torch.load(run_dir / "checkpoints" / "last-1.ckpt", weights_only=True)["state_dict"]
    last = state_of(run_dir)
    for name, tensor in weights.items():  # as they were published, after the epoch without them
        torch.testing.assert_close(first[f"backbone.{name}"], tensor, rtol=0, atol=0)
    assert any(not torch.equal(last[f"backbone.{n}"], t) for n, t in weights.items())
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["checkpoint"] == checkpoint
    shutil.rmtree(place)
    assert main(["pretrain", f"run_dir={run_dir}", "resume=true", "epochs=3"]) == 0
    assert json.loads((run_dir / "results.json").read_text())["config"]["epochs"] == 3
    capsys.readouterr()
    assert main(["pretrain", *overrides, f"run_dir={tmp_path / 'another'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_frozen_backbone_does_not_change_until_its_time_is_over(tiny_run, tmp_path):
    before = load_file(tiny_run / "backbone.safetensors")
    overrides = [*START, *QUICK, "method=simclr", f"checkpoint={tiny_run}", "freeze_epochs=1"]
    overrides += ["keep_checkpoints=2", f"run_dir={tmp_path}"]
    assert main(["pretrain", *overrides, "epochs=2"]) == 0
    first = torch.load(tmp_path / "checkpoints" / "last-1.ckpt", weights_only=True)["state_dict"]
    last = state_of(tmp_path)
    heads = state_of(tiny_run)
    for name, tensor in before.items():
        torch.testing.assert_close(first[f"backbone.{name}"], tensor, rtol=0, atol=0)
    assert any(not torch.equal(last[f"backbone.{n}"], t) for n, t in before.items())
    changed = [n for n in heads if n.startswith("projection_head.") and n.endswith("weight")]
    assert any(not torch.equal(first[name], heads[name]) for name in changed)


def test_a_finished_run_is_made_longer_and_says_its_schedule(tmp_path, capsys):
    overrides = [*TINY, *QUICK, "method=simclr", f"run_dir={tmp_path}"]
    assert main(["pretrain", *overrides, "epochs=1", "trainer.log_every_n_steps=1"]) == 0
    capsys.readouterr()
    assert main(["pretrain", f"run_dir={tmp_path}", "resume=true", "epochs=3"]) == 0
    out = capsys.readouterr().out
    # of steps 0 to 5 the next is 2; the cosine falls from the peak 0.5 · 64/256 to 1/1000 of it
    cosine = (1 + math.cos(math.pi * 2 / 5)) / 2
    expected = 0.5 * 64 / 256 * (1e-3 + (1 - 1e-3) * cosine)
    assert "The run goes on from 1 to 3 epochs;" in out
    said = float(out.partition("the rate goes on from ")[2].split(",")[0])
    assert said == pytest.approx(expected, rel=0.005)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (2, 6)
    assert json.loads((tmp_path / "results.json").read_text())["config"]["epochs"] == 3
    assert json.loads((tmp_path / "results-1epochs.json").read_text())["config"]["epochs"] == 1
    shorter, longer = (load_file(tmp_path / f"backbone{of}.safetensors") for of in ("-1epochs", ""))
    assert any(not torch.equal(shorter[name], longer[name]) for name in longer)
    assert main(["pretrain", f"run_dir={tmp_path}", "resume=true", "epochs=2"]) == 2
    assert "epochs=2 differs from 3" in capsys.readouterr().err


def test_a_longer_run_that_was_stopped_is_no_finished_one(tmp_path, capsys, monkeypatch):
    """Its weights of before would be taken for those of the epochs that its settings name."""
    overrides = [*TINY, *QUICK, "method=simclr", f"run_dir={tmp_path / 'run'}"]
    assert main(["pretrain", *overrides, "epochs=1"]) == 0

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("erssl.protocols.pretrain.train_and_measure", end)
    assert main(["pretrain", f"run_dir={tmp_path / 'run'}", "resume=true", "epochs=3"]) == 130
    assert main(["knn", f"checkpoint={tmp_path / 'run'}", f"run_dir={tmp_path / 'knn'}"]) == 2
    assert "has no backbone.safetensors" in capsys.readouterr().err
    assert (tmp_path / "run" / "backbone-1epochs.safetensors").is_file()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["freeze_epochs=1"], "freeze_epochs=1 is about the weights that a run starts from"),
        (["arch=resnet18"], "arch=resnet18 is about the weights"),
        (["checkpoint=RUN", "freeze_epochs=2"], "leaves none of epochs=2"),
        (["checkpoint=RUN", "backbone=resnet18"], "brings a backbone of its own"),
        (["checkpoint=nowhere.pth"], "There is no checkpoint at"),
        (["checkpoint=RUN", "optimizer.layer_decay=0.7"], "is for vision transformers"),
        (["checkpoint=RUN", "optimizer.layer_decay=1.5"], "must lie in (0, 1]"),
    ],
)
def test_starts_that_make_none_are_one_sentence(tiny_run, tmp_path, capsys, overrides, sentence):
    overrides = [override.replace("RUN", str(tiny_run)) for override in overrides]
    folder = tmp_path / "run"
    assert main(["pretrain", *START, *QUICK, *overrides, f"run_dir={folder}"]) == 2
    error = capsys.readouterr().err
    assert sentence in " ".join(error.split())
    assert not folder.exists()


def test_layer_decay_gives_each_block_its_rate():
    backbone = build_backbone(BackboneOptions("test_vit", "timm"))
    method = get_method("simclr")(8, 2, backbone=backbone, projection_dim=8)
    options = OptimizerOptions("adamw", base_lr=1.0, weight_decay=0.1, layer_decay=0.5)
    made = build_optimizer(options, method.trained_modules(), method.online_classifier, 256, 10, 10)
    groups = made["optimizer"].param_groups
    rates = {id(p): g["initial_lr"] for g in groups for p in g["params"]}
    assert {id(p) for p in method.parameters() if p.requires_grad} <= rates.keys()
    depth = len(backbone.blocks)
    for name, parameter in method.named_parameters():
        layer = depth + 1
        if name.startswith("backbone.blocks."):
            layer = int(name.split(".")[2]) + 1
        elif name.startswith("backbone.") and not name.startswith("backbone.norm."):
            layer = 0
        assert rates[id(parameter)] == pytest.approx(0.5 ** (depth + 1 - layer)), name
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decay[id(backbone.norm.weight)] == 0
    assert decay[id(backbone.blocks[0].mlp.fc1.weight)] == 0.1


def test_e2mc_goes_on_from_a_run_of_another_method(tiny_run, tmp_path):
    """A few epochs of marginal entropies on a trained model (arXiv 2411.15931)."""
    run_dir = tmp_path / "run"
    overrides = [*START, "method=e2mc", f"checkpoint={tiny_run}", "data=digits"]
    overrides += ["optimizer=sgd", "optimizer.base_lr=1e-6", "epochs=1", f"run_dir={run_dir}"]
    assert main(["pretrain", *overrides, *QUICK]) == 0
    before, after = state_of(tiny_run), state_of(run_dir)
    weights = [name for name in before if name.startswith("backbone.") and "weight" in name]
    assert weights
    for name in weights:
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-4)
    assert any(not torch.equal(after[name], before[name]) for name in weights)
