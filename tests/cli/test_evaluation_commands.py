"""``erssl knn``, ``linear``, ``semi`` and ``finetune`` on a tiny run, from words to results."""

import csv
import errno
import json
import shutil
import signal
import statistics
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightly.utils.benchmarking.knn import knn_predict
from omegaconf import OmegaConf
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score
from torch.nn import functional as F
from torchvision import transforms as T

import erssl
from erssl.cli.main import main
from erssl.data import default_options, labels_of, load_datasets, stratified_subset, subset_digest
from erssl.data.datasets import PicturesInMemory
from erssl.evaluation.classifier import ClassifierTraining
from erssl.models import build_backbone, named_architecture, save_backbone
from erssl.runs import make_results

from .conftest import OWN_PREPROCESSING
from .test_pretrain import digit_folder, results_of

SCHEMA = set(make_results("", "", "", {}, 0, {}, {}, 0.0))
HERE = ("trainer.accelerator=cpu", "data.num_workers=0")
QUICK = (*HERE, "epochs=2", "batch_size=64", "lr_per_256=false", "optimizer=sgd", "head_lr=0.05")
CACHED = (*HERE, "mode=cached", "epochs=4", "optimizer=sgd", "batch_size=256")
COMMANDS = {
    "knn": ("knn", "data.num_workers=0", "k=20", "plots=true"),
    "cached": ("linear", *CACHED, "seeds=3"),
    "augmented": ("linear", *QUICK, "epochs=1", "batch_size=512"),
    "semi": ("semi", *QUICK, "fraction=0.1", "backbone_lr=0.01", "seeds=2", "plots=true"),
    "finetune": ("finetune", *QUICK, "epochs=1", "backbone_lr=0.01", "trainer.log_every_n_steps=1"),
}


def judge(run_dir, *words):
    command, *rest = words
    return main([command, *rest, f"run_dir={run_dir}"])


@pytest.fixture(scope="module")
def judged(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    for name, words in COMMANDS.items():
        assert judge(folder / name, *words, f"checkpoint={tiny_run}") == 0
    return folder


def digits():
    return load_datasets(default_options("digits"))


def pixels_of(pictures, image_size, mean, std):
    """Pictures as torchvision prepares them."""
    prepare = T.Compose([T.Resize(image_size), T.ToTensor(), T.Normalize(mean, std)])
    return torch.stack([prepare(picture) for picture, _ in pictures])


@torch.no_grad()
def features_of(backbone, pictures, **preprocessing):
    return backbone(pixels_of(pictures, **preprocessing))


def lightlys_knn(train, val, k, temperature):
    data = digits()
    bank, labels = F.normalize(train, dim=1).T.contiguous(), torch.from_numpy(data.train.targets)
    order = knn_predict(F.normalize(val, dim=1), bank, labels, 10, k, temperature)
    return order[:, 0].numpy()


@pytest.mark.parametrize("name", COMMANDS)
def test_results_have_the_one_schema(judged, tiny_run, name):
    results = results_of(judged / name)
    assert set(results) == SCHEMA
    assert results["protocol"] == COMMANDS[name][0]
    assert (results["dataset"], results["method"], results["seed"]) == ("digits", "simclr", 0)
    assert {"top1", "top5", "mean_per_class"} <= set(results["metrics"])
    for metric in ("top1", "top5", "mean_per_class"):
        assert 0 <= results["metrics"][metric] <= 1
    config = OmegaConf.to_container(OmegaConf.load(judged / name / "config.yaml"))
    assert config["checkpoint"] == str(tiny_run)
    assert results["config"] == config
    assert ("subset" in config) == (name == "semi")
    assert ("digests" in config) == (name != "knn")
    report = (judged / name / "report.md").read_text()
    assert f"# {COMMANDS[name][0]}: simclr on digits" in report


@pytest.mark.parametrize("name", ["augmented", "finetune"])
def test_a_training_tells_the_last_epoch_and_the_best_apart(judged, name):
    metrics = results_of(judged / name)["metrics"]
    history = json.loads((judged / name / "seed0" / "seed.json").read_text())["history"]
    assert metrics["top1"] == history[-1]["top1"]
    best = max(row["top1"] for row in history)
    assert metrics["best_on_val_top1"] == best
    assert history[int(metrics["best_on_val_epoch"]) - 1]["top1"] == best


def test_knn_has_no_epoch_that_was_chosen(judged):
    assert not [m for m in results_of(judged / "knn")["metrics"] if m.startswith("best")]


def test_knn_is_lightlys_on_features_taken_elsewhere(judged, tiny_run):
    backbone, data = erssl.load_backbone(tiny_run), digits()
    train, val = (features_of(backbone, p, **OWN_PREPROCESSING) for p in (data.train, data.val))
    expected = lightlys_knn(train, val, 20, 0.1)
    metrics = results_of(judged / "knn")["metrics"]
    assert metrics["top1"] == pytest.approx(accuracy_score(data.val.targets, expected), abs=2 / 360)
    assert metrics["top1"] > 0.5
    with (judged / "knn" / "confusion.csv").open() as file:
        counts = np.array([row[1:] for row in csv.reader(file)][1:], dtype=int)
    assert np.abs(counts - confusion_matrix(data.val.targets, expected)).sum() <= 4


def test_a_trained_classifiers_plots_hold_scikit_learns_numbers(judged):
    folder, truth = judged / "semi", digits().val.targets
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
    for picture in ("confusion.png", "per_class.png"):
        assert Image.open(folder / picture).width > 300
        assert picture in (folder / "report.md").read_text()


def test_pictures_are_drawn_where_they_are_asked_for_only(judged):
    assert not list((judged / "finetune").glob("*.png"))


@pytest.mark.parametrize("name", ["cached", "semi"])
def test_seeds_give_mean_and_deviation_of_all(judged, name):
    metrics = results_of(judged / name)["metrics"]
    count = 3 if name == "cached" else 2
    for metric in ("top1", "top5", "mean_per_class", "best_on_val_top1"):
        values = [metrics[f"{metric}_seed{i}"] for i in range(count)]
        assert metrics[metric] == pytest.approx(statistics.mean(values))
        assert metrics[f"{metric}_std"] == pytest.approx(statistics.stdev(values))
    kept = "predicted" if name == "cached" else "head"
    seeds = [judged / name / f"seed{i}" / f"{kept}.safetensors" for i in range(count)]
    assert len({file.read_bytes() for file in seeds}) == count


def test_seeds_are_those_that_one_training_each_would_give(judged, tiny_run, tmp_path):
    words = (*COMMANDS["cached"][:-1], "seed=1", f"checkpoint={tiny_run}")
    assert judge(tmp_path / "run", *words) == 0
    alone = results_of(tmp_path / "run")["metrics"]["top1"]
    assert alone == results_of(judged / "cached")["metrics"]["top1_seed1"]


def test_the_subset_is_kept_and_told(judged):
    numbers = [int(line) for line in (judged / "semi" / "subset.txt").read_text().split()]
    expected = stratified_subset(labels_of(digits().train), 0.1)
    assert numbers == expected.tolist()
    assert results_of(judged / "semi")["config"]["subset"] == {
        "pictures": len(expected),
        "sha256": subset_digest(expected),
    }


def test_semi_reads_the_pictures_of_its_list_and_no_other(tiny_run, tmp_path, monkeypatch):
    data = digits()
    chosen = stratified_subset(labels_of(data.train), 0.05, seed=9)
    (tmp_path / "mine.txt").write_text("\n".join(map(str, chosen)))
    read, get = set(), PicturesInMemory.__getitem__

    def watched(self, index):
        if len(self) == len(data.train):
            read.add(index)
        return get(self, index)

    monkeypatch.setattr(PicturesInMemory, "__getitem__", watched)
    words = ("semi", *QUICK, f"fraction={tmp_path / 'mine.txt'}", f"checkpoint={tiny_run}")
    words += ("batch_size=512",)  # all in one batch, so that an epoch leaves none out
    assert judge(tmp_path / "run", *words) == 0
    assert read == set(chosen.tolist())
    assert (tmp_path / "run" / "subset.txt").read_text().split() == [str(i) for i in chosen]


@pytest.mark.parametrize("name", ["semi", "finetune"])
def test_a_fine_tuned_backbone_is_written_with_its_batch_normalisation_moved(
    judged, tiny_run, name
):
    before = load_file(tiny_run / "backbone.safetensors")
    after = load_file(judged / name / "seed0" / "backbone.safetensors")
    steps = {"semi": 2 * 2, "finetune": 1437 // 64}[name]
    moved = int(after["bn1.num_batches_tracked"] - before["bn1.num_batches_tracked"])
    assert moved == steps
    assert not torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])


def test_a_frozen_backbone_is_not_written_again(judged):
    assert not list((judged / "augmented").rglob("backbone.safetensors"))


def test_a_fine_tuned_backbone_is_judged_again_with_its_head_or_by_neighbours(judged, tmp_path):
    seed, data = judged / "finetune" / "seed0", digits()
    words = ("knn", f"checkpoint={seed}", "data=digits", "k=20", "data.num_workers=0")
    assert judge(tmp_path / "run", *words) == 0
    assert results_of(tmp_path / "run")["method"] == "seed0"
    features = features_of(erssl.load_backbone(seed), data.val, **OWN_PREPROCESSING)
    head = load_file(seed / "head.safetensors")
    predicted = F.linear(features, head["weight"], head["bias"]).argmax(dim=1)
    top1 = results_of(judged / "finetune")["metrics"]["top1"]
    assert accuracy_score(data.val.targets, predicted) == pytest.approx(top1, abs=1 / 360)


@pytest.mark.parametrize("name", COMMANDS)
def test_preprocessing_of_the_run_is_taken_without_a_word(judged, name):
    data = results_of(judged / name)["config"]["data"]
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


def test_preprocessing_in_a_file_is_taken_and_words_go_before_it(weights, tmp_path):
    words = ("knn", f"checkpoint={weights}", "data=digits", "data.image_size=20", "cache=false")
    assert judge(tmp_path / "run", *words, "data.num_workers=0") == 0
    data = results_of(tmp_path / "run")["config"]["data"]
    assert (data["image_size"], data["mean"], data["std"]) == (20, [0.0] * 3, [2.0] * 3)
    assert data["interpolation"] == "bicubic"


def test_an_untrained_twin_is_judged_on_the_same_pictures(weights, tmp_path):
    words = ("knn", f"checkpoint=random:{weights}", "data=digits", "data.num_workers=0")
    assert judge(tmp_path / "run", *words) == 0
    results = results_of(tmp_path / "run")
    assert results["method"] == "untrained test_resnet"
    assert results["config"]["data"]["image_size"] == 16


def test_an_untrained_network_is_that_of_the_seed(tiny_run, tmp_path):
    words = ("knn", f"checkpoint=random:{tiny_run}", "k=20", "seed=4", "data.num_workers=0")
    assert judge(tmp_path / "run", *words) == 0
    torch.manual_seed(4)
    backbone, data = build_backbone(named_architecture("test_resnet")).eval(), digits()
    train, val = (features_of(backbone, p, **OWN_PREPROCESSING) for p in (data.train, data.val))
    expected = accuracy_score(data.val.targets, lightlys_knn(train, val, 20, 0.1))
    results = results_of(tmp_path / "run")
    assert results["metrics"]["top1"] == pytest.approx(expected, abs=2 / 360)
    assert results["dataset"] == "digits"  # the run's own


def test_pixels_are_judged_as_lightlys_knn_judges_them(tmp_path):
    words = ("knn", "checkpoint=pixels", "data=digits", "k=20", "data.image_size=8")
    assert judge(tmp_path / "run", *words, "data.num_workers=0") == 0
    data, options = digits(), default_options("digits")
    train, val = (
        pixels_of(p, 8, options.mean, options.std).flatten(1) for p in (data.train, data.val)
    )
    expected = accuracy_score(data.val.targets, lightlys_knn(train, val, 20, 0.1))
    results = results_of(tmp_path / "run")
    assert results["metrics"]["top1"] == pytest.approx(expected, abs=1 / 360)
    assert results["method"] == "raw pixels"


SEMI = ("semi", *QUICK, "fraction=0.05", "backbone_lr=0.01", "seeds=2")


def interrupt_at(monkeypatch, call, error):
    """Let the validation fail when it comes for the ``call``-th time."""
    ended, calls = ClassifierTraining.on_validation_epoch_end, []

    def fail(self):
        calls.append(1)
        if len(calls) == call:
            raise error
        return ended(self)

    monkeypatch.setattr(ClassifierTraining, "on_validation_epoch_end", fail)
    return calls


def names_in(folder):
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return {name for name in names if "tfevents" not in name}


def test_a_killed_evaluation_goes_on_and_leaves_finished_seeds_alone(
    tiny_run, tmp_path, monkeypatch, capsys
):
    run_dir, words = tmp_path / "run", (*SEMI, f"checkpoint={tiny_run}")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4, RuntimeError("killed"))  # in the second epoch of the second seed
        with pytest.raises(RuntimeError, match="killed"):
            judge(run_dir, *words)
    assert not (run_dir / "results.json").exists()
    finished = {p.name: p.stat().st_mtime_ns for p in (run_dir / "seed0").glob("*.safetensors")}
    assert judge(run_dir, *words) == 2
    assert "continue it with resume=true" in capsys.readouterr().err
    assert judge(run_dir, *words, "resume=true", "epochs=3") == 2
    assert "epochs=3 differs from 2" in capsys.readouterr().err
    assert judge(run_dir, *words, "resume=true", "data.image_size=32") == 2
    assert "data.image_size=32 differs from 28" in capsys.readouterr().err

    calls = interrupt_at(monkeypatch, 0, None)
    assert judge(run_dir, *words, "resume=true") == 0
    assert len(calls) == 1  # the epoch that was missing
    assert finished == {
        p.name: p.stat().st_mtime_ns for p in (run_dir / "seed0").glob("*.safetensors")
    }
    assert judge(tmp_path / "whole", *words) == 0
    assert names_in(run_dir) == names_in(tmp_path / "whole")
    one, other = (results_of(p)["metrics"] for p in (run_dir, tmp_path / "whole"))
    assert set(one) == set(other)
    assert one["top1_seed0"] == other["top1_seed0"]
    history = json.loads((run_dir / "seed1" / "seed.json").read_text())["history"]
    assert [row["epoch"] for row in history] == [0, 1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("command", ["linear", "finetune"])
def test_a_resumed_training_is_the_uninterrupted_one_to_the_bit(
    command, workers, tiny_run, tmp_path, monkeypatch
):
    words = [command, *QUICK, "epochs=4", "batch_size=512", f"checkpoint={tiny_run}"]
    words += [f"data.num_workers={workers}", *["backbone_lr=0.01"] * (command == "finetune")]
    forward = ClassifierTraining.forward

    def with_dropout(self, images):
        return F.dropout(forward(self, images), 0.2, self.training)

    monkeypatch.setattr(ClassifierTraining, "forward", with_dropout)
    assert judge(tmp_path / "whole", *words) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3, RuntimeError("killed"))
        with pytest.raises(RuntimeError, match="killed"):
            judge(tmp_path / "run", *words)
    assert judge(tmp_path / "run", *words, "resume=true") == 0
    names = ["head.safetensors", *["backbone.safetensors"] * (command == "finetune")]
    for name in names:
        one, other = (load_file(tmp_path / p / "seed0" / name) for p in ("whole", "run"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    histories = [(tmp_path / p / "seed0" / "seed.json").read_text() for p in ("whole", "run")]
    assert histories[0] == histories[1]


def test_an_evaluation_that_is_killed_after_its_last_epoch_gives_the_same(
    judged, tiny_run, tmp_path
):
    run_dir = tmp_path / "run"
    shutil.copytree(judged / "finetune", run_dir)
    before = json.loads((run_dir / "seed0" / "seed.json").read_text())
    for name in ("seed.json", "predicted.safetensors"):
        (run_dir / "seed0" / name).unlink()
    words = (*COMMANDS["finetune"], f"checkpoint={tiny_run}", "resume=true")
    assert judge(run_dir, *words) == 0
    assert json.loads((run_dir / "seed0" / "seed.json").read_text()) == before


def test_features_are_not_trained_on_again_by_a_seed_that_is_finished(judged, tiny_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(judged / "cached", run_dir)
    marked = run_dir / "seed1" / "seed.json"
    content = json.loads(marked.read_text())
    content["metrics"]["top1"] = 0.125
    marked.write_text(json.dumps(content))
    words = (*COMMANDS["cached"], f"checkpoint={tiny_run}", "resume=true")
    assert judge(run_dir, *words) == 0
    assert results_of(run_dir)["metrics"]["top1_seed1"] == 0.125


def test_ctrl_c_leaves_no_results_and_says_how_to_go_on(tiny_run, tmp_path, monkeypatch, capsys):
    before, run_dir = signal.getsignal(signal.SIGINT), tmp_path / "run"
    words = (*SEMI, f"checkpoint={tiny_run}")
    try:
        with monkeypatch.context() as patch:
            interrupt_at(patch, 1, KeyboardInterrupt())
            assert judge(run_dir, *words) == 130
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"erssl: Stopped by Ctrl-C; go on with resume=true run_dir={run_dir}."
    assert not (run_dir / "results.json").exists()
    assert not (run_dir / "seed0" / "seed.json").exists()
    assert judge(run_dir, *words, "resume=true") == 0


def test_ctrl_c_between_features_says_how_to_go_on(tiny_run, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("erssl.cli.linear.train_linear", stop)
    assert judge(tmp_path / "run", "linear", *CACHED, f"checkpoint={tiny_run}") == 130
    assert f"resume=true run_dir={tmp_path / 'run'}" in capsys.readouterr().err
    monkeypatch.setattr("erssl.cli.linear.Evaluation", stop)  # before there is a folder
    assert judge(tmp_path / "other", "linear", *CACHED, f"checkpoint={tiny_run}") == 130
    assert capsys.readouterr().err == "erssl: Stopped by Ctrl-C.\n"


@pytest.mark.parametrize(
    "limit", ["max_steps=1", "max_time=00:00:00:01", "min_steps=90", "limit_train_batches=1"]
)
def test_a_limit_that_would_cut_an_epoch_is_refused(limit, tiny_run, tmp_path, capsys):
    words = (*SEMI[:-1], f"checkpoint={tiny_run}")
    assert judge(tmp_path / "run", *words, f"trainer.{limit}") == 2
    assert "an evaluation is all of its epochs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("batches", "pictures"), [(1, 64), (4, 256), (100, 1437)])
def test_rates_are_those_of_the_pictures_of_a_step(
    batches, pictures, tiny_run, tmp_path, monkeypatch
):
    seen, configure = [], ClassifierTraining.configure_optimizers

    def watched(self):
        optimizers = configure(self)
        seen.append(optimizers[0][0].param_groups[0]["lr"])
        return optimizers

    monkeypatch.setattr(ClassifierTraining, "configure_optimizers", watched)
    words = ("linear", *QUICK, "epochs=1", "lr_per_256=true", f"checkpoint={tiny_run}")
    words += (f"trainer.accumulate_grad_batches={batches}",)
    assert judge(tmp_path / "run", *words) == 0
    assert seen == [pytest.approx(0.05 * pictures / 256)]


def test_the_last_epoch_is_measured_however_rarely_it_is_validated(tiny_run, tmp_path):
    often, rarely = tmp_path / "often", tmp_path / "rarely"
    words = (*SEMI[:-1], "epochs=3", f"checkpoint={tiny_run}")
    assert judge(often, *words) == 0
    assert judge(rarely, *words, "trainer.check_val_every_n_epoch=2") == 0
    every, some = (
        json.loads((p / "seed0" / "seed.json").read_text())["history"] for p in (often, rarely)
    )
    assert some == every[1:]


def test_a_seed_of_other_weights_is_not_taken_for_one_of_these(tmp_path, capsys):
    options, file = named_architecture("test_resnet"), tmp_path / "mine.safetensors"
    own = {"image_size": 16, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    words = (*CACHED, "data=digits", f"checkpoint={file}")
    for seed, status in ((0, 0), (1, 2)):
        torch.manual_seed(seed)
        save_backbone(build_backbone(options), file, options, own)
        resume = ["resume=true"] * seed
        assert judge(tmp_path / "run", "linear", *words, *resume) == status
    error = capsys.readouterr().err
    assert "The weights of checkpoint= are not what they were" in error
    assert error.count("\n") == 1


def test_a_seed_of_another_list_is_not_taken_for_one_of_this(tiny_run, tmp_path, capsys):
    words = ("semi", *QUICK, "epochs=1", f"checkpoint={tiny_run}", f"fraction={tmp_path / 'a.txt'}")
    labels = labels_of(digits().train)
    for seed, status in ((0, 0), (1, 2)):
        chosen = stratified_subset(labels, 0.05, seed)
        (tmp_path / "a.txt").write_text("\n".join(map(str, chosen)))
        assert judge(tmp_path / "run", *words, *["resume=true"] * seed) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert "The pictures of fraction= are not what they were" in error


def test_a_seed_of_other_pictures_is_not_taken_for_one_of_these(tmp_path, capsys):
    train = digit_folder(tmp_path / "train")
    words = ["checkpoint=random:test_resnet", "data=imagefolder", f"data.train_dir={train}"]
    words += [f"data.val_dir={train}", "data.image_size=16", *CACHED]
    assert judge(tmp_path / "run", "linear", *words) == 0
    next(train.glob("*/*")).unlink()
    assert judge(tmp_path / "run", "linear", *words, "resume=true") == 2
    assert "The training pictures are not what they were" in capsys.readouterr().err


def test_seeds_may_be_added_to_an_evaluation_but_not_taken_away(judged, tiny_run, tmp_path, capsys):
    few = (*COMMANDS["cached"], f"checkpoint={tiny_run}", "seeds=1")
    run_dir = tmp_path / "run"
    assert judge(run_dir, *few) == 0
    kept = (run_dir / "seed0" / "seed.json").stat().st_mtime_ns
    assert judge(run_dir, *few[:-1], "resume=true") == 0
    assert (run_dir / "seed0" / "seed.json").stat().st_mtime_ns == kept
    assert results_of(run_dir)["metrics"] == results_of(judged / "cached")["metrics"]
    assert judge(run_dir, *few, "resume=true") == 2
    assert "seeds=1 differs from 3" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"a: [", b"- 1"])
def test_settings_that_no_evaluation_wrote_are_not_resumed(
    judged, tiny_run, tmp_path, capsys, content
):
    run_dir = tmp_path / "run"
    shutil.copytree(judged / "cached", run_dir)
    (run_dir / "config.yaml").write_bytes(content)
    words = (*COMMANDS["cached"], f"checkpoint={tiny_run}", "resume=true")
    assert judge(run_dir, *words) == 2
    assert "config.yaml cannot be read; start again with overwrite=true" in capsys.readouterr().err
    assert (run_dir / "config.yaml").read_bytes() == content


def test_a_damaged_seed_is_one_sentence(judged, tiny_run, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(judged / "cached", run_dir)
    (run_dir / "seed2" / "predicted.safetensors").write_bytes(b"cut")
    words = (*COMMANDS["cached"], f"checkpoint={tiny_run}", "resume=true")
    assert judge(run_dir, *words) == 2
    assert "seed2 is not what a training leaves; delete it" in capsys.readouterr().err


def test_an_existing_evaluation_is_kept_and_no_way_is_named_that_there_is_not(
    judged, tiny_run, capsys
):
    before = (judged / "knn" / "results.json").read_bytes()
    assert judge(judged / "knn", *COMMANDS["knn"], f"checkpoint={tiny_run}") == 2
    error = capsys.readouterr().err
    assert "already holds a finished run; delete it with overwrite=true" in error
    assert "resume" not in error  # which erssl knn does not have
    assert (judged / "knn" / "results.json").read_bytes() == before


def test_overwrite_deletes_what_an_evaluation_wrote_and_nothing_else(judged, tiny_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(judged / "semi", run_dir)
    (run_dir / "notes.txt").write_text("mine")
    (run_dir / "seed1-notes").mkdir()
    (run_dir / "seed1-notes" / "a.txt").write_text("mine")
    words = ("knn", "data.num_workers=0", f"checkpoint={tiny_run}", "overwrite=true")
    assert judge(run_dir, *words) == 0
    left = {p.name for p in run_dir.iterdir()}
    assert left == {
        *("notes.txt", "seed1-notes", "config.yaml", "environment.json", "report.md"),
        "results.json",
    }
    assert (run_dir / "seed1-notes" / "a.txt").read_text() == "mine"


def test_a_pretraining_is_never_overwritten_by_its_own_evaluation(tiny_run, capsys):
    before = names_in(tiny_run)
    words = ("knn", "data.num_workers=0", f"checkpoint={tiny_run}", "overwrite=true")
    assert judge(tiny_run, *words) == 2
    assert "holds a run of erssl pretrain; name a folder of its own" in capsys.readouterr().err
    assert names_in(tiny_run) == before


def test_the_checkpoints_of_a_run_are_no_place_for_its_evaluation(tiny_run, capsys):
    before = names_in(tiny_run)
    words = ("knn", "data.num_workers=0", f"checkpoint={tiny_run}")
    assert judge(tiny_run / "checkpoints", *words) == 2
    assert "is the folder of checkpoints of a run" in capsys.readouterr().err
    assert names_in(tiny_run) == before


FULL = errno.ENOSPC, "No space left on device"


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("lightning_fabric.utilities.cloud_io.torch.save", OSError(*FULL)),
        ("shutil.move", OSError(*FULL, "/tmp/tmpabc", None, "RUN/last.ckpt")),
        ("erssl.cli._train.save_file", SafetensorError("I/O error: (os error 28)")),
    ],
)
def test_a_full_disk_is_named_by_the_run_and_not_by_a_temporary_file(
    place, error, tiny_run, tmp_path, monkeypatch, capsys
):
    def fail(*_, **__):
        raise error

    if isinstance(error, OSError) and error.filename2:
        error.filename2 = f"{tmp_path}/run/last.ckpt"
    monkeypatch.setattr(place, fail)
    assert judge(tmp_path / "run", *SEMI, "epochs=1", f"checkpoint={tiny_run}") == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"erssl: No space left on device: {tmp_path}/run")


def test_without_run_dir_the_folder_is_named_after_what_was_done(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["knn", f"checkpoint={tiny_run}", "data.num_workers=0"]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("knn-simclr-digits-2")


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_were_started_together_need_a_folder_in_common(
    variable, tiny_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "2")
    assert main(["knn", f"checkpoint={tiny_run}", "data.num_workers=0"]) == 2
    error = capsys.readouterr().err
    assert "2 processes were started together" in error
    assert "run_dir=<folder>" in error
    assert not (tmp_path / "runs").exists()


def test_processes_that_the_trainer_does_not_know_of_are_refused(
    tiny_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ("finetune", *QUICK, f"checkpoint={tiny_run}", "trainer.devices=1")
    assert judge(tmp_path / "run", *words) == 2
    assert "2 processes were started but the trainer has 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["cached", "augmented"])
def test_processes_that_torchrun_starts_leave_one_result(mode, tiny_run, tmp_path):
    words = ["linear", *QUICK, f"mode={mode}", f"checkpoint={tiny_run}", f"run_dir={tmp_path}/run"]
    words += ["trainer.devices=2", "trainer.strategy=ddp", f"cache_dir={tmp_path}/cache"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--master-port=29581", "-m", "erssl.cli.main", *words]
    done = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, text=True)
    assert done.stdout.count("Results: ") == 1
    assert results_of(tmp_path / "run")["metrics"]["top1"] > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["knn", "checkpoint=/nowhere", "data=digits"], "There is no checkpoint at /nowhere"),
        (["knn", "checkpoint=random:", "data=digits"], "needs an architecture or a run"),
        (["knn", "checkpoint=random:resnet51", "data=digits"], "resnet51"),
        (["knn", "checkpoint=pixels"], "checkpoint=pixels needs data=<what to judge it on>"),
        (["knn", "checkpoint=pixels", "data=digit"], "did you mean digits?"),
        (["knn", "checkpoint=pixels", "data=digits", "data.nam=x"], "did you mean data.name?"),
        (["semi", "checkpoint=pixels", "data=digits", *HERE], "has no weights, and erssl semi"),
        (["finetune", "checkpoint=pixels", "data=digits", *HERE], "has no weights"),
        (["semi", "RUN", "fraction=0.0001", *HERE], "leaves 10 of 10 classes without a picture"),
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
    words, sentence, tiny_run, tmp_path, capsys
):
    words = [f"checkpoint={tiny_run}" if word == "RUN" else word for word in words]
    assert judge(tmp_path / "run", *words) == 2
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
        ("no validation", "has no validation pictures here"),
        ("other classes", "it lacks 1 (2)"),
    ],
)
def test_folders_on_which_no_accuracy_is_possible(kind, sentence, tmp_path, capsys):
    words = ["knn", "checkpoint=pixels", "data=imagefolder", "data.num_workers=0"]
    assert judge(tmp_path / "run", *words, *folders_of(tmp_path, kind)) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_class_names_with_commas_stay_whole_in_the_tables(tmp_path):
    train = digit_folder(tmp_path / "train", classes=2)
    (train / "0").rename(train / 'null, "zero"')
    words = ["data=imagefolder", f"data.train_dir={train}", f"data.val_dir={train}", "plots=true"]
    words += ["knn", "checkpoint=pixels", "data.image_size=8", "k=3", "data.num_workers=0"]
    assert judge(tmp_path / "run", words[4], *words[:4], *words[5:]) == 0
    with (tmp_path / "run" / "confusion.csv").open() as file:
        assert [row[0] for row in csv.reader(file)] == ["true", "1", 'null, "zero"']
    assert "top5" not in results_of(tmp_path / "run")["metrics"]  # of two classes


@pytest.mark.slow
def test_two_processes_train_one_classifier(tiny_run, tmp_path):
    # The batch of 256 holds all pictures: each process must have its part of them.
    words = [*SEMI, f"checkpoint={tiny_run}", f"run_dir={tmp_path / 'run'}", "batch_size=256"]
    command = [sys.executable, "-m", "erssl.cli.main", *words]
    subprocess.run(
        [*command, "trainer.devices=2", "trainer.strategy=ddp"],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    results = results_of(tmp_path / "run")
    assert {"top1_seed0", "top1_seed1"} <= set(results["metrics"])
    assert {p.name for p in tmp_path.iterdir()} == {"run"}
    before = load_file(tiny_run / "backbone.safetensors")["bn1.num_batches_tracked"]
    after = load_file(tmp_path / "run" / "seed1" / "backbone.safetensors")
    assert int(after["bn1.num_batches_tracked"] - before) == 2  # a step an epoch


def test_a_checkpoint_of_an_evaluation_says_what_its_backbone_is(judged):
    folder = judged / "finetune" / "seed0"
    last = erssl.load_backbone(folder / "checkpoints" / "last.ckpt")
    kept = erssl.load_backbone(folder)
    torch.testing.assert_close(last.state_dict(), kept.state_dict(), rtol=0, atol=0)
    assert last.architecture == kept.architecture
    assert last.preprocessing == kept.preprocessing != {}
