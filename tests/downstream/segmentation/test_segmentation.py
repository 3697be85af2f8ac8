"""Linear segmentation on images whose classes are colours, and its metrics against scikit-learn."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score
from torch import nn
from torch.nn import functional as F

from erssl.downstream.detection.coco_data import CocoImage, CocoInstance
from erssl.downstream.segmentation.batches import SquareImages, TrainingDraws
from erssl.downstream.segmentation.data import read_voc_masks
from erssl.downstream.segmentation.linear_head import (
    HeadOptions,
    build_head,
    confusion_of,
    pixel_loss,
    train_head,
)
from erssl.downstream.segmentation.masks import IGNORED, draw_objects
from erssl.downstream.segmentation.metrics import class_ious, count_pixels, segmentation_metrics
from erssl.errors import DataError

from .voc_files import COLOURS, NAMES, write_voc

CPU = torch.device("cpu")
SQUARE = SquareImages(32, {})


class MeanColours(nn.Module):
    """Patches of 8 x 8 pixels are their mean colours."""

    def forward(self, images):
        return F.avg_pool2d(images, 8)


class Constant(nn.Module):
    """The same features whatever the image."""

    def forward(self, images):
        return torch.ones(len(images), 3, 4, 4)


def options(**said):
    values = {
        "batch_norm": True,
        "batch_size": 4,
        "iterations": 60,
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        "warmup_fraction": 0.05,
        "flip": True,
        "checkpoint_period": 1000,
    }
    return HeadOptions(**{**values, **said})


def trained(maps, data, folder, resume=False, progress=lambda done, total: None, **said):
    head = build_head(3, len(NAMES), True, seed=0)
    losses = train_head(
        maps,
        head,
        data,
        SQUARE,
        options(**said),
        seed=0,
        device=CPU,
        workers=0,
        folder=folder,
        resume=resume,
        progress=progress,
    )
    return head, losses


def matrix_of(maps, head, data, batch_size=3):
    return confusion_of(
        maps, head, data, SQUARE, batch_size=batch_size, device=CPU, workers=0
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_voc(tmp_path_factory.mktemp("voc"))
    return read_voc_masks(root, 2012, ("train", "val"), NAMES)


@pytest.fixture(scope="module")
def head(data, tmp_path_factory):
    return trained(MeanColours(), data[0], tmp_path_factory.mktemp("seed"))[0]


def test_colours_are_segmented_and_constant_features_are_not(data, head, tmp_path):
    found = segmentation_metrics(matrix_of(MeanColours(), head, data[1]))
    assert found["miou"] > 0.97 and found["pixel_accuracy"] > 0.97
    head, _ = trained(Constant(), data[0], tmp_path)
    matrix = matrix_of(Constant(), head, data[1])
    assert (matrix.sum(dim=0) > 0).sum() == 1  # one class for all
    shares = matrix.sum(dim=1).double() / matrix.sum()
    expected = shares[matrix.sum(dim=0).argmax()] / len(NAMES)
    assert segmentation_metrics(matrix)["miou"] == pytest.approx(float(expected))


def test_metrics_are_scikit_learns_of_all_pixels_at_once():
    generator = np.random.default_rng(0)
    matrix, truths, guesses = torch.zeros(6, 6, dtype=torch.int64), [], []
    for shape in ((5, 7), (11, 3), (20, 20)):  # class 4 is never there nor predicted, 5 predicted
        truth = generator.choice([0, 1, 2, 3, IGNORED], size=shape, p=[0.5, 0.2, 0.1, 0.1, 0.1])
        guess = np.where(
            generator.random(shape) < 0.6, truth, generator.choice([0, 1, 3, 5], shape)
        )
        guess[truth == IGNORED] = 2
        matrix += count_pixels(torch.tensor(guess), torch.tensor(truth, dtype=torch.uint8), 6)
        truths.append(truth[truth != IGNORED])
        guesses.append(guess[truth != IGNORED])
    truth, guess = np.concatenate(truths), np.concatenate(guesses)
    metrics = segmentation_metrics(matrix)
    assert metrics["miou"] == pytest.approx(jaccard_score(truth, guess, average="macro"))
    assert metrics["pixel_accuracy"] == pytest.approx(accuracy_score(truth, guess))
    there = guess != 5  # scikit-learn's recall has a row for what is predicted alone
    assert metrics["mean_class_accuracy"] == pytest.approx(
        np.mean([(guess[truth == c] == c).mean() for c in range(4)])
    )
    assert balanced_accuracy_score(truth[there], guess[there]) > metrics["mean_class_accuracy"]
    each = jaccard_score(truth, guess, average=None, labels=[0, 1, 2, 3, 5])
    assert class_ious(matrix)[[0, 1, 2, 3, 5]].tolist() == pytest.approx(each.tolist())
    assert class_ious(matrix)[4].isnan()
    by_image = np.mean(
        [jaccard_score(t, g, average="macro") for t, g in zip(truths, guesses, strict=True)]
    )
    assert abs(by_image - metrics["miou"]) > 0.01  # it is no mean over images


def test_logits_are_compared_at_the_size_of_each_mask(data, head):
    truths, guesses = [], []
    for number, image in enumerate(data[1].images):
        mask = np.array(Image.open(data[1].masks[number]))
        assert mask.shape == (image.height, image.width)
        pixels = SQUARE.whole(Image.open(image.path))[0][None]
        with torch.no_grad():
            logits = head(MeanColours()(pixels))
        resized = F.interpolate(logits, mask.shape, mode="bilinear", align_corners=False)
        guesses.append(resized[0].argmax(0).numpy()[mask != IGNORED])
        truths.append(mask[mask != IGNORED])
    assert len({mask.shape for mask in map(np.array, truths)}) > 1
    expected = jaccard_score(np.concatenate(truths), np.concatenate(guesses), average="macro")
    for batch_size in (1, 3):
        matrix = matrix_of(MeanColours(), head, data[1], batch_size)
        assert segmentation_metrics(matrix)["miou"] == pytest.approx(expected)


def test_a_training_goes_on_to_the_same_bits(data, tmp_path):
    def killed(done, total):
        if done == 7:
            raise KeyboardInterrupt

    said = {"iterations": 9, "checkpoint_period": 5}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole, losses = trained(MeanColours(), data[0], tmp_path / "whole", **said)
    with pytest.raises(KeyboardInterrupt):
        trained(MeanColours(), data[0], tmp_path / "killed", progress=killed, **said)
    kept = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)
    assert kept["iteration"] == 5
    again, same = trained(MeanColours(), data[0], tmp_path / "killed", resume=True, **said)
    assert losses == same
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_each_epoch_has_each_image_once_and_mirrors_mask_and_image_together(data):
    count = len(data[0].images)
    plain, mirrored = (
        TrainingDraws(data[0], SQUARE, 2 * count, seed=0, flip=flip) for flip in (False, True)
    )
    for epoch in range(2):
        sums = [float(plain[epoch * count + i][0].sum()) for i in range(count)]
        own = [float(SQUARE.whole(Image.open(image.path))[0].sum()) for image in data[0].images]
        assert sorted(sums) == pytest.approx(sorted(own), rel=1e-4)
    flips = 0
    for i in range(2 * count):
        (image, mask), (other, its) = plain[i], mirrored[i]
        if not torch.equal(image, other):
            flips += 1
            image, mask = image.flip(-1), mask.flip(-1)
        assert torch.equal(image, other) and torch.equal(mask, its)
    assert 0 < flips < 2 * count


def test_the_loss_is_the_mean_of_the_pixels_that_have_a_class():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    masks = torch.randint(3, (2, 4, 4), generator=generator, dtype=torch.uint8)
    masks[0, :3] = IGNORED
    picked = [
        -logits[n, :, y, x].log_softmax(0)[int(masks[n, y, x])]
        for n, y, x in (masks != IGNORED).nonzero().tolist()
    ]
    assert pixel_loss(logits, masks).item() == pytest.approx(torch.stack(picked).mean().item())
    assert pixel_loss(logits, torch.full_like(masks, IGNORED)).item() == 0


def test_crowds_are_ignored_and_the_smaller_object_is_on_top():
    def rectangle(number, label, x0, y0, x1, y1, crowd=False):
        region = np.zeros((8, 10), int)
        region[y0:y1, x0:x1] = 1
        flat = region.T.ravel()  # columns first
        changes = np.flatnonzero(np.diff(flat)) + 1
        counts = np.diff([0, *changes, len(flat)]).tolist()
        code = {"size": [8, 10], "counts": counts if flat[0] == 0 else [0, *counts]}
        box = (float(x0), float(y0), float(x1 - x0), float(y1 - y0))
        return CocoInstance(number, box, label, code, box[2] * box[3], crowd)

    small, large = rectangle(1, 0, 2, 2, 4, 4), rectangle(2, 1, 1, 1, 7, 6)
    twin, crowd = rectangle(3, 2, 2, 3, 4, 5), rectangle(4, 3, 0, 0, 10, 3, crowd=True)
    expected = np.zeros((8, 10), int)
    expected[0:3] = IGNORED
    expected[1:6, 1:7] = 2
    expected[2:4, 2:4] = 1
    expected[3:5, 2:4] = 3  # as large as the small one, and listed later
    image = CocoImage(0, None, 10, 8, (small, large, twin, crowd))
    assert (draw_objects(image) == expected).all()


def test_the_mask_of_an_image_is_the_one_of_its_name(data):
    for number, image in enumerate(data[0].images):
        mask, pixels = data[0].mask(number), np.array(Image.open(image.path))
        for present in set(mask.ravel().tolist()) - {IGNORED}:
            assert np.abs(pixels[mask == present].mean(0) - COLOURS[present]).max() < 25


def test_masks_without_a_class_are_refused():
    with pytest.raises(DataError, match="No pixel of the validation masks"):
        segmentation_metrics(torch.zeros(3, 3, dtype=torch.int64))


def test_years_that_are_there_are_said(tmp_path):
    (tmp_path / "VOCdevkit" / "VOC2007").mkdir(parents=True)
    with pytest.raises(DataError, match="has no VOC2012; there is VOC2007: say year=2007"):
        read_voc_masks(tmp_path, 2012, ("train",), NAMES)
