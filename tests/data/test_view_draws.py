"""What is drawn for views, against torchvision's own draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lightly.transforms.gaussian_blur import GaussianBlur
from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
from scipy import stats

from erssl.data.views import RECIPES, ViewOptions, build_views
from erssl.data.views.draws import NUMBERS, ViewSpec, draw_view, read_view, uniform_numbers
from erssl.errors import ConfigError

_N = 4000
_STATISTICS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def _specs(recipe: str, local_views: int = 0) -> list[ViewSpec]:
    options = ViewOptions(recipe, n_local_views=local_views)
    return [read_view(t) for t in build_views(options, 224, **_STATISTICS).transforms]


def _draw(spec: ViewSpec, height: int = 375, width: int = 500, n: int = _N):
    numbers = uniform_numbers(0, 0, torch.arange(n), 0)
    return draw_view(spec, torch.full((n,), height), torch.full((n,), width), numbers)


def test_reads_the_recipes():
    first, second, local = _specs("dino", 1)
    assert (first.size, first.scale, first.interpolation) == (224, (0.4, 1.0), "bicubic")
    assert (local.size, local.scale) == (96, (0.05, 0.4))
    assert [s.blur_prob for s in (first, second, local)] == [1.0, 0.1, 0.5]
    assert [s.solarize_prob for s in (first, second, local)] == [0.0, 0.2, 0]
    assert first.jitter == ((0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1))
    assert (first.jitter_prob, first.grey_prob, first.flip_prob) == (0.8, 0.2, 0.5)
    assert (first.mean, first.std) == (_STATISTICS["mean"], _STATISTICS["std"])
    assert _specs("byol")[0].interpolation == "bilinear"
    assert _specs("mae")[0].jitter_prob == 0
    assert _specs("digits")[0].degrees == 15


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r != "infomin"])
def test_every_recipe_but_infomin_can_be_read(recipe: str):
    assert all(spec.size == 224 for spec in _specs(recipe))


def test_a_step_that_it_does_not_know_is_refused():
    with pytest.raises(ConfigError, match=r"RandAugment.*data\.pipeline=lightly"):
        _specs("infomin")


_CROP = T.RandomResizedCrop(8)
_JITTER = T.RandomApply([T.ColorJitter(0.4)])


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([_CROP, GaussianBlur(), _JITTER], "RandomApply in another place"),
        ([_CROP, _JITTER, _JITTER], "RandomApply in another place"),
        ([T.RandomHorizontalFlip(), _CROP], "RandomResizedCrop in another place"),
        ([T.RandomResizedCrop((8, 9))], "RandomResizedCrop,"),
        ([T.RandomResizedCrop(8, interpolation=T.InterpolationMode.NEAREST)], "RandomResizedCrop,"),
    ],
)
def test_what_would_become_another_view_is_refused(steps: list[object], named: str):
    with pytest.raises(ConfigError, match=named):
        read_view(T.Compose(steps))


@pytest.mark.parametrize(("scale", "size"), [((0.08, 1.0), (375, 500)), ((0.4, 1.0), (64, 300))])
def test_crops_are_torchvisions(scale: tuple[float, float], size: tuple[int, int]):
    spec = ViewSpec(224, scale, (3 / 4, 4 / 3), "bilinear")
    ours = _draw(spec, *size).crop.numpy()
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    theirs = np.array([_torchvision_crop(image, scale) for _ in range(_N)])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    assert (ours[:, 0] + ours[:, 2] <= size[0]).all() and (ours[:, 1] + ours[:, 3] <= size[1]).all()
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] > 0).all()


def _torchvision_crop(image: torch.Tensor, scale: tuple[float, float]) -> list[int]:
    drawn = T.RandomResizedCrop(224, scale=scale).make_params([image])
    return [drawn[name] for name in ("top", "left", "height", "width")]


def test_a_image_that_no_crop_fits_gives_torchvisions_centre():
    spec = ViewSpec(224, (1.0, 1.0), (3 / 4, 4 / 3), "bilinear")
    assert _draw(spec, 100, 1000, 3).crop.tolist() == [[0, 433, 100, 133]] * 3
    assert _draw(spec, 1000, 100, 3).crop.tolist() == [[433, 0, 133, 100]] * 3
    reference = _torchvision_crop(torch.empty(3, 100, 1000), (1.0, 1.0))
    assert reference == [0, 433, 100, 133]


def test_frequencies_and_ranges():
    draws = _draw(_specs("dino")[1])
    for drawn, expected in (
        (draws.flip, 0.5),
        (draws.jitter, 0.8),
        (draws.grey, 0.2),
        (draws.sigma > 0, 0.1),
        (draws.solarize, 0.2),
    ):
        hits = int(drawn.sum())
        assert stats.binomtest(hits, _N, expected).pvalue > 1e-3
    for column, (low, high) in enumerate(_specs("dino")[1].jitter):
        uniform = stats.uniform(low, high - low)
        assert stats.kstest(draws.factors[:, column].numpy(), uniform.cdf).pvalue > 1e-3
    sigmas = draws.sigma[draws.sigma > 0].numpy()
    assert stats.kstest(sigmas, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3
    assert not draws.vertical_flip.any() and not draws.angle.any()
    angles = _draw(_specs("digits")[0]).angle.numpy()
    assert stats.kstest(angles, stats.uniform(-15, 30).cdf).pvalue > 1e-3


def test_every_order_of_the_jitter_is_as_likely():
    orders, counts = np.unique(_draw(_specs("dino")[0]).order.numpy(), axis=0, return_counts=True)
    assert len(orders) == math.factorial(4)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    assert stats.chisquare(counts).pvalue > 1e-3


def test_numbers_are_uniform_and_independent():
    numbers = torch.cat([uniform_numbers(3, 1, torch.arange(_N), view) for view in range(4)], dim=1)
    assert numbers.shape == (_N, 4 * NUMBERS)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3
    correlations = np.corrcoef(numbers.T.numpy())[~np.eye(4 * NUMBERS, dtype=bool)]
    assert np.abs(correlations).max() < 5.5 / math.sqrt(_N)
    neighbours = np.corrcoef(numbers[1:, 0].numpy(), numbers[:-1, 0].numpy())[0, 1]
    assert abs(neighbours) < 5 / math.sqrt(_N)


def test_numbers_follow_from_seed_epoch_image_and_view():
    one = uniform_numbers(3, 1, torch.tensor([5]), 2)
    assert torch.equal(one, uniform_numbers(3, 1, torch.arange(8), 2)[5:6])
    for seed, epoch, image, view in ((4, 1, 5, 2), (3, 2, 5, 2), (3, 1, 6, 2), (3, 1, 5, 1)):
        other = uniform_numbers(seed, epoch, torch.tensor([image]), view)
        assert (other != one).float().mean() > 0.9
