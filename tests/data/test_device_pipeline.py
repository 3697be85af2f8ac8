"""``data.pipeline=device``: which images and views a training gets, beside lightly's pipeline."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning.plugins import HalfPrecision
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.data import DataLoader

from erssl.data import SSLDataModule, ViewOptions, default_options
from erssl.data.draws import EpochSampler
from erssl.data.views import held
from erssl.data.views.held import HeldImages, as_it_is
from erssl.errors import ConfigError, DataError

from .data_images import noise
from .test_data_module import _fit


def _module(train: Path | None, batch_size: int, seed: int = 0, **changes: Any) -> SSLDataModule:
    if train is None:
        changes |= {"name": "digits"}
    else:
        changes |= {"name": "imagefolder", "train_dir": str(train), "image_size": 16}
    changes = {"pipeline": "device", "num_workers": 2} | changes
    return SSLDataModule(default_options(**changes), batch_size, seed)


def _batches(module: SSLDataModule, loader: Iterable[Any]) -> tuple[list[Tensor], Tensor]:
    """Views and targets of batches, as a step gets them."""
    batches = [module.on_after_batch_transfer(batch) for batch in loader]
    views = zip(*(views for views, _ in batches), strict=True)
    return [torch.cat(view) for view in views], torch.cat([targets for _, targets in batches])


def test_images_come_in_lightlys_order() -> None:
    views = ViewOptions("digits", n_local_views=1, local_image_size=8)
    ours, theirs = (
        _module(None, 100, views=views, pipeline=pipeline, num_workers=0)
        for pipeline in ("device", "lightly")
    )
    for epoch in range(2):
        actual, expected = (_start(module, epoch) for module in (ours, theirs))
        assert torch.equal(actual[1], expected[1])
        assert [view.shape for view in actual[0]] == [view.shape for view in expected[0]]
        # They show the same images: more alike than with the next one's.
        view, other = (v[0].flatten(1) - v[0].flatten(1).mean() for v in (actual[0], expected[0]))
        alike = torch.cosine_similarity(view, other).mean()
        assert alike > torch.cosine_similarity(view, other.roll(1, dims=0)).mean() + 0.1


def _start(module: SSLDataModule, epoch: int) -> tuple[list[Tensor], Tensor]:
    """Views and targets of an epoch's first batches."""
    return _batches(module, islice(_loader(module, epoch), 3))


def _loader(module: SSLDataModule, epoch: int) -> DataLoader[Any]:
    """The loader of an epoch and those that follow."""
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return loader


def test_views_follow_from_seed_epoch_and_image(make_folder) -> None:
    train = make_folder(classes=tuple("abcdefgh"), count=2)
    module = _module(train, 3)
    loader = _loader(module, 3)
    first, second = _batches(module, loader), _batches(module, loader)
    assert not torch.equal(first[0][0], second[0][0])
    other = _module(train, 5)
    for view, whole in zip(_batches(other, _loader(other, 3))[0], first[0], strict=True):
        assert torch.equal(view, whole)
    assert not torch.equal(_batches(*_with_loader(_module(train, 3, seed=1)))[0][0], first[0][0])


def _with_loader(module: SSLDataModule) -> tuple[SSLDataModule, DataLoader[Any]]:
    return module, module.train_dataloader()


def test_an_epoch_goes_on_in_its_middle(make_folder) -> None:
    train = make_folder(classes=tuple("abcdefgh"), count=2)
    whole = _module(train, 3)
    loader = _loader(whole, 3)
    first, second = _batches(whole, loader), _batches(whole, loader)
    module = _module(train, 3)
    module.load_state_dict({"epoch": 3, "batches": 2})
    loader = module.train_dataloader()
    assert torch.equal(_batches(module, loader)[0][1], first[0][1][2 * 3 :])
    assert torch.equal(_batches(module, loader)[0][1], second[0][1])


def test_devices_share_the_batches_of_one(make_folder) -> None:
    module = _module(make_folder(classes=tuple("abcdefgh"), count=2), 4)
    images = HeldImages(module.datasets.train, 0)
    loaders = [
        DataLoader(
            images,
            batch_size=4 // world,
            sampler=EpochSampler(images, world, rank, seed=5, drop_last=True),
            collate_fn=as_it_is,
        )
        for world, rank in ((1, 0), (2, 0), (2, 1))
    ]
    for one, *shares in zip(*loaders, strict=True):
        own = torch.cat([rows for [rows], _ in shares])
        assert sorted(own.tolist()) == sorted(one[0][0].tolist())


def test_lightning_trains_and_resumes(tmp_path: Path, make_folder) -> None:
    train = make_folder(classes=tuple("abcdefgh"), count=2)
    checkpoint = tmp_path / "last.ckpt"
    reference = _fit(_module(train, 8, pipeline="lightly"), checkpoint, epochs=3)
    first = _fit(_module(train, 8), checkpoint, epochs=2)
    assert first.seen == reference.seen[:2]
    resumed = _fit(_module(train, 8), checkpoint, epochs=3, resume=checkpoint)
    assert resumed.seen == reference.seen[2:]


def test_views_have_the_precision_of_the_training(make_folder) -> None:
    module = _module(make_folder(), 2)
    batch = next(iter(module.train_dataloader()))
    module.trainer = SimpleNamespace(precision_plugin=HalfPrecision("bf16-true"))
    views, _ = module.on_after_batch_transfer(batch)
    assert [view.dtype for view in views] == [torch.bfloat16] * 2


def test_what_is_held_is_what_lies_in_the_files(make_folder) -> None:
    train = _module(make_folder(count=5), 2).datasets.train
    actual = HeldImages(train, 0, workers=3)
    for i in range(10):
        image, target = train[i]
        assert np.array_equal(actual.pixels[i].numpy(), np.asarray(image))
        assert actual.targets[i] == target


def test_images_are_held_once_and_where_they_are_used(make_folder) -> None:
    module = _module(make_folder(), 2)
    images, rows = module._drawn, torch.zeros(2, 2, dtype=torch.int64)
    host = weakref.ref(images.pixels)
    with FakeTensorMode(allow_non_fake_inputs=True):
        module.pipeline.finish([rows.to("cuda")])
    assert images.pixels.device.type == "cuda" and host() is None
    assert len(images) == 6


def test_torchvisions_arrays_are_held_as_they_are() -> None:
    data = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    actual = HeldImages(SimpleNamespace(data=data, targets=[3, 1, 4, 1, 5]), 0)
    assert np.shares_memory(actual.pixels.numpy(), data)
    assert actual.targets.tolist() == [3, 1, 4, 1, 5]


def test_the_lens_watches_lightlys_views(make_folder) -> None:
    train = make_folder(count=4)
    ours, theirs = (
        _module(train, 2, pipeline=name).probe_views() for name in ("device", "lightly")
    )
    for view, other in zip(ours, theirs, strict=True):
        assert torch.equal(view, other)


def test_images_of_several_sizes_are_refused(make_folder) -> None:
    train = make_folder()
    noise(size=(41, 30)).save(train / "dog" / "2.png")
    with pytest.raises(ConfigError) as caught:
        _module(train, 2)
    assert str(caught.value) == (
        f"data.pipeline=device needs images of one size, but {train}/cat/0.png has 40 x 30 "
        f"pixels and {train}/dog/2.png 41 x 30; resize them, or set another data.pipeline."
    )


def test_more_images_than_there_is_room_for_are_refused(make_folder, monkeypatch) -> None:
    monkeypatch.setattr(held, "MOST_BYTES", 10_000)
    with pytest.raises(ConfigError, match=r"would hold 6 images of 40 x 30 pixels, .* GiB"):
        _module(make_folder(), 2)


def test_what_it_cannot_do_is_refused(make_folder) -> None:
    train = make_folder()
    with pytest.raises(ConfigError, match=r"data\.pipeline=lightly makes"):
        _module(train, 2, views=ViewOptions("infomin"))
    (train / "dog" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"dog/2\.png cannot be read \(empty file\)"):
        _module(train, 2, verify=False)
