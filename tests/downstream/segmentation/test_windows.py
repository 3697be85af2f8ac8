"""Random crops and overlapping windows, and the sheet of what was predicted."""

from importlib.resources import files

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torch.nn import functional as F

import erssl
from erssl.downstream.detection.image_files import open_image
from erssl.downstream.segmentation.batches import SquareImages, TrainingDraws
from erssl.downstream.segmentation.data import read_voc_masks
from erssl.downstream.segmentation.images import draw_maps, drawn_images
from erssl.downstream.segmentation.linear_head import confusion_of
from erssl.downstream.segmentation.masks import IGNORED
from erssl.downstream.segmentation.metrics import count_pixels
from erssl.downstream.segmentation.windows import Windows, places
from erssl.errors import ConfigError
from erssl.settings.segmentation import OF_WINDOWS

from .test_segment_command import SMALL
from .voc_files import COLOURS, NAMES, write_voc


class Here(nn.Module):
    """Features that know the place in their window: colours times a ramp."""

    def forward(self, images):
        ramp = torch.linspace(0.5, 1.5, images.shape[-1])
        return images * ramp * ramp[:, None]


@pytest.fixture
def images(tmp_path):
    return read_voc_masks(write_voc(tmp_path, 4, 3), 2012, ("train", "val"), NAMES)


def only(inputs, image, size, predict):
    with torch.no_grad():
        (scores,) = inputs.scores(predict, [inputs.whole(image)], [size])
    return scores


def image_of(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_windows_of_a_network_without_memory_of_place_are_the_whole_image():
    inputs = Windows(32, {}, stride=13)
    image = image_of(70, 32)
    pixels = (np.asarray(image) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    scores = only(inputs, image, (32, 70), nn.Identity())
    assert torch.allclose(scores, torch.tensor(pixels).permute(2, 0, 1).float(), atol=1e-5)


def test_what_several_windows_see_is_averaged_as_mmsegmentation_does():
    side, stride = 16, 7
    image = image_of(37, 20, seed=1)
    inputs = Windows(side, {"mean": [0, 0, 0], "std": [1, 1, 1]}, stride)
    width, height = round(37 * side / 20), side
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized).transpose(2, 0, 1) / 255
    total, counts = np.zeros_like(pixels), np.zeros((height, width))
    steps = max(width - side + stride - 1, 0) // stride + 1
    ramp = np.linspace(0.5, 1.5, side)
    for step in range(steps):
        right = min(step * stride + side, width)
        left = max(right - side, 0)
        total[:, :, left:right] += pixels[:, :, left:right] * ramp * ramp[:, None]
        counts[:, left:right] += 1
    mean = torch.tensor(total / counts)[None]
    expected = F.interpolate(mean, size=(20, 37), mode="bilinear", align_corners=False)[0]
    scores = only(inputs, image, (20, 37), Here())
    assert steps > 2 and counts.max() == 3
    assert torch.allclose(scores.double(), expected, atol=1e-5)


def test_scales_and_mirrored_images_are_averaged_as_probabilities():
    image, size = image_of(24, 18, seed=2), (18, 24)
    plain = [only(Windows(16, {}, 9, scales=[s]), image, size, Here()) for s in (1.0, 1.5)]
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    plain += [
        only(Windows(16, {}, 9, scales=[s]), mirrored, size, Here()).flip(-1) for s in (1.0, 1.5)
    ]
    expected = torch.stack([logits.softmax(0) for logits in plain]).mean(0)
    scores = only(Windows(16, {}, 9, scales=[1.0, 1.5], mirrored=True), image, size, Here())
    assert torch.allclose(scores, expected, atol=1e-5)
    assert not torch.allclose(scores, plain[0].softmax(0), atol=1e-2)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_so_many_windows_go_through_the_backbone_together(images, batch_size):
    counts = []

    class Counting(Here):
        def forward(self, images):
            counts.append(len(images))
            return super().forward(images)

    inputs = Windows(16, {}, 9, mirrored=True)
    torch.manual_seed(0)
    head = nn.Conv2d(3, len(NAMES), kernel_size=1)
    shared = {"device": torch.device("cpu"), "workers": 0}
    matrix = confusion_of(Counting(), head, images[1], inputs, batch_size=batch_size, **shared)
    expected = torch.zeros_like(matrix)
    for number, image in enumerate(images[1].images):
        mask = images[1].mask(number)
        scores = only(inputs, open_image(image), mask.shape, lambda x: head(Here()(x)))
        expected += count_pixels(scores.argmax(0), torch.from_numpy(mask), len(NAMES))
    assert max(counts) == batch_size and torch.equal(matrix, expected)


def test_places_cover_every_pixel_and_stay_inside():
    for length in range(32, 140):
        for stride in (1, 7, 21, 32):
            starts = places(length, 32, stride)
            covered = {pixel for start in starts for pixel in range(start, start + 32)}
            assert covered == set(range(length))
    assert Windows(512, {}).stride == 341 and Windows(224, {}).stride == 149  # MMSegmentation's


def test_crops_keep_image_and_mask_together(images):
    train = images[0]
    colours = torch.tensor(COLOURS).float() / 255
    for low, high in ((0.5, 0.5), (1.0, 1.0), (2.0, 2.0)):
        inputs = Windows(32, {"mean": [0, 0, 0], "std": [1, 1, 1]}, scale_range=(low, high))
        draws = TrainingDraws(train, inputs, 8, seed=0, flip=True)
        for index in range(8):
            pixels, mask = draws[index]
            assert pixels.shape == (3, 32, 32) and mask.shape == (32, 32)
            nearest = (pixels[:, None] - colours.T[:, :, None, None]).abs().sum(0).argmin(0)
            there = mask != IGNORED
            assert (nearest[there] == mask[there]).float().mean() > 0.85  # but for borders
            assert bool(pixels[:, 31, :].abs().sum() == 0) == (low < 1 and not there[31].any())
            again, same = draws[index]
            assert torch.equal(pixels, again) and torch.equal(mask, same)
    draws = TrainingDraws(train, inputs, 40, 0, flip=False)
    seen = {tuple(draws[i][1].flatten().tolist()) for i in range(16)}
    assert len(seen) > 8  # of four images: crops differ


def test_the_command_takes_windows_and_leaves_a_sheet(tmp_path):
    root = write_voc(tmp_path / "data", train=3, val=3)
    said = {**SMALL, "image_size": 32, "inputs": "windows", "scales": [1.0, 1.5]}
    result = erssl.segment("random:resnet10t", root, run_dir=tmp_path / "run", **said)
    assert np.isfinite(result.metrics["miou"])
    with Image.open(tmp_path / "run" / "predictions.png") as sheet:
        assert min(sheet.size) > 200
    assert "predictions.png" in (tmp_path / "run" / "report.md").read_text()
    assert (result.results["config"]["inputs"], result.results["config"]["scales"]) == (
        "windows",
        [1.0, 1.5],
    )


def test_a_sheet_shows_each_class_in_its_colour(images, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.imshow", lambda self, values, *_: drawn.append(np.asarray(values))
    )
    val = images[1]
    predicted = {n: torch.full(val.mask(n).shape, n) for n in drawn_images(len(val.images))}
    draw_maps(val, predicted, tmp_path / "sheet.png")
    assert len(drawn) == 9 and drawn_images(100)[-1] == 99 and len(drawn_images(100)) == 12
    for number in range(3):
        mask, truth, guess = val.mask(number), drawn[3 * number + 1], drawn[3 * number + 2]
        assert len(np.unique(guess.reshape(-1, 3), axis=0)) == 1
        shown = np.unique(truth.reshape(-1, 3), axis=0)
        assert len(shown) == len(np.unique(mask))
        assert (truth[mask == IGNORED] == 1).all() and (truth[mask == 0] == 0).all()


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"scales": [1.0, 2.0]}, "scales is read with inputs=windows alone"),
        ({"stride": 8}, "stride is read with inputs=windows alone"),
        ({"inputs": "windows", "scales": [0.5]}, "numbers from 1 up"),
        ({"inputs": "windows", "scales": []}, "numbers from 1 up"),
        ({"inputs": "windows", "stride": 65}, "leaves pixels between windows"),
        ({"inputs": "windows", "scale_range": [2.0, 1.0]}, "two numbers with 0 < low"),
        ({"inputs": "slide"}, "must be square or windows"),
    ],
)
def test_what_makes_no_windows_is_refused(tmp_path, said, sentence):
    with pytest.raises(ConfigError, match=sentence):
        erssl.segment("random:resnet10t", tmp_path, **{**SMALL, **said}, run_dir=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_defaults_of_windows_are_those_of_the_file():
    written = yaml.safe_load((files("erssl.configs") / "segment.yaml").read_text())
    assert {key: written[key] for key in OF_WINDOWS} == OF_WINDOWS
    assert written["inputs"] == "square"


def test_squares_are_evaluated_as_before_the_windows(images):
    square = SquareImages(32, {})
    image = Image.open(images[1].images[2].path)
    scores = only(square, image, (32, 96), Here())
    logits = Here()(square.tensor(image, (32, 32))[None])
    expected = F.interpolate(logits, size=(32, 96), mode="bilinear", align_corners=False)[0]
    assert torch.equal(scores, expected)
