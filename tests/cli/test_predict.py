"""``erssl predict``: what each evaluation that trains leaves is enough to classify any images."""

import csv
import shutil

import numpy as np
import pytest
import timm
import torch
from matplotlib.text import Text
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torchvision import transforms as T

import erssl
from erssl.cli.main import main
from erssl.data.datasets import ImagesInMemory
from erssl.errors import ConfigError, DataError, RunError
from erssl.models import BackboneOptions, save_backbone
from erssl.run import prediction_files

from .conftest import CACHED, OWN_PREPROCESSING, evaluate
from .test_evaluation_commands import digits
from .test_pretrain import results_of

TRAINED = ("cached", "augmented", "semi", "finetune")
QUIET = {"data.num_workers": 0, "quiet": True, "sheet": 0}
PREPARE = T.Compose(
    [
        T.Resize(OWN_PREPROCESSING["image_size"]),
        T.ToTensor(),
        T.Normalize(OWN_PREPROCESSING["mean"], OWN_PREPROCESSING["std"]),
    ]
)


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@torch.no_grad()
def plain_probabilities(run, seed, images):
    """By timm, torch and torchvision alone, from the files that the run has left."""
    own, shared = run / f"seed{seed}" / "backbone.safetensors", run / "backbone.safetensors"
    backbone = timm.create_model("test_resnet", num_classes=0).eval()
    backbone.load_state_dict(load_file(own if own.is_file() else shared))
    head = load_file(run / f"seed{seed}" / "head.safetensors")
    features = backbone(torch.stack([PREPARE(image) for image in images]))
    return F.linear(features, head["weight"], head["bias"]).softmax(dim=1)


@pytest.fixture
def alone(evaluated, tiny_run, tmp_path):
    """Gives a copy of an evaluation, without the pretraining that it was of."""

    def copy(name):
        folder = tmp_path / "copies" / name
        shutil.copytree(evaluated / name, folder)
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace(str(tiny_run), "/is/not/here"))
        return folder

    return copy


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_run_leaves_is_enough_for_its_own_accuracy(alone, tmp_path, name):
    run = alone(name)
    result = erssl.predict(run, output=tmp_path / "p.csv", top=None, **QUIET)
    metrics, rows = results_of(run)["metrics"], table(tmp_path / "p.csv")
    first = {k: metrics.get(f"{k}_seed0", metrics[k]) for k in ("top1", "top5", "mean_per_class")}
    assert result.metrics == pytest.approx(first, abs=1e-12)
    kept = load_file(run / "seed0" / "predicted.safetensors")["predicted"].tolist()
    assert [row["predicted"] for row in rows] == [str(number) for number in kept]
    images = [digits().val[i][0] for i in range(40)]
    expected = plain_probabilities(run, 0, images)
    ours = torch.tensor([[float(row[str(c)]) for c in range(10)] for row in rows[:40]])
    assert (ours - expected).abs().max() < 1e-5
    assert [row["class"] for row in rows] == [str(t) for t in digits().val.targets]
    assert [row["file"] for row in rows[:2]] == ["val/0", "val/1"]


def test_a_seed_of_its_own_and_the_likeliest_classes(alone, tmp_path):
    run = alone("semi")
    result = erssl.predict(run / "seed1", digits().val, tmp_path / "p.csv", top=3, **QUIET)
    assert result.metrics["top1"] == pytest.approx(results_of(run)["metrics"]["top1_seed1"])
    expected = plain_probabilities(run, 1, [digits().val[i][0] for i in range(20)])
    values, order = expected.topk(3)
    for row, p, classes in zip(table(tmp_path / "p.csv")[:20], values, order, strict=True):
        assert [row[f"class_{rank}"] for rank in (1, 2, 3)] == [str(c) for c in classes.tolist()]
        given = [float(row[f"probability_{rank}"]) for rank in (1, 2, 3)]
        assert given == pytest.approx(p.tolist(), abs=1e-5)
    assert "class_4" not in row


@pytest.fixture(scope="module")
def of_names(tmp_path_factory):
    """A linear classifier of classes whose names a spreadsheet would compute."""
    folder = tmp_path_factory.mktemp("named")
    for split, count in (("train", 8), ("val", 4)):
        for number, name in enumerate(("=1+1", "10", "2", "@cat $x_1$")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                noise = np.random.default_rng(100 * number + i).integers(0, 80, (24, 30, 3))
                noise[..., min(number, 2)] += 80 if number < 3 else 0
                image = Image.fromarray((noise + 40 * (number == 3)).astype(np.uint8))
                image.save(folder / split / name / f"-{i}.png")
    overrides = (*CACHED, "data=imagefolder", f"data.train_dir={folder / 'train'}", "batch_size=16")
    overrides = (*overrides, f"data.val_dir={folder / 'val'}", "data.image_size=24", "epochs=60")
    assert evaluate(folder / "run", "linear", *overrides, "checkpoint=random:test_resnet") == 0
    return folder


def test_a_folder_without_some_classes_goes_by_names(of_names, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # in the run 2 is class 1 and @cat… class 3; here they are 1 and 2
    for name, new in (("2", "2"), ("@cat $x_1$", "@cat $x_1$"), ("10", "10 of another kind")):
        shutil.copytree(of_names / "val" / name, tmp_path / "photos" / new)
    overrides = [f"checkpoint={of_names / 'run'}", "data=photos", "data.num_workers=0", "top=null"]
    assert main(["predict", *overrides]) == 0
    said = capsys.readouterr().out
    assert "4 of 12 images are of classes that the classifier does not know" in " ".join(
        said.split()
    )
    rows = table(tmp_path / "predictions.csv")
    known = [row for row in rows if row["class"] != "10 of another kind"]
    share = sum(row["class"] == row["predicted"] for row in known) / 8
    assert {row["class"] for row in known} == {"2", "'@cat $x_1$"}
    assert f"top1: {share:.2%}" in said
    assert share > 0.25
    assert list(rows[0])[4:] == ["10", "2", "'=1+1", "'@cat $x_1$"]
    with Image.open(tmp_path / "predictions.png") as sheet:
        assert np.asarray(sheet.convert("RGB")).std() > 10
    assert main(["predict", *overrides]) == 2
    assert "predictions.csv exists; name another output" in " ".join(
        capsys.readouterr().err.split()
    )


def test_images_without_labels_have_no_accuracy(of_names, tmp_path):
    (tmp_path / "flat").mkdir()
    shutil.copy(of_names / "val" / "2" / "-0.png", tmp_path / "flat" / "=x.png")
    result = erssl.predict(of_names / "run", tmp_path / "flat", tmp_path / "p.csv", **QUIET)
    (row,) = table(tmp_path / "p.csv")
    assert result.metrics == {}
    assert row["file"].endswith("=x.png")
    assert row["class"] == ""
    chances = [float(row[f"probability_{rank}"]) for rank in (1, 2, 3, 4)]
    assert sum(chances) == pytest.approx(1, abs=1e-5)
    assert chances == sorted(chances, reverse=True)


def test_both_splits_have_metrics_of_their_own(of_names, tmp_path):
    result = erssl.predict(of_names / "run", output=tmp_path / "p.csv", split="all", **QUIET)
    rows = table(tmp_path / "p.csv")
    for split, count in (("train", 32), ("val", 16)):
        own = [row for row in rows if row["split"] == split]
        right = sum(row["class"] == row["class_1"] for row in own)
        assert result.metrics[f"{split}_top1"] == right / len(own)
        assert len(own) == count


def test_raw_pixels_and_a_module_of_ones_own(tmp_path):
    data = digits()
    part = ImagesInMemory(data.train.pixels[:64], data.train.targets[:64])
    own = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    cached = {"mode": "cached", "epochs": 1, "optimizer": "sgd", "data.num_workers": 0}
    cached |= {"cache": False, "quiet": True, "trainer.accelerator": "cpu"}
    flat = erssl.linear("pixels", (part, part), run_dir=tmp_path / "flat", **cached)
    again = erssl.predict(flat.path, (part, part), tmp_path / "flat.csv", **QUIET)
    assert again.metrics["top1"] == flat.metrics["top1"]
    with pytest.raises(ConfigError, match="leave it out"):
        size = {"data.image_size": 16}
        erssl.predict(flat.path, part, tmp_path / "other.csv", **QUIET, **size)
    save_backbone(own, tmp_path / "own.safetensors", BackboneOptions("object", "object"))
    said = {"backbone": own, "feature_dim": 8}
    run = erssl.linear(
        tmp_path / "own.safetensors", (part, part), run_dir=tmp_path / "o", **said, **cached
    )
    again = erssl.predict(run.path, (part, part), tmp_path / "own.csv", **said, **QUIET)
    assert again.metrics["top1"] == run.metrics["top1"]
    with pytest.raises(ConfigError, match="give it again"):
        erssl.predict(run.path, part, tmp_path / "third.csv", **QUIET)
    assert not (tmp_path / "third.csv").exists()


def test_what_is_no_finished_classifier_is_refused(alone, tiny_run, tmp_path):
    def refused(error, sentence, checkpoint, **more):
        with pytest.raises(error, match=sentence):
            erssl.predict(checkpoint, output=tmp_path / "p.csv", **QUIET, **more)
        assert not (tmp_path / "p.csv").exists()

    refused(ConfigError, "holds no classifier", tiny_run)
    refused(ConfigError, "holds no classifier", tmp_path / "nothing")
    run = alone("finetune")
    refused(DataError, "does not exist", run, data="imagefolder", **{"data.train_dir": "/no"})
    head = load_file(run / "seed0" / "head.safetensors")
    save_file(head, run / "seed0" / "head.safetensors")  # as earlier versions wrote it
    refused(RunError, "does not name its classes", run)
    (run / "seed0" / "head.safetensors").write_bytes(b"head")
    refused(RunError, "no classifier that can be read", run)
    (run / "seed0" / "seed.json").unlink()
    refused(RunError, "holds no finished training", run)
    run = alone("cached")
    (run / "backbone.safetensors").unlink()
    refused(RunError, "has no backbone.safetensors", run)
    with pytest.raises(ConfigError, match="must be a file that ends in"):
        erssl.predict(run, output=tmp_path / "p.txt", quiet=True)


def test_the_sheet_names_the_files(monkeypatch, tmp_path):
    texts = []
    monkeypatch.setattr(
        prediction_files,
        "save_figure",
        lambda figure, *_: texts.extend(t.get_text() for t in figure.findobj(Text)),
    )
    tile = prediction_files.Tile(Image.new("RGB", (8, 8)), "a", 0.5, "", "cats/" + "x$" * 30)
    prediction_files.plot_contact_sheet([("All", [tile])], tmp_path / "sheet.png")
    assert len([t for t in texts if t.startswith(r"x\$x\$") and len(t) < 50]) == 1


def test_rows_are_in_one_order_whatever_the_number_of_workers(of_names, tmp_path):
    written, photos = [], shutil.copytree(of_names / "val", tmp_path / "photos")
    # the first one takes longest
    Image.effect_noise((2000, 2000), 80).convert("RGB").save(photos / "10" / "-0.png")
    for workers in (0, 2):
        output = tmp_path / f"{workers}.csv"
        given = {"data.num_workers": workers, "feature_batch_size": 3}
        erssl.predict(of_names / "run", photos, output, **QUIET | given)
        written.append(output.read_bytes())
    assert written[0] == written[1]
    assert len(table(tmp_path / "0.csv")) == 16
