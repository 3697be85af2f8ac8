"""Real parts of the data sets where they are, and stand-ins in the original layout."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

SHARED = Path(os.environ.get("ERSSL_SHARED_DATA", Path(__file__).parents[2] / "../shared/data"))


def need(part):
    """The folder of shared data, once it holds the part."""
    if not (SHARED / part).exists():
        pytest.skip(f"no {SHARED / part}: set ERSSL_SHARED_DATA to a folder with {part}")
    return SHARED


@pytest.fixture
def copy_of(tmp_path):
    """A copy of a part, to damage; images are links."""

    def copy(part):
        source = need(part) / part
        for file in source.rglob("*"):
            target = tmp_path / part / file.relative_to(source)
            if file.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix in (".jpg", ".png"):
                target.symlink_to(file.resolve())
            else:
                shutil.copyfile(file, target)
        return tmp_path

    return copy


@pytest.fixture
def voc(tmp_path):
    """The VOC layout with its images, which are kept as the text of a link in some copies."""
    source = need("voc_layout_from_coco") / "voc_layout_from_coco" / "VOCdevkit" / "VOC2007"
    target = tmp_path / "VOCdevkit" / "VOC2007"
    (target / "JPEGImages").mkdir(parents=True)
    for name in ("Annotations", "ImageSets"):
        shutil.copytree(source / name, target / name, copy_function=shutil.copyfile)
        for folder in (target / name, *(p for p in (target / name).rglob("*") if p.is_dir())):
            folder.chmod(0o755)
    for file in (source / "JPEGImages").iterdir():
        link = file.read_bytes()[:200]
        at = file.parent / link.decode() if link.startswith(b"..") else file
        (target / "JPEGImages" / file.name).symlink_to(at.resolve())
    return tmp_path


def image(path, seed=0, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def aircraft(tmp_path):
    """FGVC-Aircraft with 4 variants, 3 / 2 / 2 images of each."""
    data = tmp_path / "fgvc-aircraft-2013b" / "data"
    data.mkdir(parents=True)
    variants = ["707-320", "A340 500", "DC-3", "F/A-18"]
    (data / "variants.txt").write_text("".join(f"{v}\n" for v in variants))
    number = 0
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        lines = []
        for variant in variants:
            for _ in range(count):
                number += 1
                image(data / "images" / f"{number:07d}.jpg", number)
                lines.append(f"{number:07d} {variant}\n")
        (data / f"images_variant_{split}.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def flowers(tmp_path):
    """Oxford 102 Flowers with 3 of its classes, 2 / 2 / 3 images of each."""
    folder = tmp_path / "flowers-102"
    labels = np.repeat([1, 2, 102], 7)
    ids = np.arange(1, 22).reshape(3, 7)
    for number in range(1, 22):
        image(folder / "jpg" / f"image_{number:05d}.jpg", number)
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    cuts = {"trnid": ids[:, :2], "valid": ids[:, 2:4], "tstid": ids[:, 4:]}
    savemat(folder / "setid.mat", {key: cut.reshape(1, -1) for key, cut in cuts.items()})
    return tmp_path
