"""Loaders for classifiers, and subsets of the labelled images."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import SequentialSampler
from torchvision.transforms import functional as TF

from erssl.data import (
    Datasets,
    LabelledDataModule,
    default_options,
    labels_of,
    listed_subset,
    load_datasets,
    require_labels,
    stratified_subset,
    subset_digest,
)
from erssl.data.folders import ImageFiles, scan_folder
from erssl.data.labelled import DrawnImages
from erssl.errors import ConfigError, DataError

OPTIONS = default_options("digits", num_workers=0)
LABELS = np.repeat([0, 1, 2], [10, 37, 200])


class Counted:
    """Images that remember which of them were read."""

    def __init__(self, images):
        self.images, self.targets, self.read = images, images.targets, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.read.append(index)
        return self.images[index]


@pytest.fixture
def digits():
    return load_datasets(OPTIONS)


def module_of(digits, batch_size=50, **changes):
    return LabelledDataModule(OPTIONS, digits, batch_size, 0, **changes)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 1])
def test_a_subset_has_the_same_share_of_every_class(fraction):
    chosen = stratified_subset(LABELS, fraction)
    counts = np.bincount(LABELS[chosen], minlength=3)
    assert counts.tolist() == [round(fraction * n) for n in (10, 37, 200)]
    assert (np.diff(chosen) > 0).all()  # sorted, none twice


def test_a_subset_depends_on_its_seed_alone():
    first, again, other = (stratified_subset(LABELS, 0.1, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert not np.array_equal(first, other)


def test_a_subset_is_told_by_the_sha256_of_its_numbers():
    chosen = stratified_subset(LABELS, 0.1)
    written = b"".join(int(i).to_bytes(8, "little") for i in chosen)
    assert subset_digest(chosen) == hashlib.sha256(written).hexdigest()
    assert subset_digest(chosen.tolist()) == subset_digest(chosen.astype(np.int32))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigError, match="must lie above 0 and be at most 1"):
        stratified_subset(LABELS, fraction)


def test_a_fraction_that_empties_a_class_is_refused_by_its_name():
    with pytest.raises(DataError, match=r"leaves 2 of 3 classes .*class 0 with 10, class 1 with"):
        stratified_subset(LABELS, 0.01)


@pytest.fixture
def images(make_folder):
    """Classes cat and dog; 0.png to 2.png of each, and one image whose name is its own."""
    folder = make_folder()
    (folder / "cat" / "2.png").rename(folder / "cat" / "n01_7.png")
    return ImageFiles(scan_folder("data.train_dir", folder).samples)


def listing(tmp_path, *names):
    file = tmp_path / "list.txt"
    file.write_text("".join(f"{name}\n" for name in names))
    return file


def paths_of(images, chosen):
    return ["/".join(images.samples[i][0].split("/")[-2:]) for i in chosen]


def test_a_list_names_images_by_file_name_and_by_class(images, tmp_path):
    chosen = listed_subset(images, listing(tmp_path, "n01_7.png", "dog/1.png", "", "  2.png "))
    assert paths_of(images, chosen) == ["cat/n01_7.png", "dog/1.png", "dog/2.png"]


def test_a_list_names_images_below_folders_of_a_class(make_folder, tmp_path):
    folder = make_folder()
    for label in ("cat", "dog"):
        (folder / label / "part").mkdir()
        (folder / label / "0.png").rename(folder / label / "part" / "0.png")
    images = ImageFiles(scan_folder("data.train_dir", folder).samples)
    chosen = listed_subset(images, listing(tmp_path, "cat/part/0.png", "dog/1.png"))
    assert [images.samples[i][0][len(str(folder)) + 1 :] for i in chosen] == [
        "cat/part/0.png",
        "dog/1.png",
    ]
    with pytest.raises(DataError, match=r"several folders have \(part/0.png\)"):
        listed_subset(images, listing(tmp_path, "part/0.png"))  # of the cat or of the dog


def test_a_list_names_images_that_are_no_files_by_number(digits, tmp_path):
    first = [int(np.flatnonzero(digits.train.targets == c)[0]) for c in range(10)]
    chosen = listed_subset(digits.train, listing(tmp_path, *first))
    assert chosen.tolist() == sorted(first)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["0.png", "cat/1.png"], r"1 image that is not there or .* have \(0.png\)"),
        (["cat/9.png", "dog/1.png"], r"names 1 image that is not there .*\(cat/9.png\)"),
        (["cat/0.png", "dog/1.png", "cat/0.png"], "names 1 images twice"),
        (["n01_7.png", "cat/n01_7.png", "dog/1.png"], "names 1 images twice"),
        (["", "  "], "is empty; it must list"),
        (["dog/1.png"], r"leaves 1 classes without an image \(0\)"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(images, tmp_path, names, sentence):
    with pytest.raises(DataError, match=sentence):
        listed_subset(images, listing(tmp_path, *names))


def test_a_list_that_is_no_text_is_refused(images, tmp_path):
    (tmp_path / "list.bin").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"list.bin is no list of images; give a text file"):
        listed_subset(images, tmp_path / "list.bin")


def test_a_list_that_is_not_there_is_refused(images, tmp_path):
    for place in (tmp_path / "missing.txt", tmp_path):
        with pytest.raises(DataError, match="is neither a number nor a file"):
            listed_subset(images, place)


def test_labels_are_told_without_reading_a_image(images, digits):
    assert labels_of(images).tolist() == [0, 0, 0, 1, 1, 1]
    counted = Counted(digits.train)
    assert (labels_of(counted) == digits.train.targets).all()
    assert counted.read == []


def test_an_epoch_reads_the_subset_and_no_other_image(digits):
    indices = stratified_subset(labels_of(digits.train), 0.05)
    counted = Counted(digits.train)
    watched = Datasets(counted, digits.val, 10, digits.class_names)
    loader = module_of(watched, batch_size=8, indices=indices).train_dataloader()
    labels = torch.cat([y for _, y in loader])
    assert sorted(counted.read) == indices.tolist()
    assert counted.read != indices.tolist()  # shuffled
    assert sorted(labels.tolist()) == sorted(digits.train.targets[indices].tolist())


def test_each_epoch_has_another_order(digits):
    loader = module_of(digits, batch_size=2000).train_dataloader()
    first = next(iter(loader))[1].tolist()
    loader.sampler.set_epoch(1)
    second = next(iter(loader))[1].tolist()
    assert first != second
    assert sorted(first) == sorted(second)


def epoch_of(digits, epoch, workers=0, before=()):
    options = default_options("digits", num_workers=workers)
    loader = LabelledDataModule(options, digits, 16, 0, indices=np.arange(40)).train_dataloader()
    for each in (*before, epoch):
        loader.sampler.set_epoch(each)
        batches = list(loader)
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_crops_are_those_of_the_epoch_whatever_was_before(digits, workers):
    torch.manual_seed(1)
    images, labels = epoch_of(digits, 1, workers, before=(0,))
    torch.manual_seed(2)
    again, same = epoch_of(digits, 1)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    other = epoch_of(digits, 2)[0]
    assert not torch.equal(images.sum(dim=(1, 2, 3)).sort()[0], other.sum(dim=(1, 2, 3)).sort()[0])


def test_crops_leave_the_global_generator_alone(digits):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    data = DrawnImages(module_of(digits).train_images, 0)
    assert not torch.equal(data[0, 0][0], data[1, 0][0])
    assert torch.equal(torch.rand(3), expected)


def test_crops_of_the_whole_image_without_flip_are_the_image(digits):
    data = module_of(digits, crop_scale=(1.0, 1.0), flip=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPTIONS.mean, OPTIONS.std))
    image = digits.train[0][0]
    expected = (TF.to_tensor(TF.resize(image, [32, 32])) - mean) / std
    torch.testing.assert_close(data.train_images[0][0], expected)


def test_half_of_the_crops_are_flipped(digits):
    torch.manual_seed(0)
    data = module_of(digits, crop_scale=(1.0, 1.0))
    plain = module_of(digits, crop_scale=(1.0, 1.0), flip=False).train_images[0][0]
    drawn = [data.train_images[0][0] for _ in range(200)]
    flipped = [torch.equal(image, plain.flip(-1)) for image in drawn]
    assert all(f or torch.equal(image, plain) for f, image in zip(flipped, drawn, strict=True))
    assert 75 <= sum(flipped) <= 125


def test_crops_have_the_area_that_was_asked_for(digits):
    crop = module_of(digits, crop_scale=(0.2, 0.3)).train_images.transform.transforms[0]
    torch.manual_seed(0)
    image = TF.resize(digits.train[0][0], [224, 224])
    sizes = [crop.get_params(image, crop.scale, crop.ratio)[2:] for _ in range(50)]
    shares = [h * w / 224**2 for h, w in sizes]
    assert 0.19 < min(shares) < max(shares) < 0.31


def test_validation_images_come_as_they_are_and_in_order(digits):
    loader = module_of(digits).val_dataloader()
    assert isinstance(loader.sampler, SequentialSampler)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert labels.tolist() == digits.val.targets.tolist()
    again = next(iter(module_of(digits, batch_size=360).val_dataloader()))[0]
    assert torch.equal(images, again)


def test_a_batch_is_no_larger_than_the_images_there_are(digits):
    data = module_of(digits, batch_size=64, indices=np.arange(40), drop_last=True)
    assert data.batch_size == 40
    assert [len(y) for _, y in data.train_dataloader()] == [40]


def test_a_smaller_last_batch_is_left_out_where_asked(digits):
    for drop_last, sizes in ((False, [16, 16, 8]), (True, [16, 16])):
        data = module_of(digits, batch_size=16, indices=np.arange(40), drop_last=drop_last)
        assert [len(y) for _, y in data.train_dataloader()] == sizes


def of_rank(data, rank):
    data.trainer = SimpleNamespace(global_rank=rank, world_size=2, current_epoch=0)
    return data


def test_two_processes_share_the_training_images(digits):
    indices = np.arange(5, 46)  # 41 images: one process sees one twice, so that steps are equal
    seen = []
    for rank in range(2):
        counted = Counted(digits.train)
        watched = Datasets(counted, digits.val, 10, digits.class_names)
        data = of_rank(module_of(watched, batch_size=7, indices=indices, devices=2), rank)
        assert [len(y) for _, y in data.train_dataloader()] == [7, 7, 7]
        seen.append(counted.read)
    assert set(seen[0]) | set(seen[1]) == set(indices.tolist())
    assert len(set(seen[0]) & set(seen[1])) <= 1


def test_two_processes_have_a_batch_each_where_one_batch_holds_all(digits):
    for rank in range(2):
        data = module_of(digits, 64, indices=np.arange(41), drop_last=True, devices=2)
        assert data.batch_size == 21
        assert [len(y) for _, y in of_rank(data, rank).train_dataloader()] == [21]


def test_each_process_validates_on_all_images(digits):
    labels = [y for _, y in of_rank(module_of(digits), 1).val_dataloader()]
    assert torch.cat(labels).tolist() == digits.val.targets.tolist()


def test_images_without_labels_are_refused(digits):
    bare = Datasets(digits.train, digits.val, 1, ("",), labelled=False)
    with pytest.raises(DataError, match="accuracy needs at least two"):
        require_labels(OPTIONS, bare)


def test_images_without_a_validation_split_are_refused(digits):
    alone = Datasets(digits.train, None, 10, digits.class_names)
    with pytest.raises(DataError, match=r"has no validation images here; name other images"):
        require_labels(OPTIONS, alone)
