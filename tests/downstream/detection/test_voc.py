"""VOC's detection layout: read as it is, and refused in one sentence where it is not."""

import pytest

from erssl.downstream.detection.voc import CLASS_NAMES, VocSplit, read_split, read_voc
from erssl.errors import DataError

from ..conftest import image

OBJECT = (
    "<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>"
    "<difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>"
    "<xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def make_split(devkit, year, name, things):
    """Images of 40 x 30 pixels with the objects ``(class, box, difficult)`` of each."""
    folder = devkit / f"VOC{year}"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    ids = [f"{year}_{name}_{number}" for number in range(len(things))]
    (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("".join(f"{i}\n" for i in ids))
    for identifier, objects in zip(ids, things, strict=True):
        image(folder / "JPEGImages" / f"{identifier}.jpg")
        inside = "".join(OBJECT.format(*box, name=n, difficult=d) for n, box, d in objects)
        size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
        xml = f"<annotation>{size}{inside}</annotation>"
        (folder / "Annotations" / f"{identifier}.xml").write_text(xml)
    return folder


@pytest.fixture
def root(tmp_path):
    devkit = tmp_path / "VOCdevkit"
    make_split(devkit, 2007, "trainval", [[("cat", (1, 1, 40, 30), 0)], []])
    make_split(devkit, 2007, "test", [[("dog", (3, 5, 10, 20), 0), ("cow", (1, 1, 5, 5), 1)]])
    make_split(devkit, 2012, "trainval", [[("tvmonitor", (2, 2, 7.5, 9), 1)]])
    return tmp_path


def test_reads_both_years_to_train_on(root):
    train = read_voc(root, "train")
    assert [split.year for split in train.splits] == [2007, 2012]
    assert len(train.images) == 3 and len(train.training_images) == 2
    assert train.class_names == CLASS_NAMES and len(CLASS_NAMES) == 20
    whole = train.images[0].instances[0]  # pixels are counted from 1, both ends included
    assert (whole.box, whole.label) == ((0, 0, 40, 30), CLASS_NAMES.index("cat"))
    assert train.images[2].instances[0].box == (1, 1, 6.5, 8)
    assert train.counts["difficult"] == 1 and train.notes == ()
    assert read_voc(root / "VOCdevkit", "train").images == train.images


def test_reads_what_it_is_tested_on(root):
    test = read_voc(root, "val")
    assert test.splits == (VocSplit(root / "VOCdevkit" / "VOC2007", 2007, "test"),)
    assert [len(image.instances) for image in test.images] == [2]
    assert not test.has_codes


def test_one_year_alone_is_noted(root):
    (root / "VOCdevkit" / "VOC2012").rename(root / "elsewhere")
    train = read_voc(root, "train")
    assert len(train.images) == 2
    assert "VOC2007 alone" in train.notes[0]


def test_boxes_without_area_are_noted(root):
    edit(root / "VOCdevkit" / "VOC2007", "<xmin>3</xmin>", "<xmin>11</xmin>")
    assert read_voc(root, "val").notes[0].startswith("1 boxes of ")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "JPEGImages" / "2007_test_0.jpg").unlink(), r"1 images that .*test\.txt"),
        (lambda f: (f / "Annotations" / "2007_test_0.xml").unlink(), r"test_0\.xml cannot be read"),
        (lambda f: (f / "ImageSets" / "Main" / "test.txt").unlink(), "data_root= must hold"),
        (lambda f: (f / "ImageSets" / "Main" / "test.txt").write_text(""), "lists no image"),
        (lambda f: edit(f, "<xmin>3</xmin>", ""), "it has no bndbox/xmin"),
        (lambda f: edit(f, "<xmin>3</xmin>", "<xmin>wide</xmin>"), "no annotation of VOC"),
        (lambda f: edit(f, "<xmin>3</xmin>", "<xmin>nan</xmin>"), "a box of a dog is not finite"),
        (lambda f: edit(f, "<width>40</width>", "<width>0</width>"), "has 0 x 30 pixels"),
        (lambda f: edit(f, "dog", "wolf"), "class wolf is none of the 20"),
        (lambda f: edit(f, "</annotation>", ""), "no annotation of VOC"),
        (lambda f: edit(f, "<pose>Left</pose>", ""), "it has no pose"),
    ],
)
def test_what_is_wrong_is_one_sentence(root, damage, message):
    damage(root / "VOCdevkit" / "VOC2007")
    with pytest.raises(DataError, match=message) as caught:
        read_voc(root, "val")
    assert "\n" not in str(caught.value)


def test_a_list_of_its_own(root):
    images, difficult = read_split(VocSplit(root / "VOCdevkit" / "VOC2007", 2007, "test"))
    assert len(images) == 1 and difficult == 1


def edit(folder, old, new):
    file = folder / "Annotations" / "2007_test_0.xml"
    file.write_text(file.read_text().replace(old, new))
