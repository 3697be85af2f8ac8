"""Images that a camera turned: one rule for training, evaluation and drawing, in both backends."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from erssl.data.images import load_image
from erssl.downstream.detection.coco import check_images, coco_layout, read_coco
from erssl.downstream.detection.image_files import check_sizes, open_image
from erssl.downstream.detection.images import draw_predictions
from erssl.downstream.detection.job import Detected
from erssl.downstream.detection.torchvision_data import TrainingImages, ValidationImages
from erssl.downstream.detection.voc import read_voc
from erssl.errors import DataError

from .test_voc import make_split

ORIENTATIONS = range(1, 9)
RED, BLUE = (220, 40, 40), (40, 60, 220)


def turn(file, orientation):
    """Give an image an orientation and leave its pixels."""
    with Image.open(file) as image:
        exif = image.getexif()
        exif[0x0112] = orientation
        image.copy().save(file, exif=exif)


def read(root, split="train"):
    return read_coco(coco_layout(root)[split == "val"], split)


@pytest.mark.parametrize("orientation", [*ORIENTATIONS, 0, 9])
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_images_are_turned_as_pillow_turns_them(tmp_path, orientation, ending):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    file = tmp_path / f"a.{ending}"
    Image.fromarray(pixels).save(file)
    turn(file, orientation)
    with Image.open(file) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(np.asarray(load_image(file, upright=True)), expected)
    assert load_image(file).size == (10, 6)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.detectron2
def test_both_backends_see_the_same_pixels(coco, orientation):
    pytest.importorskip("detectron2")
    from detectron2.data.detection_utils import read_image

    file = coco / "train2017" / "001.png"
    turn(file, orientation)
    assert np.array_equal(np.asarray(load_image(file, upright=True)), read_image(file, "RGB"))


def test_half_a_turn_is_undone_under_upright_boxes(coco):
    """The colours are the annotated ones only where the image is turned."""
    data = read(coco)
    image = data.images[0]
    with Image.open(image.path) as upright:
        pixels = upright.transpose(Image.Transpose.ROTATE_180)
    pixels.save(image.path)
    turn(image.path, 3)
    (remark,) = check_images(data, 1)
    assert "1 images of coco are turned upright" in remark and "(001.png)" in remark
    x, y, width, height = image.instances[0].box
    centre = (int(x + width / 2), int(y + height / 2))
    assert open_image(image).getpixel(centre) == RED
    training = TrainingImages(data.training_images, (48,), 1333, 0)
    seen, target = training[0, 0]
    box = target["boxes"][0]
    across, down = int(box[[0, 2]].mean()), int(box[[1, 3]].mean())
    assert torch.allclose(seen[:, down, across], torch.tensor(RED) / 255, atol=0.01)
    _, evaluated = ValidationImages(data.images, 48, 1333)[0]
    x, y = (int(v * 48 / image.height) for v in centre)
    assert torch.allclose(evaluated[:, y, x], torch.tensor(RED) / 255, atol=0.01)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_are_those_of_the_turned_image(coco, change, orientation):
    turn(coco / "train2017" / "001.png", orientation)
    with pytest.raises(DataError, match=rf"48 x 64 .* orientation {orientation} turns .* without"):
        check_images(read(coco), 1)
    with pytest.raises(DataError, match="take the orientation out of the file"):
        open_image(read(coco).images[0])

    def upright(content):
        content["images"][0].update(width=48, height=64)
        content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]

    data = read(change("train", upright))
    assert len(check_images(data, 1)) == 1
    assert open_image(data.images[0]).size == (48, 64)


def test_every_image_of_another_size_is_counted(change):
    def wider(content):
        for image in content["images"][1:3]:
            image["width"] += 1

    data = read(change("train", wider))
    with pytest.raises(DataError, match=r"002\.png has .* 2 images of coco are like this"):
        check_sizes(data.images, data.name, 2)


def test_voc_has_the_same_rule(tmp_path):
    devkit = tmp_path / "VOCdevkit"
    for year, name in ((2007, "trainval"), (2007, "test")):
        make_split(devkit, year, name, [[("cat", (1, 1, 4, 3), 0)]])
    data = read_voc(tmp_path, "train")
    assert check_images(data, 1) == ()
    turn(data.images[0].path, 3)
    assert data.with_remarks(check_images(data, 1)).notes[-1].startswith("1 images of voc07+12")
    turn(data.images[0].path, 6)
    with pytest.raises(DataError, match="EXIF orientation 6"):
        check_images(data, 1)


def test_annotated_masks_are_drawn(coco, tmp_path, monkeypatch):
    from erssl.downstream.detection import images

    data, drawn = read(coco), []
    tinted = images._tinted

    def note(pixels, masks):
        drawn.append([int(mask.sum()) for mask, _ in masks])
        return tinted(pixels, masks)

    monkeypatch.setattr(images, "_tinted", note)
    detected = Detected(
        0, [(0.0, 0.0, 9.0, 9.0)], [1], [0.9], [{"size": [48, 64], "counts": [48 * 64]}]
    )
    assert draw_predictions(data, [detected], tmp_path / "a.png") == 1
    assert drawn == [[400, 240, 480], [0]]  # squares of 20 and 30 x 8, a crowd of 10 columns
    assert (tmp_path / "a.png").stat().st_size > 1000
