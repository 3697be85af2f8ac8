"""``erssl knn``, ``linear``, ``semi`` and ``finetune`` on a tiny run, from overrides to results."""

import csv
import json
import statistics

import numpy as np
import pytest
import torch
from lightly.utils.benchmarking.knn import knn_predict
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score
from torch.nn import functional as F
from torchvision import transforms as T

import erssl
from erssl.data import default_options, labels_of, load_datasets, stratified_subset, subset_digest
from erssl.data.datasets import ImagesInMemory
from erssl.models import build_backbone, named_architecture, save_backbone
from erssl.run.directory import make_results

from .conftest import CACHED, COMMANDS, HERE, OWN_PREPROCESSING, QUICK, evaluate
from .test_pretrain import digit_folder, results_of

SCHEMA = set(make_results("", "", "", {}, 0, {}, {}, 0.0))


def digits():
    return load_datasets(default_options("digits"))


def pixels_of(images, image_size, mean, std):
    """Images as torchvision prepares them."""
    prepare = T.Compose([T.Resize(image_size), T.ToTensor(), T.Normalize(mean, std)])
    return torch.stack([prepare(image) for image, _ in images])


@torch.no_grad()
def features_of(backbone, images, **preprocessing):
    return backbone(pixels_of(images, **preprocessing))


def lightlys_knn(train, val, k, temperature):
    data = digits()
    bank, labels = F.normalize(train, dim=1).T.contiguous(), torch.from_numpy(data.train.targets)
    order = knn_predict(F.normalize(val, dim=1), bank, labels, 10, k, temperature)
    return order[:, 0].numpy()


@pytest.mark.parametrize("name", COMMANDS)
def test_results_have_the_one_schema(evaluated, tiny_run, name):
    results = results_of(evaluated / name)
    assert set(results) - {"warnings"} == SCHEMA  # where a metric is doubted
    assert results["protocol"] == COMMANDS[name][0]
    assert (results["dataset"], results["method"], results["seed"]) == ("digits", "simclr", 0)
    assert {"top1", "top5", "mean_per_class"} <= set(results["metrics"])
    for metric in ("top1", "top5", "mean_per_class"):
        assert 0 <= results["metrics"][metric] <= 1
    config = OmegaConf.to_container(OmegaConf.load(evaluated / name / "config.yaml"))
    assert config["checkpoint"] == str(tiny_run)
    assert results["config"] == config
    assert ("subset" in config) == (name == "semi")
    assert ("digests" in config) == (name != "knn")
    report = (evaluated / name / "report.md").read_text()
    assert f"# {COMMANDS[name][0]}: simclr on digits" in report


@pytest.mark.parametrize("name", ["augmented", "finetune"])
def test_a_training_tells_the_last_epoch_and_the_best_apart(evaluated, name):
    metrics = results_of(evaluated / name)["metrics"]
    history = json.loads((evaluated / name / "seed0" / "seed.json").read_text())["history"]
    assert metrics["top1"] == history[-1]["top1"]
    best = max(row["top1"] for row in history)
    assert metrics["best_on_val_top1"] == best
    assert history[int(metrics["best_on_val_epoch"]) - 1]["top1"] == best


def test_knn_has_no_epoch_that_was_chosen(evaluated):
    assert not [m for m in results_of(evaluated / "knn")["metrics"] if m.startswith("best")]


def test_knn_is_lightlys_on_features_taken_elsewhere(evaluated, tiny_run):
    backbone, data = erssl.load_backbone(tiny_run), digits()
    train, val = (features_of(backbone, p, **OWN_PREPROCESSING) for p in (data.train, data.val))
    expected = lightlys_knn(train, val, 20, 0.1)
    metrics = results_of(evaluated / "knn")["metrics"]
    assert metrics["top1"] == pytest.approx(accuracy_score(data.val.targets, expected), abs=2 / 360)
    assert metrics["top1"] > 0.5
    with (evaluated / "knn" / "confusion.csv").open() as file:
        counts = np.array([row[1:] for row in csv.reader(file)][1:], dtype=int)
    assert np.abs(counts - confusion_matrix(data.val.targets, expected)).sum() <= 4


def test_a_trained_classifiers_plots_hold_scikit_learns_numbers(evaluated):
    folder, truth = evaluated / "semi", digits().val.targets
    predicted = load_file(folder / "seed0" / "predicted.safetensors")["predicted"].numpy()
    with (folder / "confusion.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["true", *map(str, range(10))]
    assert [row[0] for row in rows] == header[1:]
    counts = np.array([row[1:] for row in rows], dtype=int)
    assert (counts == confusion_matrix(truth, predicted, labels=range(10))).all()
    with (folder / "per_class.csv").open() as file:
        shares = [float(row["accuracy"]) for row in csv.DictReader(file)]
    assert shares == pytest.approx(recall_score(truth, predicted, average=None), abs=1e-4)
    assert accuracy_score(truth, predicted) == results_of(folder)["metrics"]["top1_seed0"]
    for image in ("confusion.png", "per_class.png"):
        assert Image.open(folder / image).width > 300
        assert image in (folder / "report.md").read_text()


def test_images_are_drawn_where_they_are_asked_for_only(evaluated):
    assert not list((evaluated / "finetune").glob("*.png"))


@pytest.mark.parametrize("name", ["cached", "semi"])
def test_seeds_give_mean_and_deviation_of_all(evaluated, name):
    metrics = results_of(evaluated / name)["metrics"]
    count = 3 if name == "cached" else 2
    for metric in ("top1", "top5", "mean_per_class", "best_on_val_top1"):
        values = [metrics[f"{metric}_seed{i}"] for i in range(count)]
        assert metrics[metric] == pytest.approx(statistics.mean(values))
        assert metrics[f"{metric}_std"] == pytest.approx(statistics.stdev(values))
    kept = "predicted" if name == "cached" else "head"
    seeds = [evaluated / name / f"seed{i}" / f"{kept}.safetensors" for i in range(count)]
    assert len({file.read_bytes() for file in seeds}) == count


def test_seeds_are_those_that_one_training_each_would_give(evaluated, tiny_run, tmp_path):
    overrides = (*COMMANDS["cached"][:-1], "seed=1", f"checkpoint={tiny_run}")
    assert evaluate(tmp_path / "run", *overrides) == 0
    alone = results_of(tmp_path / "run")["metrics"]["top1"]
    assert alone == results_of(evaluated / "cached")["metrics"]["top1_seed1"]


def test_the_subset_is_kept_and_told(evaluated):
    numbers = [int(line) for line in (evaluated / "semi" / "subset.txt").read_text().split()]
    expected = stratified_subset(labels_of(digits().train), 0.1)
    assert numbers == expected.tolist()
    assert results_of(evaluated / "semi")["config"]["subset"] == {
        "images": len(expected),
        "sha256": subset_digest(expected),
    }


def test_semi_reads_the_images_of_its_list_and_no_other(tiny_run, tmp_path, monkeypatch):
    data = digits()
    chosen = stratified_subset(labels_of(data.train), 0.05, seed=9)
    (tmp_path / "mine.txt").write_text("\n".join(map(str, chosen)))
    read, get = set(), ImagesInMemory.__getitem__

    def watched(self, index):
        if len(self) == len(data.train):
            read.add(index)
        return get(self, index)

    monkeypatch.setattr(ImagesInMemory, "__getitem__", watched)
    overrides = ("semi", *QUICK, f"fraction={tmp_path / 'mine.txt'}", f"checkpoint={tiny_run}")
    overrides += ("batch_size=512",)  # all in one batch, so that an epoch leaves none out
    assert evaluate(tmp_path / "run", *overrides) == 0
    assert read == set(chosen.tolist())
    assert (tmp_path / "run" / "subset.txt").read_text().split() == [str(i) for i in chosen]


@pytest.mark.parametrize("name", ["semi", "finetune"])
def test_a_fine_tuned_backbone_is_written_with_its_batch_normalisation_moved(
    evaluated, tiny_run, name
):
    before = load_file(tiny_run / "backbone.safetensors")
    after = load_file(evaluated / name / "seed0" / "backbone.safetensors")
    steps = {"semi": 2 * 2, "finetune": 1437 // 64}[name]
    moved = int(after["bn1.num_batches_tracked"] - before["bn1.num_batches_tracked"])
    assert moved == steps
    assert not torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])


@pytest.mark.parametrize("name", ["augmented", "cached"])
def test_a_frozen_backbone_is_kept_once_as_it_was(evaluated, tiny_run, name):
    [kept] = (evaluated / name).rglob("backbone.safetensors")
    assert kept.parent == evaluated / name  # for all seeds, of which cached has three
    before, after = load_file(tiny_run / "backbone.safetensors"), load_file(kept)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_fine_tuned_backbone_is_evaluated_again_with_its_head_or_by_neighbours(
    evaluated, tmp_path
):
    seed, data = evaluated / "finetune" / "seed0", digits()
    overrides = ("knn", f"checkpoint={seed}", "data=digits", "k=20", "data.num_workers=0")
    assert evaluate(tmp_path / "run", *overrides) == 0
    assert results_of(tmp_path / "run")["method"] == "seed0"
    features = features_of(erssl.load_backbone(seed), data.val, **OWN_PREPROCESSING)
    head = load_file(seed / "head.safetensors")
    predicted = F.linear(features, head["weight"], head["bias"]).argmax(dim=1)
    top1 = results_of(evaluated / "finetune")["metrics"]["top1"]
    assert accuracy_score(data.val.targets, predicted) == pytest.approx(top1, abs=1 / 360)


@pytest.mark.parametrize("name", COMMANDS)
def test_preprocessing_of_the_run_is_taken_without_an_override(evaluated, name):
    data = results_of(evaluated / name)["config"]["data"]
    assert {key: data[key] for key in OWN_PREPROCESSING} == OWN_PREPROCESSING


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of ours with other preprocessing than digits has."""
    file = tmp_path_factory.mktemp("weights") / "other.safetensors"
    options = named_architecture("test_resnet")
    torch.manual_seed(0)
    own = {"image_size": 16, "mean": [0.0] * 3, "std": [2.0] * 3, "interpolation": "bicubic"}
    save_backbone(build_backbone(options), file, options, own)
    return file


def test_preprocessing_in_a_file_is_taken_and_overrides_go_before_it(weights, tmp_path):
    overrides = ("knn", f"checkpoint={weights}", "data=digits", "data.image_size=20", "cache=false")
    assert evaluate(tmp_path / "run", *overrides, "data.num_workers=0") == 0
    data = results_of(tmp_path / "run")["config"]["data"]
    assert (data["image_size"], data["mean"], data["std"]) == (20, [0.0] * 3, [2.0] * 3)
    assert data["interpolation"] == "bicubic"


def test_an_untrained_twin_is_evaluated_on_the_same_images(weights, tmp_path):
    overrides = ("knn", f"checkpoint=random:{weights}", "data=digits", "data.num_workers=0")
    assert evaluate(tmp_path / "run", *overrides) == 0
    results = results_of(tmp_path / "run")
    assert results["method"] == "untrained test_resnet"
    assert results["config"]["data"]["image_size"] == 16


def test_an_untrained_network_is_that_of_the_seed(tiny_run, tmp_path):
    overrides = ("knn", f"checkpoint=random:{tiny_run}", "k=20", "seed=4", "data.num_workers=0")
    assert evaluate(tmp_path / "run", *overrides) == 0
    torch.manual_seed(4)
    backbone, data = build_backbone(named_architecture("test_resnet")).eval(), digits()
    train, val = (features_of(backbone, p, **OWN_PREPROCESSING) for p in (data.train, data.val))
    expected = accuracy_score(data.val.targets, lightlys_knn(train, val, 20, 0.1))
    results = results_of(tmp_path / "run")
    assert results["metrics"]["top1"] == pytest.approx(expected, abs=2 / 360)
    assert results["dataset"] == "digits"  # the run's own


def test_pixels_are_evaluated_as_lightlys_knn_evaluates_them(tmp_path):
    overrides = ("knn", "checkpoint=pixels", "data=digits", "k=20", "data.image_size=8")
    assert evaluate(tmp_path / "run", *overrides, "data.num_workers=0") == 0
    data, options = digits(), default_options("digits")
    train, val = (
        pixels_of(p, 8, options.mean, options.std).flatten(1) for p in (data.train, data.val)
    )
    expected = accuracy_score(data.val.targets, lightlys_knn(train, val, 20, 0.1))
    results = results_of(tmp_path / "run")
    assert results["metrics"]["top1"] == pytest.approx(expected, abs=1 / 360)
    assert results["method"] == "raw pixels"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["knn", "checkpoint=/nowhere", "data=digits"], "There is no checkpoint at /nowhere"),
        (["knn", "checkpoint=random:", "data=digits"], "needs an architecture or a run"),
        (["knn", "checkpoint=random:resnet51", "data=digits"], "resnet51"),
        (["knn", "checkpoint=pixels"], "checkpoint=pixels needs data=<what to evaluate it on>"),
        (["knn", "checkpoint=pixels", "data=digit"], "did you mean digits?"),
        (["knn", "checkpoint=pixels", "data=digits", "data.nam=x"], "did you mean data.name?"),
        (["semi", "checkpoint=pixels", "data=digits", *HERE], "has no weights, and erssl semi"),
        (["finetune", "checkpoint=pixels", "data=digits", *HERE], "has no weights"),
        (["semi", "RUN", "fraction=0.0001", *HERE], "leaves 10 of 10 classes without an image"),
        (["semi", "RUN", "fraction=2", *HERE], "fraction=2.0 must lie above 0"),
        (["semi", "RUN", "fraction=1percnt.txt", *HERE], "is neither a number nor a file"),
        (["linear", "RUN", "trainer.accelerator=cpu", "trainer.devices=[0,1]"], "refuses"),
        (["linear", "RUN", *HERE, "trainer.devices=3", "batch_size=256"], "by 3 devices"),
        (["finetune", "RUN", *HERE, "batch_size=1"], "set batch_size to 2 or more"),
        (["semi", "RUN", *HERE, "fraction=0.1", "batch_size=1"], "set batch_size to 2 or more"),
        (["linear", "RUN", *CACHED, "flip=false"], "flip does nothing with mode=cached"),
        (["linear", "RUN", *CACHED, "crop_scale=[0.5,1.0]"], "crop_scale does nothing"),
        (["linear", "RUN", *CACHED, "trainer.precision=bf16-mixed"], "does nothing with"),
        (["linear", "RUN", *HERE, "overwrite=true", "resume=true"], "exclude each other"),
        (["linear", "RUN", *HERE, "resume=true"], "config.yaml does not exist"),
        (["linear", "RUN", "arch=resnet51", *HERE], "resnet51"),
        (["linear", "RUN", "layout=moko", *HERE], "moko"),
    ],
)
def test_bad_input_is_one_sentence_status_two_and_no_folder(
    overrides, sentence, tiny_run, tmp_path, capsys
):
    overrides = [
        f"checkpoint={tiny_run}" if override == "RUN" else override for override in overrides
    ]
    assert evaluate(tmp_path / "run", *overrides) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("erssl: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def folders_of(tmp_path, kind):
    train = digit_folder(tmp_path / "train")
    if kind == "no labels":
        train = digit_folder(tmp_path / "flat") / "0"
    if kind == "no validation":
        return [f"data.train_dir={train}"]
    other = kind == "other classes"
    val = digit_folder(tmp_path / "val", classes=2) if other else train
    return [f"data.train_dir={train}", f"data.val_dir={val}"]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("no labels", "accuracy needs at least two, each in a sub-folder of its own"),
        ("no validation", "has no validation images here"),
        ("other classes", "it lacks 1 (2)"),
    ],
)
def test_folders_on_which_no_accuracy_is_possible(kind, sentence, tmp_path, capsys):
    overrides = ["knn", "checkpoint=pixels", "data=imagefolder", "data.num_workers=0"]
    assert evaluate(tmp_path / "run", *overrides, *folders_of(tmp_path, kind)) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_class_names_with_commas_stay_whole_in_the_tables(tmp_path):
    train = digit_folder(tmp_path / "train", classes=2)
    (train / "0").rename(train / 'null, "zero"')
    overrides = [
        "data=imagefolder",
        f"data.train_dir={train}",
        f"data.val_dir={train}",
        "plots=true",
    ]
    overrides += ["knn", "checkpoint=pixels", "data.image_size=8", "k=3", "data.num_workers=0"]
    assert evaluate(tmp_path / "run", overrides[4], *overrides[:4], *overrides[5:]) == 0
    with (tmp_path / "run" / "confusion.csv").open() as file:
        assert [row[0] for row in csv.reader(file)] == ["true", "1", 'null, "zero"']
    assert "top5" not in results_of(tmp_path / "run")["metrics"]  # of two classes


def test_a_checkpoint_of_an_evaluation_says_what_its_backbone_is(evaluated):
    folder = evaluated / "finetune" / "seed0"
    last = erssl.load_backbone(folder / "checkpoints" / "last.ckpt")
    kept = erssl.load_backbone(folder)
    torch.testing.assert_close(last.state_dict(), kept.state_dict(), rtol=0, atol=0)
    assert last.architecture == kept.architecture
    assert last.preprocessing == kept.preprocessing != {}


def test_auto_says_what_it_takes_and_doubts_what_is_below_neighbours(evaluated):
    results = results_of(evaluated / "cached")
    assert results["config"]["preset"] == "lightly"
    assert results["config"]["fitted"].startswith("preset=auto takes preset=lightly (SGD")
    assert results["config"]["features_k"] == 200
    assert "warnings" not in results_of(evaluated / "knn")
    finetuned = results_of(evaluated / "finetune")  # one epoch
    (sentence,) = [text for text in finetuned["warnings"] if "far below" in text]
    assert "kNN (k=200)" in sentence
    report = (evaluated / "finetune" / "report.md").read_text()
    assert f"**Warning:** {sentence}" in report
    assert "| features_knn_top1 (k=200) |" in report
    assert "best_on_val chose its epoch" in report
    neighbours = (evaluated / "knn" / "report.md").read_text()
    assert "| top1 (k=20) |" in neighbours
    assert "Accuracies are those on the validation split." in neighbours


def test_k_is_cut_to_the_images_and_said_once(tmp_path, capsys):
    train = digit_folder(tmp_path / "train", classes=2)
    overrides = ["checkpoint=pixels", "data=imagefolder", f"data.train_dir={train}"]
    overrides += [f"data.val_dir={train}", "data.image_size=8", "data.num_workers=0"]
    assert evaluate(tmp_path / "run", "knn", *overrides) == 0
    k = results_of(tmp_path / "run")["config"]["k"]
    out = capsys.readouterr().out
    assert out.count(f"k=200 is cut to k={k}, the number of training images") == 1
    assert f"top1 (k={k})" in out and k < 200
