"""``erssl segment``: the command, its resuming, what it refuses, and maps of features."""

import json
import os
import signal

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps
from torch import nn
from torchvision.models import resnet18, vit_b_16

import erssl
from erssl.cli.main import main
from erssl.downstream.detection.coco import coco_layout, read_coco
from erssl.downstream.detection.image_files import open_image
from erssl.downstream.segmentation import linear_head
from erssl.downstream.segmentation.data import read_coco_masks, read_voc_masks
from erssl.errors import ConfigError, DataError
from erssl.models import BackboneOptions, build_backbone, save_backbone
from erssl.models.patch_maps import PatchMap

from ..detection.test_orientation import turn
from .voc_files import NAMES, write_voc

SMALL = {
    "image_size": 64,
    "iterations": 2,
    "batch_size": 2,
    "num_workers": 0,
    "class_names": list(NAMES),
    "quiet": True,
}


@pytest.fixture
def root(tmp_path):
    return write_voc(tmp_path / "data", train=3, val=2)


def mask_of(root, name):
    return root / "VOCdevkit" / "VOC2012" / "SegmentationClass" / f"{name}.png"


def segment(root, **said):
    return erssl.segment("random:resnet10t", root, **{**SMALL, **said})


def test_the_command_leaves_results_and_goes_on_with_more_seeds(root, tmp_path):
    run_dir = tmp_path / "run"
    result = segment(root, run_dir=run_dir)
    assert result.results["protocol"] == "segment" and result.results["dataset"] == "voc2012"
    assert set(result.metrics) == {"miou", "pixel_accuracy", "mean_class_accuracy"}
    rows = [line.split(",") for line in (run_dir / "iou.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["class", *NAMES]
    ious = [float(row[1]) for row in rows[1:] if row[1] != "nan"]
    assert np.mean(ious) == pytest.approx(result.metrics["miou"])
    seed = run_dir / "seed0" / "seed.json"
    matrix = np.array(json.loads(seed.read_text())["confusion"])
    assert matrix.sum() == 64 * 64 + 64 * 32 - 2 * 3  # all pixels of a class, at their own sizes
    assert "intersection over union" in (run_dir / "report.md").read_text()
    before = seed.stat().st_mtime_ns
    more = segment(root, run_dir=run_dir, resume=True, seeds=2)
    assert seed.stat().st_mtime_ns == before
    assert more.metrics["miou_seed0"] == result.metrics["miou"] and "miou_std" in more.metrics
    with pytest.raises(ConfigError, match="flip=False differs from True"):
        segment(root, run_dir=run_dir, resume=True, seeds=2, flip=False)
    Image.open(mask_of(root, "train0")).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        mask_of(root, "train0")
    )
    with pytest.raises(ConfigError, match="annotations to train on"):
        segment(root, run_dir=run_dir, resume=True, seeds=2)


def test_a_module_of_a_python_program_is_segmented_as_a_network_by_name(root, tmp_path):
    options = BackboneOptions("test_resnet", "timm")
    torch.manual_seed(0)
    module = build_backbone(options)
    metrics = []
    for kind, given in ((options, None), (BackboneOptions("object", "object"), module)):
        file = tmp_path / f"{kind.library}.safetensors"
        save_backbone(module, file, kind, {})
        folder = tmp_path / kind.library
        result = erssl.segment(file, root, backbone=given, run_dir=folder, plots=False, **SMALL)
        metrics.append(result.metrics)
    assert metrics[0] == metrics[1]


def test_masks_that_do_not_fit_are_refused_before_training(root, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(DataError, match="class number 3 but there are names of the classes 0 to 2"):
        segment(root, run_dir=run_dir, class_names=["background", "red", "green"])
    with pytest.raises(DataError, match=r"none1\.txt cannot be read"):
        segment(root, run_dir=run_dir, train_list="none1")
    Image.fromarray(np.zeros((64, 60), np.uint8)).save(mask_of(root, "val0"))
    with pytest.raises(DataError, match=r"has 64 x 64 pixels but the annotations say 60 x 64"):
        segment(root, run_dir=run_dir)
    Image.new("RGB", (64, 64)).save(mask_of(root, "val0"))
    with pytest.raises(DataError, match="mode RGB and no mask of class numbers"):
        segment(root, run_dir=run_dir)
    mask_of(root, "val0").unlink()
    with pytest.raises(DataError, match=r"1 masks that .*val\.txt names are not in"):
        segment(root, run_dir=run_dir)
    assert not (run_dir / "config.yaml").exists()
    with pytest.raises(ConfigError, match="pixels has no patch features"):
        erssl.segment("pixels", root, **SMALL)
    with pytest.raises(ConfigError, match="gives one patch"):
        segment(root, image_size=32, batch_size=1)
    with pytest.raises(ConfigError, match="class_names is for masks=voc"):
        segment(root, masks="coco")


def test_objects_of_coco_are_drawn_into_masks(tmp_path):
    write_coco(tmp_path / "coco")
    said = {**SMALL, "masks": "coco", "iterations": 1, "class_names": None}
    result = segment(tmp_path / "coco", run_dir=tmp_path / "run", **said)
    matrix = json.loads((tmp_path / "run" / "seed0" / "seed.json").read_text())["confusion"]
    # a crowd of 40 x 4 pixels is left out but for 10 x 2 of a zebra, which lies partly in it
    assert np.sum(matrix, axis=1).tolist() == [40 * 30 - 160 - 80, 0, 100]
    assert result.results["dataset"] == "coco"
    table = (tmp_path / "run" / "iou.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in table[1:]] == ["background", "ape", "zebra"]


def write_coco(root):
    """One image of 40 x 30 in each split: an ape listed, a crowd of apes and a zebra in it."""
    crowd = {"size": [30, 40], "counts": [0, *([4, 26] * 40)]}
    zebra = [[5.0, 2.0, 15.0, 2.0, 15.0, 12.0, 5.0, 12.0]]
    facts = [
        {"category_id": 3, "bbox": [0, 0, 40, 4], "segmentation": crowd, "iscrowd": 1},
        {"category_id": 7, "bbox": [5, 2, 10, 10], "segmentation": zebra, "iscrowd": 0},
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}],
        "annotations": [{"id": i, "image_id": 1, "area": 100, **f} for i, f in enumerate(facts, 1)],
        "categories": [{"id": 7, "name": "zebra"}, {"id": 3, "name": "ape"}],
    }
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
        (root / f"{split}2017").mkdir()
        Image.new("RGB", (40, 30), "gray").save(root / f"{split}2017" / "1.jpg")


def test_a_map_is_what_is_pooled():
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    net = resnet18().eval()
    net.fc = nn.Identity()
    maps = PatchMap(net, 64)
    assert maps.shape == (512, 2, 2)
    with torch.no_grad():
        assert torch.allclose(maps(images).mean((2, 3)), net(images), atol=1e-5)
    net = timm.create_model("convnext_atto", num_classes=0).eval()
    assert PatchMap(net, 64).shape == (320, 2, 2)


def test_a_map_of_tokens_is_row_by_row_at_any_size():
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1).eval()
    maps = PatchMap(net, 64)
    assert maps.shape == (192, 4, 4)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = maps.backbone.forward_features(images)[0, 1:]
        assert torch.equal(maps(images)[0, :, 2, 1], tokens[2 * 4 + 1])
    assert not any(p.requires_grad for p in maps.parameters())
    assert not maps.train().backbone.training


def test_a_backbone_without_a_map_or_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="Sequential gives one vector an image"):
        PatchMap(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), 64)
    with torch.device("meta"):
        net = vit_b_16()
    net.image_size = 32
    with pytest.raises(ConfigError, match="does not take images of 64 x 64 pixels"):
        PatchMap(net, 64)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_images_and_masks_are_turned_by_their_own_orientation(orientation, root, tmp_path):
    """As Pillow turns them; an untouched mask is that of the turned image, and the run says so."""
    folder = root / "VOCdevkit" / "VOC2012"
    image, mask = folder / "JPEGImages" / "train1.jpg", mask_of(root, "train1")
    drawn = np.random.default_rng(0).integers(0, 4, (32, 64), dtype=np.uint8)
    Image.fromarray(drawn).save(mask)
    upright = np.asarray(Image.open(mask))
    for file in (image, mask):
        turn(file, orientation)
    train, _ = read_voc_masks(root, 2012, ("train", "val"), NAMES)
    notes = train.check(1)
    assert [note.partition(" of ")[0] for note in notes] == ["1 images", "1 masks"]
    assert "must be of the image as viewers show it" in notes[0] and "train1.png" in notes[1]
    with Image.open(mask) as file:
        expected = np.asarray(ImageOps.exif_transpose(file))
    assert np.array_equal(train.mask(1), expected) and not np.array_equal(expected, upright)
    assert open_image(train.images[1]).size == expected.shape[::-1]
    Image.fromarray(expected).save(mask)  # of the image as viewers show it, without a tag
    train, _ = read_voc_masks(root, 2012, ("train", "val"), NAMES)
    assert len(train.check(1)) == 1
    if orientation > 4:  # else the size tells nothing
        Image.fromarray(upright).save(mask)
        with pytest.raises(DataError, match="annotate the image as viewers show it"):
            read_voc_masks(root, 2012, ("train", "val"), NAMES)[0].check(1)


def test_what_is_noticed_of_the_images_is_said_and_reported(root, tmp_path, capsys):
    turn(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "val0.jpg", 3)
    result = segment(root, run_dir=tmp_path / "run", iterations=1, quiet=False)
    sentence = "1 images of voc2012 are turned upright by their EXIF orientation"
    assert sentence in " ".join(capsys.readouterr().out.split())
    (note,) = result.results["config"]["notes"]
    assert note.startswith(sentence)
    assert sentence in (tmp_path / "run" / "report.md").read_text()


def test_what_is_noticed_of_a_coco_file_is_passed_on(tmp_path):
    write_coco(tmp_path / "coco")
    file = tmp_path / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["segmentation"].append([1.0, 1.0, 2.0, 2.0])
    content["annotations"][1]["area"] = 9000
    content["images"].append({**content["images"][0], "id": 2})
    content["annotations"].append({**content["annotations"][1], "id": 3, "image_id": 2})
    file.write_text(json.dumps(content))
    train, val = read_coco_masks(tmp_path / "coco")
    read = read_coco(coco_layout(tmp_path / "coco")[0], "train")
    assert read.remarks and set(read.remarks) <= set(train.notes)
    assert any("polygons of" in note and "left out" in note for note in train.notes)
    assert not any("left out of training" in note for note in (*train.notes, *val.notes))


@pytest.mark.parametrize(("number", "at"), [(signal.SIGTERM, 2), (signal.SIGINT, 3)])
def test_a_signal_leaves_a_checkpoint_of_its_step_and_the_same_end(
    number, at, root, tmp_path, monkeypatch, capsys
):
    loss, calls, before = linear_head.pixel_loss, [], signal.getsignal(number)

    def stop(logits, masks):
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return loss(logits, masks)

    small = {**SMALL, "iterations": 3, "class_names": "[" + ",".join(NAMES) + "]"}
    del small["quiet"]
    said = [f"{key}={value}" for key, value in small.items()]
    line = ["segment", "checkpoint=random:resnet10t", f"data_root={root}", *said]
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr(linear_head, "pixel_loss", stop)
        assert main([*line, f"run_dir={stopped}"]) == 128 + number
    assert signal.getsignal(number) == before and len(calls) == at
    sentence = f"at step {at}, with a checkpoint; go on with resume=true run_dir={stopped}."
    assert sentence in capsys.readouterr().err
    kept = torch.load(stopped / "seed0" / "last.ckpt", weights_only=True)
    assert kept["iteration"] == at and not (stopped / "results.json").exists()
    assert main([*line, f"run_dir={stopped}", "resume=true"]) == 0
    assert main([*line, f"run_dir={whole}"]) == 0
    ends = [json.loads((each / "seed0" / "seed.json").read_text()) for each in (stopped, whole)]
    assert ends[0] == ends[1]
