"""Tables, tars and data sets of Hugging Face: what is read, in which order, and what is refused."""

import io
import itertools
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from torchvision.datasets import ImageFolder

from erssl.data import SSLDataModule, ViewOptions, default_options
from erssl.data.given import datasets_of
from erssl.data.images import load_image
from erssl.data.shards import expanded
from erssl.data.sources.hf import HubImages
from erssl.data.sources.table import _in_order
from erssl.errors import DataError, ErsslWarning
from erssl.evaluation.fingerprints import data_digest
from erssl.protocols import knn, pretrain
from erssl.settings.embed import read_embed
from erssl.settings.pretrain import read_on

from .data_images import noise

SMALL = ["epochs=1", "batch_size=4", "backbone=resnet10_small", "data.image_size=32"]
SMALL += ["data.views.recipe=cifar", "data.num_workers=0", "lens.probe_size=0", "method=simclr"]
SMALL += ["trainer.accelerator=cpu", "evaluation.untrained=false"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(8):
        (tmp_path / "photos" / "deep").mkdir(parents=True, exist_ok=True)
        noise(seed=i).save(tmp_path / "photos" / ("deep" if i % 2 else "") / f"{i}.png")
    return tmp_path / "photos"


def path_of(i: int) -> str:
    return f"photos/{'deep/' if i % 2 else ''}{i}.png"


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def encoded(seed: int, format: str = "PNG", **keywords) -> bytes:
    file = io.BytesIO()
    noise(seed=seed).save(file, format, **keywords)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_gives_its_images_with_classes_in_order_of_their_labels(tmp_path, photos, kind):
    labels = ["10", "2", "1", "10", "2", "1", "10", "2"]
    splits = ["train"] * 6 + ["val", "test"]
    columns = {"path": [path_of(i) for i in range(8)], "label": labels, "split": splits}
    if kind == "csv":
        lines = [",".join(row) for row in zip(*columns.values(), strict=True)]
        (tmp_path / "t.csv").write_text("﻿path,label,split\n" + "\n".join(lines))
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns["label"] = [int(label) for label in labels]
        parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    datasets = default_options("table", file=str(tmp_path / f"t.{kind}")).load()
    assert datasets.class_names == ("1", "2", "10")
    assert [t for _, t in datasets.train.samples] == [2, 1, 0, 2, 1, 0]
    assert [t for _, t in datasets.val.samples] == [2, 1]
    for i in range(6):
        expected = load_image(tmp_path / path_of(i))
        assert datasets.train[i][0].tobytes() == expected.tobytes()


def test_a_table_without_labels_and_one_in_two_files(tmp_path, photos):
    (tmp_path / "a.csv").write_text(f"file,kind\n{path_of(0)},cat\n{tmp_path / path_of(1)},dog\n")
    (tmp_path / "b.csv").write_text(f"file,kind\n{path_of(2)},dog\n")
    names = {"path_column": "file", "file": str(tmp_path / "a.csv")}
    assert not default_options("table", **names).load().labelled
    names |= {"label_column": "kind", "val_file": str(tmp_path / "b.csv")}
    datasets = default_options("table", **names).load()
    assert datasets.class_names == ("cat", "dog") and datasets.val.samples[0][1] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\nphotos/0.png,a\ngone.png,b\n", "1 of the 2 files .* is not there .*gone"),
        ("name,label\nphotos/0.png,a\n", "has no column path but name, label"),
        ("path,label\nphotos/0.png,a\nphotos/2.png,\n", "1 of the 2 rows of split train have no"),
        ("path,label,split\nphotos/0.png,a,dev\n", "'dev' in its column split"),
        ("path,label,split\nphotos/0.png,a,val\n", "no row of split train"),
        ("path,label,split\nphotos/0.png,a,train\nphotos/2.png,b,val\n", "1 labels that no"),
        ("path,label\nphotos/0.png\n", "row 2 has not as many fields"),
        ("path,label\n", "has no rows"),
        ("path,label,label\nphotos/0.png,a,b\n", "several columns of the name 'label'"),
        (
            "path,label\nphotos/0.png,a\nphotos/2.png,b\nphotos/../photos/0.png,b\n",
            "in row 2 with the label 'a' and in row 4 with 'b'",
        ),
        ("", "has no rows"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_a_sentence(tmp_path, photos, text, said):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        default_options("table", file=str(tmp_path / "t.csv")).load()


def test_missing_files_of_a_table_are_counted_and_listed(tmp_path, photos):
    (tmp_path / "t.csv").write_text(f"path\n{path_of(0)}\ngone.png\n{path_of(2)}\n")
    (tmp_path / path_of(2)).write_bytes(b"no image")
    datasets = default_options("table", file=str(tmp_path / "t.csv"), on_error="skip").load()
    assert len(datasets.train) == 1
    assert datasets.left_out["train"] == {"missing": 1, "unreadable": 1}
    assert [Path(path).name for path, _ in datasets.skipped] == ["gone.png", "2.png"]
    for file, said in (("none.csv", "does not exist"), ("photos", "is a folder")):
        with pytest.raises(DataError, match=said):
            default_options("table", file=str(tmp_path / file)).load()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read as a table"):
        default_options("table", file=str(tmp_path / "bad.parquet")).load()


def test_images_in_tars_are_those_that_were_written_whatever_their_extensions_case(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {f"{i}.jpg": encoded(i, "JPEG") for i in range(6)}
    files |= {"6.JPG": encoded(6, "JPEG"), "7.jpeg": encoded(7, "JPEG", exif=exif.tobytes())}
    files |= {"8.avif": encoded(8, "AVIF"), "0.cls": b"3", "0.json": b"{}"}
    files |= {"0.pkl": pickle.dumps(Path), "._0.jpg": b"notes"}
    files[".trash/0.jpg"] = encoded(9, "JPEG")
    names = list(files)
    write_tar(tmp_path / "s-00.tar", {n: files[n] for n in names[:4]})
    write_tar(tmp_path / "s-01.tar", {n: files[n] for n in names[4:]})
    options = default_options("wds", shards=f"{tmp_path}/s-{{00..01}}.tar")
    with pytest.warns(ErsslWarning, match=r"1 of the 10 samples .* has no image \(0\)"):
        datasets = options.load()  # that of the other tar is another one, as to webdataset
    assert len(datasets.train) == 9 and not datasets.labelled
    expected = {"extension .cls": 1, "extension .json": 1, "extension .pkl": 1, "hidden": 2}
    assert datasets.left_out["train"] == expected
    for i, name in enumerate(names[:9]):
        stored = Image.open(io.BytesIO(files[name])).convert("RGB")
        stored = stored.transpose(Image.Transpose.ROTATE_270) if i == 7 else stored
        assert datasets.train[i][0].tobytes() == stored.tobytes()
    assert data_digest(datasets.train) == data_digest(options.load().train)


def test_what_a_step_sees_of_tars_is_what_it_sees_of_files(tmp_path, photos):
    files = sorted(str(p.relative_to(photos)) for p in photos.rglob("*.png"))
    write_tar(tmp_path / "all.tar", {f: (photos / f).read_bytes() for f in files})
    (tmp_path / "t.csv").write_text("path\n" + "\n".join(f"photos/{f}" for f in files))
    keys = {"image_size": 16, "num_workers": 0, "views": ViewOptions(recipe="simclr")}
    tars = default_options("wds", shards=str(tmp_path / "all.tar"), **keys)
    table = default_options("table", file=str(tmp_path / "t.csv"), **keys)
    of_tars, of_files = (
        next(iter(SSLDataModule(o, 4, 7).train_dataloader())) for o in (tars, table)
    )
    for a, b in zip(of_tars[0], of_files[0], strict=True):
        assert a.equal(b)


def test_patterns_of_shards_are_those_of_a_shell():
    assert expanded("a{00..02}.tar") == ["a00.tar", "a01.tar", "a02.tar"]
    assert expanded("{x,y}/{8..10}") == [f"{x}/{n}" for x in "xy" for n in (8, 9, 10)]


@pytest.mark.parametrize("shards", ["pipe:cat x.tar", "http://a/b.tar", "s3://a/{0..3}.tar"])
def test_other_addresses_of_shards_are_refused_wherever_they_stand(tmp_path, shards):
    write_tar(tmp_path / "a.tar", {"a.png": encoded(0)})
    with pytest.raises(DataError, match=r"is not read; give paths of tars, or https|is no file"):
        default_options("wds", shards=f"{tmp_path}/a.tar {shards}").load()
    with pytest.raises(DataError, match=r"pipe:.*is not read"):
        default_options("wds", shards=f"{tmp_path}/a.tar {{pipe:cat,x.tar}}").load()


@pytest.mark.parametrize("kept", [0.3, 0.55, 0.9])
def test_a_tar_that_ends_early_is_named(tmp_path, kept):
    data = write_tar(tmp_path / "x.tar", {f"{i}.png": encoded(i) for i in range(6)}).read_bytes()
    inside = 6 * (512 + -(-len(encoded(0)) // 512) * 512)  # without what ends the tar
    for length in (int(inside * kept), inside):
        (tmp_path / "early.tar").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"early\.tar"):
            default_options("wds", shards=str(tmp_path / "early.tar")).load()
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.tar"):
        default_options("wds", shards=str(tmp_path / "empty.tar")).load()


def test_tars_train(tmp_path):
    write_tar(tmp_path / "a.tar", {f"{i}.png": encoded(i) for i in range(8)})
    run = tmp_path / "run"
    words = ["data=wds", f"data.shards={tmp_path}/a.tar", *SMALL, f"run_dir={run}"]
    pretrain.run(words, Console(quiet=True))
    assert (run / "backbone.safetensors").is_file()


def test_unlabelled_images_are_trained_on_and_labelled_ones_evaluate(tmp_path, photos):
    for split in ("known", "val"):
        for i in range(8):
            folder = tmp_path / split / f"class{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (200 * (i % 2), 9 * i, 0)).save(folder / f"{i}.png")
    run = tmp_path / "run"
    words = ["data=imagefolder", f"data.train_dir={photos}", f"data.val_dir={tmp_path / 'val'}"]
    words += [f"data.labelled_dir={tmp_path / 'known'}", *SMALL, f"run_dir={run}"]
    pretrain.run(words, Console(quiet=True))
    header = (run / "header.txt").read_text()
    assert "Training images: 8 of 40 x 30" in header
    assert "Labelled images to evaluate with: 8 of 32 x 32" in header and "Classes: 2" in header
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    assert "knn_top1" in metrics and "val_online_cls_top1" not in metrics
    result = knn.run(
        [f"checkpoint={run}", "plots=false", f"run_dir={tmp_path / 'k'}"], Console(quiet=True)
    )
    assert result.metrics["top1"] == metrics["knn_top1"]
    assert "warmup_epochs: 0 # a tenth of epochs" in (run / "config.yaml").read_text()


@pytest.mark.parametrize("kind", ["parquet", "file", "imagefolder", "disk", "one split on disk"])
def test_data_sets_of_hugging_face_are_read_by_the_types_of_their_columns(tmp_path, kind):
    hf = pytest.importorskip("datasets")
    hf.disable_progress_bars()
    bytes_of = [encoded(i) for i in range(4)]
    numbers, names = [1, 0, 1, 0], ["dog", "cat"]
    folder = tmp_path / "data"
    if kind == "imagefolder":
        for i, data in enumerate(bytes_of):
            place = folder / "train" / sorted(names)[numbers[i]]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.png").write_bytes(data)
    else:
        features = hf.Features({"target": hf.ClassLabel(names=names), "picture": hf.Image()})
        rows = {"target": numbers, "picture": [{"bytes": b, "path": None} for b in bytes_of]}
        table = hf.Dataset.from_dict(rows, features=features)
        if kind == "disk":
            hf.DatasetDict({"train": table, "test": table}).save_to_disk(str(folder))
        elif kind == "one split on disk":
            table.save_to_disk(str(folder))
        elif kind == "file":
            folder = tmp_path / "data.parquet"
            table.to_parquet(str(folder))
        else:
            folder.mkdir()
            table.to_parquet(str(folder / "train-0.parquet"))
    datasets = default_options("hf", path=str(folder)).load()
    assert datasets.labelled
    assert datasets.class_names == (("cat", "dog") if kind == "imagefolder" else ("dog", "cat"))
    assert (datasets.val is not None) == (kind == "disk")
    order = [1, 3, 0, 2] if kind == "imagefolder" else range(4)
    for place, i in enumerate(order):
        image, target = datasets.train[place]
        assert image.tobytes() == Image.open(io.BytesIO(bytes_of[i])).tobytes()
        assert target == numbers[i]
    grey = default_options("hf", path=str(folder), channels=1).load().train
    assert np.asarray(grey[0][0]).ndim == 2
    assert data_digest(grey) != data_digest(datasets.train)


def test_a_missing_label_of_hugging_face_is_counted_and_all_missing_ones_are_no_labels(tmp_path):
    hf = pytest.importorskip("datasets")
    hf.disable_progress_bars()
    features = hf.Features({"target": hf.ClassLabel(names=["a", "b"]), "picture": hf.Image()})
    images = [{"bytes": encoded(i), "path": None} for i in range(3)]
    for name, numbers in (("some", [0, None, 1]), ("none", [None, None, None])):
        rows = {"target": numbers, "picture": images}
        hf.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / name))
    with pytest.raises(DataError, match=r"1 of 3 labels of column target .* are missing"):
        default_options("hf", path=str(tmp_path / "some")).load()
    assert not default_options("hf", path=str(tmp_path / "none")).load().labelled


def test_what_hugging_face_cannot_give_is_said_in_a_sentence(tmp_path, monkeypatch):
    hf = pytest.importorskip("datasets")
    hf.disable_progress_bars()
    asked: list[str] = []

    def unreachable(self, name, **options):
        asked.append(name)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=r"no-such/name cannot be loaded .*Couldn't reach"):
        default_options("hf", path="no-such/name").load()
    assert asked == ["no-such/name"]  # and not for half a minute
    assert not hf.config.HF_HUB_OFFLINE
    (tmp_path / "data").mkdir()
    hf.Dataset.from_dict({"x": [1, 2]}).to_parquet(str(tmp_path / "data" / "train-0.parquet"))
    with pytest.raises(DataError, match=r"no column of images but x \(Value\)"):
        default_options("hf", path=str(tmp_path / "data")).load()
    with pytest.raises(DataError, match="has no split dev but train"):
        default_options("hf", path=str(tmp_path / "data"), train_split="dev").load()


def test_an_address_is_no_table():
    with pytest.raises(DataError, match="is an address, which is not read"):
        default_options("table", file="https://host/t.csv").load()


def test_an_image_that_is_listed_twice_with_one_label_is_said(tmp_path, photos):
    rows = "".join(f"{path_of(i)},a\n" for i in (0, 1, 0))
    (tmp_path / "t.csv").write_text(f"path,label\n{rows}")
    with pytest.warns(ErsslWarning, match="1 images more than once"):
        assert len(default_options("table", file=str(tmp_path / "t.csv")).load().train) == 3


def test_paths_of_numbers_are_refused_with_their_type(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"path": [0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column path is of the type int64, not text"):
        default_options("table", file=str(tmp_path / "t.parquet")).load()


def test_labels_that_are_no_finite_numbers_stand_behind_the_numbers_in_one_order():
    labels = ["nan", "3", "1", "inf", "2", "10", "a"]
    for order in itertools.permutations(labels, len(labels)):
        assert sorted(order, key=_in_order) == ["1", "2", "3", "10", "a", "inf", "nan"]


def test_another_table_or_folder_does_not_keep_what_belonged_to_the_one_before(tmp_path):
    table = default_options("table", file="a.csv", val_file="b.csv")
    assert table.changed(file="c.csv").val_file is None
    assert table.changed(file="a.csv", verify=False).val_file == "b.csv"
    assert table.changed(file="c.csv", val_file="b.csv").val_file == "b.csv"
    folder = default_options("imagefolder", train_dir="a", labelled_dir="b")
    assert folder.changed(train_dir="c").labelled_dir is None
    assert folder.changed(val_dir="c").labelled_dir == "b"
    (tmp_path / "c").mkdir()
    for key in ("train_dir=c", f"train_dir={tmp_path}/c"):
        assert read_on(folder, [f"data.{key}"])[0].labelled_dir is None
    _, about_data = read_embed([f"data={tmp_path}/c", "checkpoint=run", "output=f.npy"])
    run = default_options("imagefolder", train_dir=f"{tmp_path}/c", labelled_dir="b", val_dir="d")
    data, _ = read_on(run, about_data)
    assert (data.train_dir, data.labelled_dir, data.val_dir) == (f"{tmp_path}/c", None, None)


def test_patterns_of_too_many_shards_are_refused_before_they_are_written_out():
    for pattern in ("{000..99999999}", "{0..9999}{0..9999}", "{a,b}{0..999999999999}"):
        with pytest.raises(DataError, match="which stands for"):
            expanded(pattern)


def test_images_of_hugging_face_that_are_files_are_turned_upright(tmp_path):
    hf = pytest.importorskip("datasets")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(seed=0).save(tmp_path / "a.jpg", exif=exif.tobytes())
    split = hf.Dataset.from_dict({"image": [str(tmp_path / "a.jpg")]})
    images = HubImages(split.cast_column("image", hf.Image()), "x", grey=False)
    stored = Image.open(tmp_path / "a.jpg").transpose(Image.Transpose.ROTATE_270)
    assert images[0][0].tobytes() == stored.tobytes()


def test_splits_of_hugging_face_with_classes_in_another_order_are_numbered_alike(tmp_path):
    hf = pytest.importorskip("datasets")
    hf.disable_progress_bars()

    def split(names, numbers):
        features = hf.Features({"label": hf.ClassLabel(names=names), "image": hf.Image()})
        images = [{"bytes": encoded(i), "path": None} for i in numbers]
        return hf.Dataset.from_dict({"label": numbers, "image": images}, features=features)

    train, val = split(["a", "b", "c"], [0, 1, 2]), split(["c", "a", "b"], [0, 0, 1, 2])
    hf.DatasetDict({"train": train, "test": val}).save_to_disk(str(tmp_path / "x"))
    datasets = default_options("hf", path=str(tmp_path / "x")).load()
    assert datasets.val.targets.tolist() == [2, 2, 0, 1] and datasets.val[0][1] == 2
    other = split(["a", "b", "d"], [0])
    hf.DatasetDict({"train": train, "test": other}).save_to_disk(str(tmp_path / "y"))
    with pytest.raises(DataError, match=r"different classes \(in one alone: c, d\)"):
        default_options("hf", path=str(tmp_path / "y")).load()


class Given:
    def __init__(self, listed: list[int], of_items: list[int]) -> None:
        self.targets, self.of_items = listed, of_items

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return noise(seed=i), self.of_items[i]


def test_class_numbers_of_a_given_data_set_are_those_of_its_items():
    for listed, of_items in (([0, 1, 2, 1], [0, 1, 2, 1]), ([0, 1, 2, 1], [0, 1, 0, 1])):
        assert datasets_of(Given(listed, of_items)).train.targets.tolist() == of_items
    for name in ("target_transform", "transforms"):
        seldom = Given([0, 1, 2, 1], [0, 1, 2, 3])
        setattr(seldom, name, "what changes one item of a class alone")
        assert datasets_of(seldom).train.targets.tolist() == [0, 1, 2, 3]


def test_torchvisions_transforms_of_targets_count(tmp_path):
    for i in range(4):
        (tmp_path / f"c{i % 2}").mkdir(exist_ok=True)
        noise(seed=i).save(tmp_path / f"c{i % 2}" / f"{i}.png")
    swapped = ImageFolder(str(tmp_path), target_transform=lambda y: 1 - y)
    assert datasets_of(swapped).train.targets.tolist() == [1, 1, 0, 0]
    images_alone = ImageFolder(str(tmp_path), transform=lambda image: image.rotate(90))
    images_alone.samples[1] = ("gone.png", 0)  # is not read for its label
    assert datasets_of(images_alone).train.targets.tolist() == [0, 0, 1, 1]
