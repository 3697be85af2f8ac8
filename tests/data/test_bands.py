"""Images of one channel and of many: read, measured, seen by every pipeline that can."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torchvision.transforms import functional as tv
from torchvision.transforms import v2 as T

from erssl.data import (
    RECIPES,
    SSLDataModule,
    ViewOptions,
    build_eval_transform,
    build_views,
    default_options,
)
from erssl.data.bands import as_bands, load_bands
from erssl.data.images import load_image
from erssl.data.statistics import channel_statistics
from erssl.data.views.bands import blurred
from erssl.data.views.draws import read_view
from erssl.data.views.pipelines import make_pipeline
from erssl.errors import ConfigError, DataError

from .data_images import noise


def values(channels: int, kind: str = "uint8", seed: int = 0, size=(24, 30)) -> np.ndarray:
    draws = np.random.default_rng(seed).integers(0, 250, (*size, channels))
    return draws.astype(kind)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [2, 4, 6])
def test_what_was_stored_is_read_from_arrays_and_tiffs(tmp_path: Path, channels: int, kind: str):
    stored = values(channels, kind)
    full = {"uint8": 255, "uint16": 65535, "float32": 1}[kind]
    expected = torch.tensor(stored.astype(np.float64) / full).permute(2, 0, 1).float()
    np.save(tmp_path / "last.npy", stored)
    np.save(tmp_path / "first.npy", np.moveaxis(stored, 2, 0))
    tifffile.imwrite(tmp_path / "together.tif", stored, photometric="minisblack", planarconfig=1)
    planes = np.moveaxis(stored, 2, 0)
    tifffile.imwrite(tmp_path / "planes.tif", planes, photometric="minisblack", planarconfig=2)
    tifffile.imwrite(tmp_path / "pages.tif", planes, photometric="minisblack", metadata=None)
    for file in sorted(tmp_path.iterdir()):
        assert torch.allclose(load_bands(file, channels), expected, atol=1e-7), file.name


def test_transparency_is_a_channel_where_it_is_asked_for(tmp_path: Path):
    rgba, la = values(4), values(2)
    Image.fromarray(rgba).save(tmp_path / "four.png")
    Image.fromarray(la, "LA").save(tmp_path / "two.png")
    assert torch.equal(load_bands(tmp_path / "four.png", 4), as_bands(rgba, 4))
    assert torch.equal(load_bands(tmp_path / "two.png", 2), as_bands(la, 2))


@pytest.mark.parametrize(
    ("write", "asked", "said"),
    [
        (lambda f: noise().save(f.with_suffix(".png")), 4, "has 3 channels and data.channels is 4"),
        (lambda f: np.save(f, values(4)), 6, "has 4 channels and data.channels is 6"),
        (lambda f: np.save(f, np.zeros((5, 5))), 2, "has 1 channel and data.channels is 2"),
        (lambda f: np.save(f, np.full((2, 5, 5), np.nan)), 2, "not finite"),
        (lambda f: np.save(f, np.zeros((2, 5, 5), bool)), 2, "of type bool"),
        (lambda f: np.save(f, np.zeros((2, 5, 5, 5))), 2, "shape"),
        (lambda f: np.save(f, np.array([{}]), allow_pickle=True), 2, "cannot be read"),
        (lambda f: f.with_suffix(".npy").write_bytes(b"no array"), 2, "cannot be read"),
        (lambda f: f.with_suffix(".tif").write_bytes(b"II*\0 no"), 2, "cannot be read"),
        (lambda f: tifffile.imwrite(f.with_suffix(".tif"), values(5)), 4, "has 5 channels"),
        (lambda f: None, 4, "no such file"),
    ],
)
def test_another_file_is_refused_in_a_sentence(tmp_path: Path, write, asked: int, said: str):
    write(tmp_path / "image.npy")
    file = next(tmp_path.iterdir(), tmp_path / "image.npy")
    with pytest.raises(DataError, match=said):
        load_bands(file, asked)


def test_a_folder_of_other_channels_is_refused_before_training(tmp_path: Path):
    noise().save(tmp_path / "rgb.png")
    options = default_options("imagefolder", train_dir=str(tmp_path), channels=4)
    with pytest.raises(DataError, match=r"1 of the 1 images.*has 3 channels and data.channels is"):
        SSLDataModule(options, 1, 0)


def test_grey_is_the_luma_of_pillow_from_every_source(tmp_path: Path):
    coloured = noise()
    coloured.save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", grey=True).tobytes() == coloured.convert("L").tobytes()
    digits = SSLDataModule(default_options("digits", channels=1), 4, 0)
    image, _ = digits.datasets.train[3]
    rgb, _ = SSLDataModule(default_options("digits"), 4, 0).datasets.train[3]
    assert image.tobytes() == rgb.convert("L").tobytes()
    assert digits.options.mean == pytest.approx((0.3054,), abs=5e-4)
    assert digits.options.std == pytest.approx((0.376,), abs=5e-4)


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_rgb_images_have_no_four_channels(name: str, tmp_path: Path):
    with pytest.raises((ConfigError, DataError), match=r"data\.(channels=4|root)"):
        SSLDataModule(default_options(name, channels=4), 4, 0)


def test_statistics_are_those_of_all_values():
    images = [(torch.rand(5, 8, 9) * 100 + torch.arange(5.0)[:, None, None], 0) for _ in range(7)]
    images = [(torch.cat([x, torch.full((1, 8, 9), 3.0)]), y) for x, y in images]
    mean, std = channel_statistics(images)
    every = torch.cat([x.flatten(1) for x, _ in images], dim=1).double()
    assert mean == pytest.approx(every.mean(1).tolist(), rel=1e-3)
    assert std[:5] == pytest.approx(every.std(1, correction=0)[:5].tolist(), rel=1e-3)
    assert std[5] == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_grey_views_have_one_channel_and_no_step_for_colours(recipe):
    views = build_views(ViewOptions(recipe), 32, (0.0,), (1.0,))
    grey = noise((50, 40)).convert("L")
    for _ in range(12 if recipe == "infomin" else 1):
        for view in views(grey):
            assert view.shape == (1, 32, 32)
            assert 0 <= view.min() <= view.max() <= 1
    if recipe != "infomin":  # whose like no other pipeline has
        specs = [read_view(view) for view in views.transforms]
        assert not any(spec.grey_prob for spec in specs)
        assert {spec.jitter[2:] for spec in specs} == {((1.0, 1.0), (0.0, 0.0))}


def test_steps_for_colours_leave_a_grey_image_as_it_is():
    grey = noise((50, 40)).convert("L")
    for step in (T.ColorJitter(0, 0, 0.8, 0.2), T.RandomGrayscale(p=1)):
        assert step(grey).tobytes() == grey.tobytes()


@pytest.mark.parametrize("name", ["lightly", "fast", "device"])
def test_every_pipeline_gives_the_grey_views_of_its_rgb_views(name: str, tmp_path: Path):
    """Of an image whose channels are alike, a grey view is a channel of the RGB one."""
    pytest.importorskip("cv2")
    for i in range(4):
        noise((32, 32), i).convert("L").save(tmp_path / f"{i}.png")
    keys = {"train_dir": str(tmp_path), "image_size": 24, "pipeline": name, "num_workers": 0}
    keys["views"] = ViewOptions("simclr" if name != "lightly" else "mae")
    made = {}
    for channels in (1, 3):
        stats = {"mean": (0.4,) * channels, "std": (0.3,) * channels}
        data = SSLDataModule(
            default_options("imagefolder", channels=channels, **stats, **keys), 4, 0
        )
        made[channels] = data.on_after_batch_transfer(next(iter(data.train_dataloader())))[0]
    for grey, rgb in zip(made[1], made[3], strict=True):
        assert grey.shape == (4, 1, 24, 24)
        assert (grey - rgb[:, :1]).abs().max() < 0.03  # two levels, by hue's and saturation's bytes


@pytest.mark.parametrize("name", ["fast", "device"])
def test_pipelines_of_levels_say_that_they_have_no_other_channels(name: str):
    views = build_views(ViewOptions("dino"), 32, (0.5,) * 4, (0.2,) * 4)
    with pytest.raises(ConfigError, match=f"pipeline={name}.*data.channels is 4"):
        make_pipeline(name, views)


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r != "infomin"])
def test_views_of_bands_keep_to_their_recipe(recipe):
    views = build_views(ViewOptions(recipe), 16, (1.0,) * 5, (2.0,) * 5)
    constant = torch.full((5, 20, 30), 7.0)
    for view in views(torch.rand(5, 20, 30)):
        assert view.shape == (5, 16, 16)
        assert view.isfinite().all()
    if recipe in ("mae", "simmim"):  # crop and flip alone leave a constant as it is
        assert torch.allclose(views(constant)[0], torch.full((5, 16, 16), 3.0))
    with pytest.raises(ConfigError, match="steps for 8-bit RGB or grey"):
        build_views(ViewOptions("infomin"), 16, (1.0,) * 5, (2.0,) * 5)


def test_the_blur_is_scipys():
    x = torch.rand(3, 20, 24)
    expected = gaussian_filter(x.double().numpy(), (0, 1.3, 1.3), mode="nearest", truncate=4 / 1.3)
    assert torch.allclose(blurred(x, 1.3), torch.tensor(expected).float(), atol=1e-6)


def test_evaluation_images_of_bands_are_those_of_rgb():
    """Three bands of an RGB image, evaluated as bands, differ by Pillow's rounding alone."""
    image = noise((60, 50))
    rgb = build_eval_transform(32, (0.4,) * 3, (0.2,) * 3)(image)
    four = torch.cat([tv.to_tensor(image), torch.zeros(1, 50, 60)])
    bands = build_eval_transform(32, (0.4,) * 4, (0.2,) * 4)(four)
    assert (bands[:3] - rgb).abs().max() < 0.02  # a level is 1 / 255 / 0.2 = 0.0196


def test_statistics_are_given_for_every_channel_or_measured():
    with pytest.raises(ConfigError, match="one value for each"):
        default_options("imagefolder", channels=4, mean=(0.1,), std=(0.2,))
    with pytest.raises(ConfigError, match="both, or neither"):
        default_options("imagefolder", channels=4, mean=(0.1,) * 4)
    with pytest.raises(ConfigError, match="lanczos"):
        default_options("imagefolder", channels=4, interpolation="lanczos")
