"""What readers of images do where one would guess wrongly: each as a user of ``data=`` meets it."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from erssl.data import default_options
from erssl.errors import DataError

from .data_images import noise
from .test_sources import encoded, write_tar


@pytest.fixture
def hf():
    """Hugging Face's ``datasets``, which some of these tests need."""
    module = pytest.importorskip("datasets")
    module.disable_progress_bars()
    return module


@pytest.mark.usefixtures("hf")
def test_a_tar_read_by_hugging_face_names_the_rows_whose_extension_it_leaves_out(tmp_path):
    """``datasets`` takes the columns of the first five samples; ours does not."""
    names = [f"{i}.jpg" for i in range(5)] + ["5.JPG", "6.jpeg"]
    files = {name: encoded(i, "JPEG") for i, name in enumerate(names)}
    (tmp_path / "tars").mkdir()
    shard = write_tar(tmp_path / "tars" / "train-0.tar", files)
    with pytest.raises(DataError, match=r"2 of the 7 images of split train .*row 5: no image"):
        default_options("hf", path=str(tmp_path / "tars")).load()
    kept = default_options("hf", path=str(tmp_path / "tars"), on_error="skip").load()
    assert len(kept.train) == 5 and kept.left_out["train"] == {"unreadable": 2}
    images = default_options("wds", shards=str(shard)).load().train
    assert len(images) == 7
    for i, name in enumerate(names):
        assert images[i][0].tobytes() == Image.open(io.BytesIO(files[name])).tobytes()


@pytest.mark.usefixtures("hf")
def test_avif_in_a_tar_is_no_image_to_hugging_face_and_one_to_us(tmp_path):
    files = {f"{i}.avif": encoded(i, "AVIF") for i in range(3)}
    (tmp_path / "tars").mkdir()
    shard = write_tar(tmp_path / "tars" / "train-0.tar", files)
    with pytest.raises(DataError, match=r"no column of images but .*avif \(Value\)"):
        default_options("hf", path=str(tmp_path / "tars")).load()
    assert len(default_options("wds", shards=str(shard)).load().train) == 3


def test_avif_in_class_folders_is_read_where_torchvision_raises(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "x" / name).mkdir(parents=True)
        (tmp_path / "x" / name / "0.avif").write_bytes(encoded(0, "AVIF"))
    with pytest.raises(FileNotFoundError):
        ImageFolder(tmp_path / "x")
    datasets = default_options("imagefolder", train_dir=str(tmp_path / "x")).load()
    assert datasets.class_names == ("a", "b") and len(datasets.train) == 2


def test_classes_are_in_torchvisions_order_and_named_by_the_first_folder(tmp_path):
    for place in ("1", "2", "10", "a/x", "b/x", "a/y"):
        (tmp_path / "x" / place).mkdir(parents=True, exist_ok=True)
        noise(seed=1).save(tmp_path / "x" / place / "0.png")
    # to datasets it takes the labels away
    (tmp_path / "x" / "metadata.jsonl").write_text(json.dumps({"file_name": "1/0.png", "t": 1}))
    theirs = ImageFolder(tmp_path / "x")
    ours = default_options("imagefolder", train_dir=str(tmp_path / "x")).load()
    assert list(ours.class_names) == theirs.classes == ["1", "10", "2", "a", "b"]
    assert ours.train.samples == [(str(path), n) for path, n in theirs.samples]
    assert +ours.left_out["train"] == {"extension .jsonl": 1}
    (tmp_path / "t.csv").write_text(
        "path,label\n" + "".join(f"x/{n}/0.png,{n}\n" for n in ("10", "2", "1"))
    )
    table = default_options("table", file=str(tmp_path / "t.csv")).load()
    assert table.class_names == ("1", "2", "10")  # a table's labels are numbers where they can be


@pytest.mark.usefixtures("hf")
def test_folders_with_metadata_have_no_labels_to_hugging_face_which_is_said(tmp_path):
    lines = []
    for i in range(4):
        (tmp_path / "x" / "train" / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
        noise(seed=i).save(tmp_path / "x" / "train" / f"c{i % 2}" / f"{i}.png")
        lines.append(json.dumps({"file_name": f"c{i % 2}/{i}.png", "caption": "none"}))
    assert default_options("hf", path=str(tmp_path / "x")).load().labelled
    (tmp_path / "x" / "train" / "metadata.jsonl").write_text("\n".join(lines))
    hf_options = {"path": str(tmp_path / "x")}
    assert not default_options("hf", **hf_options).load().labelled
    with pytest.raises(DataError, match=r"label_column=label .* caption \(Value\)"):
        default_options("hf", **hf_options, label_column="label").load()


def test_an_image_that_was_opened_from_a_file_is_gone_with_it(tmp_path, hf):
    """``datasets`` keeps the path of an opened image, not its bytes."""
    noise(seed=0).save(tmp_path / "0.jpg")
    noise(seed=1).save(tmp_path / "1.jpg")
    images = [Image.open(tmp_path / f"{i}.jpg") for i in range(2)]
    table = hf.Dataset.from_dict({"image": images}, features=hf.Features({"image": hf.Image()}))
    hf.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "d"))
    assert len(default_options("hf", path=str(tmp_path / "d")).load().train) == 2
    kept = hf.load_from_disk(str(tmp_path / "d"))["train"].cast_column(
        "image", hf.Image(decode=False)
    )
    expected = np.asarray(Image.open(tmp_path / "1.jpg"))
    os.remove(tmp_path / "1.jpg")
    if kept[1]["image"]["bytes"] is None:
        with pytest.raises(DataError, match="row 1: no such file"):
            default_options("hf", path=str(tmp_path / "d")).load()
    else:  # a version of datasets that keeps the file's bytes
        datasets = default_options("hf", path=str(tmp_path / "d")).load()
        assert np.array_equal(np.asarray(datasets.train[1][0]), expected)


@pytest.mark.parametrize("format", ["AVIF", "JPEG", "WEBP"])
def test_orientation_is_that_of_the_file_whatever_holds_it(tmp_path, hf, format):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(0, format, exif=exif.tobytes())
    name = f"0.{format.lower()}"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).write_bytes(data)
    folder = default_options("imagefolder", train_dir=str(tmp_path / "x")).load().train
    tar = write_tar(tmp_path / "x.tar", {name: data})
    in_tar = default_options("wds", shards=str(tar)).load().train
    rows = {"image": [{"bytes": data, "path": None}]}
    table = hf.Dataset.from_dict(rows, features=hf.Features({"image": hf.Image()}))
    hf.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "d"))
    stored = default_options("hf", path=str(tmp_path / "d")).load().train
    assert folder[0][0].size == (30, 40)
    assert folder[0][0].tobytes() == in_tar[0][0].tobytes() == stored[0][0].tobytes()
