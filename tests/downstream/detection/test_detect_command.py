"""``erssl detect``: what is refused before any work, and a run from overrides to results."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from PIL import Image
from torchvision.models import resnet18

import erssl
from erssl.cli.main import main
from erssl.downstream.detection.torchvision_model import build_detector
from erssl.errors import DataError
from erssl.models import BackboneOptions, build_backbone, save_backbone
from erssl.protocols import detect as command
from erssl.protocols.detect import require_resnet
from erssl.run.directory import read_metrics
from erssl.settings.detection import read_detect

SMALL = (
    "backend=torchvision",
    "device=cpu",
    "num_workers=0",
    "batch_size=2",
    "iterations=4",
    "min_sizes=[64]",
    "max_size=96",
    "test_size=64",
    "rois_per_image=8",
)


@pytest.fixture
def overrides(coco, tmp_path):
    run_dir = f"run_dir={tmp_path / 'run'}"
    return ["checkpoint=random:resnet18", f"data_root={coco}", *SMALL, run_dir]


def refused(overrides, capsys):
    """The one sentence that a command ends with, before anything is written."""
    assert main(["detect", *overrides]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("erssl: ") and error.endswith(".")
    assert "\n" not in error
    return error


class _Begun(Exception):
    """Work would begin."""


def test_a_resnet_of_a_python_program_becomes_a_detector(coco, tmp_path, monkeypatch):
    jobs = []

    def backend(job):
        jobs.append(job)
        raise _Begun

    monkeypatch.setattr(command, "find_backend", lambda *_: backend)
    torch.manual_seed(0)
    module = resnet18()
    module.fc = torch.nn.Identity()
    file = tmp_path / "own.safetensors"
    save_backbone(module, file, BackboneOptions("object", "object"), {})
    said = {"backbone": module, "feature_dim": 512, "data_root": coco, "quiet": True}
    small = {key: yaml.safe_load(text) for key, text in (each.split("=") for each in SMALL)}
    with pytest.raises(_Begun):
        erssl.detect(file, run_dir=tmp_path / "own", **said, **small)
    detector = build_detector(jobs[0].backbone, 2, jobs[0].preprocessing)
    carried = detector.backbone.body.state_dict()
    assert all(torch.equal(carried[name], value) for name, value in module.state_dict().items())
    with pytest.raises(DataError, match="builds its ResNet by name; use backend=torchvision"):
        require_resnet(jobs[0].backbone, "own", "detectron2")
    module.conv1 = torch.nn.Conv2d(3, 64, 3, bias=False)
    save_backbone(module, file, BackboneOptions("object", "object"), {})
    with pytest.raises(DataError, match="a module of ResNet, and the detectors are built on"):
        erssl.detect(file, run_dir=tmp_path / "stem", **said, **small)


BAD = {
    "a misspelt key": (("batchsize=2",), "did you mean batch_size"),
    "a value of another kind": (("batch_size=many",), "it must be an integer"),
    "another backend": (("backend=mmdet",), "detectron2 or torchvision"),
    "another recipe": (("recipe=mask_rcnn",), "Choose from: faster_rcnn_c4_voc_24k"),
    "C4 without Detectron2": (("recipe=mask_rcnn_c4_1x",), "torchvision has no C4 detector"),
    "pixels": (("checkpoint=pixels",), "no weights to fine-tune"),
    "both kinds of paths": (("val_images=/x",), "data_root and val_images exclude each other"),
    "no images in a batch": (("batch_size=0",), "batch_size must be at least 1"),
    "devices that do not share": (("devices=3",), "cannot be shared by 3 devices"),
    "no learning": (("learning_rate=0",), "must be a number above 0"),
    "sizes": (("max_size=60",), "cannot be less than the short side 64"),
    "tiny": (("test_size=8",), "at least 32 pixels"),
    "no sizes": (("min_sizes=[]",), "names no size"),
    "resume and overwrite": (("resume=true", "overwrite=true"), "exclude each other"),
    "eval_only and overwrite": (("eval_only=true", "overwrite=true"), "give one"),
    "nothing to resume": (("resume=true",), "does not exist"),
    "nothing to evaluate": (("eval_only=true",), "does not exist"),
    "a missing folder": (("data_root=/nowhere",), "no folder of images"),
    "a transformer": (("checkpoint=random:vit_tiny_patch16_224",), "torchvision ResNet"),
    "a small stem": (("checkpoint=random:resnet18_cifar",), "stem for small images"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_settings_stop_before_any_work(overrides, what, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "find_backend", lambda *_: pytest.fail)
    more, sentence = BAD[what]
    assert sentence in refused([*overrides, *more], capsys)
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(overrides, capsys):
    assert "sees no CUDA device" in refused([*overrides, "device=cuda"], capsys)


def test_data_is_named_in_one_way_or_the_other(overrides, capsys):
    rest = [override for override in overrides if not override.startswith("data_root")]
    assert "train_images, train_annotations, val_images, val_annotations are missing" in refused(
        rest, capsys
    )
    paths = ["train_images=a", "train_annotations=b", "val_images=c"]
    assert "val_annotations is missing" in refused([*rest, *paths], capsys)
    voc = [*rest, *paths, "val_annotations=d", "recipe=faster_rcnn_c4_voc_24k"]
    assert "needs data_root=<the folder of VOCdevkit>" in refused(
        [*voc, "backend=detectron2"], capsys
    )


def test_bad_annotations_stop_before_training(overrides, change, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "find_backend", lambda *_: pytest.fail)
    change("train", lambda content: content["images"][0].update(file_name="no.png"))
    assert "1 images that" in refused(overrides, capsys)
    change("train", lambda content: content["images"][0].update(file_name="001.png"))
    change("val", lambda content: content["categories"][0].update(name="circle"))
    assert "The categories of" in refused(overrides, capsys)
    change("val", lambda content: content.update(annotations=[], images=[]))
    change("val", lambda content: content["categories"][0].update(name="square"))
    assert "lists no images to evaluate on" in refused(overrides, capsys)
    assert not (tmp_path / "run").exists()


def test_damaged_images_stop_before_training(overrides, coco, capsys):
    (coco / "val2017" / "008.png").write_bytes(b"no image")
    assert "1 of the 3 images" in refused(overrides, capsys)


def test_checkpoint_of_another_architecture(overrides, tmp_path, capsys):
    file, options = tmp_path / "vit.safetensors", BackboneOptions("test_vit", "timm")
    save_backbone(build_backbone(options), file, options, {})
    error = refused([*overrides, f"checkpoint={file}"], capsys)
    assert "is test_vit, and the detectors are built on a torchvision ResNet" in error


@pytest.mark.parametrize(
    ("package", "sentence"),
    [
        ("detectron2", "tutorials/install.html says, or use backend=torchvision"),
        ("pycocotools", "the extra detection"),
    ],
)
def test_packages_that_are_not_there(overrides, package, sentence, capsys, monkeypatch):
    def spec(name):
        return None if name == package else object()

    monkeypatch.setattr(command, "find_spec", spec)
    assert sentence in refused([*overrides, "backend=detectron2"], capsys)


def test_help_has_every_key_and_nothing_else(capsys):
    assert main(["detect", "--help"]) == 0
    text = capsys.readouterr().out
    settings = read_detect(["checkpoint=random:resnet18", "data_root=/coco"])
    for key in vars(settings):
        assert f"\n  {key}: " in text
    assert settings.backend == "detectron2" and settings.batch_size == 16
    assert settings.sizes == ((640, 672, 704, 736, 768, 800), 1333, 800)


def test_results_images_report_and_settings_that_may_not_change(overrides, tmp_path, capsys):
    assert main(["detect", *overrides, "checkpoint_period=3"]) == 0
    out = capsys.readouterr().out
    assert "scaled by the linear rule from batch 16 to 2" in out
    assert "20 convolutions and 20 normalisations (120 tensors)" in out
    assert "iteration 4/4 loss" in out and "left 0:00:00" in out
    folder = tmp_path / "run"
    results = json.loads((folder / "results.json").read_text())
    assert (results["protocol"], results["dataset"]) == ("coco_detection", "coco")
    assert {"box_AP", "box_AP50", "box_AP75", "mask_AP"} <= set(results["metrics"])
    assert all(0 <= value <= 1 for value in results["metrics"].values())
    assert results["published"] is None  # of all of COCO, which this is not
    config = results["config"]
    assert config["backbone_convolutions"] == config["backbone_norms"] == 20
    assert config["counts"]["train"]["crowds"] == 1
    assert config["first_loss"] > 0 and config["logged_iterations"] == 4
    assert any("crowd regions" in note for note in config["notes"])
    curves = read_metrics(folder / "metrics.csv")
    assert len(curves["train_loss_mask"]) == len(curves["lr"]) == 4
    assert Image.open(folder / "predictions.png").width > 600
    assert "![predictions.png](predictions.png)" in (folder / "report.md").read_text()
    assert list(folder.glob("events.out.tfevents.*"))

    assert "already holds a finished run" in refused(overrides, capsys)
    error = refused([*overrides, "resume=true", "batch_size=4"], capsys)
    assert "batch_size=4 differs from 2" in error
    error = refused([*overrides, "resume=true", "seed=1", "checkpoint=random:resnet34"], capsys)
    assert "seed=1 differs from 0" in error
    error = refused([*overrides, "resume=true", "checkpoint=random:resnet34"], capsys)
    assert "The weights of checkpoint= are not what they were" in error

    assert main(["detect", *overrides, "eval_only=true"]) == 0
    again = json.loads((folder / "results.json").read_text())
    assert again["metrics"] == results["metrics"]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_at_its_last_checkpoint(overrides, tmp_path, capsys):
    folder = tmp_path / "run"
    long = [*overrides, "iterations=24", "checkpoint_period=3"]
    line = [sys.executable, "-m", "erssl.cli.main", "detect", *long]
    with subprocess.Popen(line, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        until = time.monotonic() + 300
        while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(1)  # into an iteration, or into the writing of the next checkpoint
        process.send_signal(signal.SIGKILL)
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert last % 3 == 0 and last < 24
    short = [*overrides, "iterations=24", f"checkpoint_period={24 - last}", "resume=true"]
    assert main(["detect", *short]) == 0
    curves = read_metrics(folder / "metrics.csv")
    assert [step for step, _ in curves["train_loss"]][-(24 - last) :] == list(range(last, 24))
    rates = dict(curves["lr"])
    assert rates[last] == pytest.approx(0.0025) and rates[23] == pytest.approx(2.5e-5)


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_and_a_sentence(overrides, tmp_path, monkeypatch, capsys):
    from erssl.downstream.detection.torchvision_training import DetectorTraining

    step, calls, before = DetectorTraining.training_step, [], signal.getsignal(signal.SIGTERM)

    def stop(self, batch):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(DetectorTraining, "training_step", stop)
        assert main(["detect", *overrides]) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    folder = tmp_path / "run"
    sentence = "Stopped by SIGTERM at step 2, with a checkpoint; go on with resume=true"
    assert f"erssl: {sentence} run_dir={folder}." in capsys.readouterr().err
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert not (folder / "results.json").exists()
    assert main(["detect", *overrides, "resume=true"]) == 0
    assert [row for row, _ in read_metrics(folder / "metrics.csv")["train_loss"]] == [0, 1, 2, 3]
