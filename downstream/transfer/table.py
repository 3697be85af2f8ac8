"""The eleven data sets of the transfer suite, one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torchvision import datasets as tv

from erssl.downstream.transfer import readers
from erssl.downstream.transfer.suite_metrics import Metric


@dataclass(frozen=True)
class TransferDataset:
    """One data set.

    Attributes:
        name: In options and results.
        torchvision: The class that reads it.
        classes: Number of classes K.
        metric: What counts (Kornblith et al. 2019, Table 1; Ericsson et al. 2021).
        counts: Training, validation and test images of the whole data set.
        source: Where the counts are from.
        split: How training, validation and test images come about.
        needs: Files and folders below the root, of the original layout.
        read: Reads them.
        fetch: Downloads them into a root through torchvision; ``None`` where the host is gone.
        part: Files of another layout that holds a part of the data set.
        beside: What else belongs to the original layout, for messages: a part may lack it.
        remark: What everyone should know who compares results.
    """

    name: str
    torchvision: str
    classes: int
    metric: Metric
    counts: tuple[int, int, int]
    source: str
    split: str
    needs: tuple[str, ...]
    read: readers.Reader
    fetch: Callable[[str], Any] | None = None
    part: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    remark: str | None = None


def _below(folder: str, *parts: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{part}" for part in parts)


_OWN = "its own train and val; its own test"
_DRAWN = "20 % of train drawn for val (Ericsson et al. 2021); its own test"

TRANSFER_DATASETS: dict[str, TransferDataset] = {
    row.name: row
    for row in (
        TransferDataset(
            name="aircraft",
            torchvision="FGVCAircraft",
            classes=100,
            metric="mean_per_class",
            counts=(3334, 3333, 3333),
            source="Maji et al. 2013",
            split=_OWN,
            needs=_below(
                "fgvc-aircraft-2013b/data",
                "variants.txt",
                "images_variant_train.txt",
                "images_variant_val.txt",
                "images_variant_test.txt",
                "images",
            ),
            read=readers.read_aircraft,
            fetch=lambda root: tv.FGVCAircraft(root, download=True),
        ),
        TransferDataset(
            name="caltech101",
            torchvision="Caltech101",
            classes=101,
            metric="mean_per_class",
            counts=(2424, 606, 5647),
            source="torchvision's 8,677 without the background, 30 a class for training",
            split="30 drawn a class without replacement, 20 % of them for val; the rest for tests",
            needs=("caltech101/101_ObjectCategories/BACKGROUND_Google",),
            read=readers.read_caltech101,
            fetch=lambda root: tv.Caltech101(root, download=True),
            remark=(
                "caltech101 is measured on its 101 classes without BACKGROUND_Google, which the "
                "code of Ericsson et al. 2021 counts as a 102nd class."
            ),
        ),
        TransferDataset(
            name="cars",
            torchvision="StanfordCars",
            classes=196,
            metric="top1",
            counts=(6516, 1628, 8041),
            source="8,144 / 8,041: Krause et al. 2013",
            split=_DRAWN,
            needs=_below(
                "stanford_cars",
                "devkit/cars_meta.mat",
                "devkit/cars_train_annos.mat",
                "cars_train",
                "cars_test_annos_withlabels.mat",
                "cars_test",
            ),
            read=readers.read_cars,
        ),
        TransferDataset(
            name="cifar10",
            torchvision="CIFAR10",
            classes=10,
            metric="top1",
            counts=(40000, 10000, 10000),
            source="50,000 / 10,000: Krizhevsky 2009",
            split=_DRAWN,
            needs=_below(
                "cifar-10-batches-py",
                *(f"data_batch_{number}" for number in range(1, 6)),
                "test_batch",
                "batches.meta",
            ),
            read=readers.read_cifar10,
            fetch=lambda root: tv.CIFAR10(root, download=True),
            part=tuple(f"cifar10_exact_{p}" for p in ("train.png", "test.png", "labels.npz")),
        ),
        TransferDataset(
            name="cifar100",
            torchvision="CIFAR100",
            classes=100,
            metric="top1",
            counts=(40000, 10000, 10000),
            source="50,000 / 10,000: Krizhevsky 2009",
            split=_DRAWN,
            needs=_below("cifar-100-python", "train", "test", "meta"),
            read=readers.read_cifar100,
            fetch=lambda root: tv.CIFAR100(root, download=True),
            part=tuple(f"cifar100_exact_{p}" for p in ("train.png", "test.png", "labels.npz")),
        ),
        TransferDataset(
            name="dtd",
            torchvision="DTD",
            classes=47,
            metric="top1",
            counts=(1880, 1880, 1880),
            source="Cimpoi et al. 2014, the first of ten splits",
            split=_OWN,
            needs=_below(
                "dtd/dtd", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt", "images"
            ),
            read=readers.read_dtd,
            fetch=lambda root: tv.DTD(root, download=True),
        ),
        TransferDataset(
            name="flowers",
            torchvision="Flowers102",
            classes=102,
            metric="mean_per_class",
            counts=(1020, 1020, 6149),
            source="Nilsback and Zisserman 2008",
            split=_OWN,
            needs=("flowers-102/setid.mat", "flowers-102/imagelabels.mat", "flowers-102/jpg"),
            read=readers.read_flowers,
            fetch=lambda root: tv.Flowers102(root, download=True),
        ),
        TransferDataset(
            name="food",
            torchvision="Food101",
            classes=101,
            metric="top1",
            counts=(60600, 15150, 25250),
            source="75,750 / 25,250: Bossard et al. 2014",
            split=_DRAWN,
            needs=("food-101/meta/train.json", "food-101/meta/test.json", "food-101/images"),
            read=readers.read_food,
            fetch=lambda root: tv.Food101(root, download=True),
        ),
        TransferDataset(
            name="pets",
            torchvision="OxfordIIITPet",
            classes=37,
            metric="mean_per_class",
            counts=(2944, 736, 3669),
            source="3,680 / 3,669: Parkhi et al. 2012, as released",
            split="20 % of trainval drawn for val (Ericsson et al. 2021); its own test",
            needs=_below(
                "oxford-iiit-pet", "annotations/trainval.txt", "annotations/test.txt", "images"
            ),
            read=readers.read_pets,
            fetch=lambda root: tv.OxfordIIITPet(root, download=True),
        ),
        TransferDataset(
            name="sun397",
            torchvision="SUN397",
            classes=397,
            metric="top1",
            counts=(15880, 3970, 19850),
            source="19,850 / 19,850: Xiao et al. 2010, 50 / 50 a class",
            split="20 % of Training_01.txt drawn for val (Ericsson et al. 2021); Testing_01.txt",
            needs=("SUN397/ClassName.txt",),
            beside=(
                "SUN397/Training_01.txt",
                "SUN397/Testing_01.txt",
                "SUN397/a/abbey and the other folders of images",
            ),
            read=readers.read_sun397,
        ),
        TransferDataset(
            name="voc2007",
            torchvision="VOCDetection",
            classes=20,
            metric="map11",
            counts=(2501, 2510, 4952),
            source="Everingham et al. 2010",
            split=_OWN,
            needs=_below(
                "VOCdevkit/VOC2007",
                "ImageSets/Main/train.txt",
                "ImageSets/Main/val.txt",
                "ImageSets/Main/test.txt",
                "Annotations",
                "JPEGImages",
            ),
            read=readers.read_voc2007,
            fetch=lambda root: [
                tv.VOCDetection(root, year="2007", image_set=s, download=True)
                for s in ("train", "test")
            ],
        ),
    )
}
