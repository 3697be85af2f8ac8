"""Images in tars and of Hugging Face are checked before training, as those of folders are."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from erssl.data import default_options
from erssl.errors import DataError, ErsslWarning
from erssl.evaluation.fingerprints import data_digest
from erssl.protocols import knn, pretrain

from .test_sources import SMALL, encoded, write_tar

BROKEN = {2: b"", 5: b"no image", 6: encoded(6, "JPEG")[:-300]}
REASONS = {2: "empty file", 5: "not an image", 6: "truncated"}
FILES = [BROKEN.get(i, encoded(i, "JPEG")) for i in range(8)]


def stored(tmp_path, kind: str, files: list[bytes | None], **keys):
    """Options of a tar, or a Parquet file, of images."""
    if kind == "wds":
        members = {f"{i}.jpg": data for i, data in enumerate(files)}
        return default_options("wds", shards=str(write_tar(tmp_path / "a.tar", members)), **keys)
    hf = pytest.importorskip("datasets")
    hf.disable_progress_bars()
    features = hf.Features({"label": hf.ClassLabel(names=["a", "b"]), "image": hf.Image()})
    images = [None if data is None else {"bytes": data, "path": None} for data in files]
    rows = {"label": [i % 2 for i in range(len(files))], "image": images}
    (tmp_path / "data").mkdir(exist_ok=True)
    table = hf.Dataset.from_dict(rows, features=features)
    table.to_parquet(str(tmp_path / "data" / "train-0.parquet"))
    return default_options("hf", path=str(tmp_path / "data"), **keys)


@pytest.mark.parametrize("kind", ["wds", "hf"])
def test_images_that_do_not_decode_stop_before_training_or_are_left_out(tmp_path, kind):
    with pytest.raises(DataError, match=r"3 of the 8 images of .* cannot be read") as caught:
        stored(tmp_path, kind, FILES).load()
    for i, reason in REASONS.items():
        assert (f"{i}.jpg" if kind == "wds" else f"row {i}") in str(caught.value)
        assert reason in str(caught.value)
    options = stored(tmp_path, kind, FILES, on_error="skip")
    datasets = options.load()
    assert datasets.left_out["train"]["unreadable"] == len(datasets.skipped) == 3
    good = [i for i in range(8) if i not in BROKEN]
    assert data_digest(datasets.train) == data_digest(options.load().train)
    whole = replace(options, on_error="raise", verify=False).load().train
    for place, i in enumerate(good):
        assert datasets.train[place][0].tobytes() == whole[i][0].tobytes()
        assert datasets.train[place][1] == whole[i][1]
    assert len(datasets.train) == len(datasets.train.targets) == 5
    assert data_digest(datasets.train) != data_digest(whole)
    with pytest.raises(DataError, match="cannot be read"):
        whole[5]
    with pytest.raises(DataError, match=r"None of the 2 images of .* can be read"):
        stored(tmp_path, kind, [b"", b"x"], on_error="skip").load()


@pytest.mark.parametrize("kind", ["wds", "hf"])
def test_of_many_images_a_sample_is_decoded_unless_they_are_to_be_left_out(
    tmp_path, kind, monkeypatch
):
    monkeypatch.setattr("erssl.data.encoded.SAMPLE", 3)
    files = [encoded(0) for _ in range(9)]
    files[1] = b""
    assert len(stored(tmp_path, kind, files).load().train) == 9  # 0, 4 and 8 are looked at
    assert len(stored(tmp_path, kind, files, on_error="skip").load().train) == 8
    files[4] = b""
    with pytest.raises(DataError, match="1 of the 3 that were looked at among 9 images"):
        stored(tmp_path, kind, files).load()


def test_a_damaged_image_of_a_tar_stops_a_pretraining_before_it_begins(tmp_path):
    write_tar(tmp_path / "a.tar", {f"{i}.jpg": data for i, data in enumerate(FILES)})
    given = ["data=wds", f"data.shards={tmp_path}/a.tar", *SMALL, f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(DataError, match=r"data.on_error=skip"):
        pretrain.run(given, Console(quiet=True))
    assert not (tmp_path / "run").exists()
    pretrain.run([*given, "data.on_error=skip"], Console(quiet=True))
    header = (tmp_path / "run" / "header.txt").read_text()
    assert "Training images: 5 of 40 x 30" in header and "unreadable: 3" in header


def test_shards_and_samples_without_images_are_said(tmp_path):
    write_tar(tmp_path / "0.tar", {"a.png": encoded(0), "a.cls": b"1", "b.cls": b"1"})
    write_tar(tmp_path / "1.tar", {"c.json": b"{}"})
    with pytest.warns(ErsslWarning) as caught:
        datasets = default_options("wds", shards=f"{tmp_path}/{{0,1}}.tar").load()
    said = " ".join(str(each.message) for each in caught)
    assert "1 of the 2 tars of data.shards holds no images" in said and "1.tar" in said
    assert "2 of the 3 samples of data.shards have no image (b, c)" in said
    assert len(datasets.train) == 1
    with pytest.raises(DataError, match=r"hold no images .* but extension \.json: 1"):
        default_options("wds", shards=f"{tmp_path}/1.tar").load()


def test_of_samples_with_several_images_one_can_be_chosen(tmp_path):
    members = {"d/a.JPG": encoded(0), "d/a.seg.png": encoded(1), "d/b.jpg": encoded(2)}
    shards = str(write_tar(tmp_path / "0.tar", members))
    with pytest.warns(ErsslWarning, match=r"1 of the 2 samples .* several images.*\(jpg, seg.png"):
        every = default_options("wds", shards=shards).load().train
    assert len(every) == 3
    chosen = default_options("wds", shards=shards, image_key="jpg").load()
    assert [chosen.train[i][0].tobytes() for i in range(2)] == [
        every[i][0].tobytes() for i in (0, 2)
    ]
    assert chosen.left_out["train"] == {"another data.image_key": 1}
    with pytest.raises(DataError, match=r"no images \(webp\) but another data.image_key: 3"):
        default_options("wds", shards=shards, image_key="webp").load()


def test_a_row_without_an_image_is_named_and_columns_can_be_chosen(tmp_path):
    with pytest.raises(DataError, match=r"1 of the 3 images .*row 1: no image"):
        stored(tmp_path, "hf", [encoded(0), None, encoded(2)]).load()
    hf = pytest.importorskip("datasets")
    features = {"photo": hf.Image(), "mask": hf.Image(), "fine": hf.ClassLabel(names=["a", "b"])}
    features["coarse"] = hf.ClassLabel(names=["x", "y"])
    images = [[{"bytes": encoded(10 * j + i), "path": None} for i in range(2)] for j in range(2)]
    rows = {"photo": images[0], "mask": images[1], "fine": [0, 1], "coarse": [1, 0]}
    table = hf.Dataset.from_dict(rows, features=hf.Features(features))
    hf.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "d"))
    with pytest.warns(ErsslWarning) as caught:
        first = default_options("hf", path=str(tmp_path / "d")).load()
    said = " ".join(str(each.message) for each in caught)
    assert "images (photo, mask); the first is taken" in said
    assert "labels (fine, coarse); the first is taken" in said
    keys = {"image_column": "mask", "label_column": "coarse"}
    other = default_options("hf", path=str(tmp_path / "d"), **keys).load()
    assert (first.class_names, other.class_names) == (("a", "b"), ("x", "y"))
    assert other.train.targets.tolist() == [1, 0]
    assert other.train[0][0].tobytes() != first.train[0][0].tobytes()
    assert data_digest(other.train) != data_digest(first.train)
    with pytest.raises(DataError, match=r"data\.image_column=none is not among .* photo, mask"):
        default_options("hf", path=str(tmp_path / "d"), image_column="none").load()


def test_what_is_trained_on_hugging_face_is_evaluated_on_it(tmp_path):
    stored(tmp_path, "hf", [encoded(i) for i in range(8)])
    hf = pytest.importorskip("datasets")
    train = hf.load_dataset(str(tmp_path / "data"))["train"]
    hf.DatasetDict({"train": train, "test": train}).save_to_disk(str(tmp_path / "d"))
    run = tmp_path / "run"
    given = ["data=hf", f"data.path={tmp_path}/d", *SMALL, f"run_dir={run}"]
    pretrain.run(given, Console(quiet=True))
    result = knn.run(
        [f"checkpoint={run}", "plots=false", "k=1", f"run_dir={tmp_path / 'k'}"],
        Console(quiet=True),
    )
    assert result.metrics["top1"] == 1.0  # the same images on both sides
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    assert np.isfinite(metrics["knn_top1"])
