"""Views made on a device, against Pillow's, torchvision's and lightly's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from erssl.data.views import ViewOptions, build_views
from erssl.data.views.device import blur, jitter, luma, make_views, rotate, shift_hue
from erssl.data.views.draws import (
    ViewDraws,
    ViewSpec,
    draw_view,
    read_view,
    streams,
    uniform_numbers,
)
from erssl.data.views.held import views_of_rows
from erssl.data.views.pipelines import make_pipeline

SIZES = [(32, 32), (81, 100)]
_N = 6


def _images(height: int, width: int, n: int = _N) -> list[Image.Image]:
    """Pieces of photographs."""
    photographs = load_sample_images().images
    pieces = []
    for i in range(n):
        photograph = photographs[i % len(photographs)]
        top, left = 37 * i % (427 - height), 91 * i % (640 - width)
        pieces.append(Image.fromarray(photograph[top : top + height, left : left + width]))
    return pieces


def _levels(images: list[Image.Image]) -> Tensor:
    """Images as levels (N, 3, H, W)."""
    return _pixels(images).permute(0, 3, 1, 2).float()


def _pixels(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(p) for p in images]))


def _draws(spec: ViewSpec, height: int, width: int, n: int = _N, **changes: Any) -> ViewDraws:
    numbers = uniform_numbers(0, 0, torch.arange(n), 0)
    draws = draw_view(spec, torch.full((n,), height), torch.full((n,), width), numbers)
    return replace(draws, **changes)


def _assert_levels(ours: Tensor, theirs: Tensor, most_unlike: float, most: float = 1) -> None:
    """No more than a share of the values differs by more than one level, and none by more."""
    difference = (ours - theirs).abs()
    assert difference.max() <= most
    assert (difference > 1).float().mean() <= most_unlike


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_pillows(height: int, width: int, size: int, interpolation: str) -> None:
    spec = ViewSpec(size, (0.08, 1.0), (3 / 4, 4 / 3), interpolation)
    draws = _draws(spec, height, width, 24)
    images = _images(height, width, 24)
    mode = InterpolationMode(interpolation)
    crops = [
        F.resized_crop(image, *crop, [size, size], mode)
        for image, crop in zip(images, draws.crop.tolist(), strict=True)
    ]
    ours = make_views(_pixels(images), spec, draws) * 255
    # Some Pillows begin with the other axis where that is less work; the bicubic filter's
    # overshoot is cut off at other places then.
    _assert_levels(ours.round(), _levels(crops), 1e-4, 8)
    assert (ours.round() - _levels(crops)).abs().mean() < 0.03
    assert (ours - ours.round()).abs().max() < 1e-4


@pytest.mark.parametrize("horizontally, vertically", list(product([False, True], repeat=2)))
def test_flips(horizontally: bool, vertically: bool) -> None:
    spec = ViewSpec(48, (0.2, 1.0), (3 / 4, 4 / 3), "bicubic")
    whole = torch.tensor([[0, 0, 81, 100]] * _N)
    flags = (torch.tensor([flag] * _N) for flag in (horizontally, vertically))
    flip, vertical_flip = flags
    draws = _draws(spec, 81, 100, crop=whole, flip=flip, vertical_flip=vertical_flip)
    plain = _draws(spec, 81, 100, crop=whole)
    pixels = _pixels(_images(81, 100))
    axes = [axis for axis, flipped in ((3, horizontally), (2, vertically)) if flipped]
    assert torch.equal(
        make_views(pixels, spec, draws), make_views(pixels, spec, plain).flip(dims=axes)
    )


@pytest.mark.parametrize("degrees", [-15, -3.2, 0, 7.7, 15])
def test_rotation_is_pillows(degrees: float) -> None:
    images = _images(65, 65)
    ours = rotate(_levels(images), torch.full((_N,), degrees))
    theirs = _levels([F.rotate(image, degrees) for image in images])
    # The next pixel where a place lies between two.
    assert (ours != theirs).float().mean() < 3e-3


def test_grey_is_pillows() -> None:
    images = _images(81, 100)
    theirs = torch.stack([torch.tensor(np.asarray(p.convert("L"))) for p in images])
    assert torch.equal(luma(_levels(images))[:, 0], theirs.float())


@pytest.mark.parametrize("shift", [-0.5, -0.2, -0.01, 0.0, 0.1, 0.37, 0.5])
def test_hue_is_torchvisions(shift: float) -> None:
    images = [*_images(64, 64), Image.fromarray(np.full((64, 64, 3), 77, np.uint8))]
    ours = shift_hue(_levels(images), torch.full((_N + 1,), float(int(shift * 255))))
    theirs = _levels([F.adjust_hue(image, shift) for image in images])
    _assert_levels(ours, theirs, 1e-3, 6)


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_jitter_is_torchvisions_in_every_order(order: tuple[int, ...]) -> None:
    images = _images(40, 40)
    factors = torch.tensor([[1.35, 0.7, 1.4, -0.08], [0.6, 1.3, 0.5, 0.1]]).repeat(_N // 2, 1)
    spec = ViewSpec(40, (1, 1), (1, 1), "bicubic", jitter=((0.5, 1.5),) * 3 + ((-0.1, 0.1),))
    chosen = torch.arange(_N) < _N - 2
    draws = _draws(
        spec, 40, 40, jitter=chosen, order=torch.tensor(order).repeat(_N, 1), factors=factors
    )
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    theirs = list(images)
    for i in range(_N - 2):
        for operation in order:
            theirs[i] = adjust[operation](theirs[i], float(factors[i, operation]))
    ours = jitter(_levels(images), spec, draws)
    _assert_levels(ours, _levels(theirs), 2e-3, 12)
    assert torch.equal(ours[~chosen], _levels(images)[~chosen])


def test_without_hue_images_keep_what_torchvision_keeps() -> None:
    """Its way through HSV costs levels, so it must not be taken for nothing."""
    images = _images(40, 40)
    spec = ViewSpec(40, (1, 1), (1, 1), "bicubic", jitter=((0.6, 1.4),) * 2 + ((1, 1), (0, 0)))
    everyone = torch.ones(_N, dtype=torch.bool)
    draws = _draws(spec, 40, 40, jitter=everyone, factors=torch.tensor([[0.8, 1.2, 1, 0]] * _N))
    theirs = []
    for image, order in zip(images, draws.order.tolist(), strict=True):
        for operation in order:
            if operation < 2:
                adjust = (F.adjust_brightness, F.adjust_contrast)[operation]
                image = adjust(image, (0.8, 1.2)[operation])
        theirs.append(image)
    _assert_levels(jitter(_levels(images), spec, draws), _levels(theirs), 0)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.5, 2.0, 3.1])
def test_blur_is_pillows(sigma: float) -> None:
    images = _images(64, 64)
    sigmas = torch.tensor([sigma] * (_N - 1) + [0])
    ours = blur(_levels(images), sigmas, max(sigma, 2.0))
    theirs = [p.filter(ImageFilter.GaussianBlur(sigma)) for p in images[:-1]]
    # Pillow rounds after each of three passes an axis, we after each axis.
    _assert_levels(ours, _levels([*theirs, images[-1]]), 0.1, 2)
    assert (ours - _levels([*theirs, images[-1]])).mean().abs() < 0.25


def test_grey_solarisation_and_normalisation() -> None:
    spec = ViewSpec(
        40,
        (1, 1),
        (1, 1),
        "bicubic",
        grey_prob=0.5,
        solarize_prob=0.5,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )
    grey, solarize = torch.arange(_N) % 2 == 0, torch.arange(_N) % 3 == 0
    off = torch.zeros(_N, dtype=torch.bool)
    draws = _draws(spec, 40, 40, grey=grey, solarize=solarize, flip=off, vertical_flip=off)
    images = _images(40, 40)
    expected = []
    for i, image in enumerate(images):
        image = F.rgb_to_grayscale(image, 3) if grey[i] else image
        image = ImageOps.solarize(image) if solarize[i] else image
        expected.append(
            F.normalize(
                F.to_dtype(F.to_image(image), torch.float32, scale=True),
                list(spec.mean),
                list(spec.std),
            )
        )
    torch.testing.assert_close(make_views(_pixels(images), spec, draws), torch.stack(expected))


def _summaries(views: Tensor) -> dict[str, np.ndarray]:
    """What tells views apart: light, contrast, colour, sharpness, and where the light is."""
    grey = views.mean(dim=1)
    left, right = grey.chunk(2, dim=2)
    return {
        "light": grey.mean(dim=(1, 2)).numpy(),
        "contrast": grey.std(dim=(1, 2)).numpy(),
        "colour": views.std(dim=1).mean(dim=(1, 2)).numpy(),
        "red": (views[:, 0] - grey).mean(dim=(1, 2)).numpy(),
        "sharpness": grey.diff(dim=2).abs().mean(dim=(1, 2)).log1p().numpy(),
        "side": (left.mean(dim=(1, 2)) - right.mean(dim=(1, 2))).numpy(),
        "corner": grey[:, :3, :3].mean(dim=(1, 2)).numpy(),
    }


@pytest.mark.parametrize("recipe, view", [("dino", 0), ("dino", 1), ("simclr", 0), ("digits", 0)])
def test_views_are_distributed_as_lightlys(recipe: str, view: int) -> None:
    n, height, width = 1500, 50, 40
    transform = build_views(ViewOptions(recipe), 32, (0.5,) * 3, (0.25,) * 3).transforms[view]
    images = _images(height, width, 20)
    torch.manual_seed(0)
    np.random.seed(0)
    theirs = torch.stack([transform(images[i % 20]) for i in range(n)])
    spec = read_view(transform)
    numbers = uniform_numbers(0, 0, torch.arange(n), view)
    draws = draw_view(spec, torch.full((n,), height), torch.full((n,), width), numbers)
    ours = make_views(_pixels(images).repeat(n // 20, 1, 1, 1), spec, draws)
    expected = _summaries(theirs)
    for name, actual in _summaries(ours).items():
        assert stats.ks_2samp(actual, expected[name]).pvalue > 1e-3, name
    assert abs(float(ours.mean() - theirs.mean())) < 0.06


def _specs(recipe: str = "dino", local_views: int = 2, size: int = 48) -> list[ViewSpec]:
    options = ViewOptions(recipe, n_local_views=local_views, local_image_size=24)
    return [read_view(t) for t in build_views(options, size, (0.5,) * 3, (0.25,) * 3).transforms]


def test_a_view_is_the_same_in_whatever_batch_it_is_made() -> None:
    specs, pixels = _specs(), _pixels(_images(64, 80, 12))
    order = torch.tensor([7, 2, 9, 0, 11, 5, 5, 1])
    rows = torch.stack([order, streams(3, 4, order)], dim=1)
    whole = views_of_rows(pixels, rows, specs)
    assert [tuple(view.shape) for view in whole] == [(8, 3, s, s) for s in (48, 48, 24, 24)]
    parts = [views_of_rows(pixels, part, specs) for part in rows.split([1, 3, 4])]
    backwards = views_of_rows(pixels, rows.flip(dims=[0]), specs)
    for number, view in enumerate(whole):
        assert torch.equal(view, torch.cat([part[number] for part in parts]))
        assert torch.equal(view, backwards[number].flip(dims=[0]))
        alone = draw_view(
            specs[number],
            *(torch.full((8,), side) for side in (64, 80)),
            uniform_numbers(3, 4, order, number),
        )
        for most in (1, 10**6, 10**9):
            assert torch.equal(view, make_views(pixels[order], specs[number], alone, most))
    assert torch.equal(whole[0][5], whole[0][6])
    assert not torch.equal(whole[2][5], whole[3][5])


def test_products_are_exact_whatever_precision_training_has() -> None:
    spec, pixels = _specs()[0], _pixels(_images(64, 80))
    draws = _draws(spec, 64, 80)
    expected = make_views(pixels, spec, draws)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(make_views(pixels, spec, draws), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


class _NothingFromTheHost(TorchDispatchMode):
    """Refuses tensors that are brought from the host to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.device.type == "cuda":
            given = [a for a in args if isinstance(a, Tensor)]
            assert all(a.device == result.device for a in given), func
        return result


@pytest.mark.parametrize("recipe, local_views", [("dino", 2), ("cifar", 0), ("digits", 1)])
def test_host_and_device_do_not_wait_for_each_other(recipe: str, local_views: int) -> None:
    """A fake GPU has no values: whatever would read one, or has a shape that needs one, fails."""
    with FakeTensorMode(), _NothingFromTheHost():
        pixels = torch.empty(100, 64, 80, 3, dtype=torch.uint8, device="cuda")
        rows = torch.empty(16, 2, dtype=torch.int64, device="cuda")
        views = views_of_rows(pixels, rows, _specs(recipe, local_views))
        assert len(views) == 2 + local_views
        assert all(view.device.type == "cuda" for view in views)


def test_the_host_does_not_wait_for_fast_views_to_be_normalised() -> None:
    pipeline = make_pipeline("fast", build_views(ViewOptions("byol"), 32, (0.5,) * 3, (0.2,) * 3))
    with FakeTensorMode(), _NothingFromTheHost():
        views = [torch.empty(4, 32, 32, 3, dtype=torch.uint8, device="cuda")] * 2
        assert [view.device.type for view in pipeline.finish(views)] == ["cuda"] * 2


@pytest.mark.parametrize(
    "wait", [lambda x: bool(x.sum() > 0), lambda x: x[x > 0], lambda x: x.new_tensor([1.0, 2.0])]
)
def test_waiting_would_be_seen(wait: Callable[[Tensor], Any]) -> None:
    with FakeTensorMode(), _NothingFromTheHost(), pytest.raises((RuntimeError, AssertionError)):
        wait(torch.empty(3, device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("recipe, local_views", [("dino", 2), ("cifar", 0), ("digits", 1)])
def test_a_gpu_makes_the_same_views_and_is_not_waited_for(recipe: str, local_views: int) -> None:
    specs, pixels = _specs(recipe, local_views), _pixels(_images(64, 80, 12))
    rows = torch.stack([torch.arange(12), streams(3, 4, torch.arange(12))], dim=1)
    expected = views_of_rows(pixels, rows, specs)
    there = pixels.cuda(), rows.cuda()
    views_of_rows(*there, specs)  # what CUDA sets up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = views_of_rows(*there, specs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for view, other in zip(actual, expected, strict=True):
        levels = [(0.25 * v.cpu() + 0.5) * 255 for v in (view, other)]
        _assert_levels(*levels, 1e-3, 255)
        assert (levels[0] - levels[1]).abs().mean() < 0.01
