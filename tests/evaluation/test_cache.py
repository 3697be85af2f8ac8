import errno
import hashlib
import json
import os
import time
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import Lambda

from erssl.data import TransformedDataset, build_eval_transform
from erssl.data.folders import ImageFiles
from erssl.data.given import GivenImages
from erssl.data.phases import telling
from erssl.errors import ConfigError, DataError
from erssl.evaluation import cached_features, extract_features
from erssl.evaluation.fingerprints import data_digest, weights_digest
from erssl.models import build_backbone

from .counting import SHARD, TRANSFORM, Counting, N, shards, take

PREPROCESSING = {"size": 8, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}


@pytest.fixture
def backbone():
    return counting()


def counting(width=6):
    return Counting(width, nn.BatchNorm1d(width))


def features(backbone, images, cache_dir, **changes):
    """Features, and how many images the backbone saw for them."""
    options = {"preprocessing": PREPROCESSING} | changes
    return take(cached_features, backbone, images, cache_dir, **options)


def same(actual, expected):
    assert torch.equal(actual.features, expected.features)
    assert torch.equal(actual.labels, expected.labels)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_values_and_order_are_those_of_the_plain_extraction(
    backbone, images, tmp_path, num_workers
):
    loader = DataLoader(TransformedDataset(images, TRANSFORM), batch_size=N)
    expected = extract_features(backbone, loader)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    actual, _ = features(backbone, images, tmp_path, num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(actual.features, expected.features)
    assert actual.features.dtype == torch.float32
    assert actual.labels.tolist() == images.targets.tolist() == expected.labels.tolist()
    assert [p.name for p in shards(tmp_path)] == [f"{i:05d}.safetensors" for i in range(5)]


def test_the_backbone_is_left_as_it_came(images, tmp_path):
    backbone = build_backbone("resnet18").train()
    backbone.bn1.eval()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    cached_features(
        backbone, images, TRANSFORM, cache_dir=tmp_path, preprocessing={}, batch_size=16
    )
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert backbone.training
    assert not backbone.bn1.training
    assert backbone.layer1[0].bn1.training


def test_a_second_call_computes_nothing(backbone, images, tmp_path):
    first, seen = features(backbone, images, tmp_path)
    assert seen == N
    steps = []
    second, seen = features(backbone, images, tmp_path, progress=lambda *step: steps.append(step))
    assert seen == 0
    same(second, first)
    assert steps[-1] == (N, N)
    (about,) = tmp_path.glob("*/about.json")
    made_from = json.loads(about.read_text())
    assert made_from["preprocessing"] == PREPROCESSING
    assert made_from["weights"] == weights_digest(backbone)
    assert made_from["images"] == N
    with safe_open(shards(tmp_path)[0], framework="pt") as file:
        key = file.metadata()["key"]
    assert key == hashlib.sha256(about.read_bytes().strip()).hexdigest()
    assert key.startswith(about.parent.name)


def test_what_is_taken_from_the_cache_is_said(backbone, images, tmp_path):
    said = []
    with telling(said.append):
        features(backbone, images, tmp_path)
        assert said == []
        shards(tmp_path)[1].unlink()
        features(backbone, images, tmp_path)
        features(backbone, images, tmp_path)
        features(backbone, images, None)
    folder = shards(tmp_path)[0].parent
    assert said == [
        f"Features of {count} of {N} images are taken from {folder}." for count in (N - SHARD, N)
    ]


def change_weight(backbone, _):
    with torch.no_grad():
        backbone[1].weight[0, 0] += 1e-6


def change_buffer(backbone, _):
    backbone[2].running_var[3] *= 1.001


def change_activation(backbone, _):
    backbone[3].approximate = "tanh"


def change_pixel(_, images):
    images.pixels[N - 1, 0, 0, 0] ^= 1


def change_label(_, images):
    images.targets[0] = 9 - images.targets[0]


@pytest.mark.parametrize(
    "change", [change_weight, change_buffer, change_activation, change_pixel, change_label]
)
def test_a_change_of_weights_or_images_is_a_miss(backbone, images, tmp_path, change):
    features(backbone, images, tmp_path)
    change(backbone, images)
    actual, seen = features(backbone, images, tmp_path)
    assert seen == N
    same(actual, features(backbone, images, None)[0])


@pytest.mark.parametrize(
    "options",
    [
        {"preprocessing": PREPROCESSING | {"interpolation": "bicubic"}},
        {"dtype": "float16"},
        {"shard_size": 10},
        {"weights_key": "epoch 7"},
        {"data_key": "other images"},
    ],
)
def test_a_change_of_options_is_a_miss(backbone, images, tmp_path, options):
    features(backbone, images, tmp_path)
    assert features(backbone, images, tmp_path, **options)[1] == N
    assert features(backbone, images, tmp_path, **options)[1] == 0
    assert features(backbone, images, tmp_path)[1] == 0


@pytest.mark.parametrize("name", ["erssl.evaluation.cache.CACHE_VERSION", "erssl.__version__"])
def test_a_change_of_version_is_a_miss(backbone, images, tmp_path, monkeypatch, name):
    features(backbone, images, tmp_path)
    monkeypatch.setattr(name, "later")
    assert features(backbone, images, tmp_path)[1] == N


def test_another_transform_is_a_miss(backbone, images, tmp_path):
    features(backbone, images, tmp_path)
    other = build_eval_transform(8, (0.5,) * 3, (0.5,) * 3)
    assert features(backbone, images, tmp_path, transform=other)[1] == N


def test_neither_mode_nor_gradients_matter(backbone, images, tmp_path):
    features(backbone.train(), images, tmp_path)
    assert features(backbone.eval().requires_grad_(False), images, tmp_path)[1] == 0


def test_touched_files_are_a_miss(backbone, images, tmp_path):
    samples = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        images[i][0].save(path)
        samples.append((str(path), i))
    files, cache_dir = ImageFiles(samples), tmp_path / "cache"
    assert features(backbone, files, cache_dir)[1] == 4
    assert features(backbone, ImageFiles(samples), cache_dir)[1] == 0
    time_of_change = Path(samples[2][0]).stat().st_mtime_ns
    os.utime(samples[2][0], ns=(time_of_change, time_of_change + 1))
    assert features(backbone, files, cache_dir)[1] == 4
    assert features(backbone, ImageFiles(samples[::-1]), cache_dir)[1] == 4
    assert features(backbone, ImageFiles([(p, 0) for p, _ in samples]), cache_dir)[1] == 4
    os.remove(samples[1][0])
    with pytest.raises(DataError, match=r"1\.png cannot be read \(No such file"):
        features(backbone, files, cache_dir)


def test_a_part_of_the_images_is_other_data(images):
    parts = [images, Subset(images, [0, 1]), Subset(images, [1, 0])]
    assert len({data_digest(part) for part in parts}) == 3
    assert data_digest(Subset(images, [1, 0])) == data_digest(parts[2])


def test_other_data_sets_are_known_by_every_image_or_by_a_key(backbone, images, tmp_path):
    plain = [(Image.fromarray(p), 0) for p in images.pixels]
    assert features(backbone, plain, tmp_path)[1] == N
    assert features(backbone, list(plain), tmp_path)[1] == 0
    others = [(image, 1) for image, _ in plain], plain[::-1], plain[1:], Subset(plain, [1, 0])
    assert len({data_digest(each) for each in (plain, *others)}) == 5
    assert features(backbone, plain, tmp_path, data_key="a list")[1] == N
    with pytest.raises(ConfigError, match=r"Features of a list cannot be kept.*set cache=false"):
        data_digest([{"image": image} for image, _ in plain])


class OfSomebody(CIFAR10):
    """Pixels and class numbers of one's own."""

    def __init__(self, pixels, transform=None):
        self.data, self.targets = pixels, [0] * len(pixels)
        self.transform, self.target_transform = transform, None


@pytest.mark.parametrize("given", [False, True])
def test_what_somebodys_own_code_does_to_images_is_seen_in_them(images, tmp_path, given):
    for index, pixels in enumerate(images.pixels):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{index}.png")
    black = [lambda image: image, lambda image: image.point(lambda value: 0)]
    for make in (
        lambda change: OfSomebody(images.pixels, change),
        lambda change: ImageFolder(tmp_path, change),
        lambda change: ImageFolder(tmp_path, Lambda(change)),
        lambda change: ImageFolder(tmp_path, loader=lambda path: change(default_loader(path))),
    ):
        both = [make(change) for change in black]
        if given:
            both = [GivenImages(each) for each in both]
        assert data_digest(both[0]) != data_digest(both[1])
        assert data_digest(both[0]) == data_digest(both[0])


def test_files_are_not_read_where_nothing_comes_between(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    assert len({data_digest(ImageFolder(tmp_path)) for _ in range(2)}) == 1


def test_functions_that_a_network_holds_count():
    class Net(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.act = act

    acts = [nn.functional.relu, nn.functional.gelu, nn.ReLU, {"act": nn.ReLU}, {"act": nn.GELU}]
    assert len({weights_digest(Net(act)) for act in acts}) == len(acts)
    assert weights_digest(Net(acts[3])) == weights_digest(Net({"act": nn.ReLU}))


def test_after_a_kill_the_missing_shards_are_computed(backbone, images, tmp_path):
    expected, _ = features(backbone, images, None)
    backbone._breaks_at = 20  # amid the third shard
    with pytest.raises(KeyboardInterrupt):
        features(backbone, images, tmp_path)
    assert len(shards(tmp_path)) == 2
    backbone._breaks_at = None
    shards(tmp_path)[0].unlink()  # and a gap that is not at the end
    actual, seen = features(backbone, images, tmp_path)
    assert seen == N - SHARD
    same(actual, expected)
    assert features(backbone, images, tmp_path)[1] == 0


def test_a_kill_while_writing_leaves_no_shard(backbone, images, tmp_path, monkeypatch):
    def killed(self, target):
        raise KeyboardInterrupt

    features(backbone, images, tmp_path)
    shards(tmp_path)[3].unlink()
    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        features(backbone, images, tmp_path)
    monkeypatch.undo()
    assert len(shards(tmp_path)) == 4
    assert not list(tmp_path.glob("*/*.partial"))


def test_remains_of_killed_processes_go_when_they_are_old(backbone, images, tmp_path):
    features(backbone, images, tmp_path)
    folder = shards(tmp_path)[0].parent
    old, young = folder / "old.partial", folder / "young.partial"
    old.touch(), young.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    features(backbone, images, tmp_path)
    assert young.exists()  # of a process that is still writing
    assert not old.exists()


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def empty(path):
    path.write_bytes(b"")


def take_anothers(path):
    path.write_bytes((path.parent / "00001.safetensors").read_bytes())


def without_header(path):
    save_file({"features": torch.zeros(8, 6), "labels": torch.zeros(8).long()}, path)


def wrong_shape(path):
    from erssl.evaluation.cache import _checksum

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    content = {"features": torch.zeros(7, 6), "labels": torch.zeros(7).long()}
    save_file(content, path, metadata=header | {"sha256": _checksum(*content.values())})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "its checksum differs"),
        (truncate, "it cannot be read"),
        (empty, "it cannot be read"),
        (take_anothers, "it belongs to other features"),
        (without_header, "it belongs to other features"),
        (wrong_shape, r"it holds torch.float32 of shape \(7, 6\)"),
    ],
)
def test_damaged_shards_are_computed_again(backbone, images, tmp_path, damage, reason):
    expected, _ = features(backbone, images, tmp_path)
    damage(shards(tmp_path)[2])
    with pytest.warns(UserWarning, match=f"1 of the cached shards .*00002.*{reason}") as caught:
        actual, seen = features(backbone, images, tmp_path)
    assert len(caught) == 1
    assert seen == SHARD
    same(actual, expected)
    assert features(backbone, images, tmp_path)[1] == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_caching_only(backbone, images, tmp_path, monkeypatch, code):
    written, write = [], Path.write_bytes

    def limited(self, content):
        written.append(self)
        if len(written) > 2:  # about.json, one shard, and half of the next
            write(self, content[: len(content) // 2])
            raise OSError(code, os.strerror(code))
        return write(self, content)

    expected, _ = features(backbone, images, None)
    monkeypatch.setattr(Path, "write_bytes", limited)
    with pytest.warns(UserWarning, match=f"cannot be kept .*{os.strerror(code)}") as caught:
        actual, _ = features(backbone, images, tmp_path)
    assert len(caught) == 1
    assert len(written) == 3
    same(actual, expected)
    (folder,) = tmp_path.iterdir()
    assert {p.name for p in folder.iterdir()} == {"about.json", "00000.safetensors"}
    monkeypatch.undo()
    assert features(backbone, images, tmp_path)[1] == N - SHARD


def test_a_folder_that_cannot_be_made_is_no_cache(backbone, images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be kept .*Not a directory") as caught:
        actual, _ = features(backbone, images, tmp_path / "file")
    assert len(caught) == 1
    same(actual, features(backbone, images, None)[0])


def test_two_at_a_time_do_each_other_no_harm(backbone, images, tmp_path):
    other, actual = counting(), []

    def interfere(done, total):
        if not actual and done > 2 * SHARD:
            actual.append(features(other, images, tmp_path)[0])

    first, _ = features(backbone, images, tmp_path, progress=interfere)
    same(first, actual[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert features(backbone, images, tmp_path)[1] == 0


def test_half_precision_is_near_and_the_same_each_time(backbone, images, tmp_path):
    exact, _ = features(backbone, images, None)
    first, _ = features(backbone, images, tmp_path, dtype="float16")
    second, seen = features(backbone, images, tmp_path, dtype="float16")
    assert seen == 0
    same(second, first)
    assert first.features.dtype == torch.float32
    error = (first.features - exact.features).abs()
    assert error.max() > 0
    assert (error <= exact.features.abs() * 2**-11 + 2**-25).all()
    with safe_open(shards(tmp_path)[0], framework="pt") as file:
        assert file.get_tensor("features").dtype == torch.float16


def test_values_beyond_half_precision_are_refused(backbone, images):
    backbone.append(nn.Hardtanh(1e5, 2e5))
    with pytest.raises(DataError, match=r"reach 1e\+05, which float16 cannot hold"):
        features(backbone, images, None, dtype="float16")


def test_constant_features_are_features(backbone, images, tmp_path):
    backbone.append(nn.Threshold(1e9, 0.5))
    assert features(backbone, images, tmp_path)[0].features.unique().tolist() == [0.5]


def test_features_of_nan_are_refused_and_not_kept(backbone, images, tmp_path):
    backbone[1].weight.data[0, 0] = torch.nan
    with pytest.raises(DataError, match=r"Features of 8 of the images 0 to 7 .*hold NaN"):
        features(backbone, images, tmp_path)
    assert not shards(tmp_path)


def test_no_images_are_an_error(backbone, images, tmp_path):
    with pytest.raises(DataError, match="no images to take features of"):
        features(backbone, Subset(images, []), tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"dtype": "int8"}, "dtype=int8"), ({"batch_size": 0}, "batch_size=0")],
)
def test_wrong_options_are_named(backbone, images, options, named):
    with pytest.raises(ConfigError, match=named):
        features(backbone, images, None, **options)
