"""``erssl embed``: the features of a plain loop, in files that are whole or absent."""

import csv
import resource
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.numpy import load_file
from torchvision import transforms as T
from torchvision.models import VisionTransformer

import erssl
from erssl.cli.main import main
from erssl.errors import ConfigError, DataError, RunError
from erssl.models.patch_tokens import PatchTokens
from erssl.protocols import embed as engine
from erssl.run.lock import locked

from ..cli.test_pretrain import TINY, UNMEASURED

CNN, VIT = "random:test_resnet", "random:test_vit"
SMALL = {"data.image_size": 32, "data.num_workers": 0, "quiet": True}


def paint(path, seed, size=(40, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Ten images in two classes, whose names a spreadsheet would compute."""
    for number in range(10):
        paint(tmp_path / "photos" / ("=1+1" if number % 2 else "cats") / f"{number}.png", number)
    return tmp_path / "photos"


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def plain_loop(files, network):
    """Features by torchvision's transforms and the network itself, one image at a time."""
    transform = T.Compose(
        [
            T.Resize(32),
            T.CenterCrop(32),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        outputs = [network(transform(Image.open(f).convert("RGB"))[None])[0] for f in files]
    return torch.stack(outputs).numpy()


def same_network(name, seed=0, **options):
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=0, **options).eval()


def assert_close(features, expected):
    assert features.shape == expected.shape
    assert np.abs(features - expected).max() <= 1e-6 * np.abs(expected).max()
    assert expected.std(axis=0).max() > 1e-3  # images differ


def test_labelled_folder_equals_a_plain_loop(photos, tmp_path):
    result = erssl.embed(CNN, photos, tmp_path / "out" / "features", **SMALL)
    assert result.path == tmp_path / "out" / "features.npy"
    features, rows = np.load(result.path), table(tmp_path / "out" / "features.csv")
    files = [row["file"] for row in rows]
    assert files == result.results["files"] == sorted(map(str, photos.glob("*/*.png")))
    assert features.dtype == np.float32
    assert_close(features, plain_loop(files, same_network("test_resnet")))
    assert [row["label"] for row in rows] == ["0"] * 5 + ["1"] * 5
    assert [row["class"] for row in rows] == ["'=1+1"] * 5 + ["cats"] * 5
    assert {row["split"] for row in rows} == {"train"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["features.csv", "features.npy"]


def test_flat_folder_in_half_precision_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("=b.png", "a.png", "@c.png")):
        paint(tmp_path / "-flat" / name, seed)
    overrides = ["data.image_size=32", "data.num_workers=0", "features_dtype=float16"]
    overrides += [f"checkpoint={CNN}", "data=-flat", "output=f.safetensors"]
    assert main(["embed", *overrides]) == 0, capsys.readouterr().err
    features, rows = load_file("f.safetensors")["features"], table(tmp_path / "f.csv")
    assert features.dtype == np.float16
    # Sorted by name; the folder's own begins as a formula does.
    assert [row["file"] for row in rows] == ["'-flat/=b.png", "'-flat/@c.png", "'-flat/a.png"]
    assert {(row["label"], row["class"]) for row in rows} == {("", "")}
    exact = plain_loop([row["file"][1:] for row in rows], same_network("test_resnet"))
    assert np.abs(features - exact).max() <= 2**-10 * np.abs(exact).max()


def test_patches_are_the_tokens_without_the_class(photos, tmp_path):
    size = {"data.image_size": 160}
    result = erssl.embed(VIT, photos, tmp_path / "f", on="patches", **{**SMALL, **size})
    vit = same_network("test_vit")
    own = vit.num_prefix_tokens
    patches = np.load(result.path)
    assert patches.shape == (10, 100, 64) == result.results["shape"]
    image = T.Compose(
        [
            T.Resize(round(160 * 256 / 224)),
            T.CenterCrop(160),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )(Image.open(result.results["files"][3]))
    with torch.no_grad():
        assert_close(patches[3], vit.forward_features(image[None])[0, own:].numpy())


def test_patches_of_torchvisions_transformer():
    """What its encoder gives, which the hook sees, but for the class token in front."""
    torch.manual_seed(0)
    vit = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32).eval()
    seen = []
    vit.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tokens, images = PatchTokens(vit, 32), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        patches, _ = tokens(images), vit(images)
    assert tokens.shape == patches.shape[1:] == (16, 16)
    assert torch.equal(patches, seen[-1][:, 1:])


@pytest.mark.parametrize("on", ["features", "patches"])
def test_parquet(photos, tmp_path, on):
    parquet = pytest.importorskip("pyarrow.parquet")
    size = {"data.image_size": 160}
    kept = {"on": on, **SMALL, **size}
    array = np.load(erssl.embed(VIT, photos, tmp_path / "f.npy", **kept).path)
    read = parquet.read_table(erssl.embed(VIT, photos, tmp_path / "f.parquet", **kept).path)
    assert read.column_names == ["file", "label", "class", "split", "features"]
    assert np.array_equal(np.array(read["features"].to_pylist(), np.float32), array)
    assert read["class"].to_pylist() == ["=1+1"] * 5 + ["cats"] * 5  # as they are
    assert [f"{n}" for n in read["label"].to_pylist()] == [
        r["label"] for r in table(tmp_path / "f.csv")
    ]


def test_parquet_without_pyarrow_is_refused_before_work(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow; .*pip install '\.\[parquet\]'"):
        erssl.embed("nothing", photos, tmp_path / "f.parquet", **SMALL)


def test_embedding_is_what_the_head_of_the_run_gives(tmp_path):
    run = tmp_path / "run"
    overrides = ["method=simclr", *TINY, *UNMEASURED, "epochs=1", f"run_dir={run}"]
    assert main(["pretrain", *overrides]) == 0
    kept = {"quiet": True, "split": "val", "data.num_workers": 0}
    features = np.load(erssl.embed(run, output=tmp_path / "f", **kept).path)
    embedding = np.load(erssl.embed(run, output=tmp_path / "e", on="embedding", **kept).path)
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    from lightly.models.modules import SimCLRProjectionHead

    head = SimCLRProjectionHead(features.shape[1], 32, 16).eval()
    head.load_state_dict(
        {k.removeprefix("projection_head."): v for k, v in state.items() if "projection_head" in k}
    )
    with torch.no_grad():
        assert_close(embedding, head(torch.from_numpy(features)).numpy())
    rows = table(tmp_path / "e.csv")
    assert [rows[1]["file"], rows[1]["split"]] == ["val/1", "val"] and len(rows) == 360
    with pytest.raises(ConfigError, match="holds the backbone alone"):
        weights = run / "backbone.safetensors"
        erssl.embed(weights, "digits", tmp_path / "x", on="embedding", quiet=True)


def test_both_splits_are_written_one_after_the_other(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "val")
    both = {"data": "imagefolder", "data.train_dir": photos, "data.val_dir": tmp_path / "val"}
    every = erssl.embed(CNN, output=tmp_path / "all", **both, **SMALL)
    val = erssl.embed(CNN, output=tmp_path / "v", split="val", **both, **SMALL)
    assert np.array_equal(np.load(every.path)[10:], np.load(val.path))
    splits = [row["split"] for row in table(tmp_path / "all.csv")]
    assert splits == ["train"] * 10 + ["val"] * 10
    with pytest.raises(DataError, match="no validation images"):
        erssl.embed(CNN, photos, tmp_path / "x", split="val", **SMALL)


def test_two_to_one_output_do_not_share_parts(photos, tmp_path):
    output = tmp_path / "f.npy"
    with locked(tmp_path / "f.npy.parts", "output"):
        with pytest.raises(RunError, match=r"output=.*f.npy.parts is in use by process"):
            erssl.embed(CNN, photos, output, **SMALL)
        assert not output.exists()
    assert erssl.embed(CNN, photos, output, **SMALL).path == output


def test_a_killed_command_goes_on(photos, tmp_path, monkeypatch):
    """After a stop at the seventh image the four of the first shard are not computed again."""
    from erssl.data import folders

    whole = np.load(erssl.embed(CNN, photos, tmp_path / "whole", **SMALL).path)
    monkeypatch.setattr(engine, "SHARD", 4)
    read, load = [], folders.load_image

    def stopped(path, **options):
        if len(read) == 6:
            raise KeyboardInterrupt
        read.append(path)
        return load(path, **options)

    monkeypatch.setattr(folders, "load_image", stopped)
    with pytest.raises(KeyboardInterrupt):
        erssl.embed(CNN, photos, tmp_path / "f", **SMALL)
    assert not list(tmp_path.glob("f.npy")) + list(tmp_path.glob("f.csv"))
    again = []
    monkeypatch.setattr(
        folders, "load_image", lambda path, **o: (again.append(path), load(path, **o))[1]
    )
    result = erssl.embed(CNN, photos, tmp_path / "f", **SMALL)
    assert again == result.results["files"][4:]
    assert_close(np.load(result.path), whole)
    assert not (tmp_path / "f.npy.parts").exists()


def test_shared_memory_that_takes_no_batch_is_one_sentence_and_leaves_nothing(photos, tmp_path):
    output = tmp_path / "out" / "features.npy"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    settings = SMALL | {"data.image_size": 96, "data.num_workers": 1}
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))  # a batch has 1.1 MB
    try:
        with pytest.raises(RunError, match=r"hand over images took no more \(File too large\)"):
            erssl.embed(CNN, photos, output, **settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(output.parent.iterdir()) == []
    erssl.embed(CNN, photos, output, **settings | {"data.num_workers": 0})
    assert len(np.load(output)) == 10


def test_an_output_that_exists_is_kept(photos, tmp_path):
    (tmp_path / "f.csv").write_text("mine")
    with pytest.raises(RunError, match=r"f\.csv exists; .*overwrite=true"):
        erssl.embed(CNN, photos, tmp_path / "f", **SMALL)
    assert (tmp_path / "f.csv").read_text() == "mine" and not (tmp_path / "f.npy").exists()
    erssl.embed(CNN, photos, tmp_path / "f", overwrite=True, **SMALL)
    assert len(table(tmp_path / "f.csv")) == len(np.load(tmp_path / "f.npy")) == 10


def test_unreadable_images_are_named(photos, tmp_path, capsys):
    (photos / "cats" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of the 10 images .*0\.png.*data\.on_error=skip"):
        erssl.embed(CNN, photos, tmp_path / "f", **SMALL)
    assert not list(tmp_path.glob("f*"))
    skip = {**SMALL, "data.on_error": "skip", "quiet": False}
    result = erssl.embed(CNN, photos, tmp_path / "f", **skip)
    told = capsys.readouterr().out
    assert "Images that cannot be read: 1" in told and "Left out of train: 1" in told
    ((file, _),) = result.results["skipped"]
    assert file == str(photos / "cats" / "0.png") and file not in result.results["files"]
    assert len(np.load(result.path)) == len(table(tmp_path / "f.csv")) == 9


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"output": "f.h5"}, "must end in one of .npy, .safetensors, .parquet"),
        ({"output": "."}, "must end in one of"),
        ({"output": "f", "on": "patches"}, "needs a vision transformer"),
        ({"output": "f", "on": "embedding"}, "needs a run directory"),
        ({"output": "f", "on": "tokens"}, "tokens"),
        ({"output": "f", "feature_batch_size": 0}, "at least 1"),
        ({"output": "f", "run_dir": "r"}, "run_dir is unknown"),
    ],
)
def test_bad_input_leaves_nothing(photos, tmp_path, monkeypatch, keys, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        erssl.embed(CNN, photos, **keys, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_a_place_that_cannot_be_written_is_refused_before_work(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "cached_features", None)
    with pytest.raises(RunError, match="cannot be written"):
        erssl.embed(CNN, photos, "photos/cats/0.png/f", **SMALL)


def test_names_that_are_no_utf8(photos, tmp_path):
    odd = photos / "cats" / "\udcff.png"
    try:
        paint(photos / "cats" / "x.png", 1)
        (photos / "cats" / "x.png").rename(odd)
    except OSError:
        pytest.skip("this file system takes Unicode alone")
    erssl.embed(CNN, photos, tmp_path / "f", **SMALL)
    assert table(tmp_path / "f.csv")[-1]["file"].endswith("\\udcff.png")


def test_rows_are_in_one_order_whatever_the_number_of_workers(tmp_path):
    """The first images take longest to decode, so that later batches are ready before them."""
    folder = tmp_path / "slow first"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(12):
        side = 1200 if number < 3 else 8
        pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    written = []
    for workers, batch_size in ((0, 5), (1, 1), (3, 1), (3, 2)):
        output = tmp_path / f"{workers}-{batch_size}.npy"
        given = {"data.num_workers": workers, "feature_batch_size": batch_size}
        erssl.embed("pixels", folder, output, **SMALL | given | {"data.image_size": 4})
        written.append((output.read_bytes(), output.with_suffix(".csv").read_bytes()))
    assert all(each == written[0] for each in written)
    assert written[0][1].index(b"00.png") < written[0][1].index(b"11.png")
