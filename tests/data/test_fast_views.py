"""Views of 8-bit pixels, against those of lightly, torchvision and Pillow."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from lightly.transforms.torchvision_v2_compatibility import functional as TF
from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from sklearn.datasets import load_sample_image
from torch.utils.data import default_collate

from erssl.data import ViewOptions, build_views, default_options
from erssl.data.datasets import ImagesInMemory
from erssl.data.draws import drawing_from
from erssl.data.folders import ImageFiles
from erssl.data.module import SSLDataModule
from erssl.data.views import fast
from erssl.data.views import fast_images as images
from erssl.data.views.draws import JITTERS, read_view
from erssl.data.views.pipelines import make_pipeline
from erssl.errors import ConfigError

from .data_images import noise

_DRAWS = 200


def _transform(recipe: str = "dino", size: int = 16, local_views: int = 0):
    options = ViewOptions(recipe, n_local_views=local_views, local_image_size=size // 2)
    return build_views(options, size, mean=(0,) * 3, std=(1,) * 3)


@cache
def _photo(size: tuple[int, int] = (500, 375), name: str = "china.jpg") -> Image.Image:
    return Image.fromarray(load_sample_image(name)).resize(size, Image.Resampling.LANCZOS)


def _known(image: Image.Image) -> images.KnownSize:
    return images.KnownSize(image.height, image.width, lambda _: np.array(image), 0)


@pytest.fixture(params=["china.jpg", "flower.jpg"])
def photo(request) -> Image.Image:
    return _photo((224, 224), request.param)


def _errors(ours: np.ndarray, theirs: Image.Image) -> tuple[float, float, float]:
    """Mean error, mean absolute and largest absolute error, of 255."""
    error = ours.astype(int) - np.asarray(theirs).astype(int)
    return float(error.mean()), float(np.abs(error).mean()), float(np.abs(error).max())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", [(10, 20, 300, 350), (60, 50, 100, 120), (0, 0, 375, 375)])
@pytest.mark.parametrize("size", [224, 96, 32])
def test_resizing_is_pillows(interpolation: str, crop: tuple[int, ...], size: int) -> None:
    top, left, height, width = crop
    ours = fast.resize(
        np.array(_photo())[top : top + height, left : left + width], size, interpolation
    )
    how = Image.Resampling[interpolation.upper()]
    box = (left, top, left + width, top + height)
    bias, mean, largest = _errors(ours, _photo().crop(box).resize((size, size), how))
    assert abs(bias) < 0.03
    assert mean < 0.05
    assert largest <= 2


def test_flips_are_exact(photo) -> None:
    pixels = np.array(photo)
    for ways in ((True, False), (False, True), (True, True)):
        theirs = TF.hflip(photo) if ways[0] else photo
        theirs = TF.vflip(theirs) if ways[1] else theirs
        assert _errors(fast.flip(pixels, *ways), theirs)[2] == 0


@pytest.mark.parametrize("size", [8, 33, 224])
@pytest.mark.parametrize("degrees", [-14.0, 3.3])
def test_rotation_is_torchvisions(size: int, degrees: float) -> None:
    image = noise((size, size))
    differ = fast.rotate(np.array(image), degrees) != np.asarray(TF.rotate(image, degrees))
    assert differ.mean() < 0.02  # where a source lies on the edge between two pixels


@pytest.mark.parametrize("factor", [0.2, 0.6, 0.97, 1.3, 1.8])
@pytest.mark.parametrize("operation", ["brightness", "contrast", "saturation"])
def test_jitter_is_torchvisions(operation: str, factor: float, photo) -> None:
    ours = getattr(fast, operation)(np.array(photo), factor)
    bias, mean, largest = _errors(ours, getattr(TF, f"adjust_{operation}")(photo, factor))
    assert abs(bias) < 0.03
    assert mean < 0.05
    assert largest <= 1


@pytest.mark.parametrize("turns", [-0.2, -0.1, -0.01, 0.05, 0.13, 0.2])
def test_hue_is_torchvisions(turns: float, photo) -> None:
    bias, mean, largest = _errors(fast.hue(np.array(photo), turns), TF.adjust_hue(photo, turns))
    # Pillow cuts saturations off to whole numbers, OpenCV rounds them.
    assert abs(bias) < 0.5
    assert mean < 0.6
    assert largest <= 12


def test_grey_and_solarisation_are_pillows(photo) -> None:
    assert _errors(fast.grey(np.array(photo)), photo.convert("L"))[2] <= 1
    assert _errors(fast.solarize(np.array(photo)), ImageOps.solarize(photo, 128))[2] == 0


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.1, 1.4, 1.5, 2.0])
def test_blur_is_pillows(sigma: float, photo) -> None:
    bias, mean, _ = _errors(
        fast.blur(np.array(photo), sigma), photo.filter(ImageFilter.GaussianBlur(sigma))
    )
    assert abs(bias) < 0.03
    assert mean < 0.5
    inner = fast.blur(np.array(photo), sigma)[8:-8, 8:-8]
    theirs = photo.filter(ImageFilter.GaussianBlur(sigma)).crop((8, 8, 216, 216))
    assert _errors(inner, theirs)[2] <= 4


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 0, 3, 1)])
def test_a_view_is_its_operations_in_lightlys_order(order) -> None:
    spec = read_view(_transform("dino", 64).transforms[0])
    factors = (1.3, 0.7, 0.85, 0.08)
    row = fast.Drawn((5, 9, 300, 280), True, False, 0.0, True, order, factors, False, 1.2, True)
    view = _photo().crop((9, 5, 289, 305)).resize((64, 64), Image.Resampling.BICUBIC)
    view = TF.hflip(view)
    for number in order:
        view = getattr(TF, f"adjust_{JITTERS[number]}")(view, factors[number])
    for grey, solarize, bound in ((False, False, 1), (True, False, 1), (False, True, 2)):
        theirs = TF.to_grayscale(view, 3) if grey else view
        theirs = theirs.filter(ImageFilter.GaussianBlur(1.2))
        # The leap at 128 makes of an error of 1 there one of up to 127.
        theirs = ImageOps.solarize(theirs, 128) if solarize else theirs
        drawn = row._replace(grey=grey, solarize=solarize)
        [ours] = fast.make_views(_known(_photo()), [spec], [drawn])
        ours = fast.planes(ours, 3).permute(1, 2, 0).numpy()
        assert _errors(ours, theirs)[1] < bound


def _read(view: np.ndarray) -> list[float]:
    """Means and deviations of the channels, energy of the gradient, and colourfulness."""
    view = view.astype(float)
    energy = np.square(np.diff(view, axis=0)).mean() + np.square(np.diff(view, axis=1)).mean()
    return [*view.mean((0, 1)), *view.std((0, 1)), energy, np.ptp(view, axis=-1).mean()]


@pytest.mark.parametrize(
    ("recipe", "local_views"), [("dino", 1), ("byol", 0), ("mocov2", 0), ("digits", 0)]
)
def test_whole_views_are_distributed_as_lightlys(recipe: str, local_views: int) -> None:
    transform, photo = _transform(recipe, 48, local_views), _photo((160, 120))
    images = ImagesInMemory(np.array(photo)[None].repeat(_DRAWS, 0), np.zeros(_DRAWS, int))
    drawn = make_pipeline("fast", transform).images(images, seed=2)
    batch = drawn.__getitems__([(0, i) for i in range(_DRAWS)])
    ours = np.array(
        [[_read(view.permute(1, 2, 0).numpy()) for view in views] for views, _ in batch]
    )
    theirs = []
    for i in range(_DRAWS):
        with drawing_from(2, i):
            views = transform(photo)
        theirs.append([_read(np.asarray(T.ToPILImage()(view))) for view in views])
    for view in range(ours.shape[1]):
        for reading in range(ours.shape[2]):
            a, b = ours[:, view, reading], np.array(theirs)[:, view, reading]
            assert stats.ks_2samp(a, b).pvalue > 1e-3, (view, reading)


def test_other_ways_to_the_same_draws(tmp_path: Path, monkeypatch) -> None:
    """Alone, in a batch of two epochs, or with less memory: what is drawn is the same."""
    for i in range(3):
        noise((60, 40 + i), seed=i).save(tmp_path / f"{i}.png")
    images = ImageFiles([(str(tmp_path / f"{i}.png"), i) for i in range(3)])
    drawn = make_pipeline("fast", _transform("cifar", 16, 2)).images(images, 0)
    places = [(0, 2), (0, 0), (0, 1), (1, 2)]
    batch = drawn.__getitems__(places)
    assert [target for _, target in batch] == [2, 0, 1, 2]
    monkeypatch.setattr(fast, "_HELD", -1)
    for items in (drawn.__getitems__(places), [drawn[place] for place in places]):
        for (views, _), (same, _) in zip(items, batch, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(views, same, strict=True))
    assert not torch.equal(batch[0][0][0], batch[3][0][0])
    assert not torch.equal(batch[0][0][2], batch[0][0][3])


def test_finished_views_are_normalised_and_other_batches_left_alone() -> None:
    options = default_options("digits", num_workers=0, pipeline="fast")
    module = SSLDataModule(options, 16, seed=0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batch = next(iter(module.train_dataloader()))
    raw = [view / 255 for view in batch[0]]
    views, targets = module.on_after_batch_transfer(batch, 0)
    for view, pixels in zip(views, raw, strict=True):
        theirs = T.Normalize(options.mean, options.std)(pixels)
        torch.testing.assert_close(view, theirs, rtol=1e-5, atol=1e-5)
        assert view.is_contiguous()
    assert targets.shape == (16,)
    evaluated = next(iter(module.eval_dataloader("val")))
    assert module.on_after_batch_transfer(evaluated, 0) is evaluated
    first, second = module.probe_views(32)
    again = module.probe_views(32)
    assert first.shape == second.shape == (32, 3, 32, 32)
    assert first.dtype == torch.float32
    assert torch.equal(first, again[0]) and torch.equal(second, again[1])
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_lens_has_two_views_of_a_recipe_of_one() -> None:
    options = default_options("digits", num_workers=0, pipeline="fast", views=ViewOptions("mae"))
    first, second = SSLDataModule(options, 16, seed=0).probe_views(8)
    assert first.shape == second.shape == (8, 3, 32, 32)
    assert not torch.equal(first, second)


def test_multi_crops_collate() -> None:
    images = ImagesInMemory(np.array(_photo((40, 30)))[None], np.zeros(1, int))
    pipeline = make_pipeline("fast", _transform("swav", 20, 2))
    views, _ = default_collate(pipeline.images(images, 0).__getitems__([(0, 0)] * 3))
    shapes = [tuple(view.shape) for view in pipeline.finish(views)]
    assert shapes == [(3, 3, 20, 20)] * 2 + [(3, 3, 10, 10)] * 2


def test_what_it_cannot_make_is_said_before_the_images_are_read() -> None:
    options = default_options("imagefolder", train_dir="nowhere", views=ViewOptions("infomin"))
    with pytest.raises(ConfigError, match=r"RandAugment.*data\.pipeline=lightly"):
        SSLDataModule(replace(options, pipeline="fast"), 2, seed=0)


@pytest.mark.parametrize("opencv", [None, ModuleType("cv2")])  # absent, too old
def test_without_opencv_the_extra_is_named(monkeypatch, opencv: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, "cv2", opencv)
    for name in ("fast", "fast_images"):
        monkeypatch.delitem(sys.modules, f"erssl.data.views.{name}")
        monkeypatch.delattr(sys.modules["erssl.data.views"], name)
    with pytest.raises(ConfigError, match=r"pip install '\.\[fast\]' .*, or set data\.pipeline="):
        make_pipeline("fast", _transform())
