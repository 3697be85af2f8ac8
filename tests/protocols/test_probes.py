"""``evaluation.probes``: kNN curves on further images while a run trains."""

import csv

import pytest
from PIL import Image
from sklearn.datasets import load_digits

import erssl
from erssl.cli.main import main
from erssl.errors import ConfigError, DataError
from erssl.run.summary import collect

from ..cli.test_pretrain import TINY, digit_folder, results_of

ONE_CLASS = ("evaluation.linear=false", "evaluation.untrained=false", "lens.probe_size=0")
RUN = (*TINY, *ONE_CLASS, "method=simclr", "trainer.limit_train_batches=2", "epochs=2")


def test_each_probe_has_a_curve_and_a_value_at_the_end(tmp_path):
    digit_folder(tmp_path / "split" / "train", per_class=12)
    for label in range(3):  # the images that follow those to train on
        scans = load_digits()
        folder = tmp_path / "split" / "val" / str(label)
        folder.mkdir(parents=True)
        for number, scan in enumerate(scans.images[scans.target == label][12:20]):
            Image.fromarray((scan * 15).astype("uint8")).save(folder / f"{number}.png")
    digit_folder(tmp_path / "whole", per_class=10, classes=4)
    places = [f"evaluation.probes.split={tmp_path / 'split'}", "evaluation.probes.own=digits"]
    places += [f"evaluation.probes.whole={tmp_path / 'whole'}"]
    run = tmp_path / "run"
    assert main(["pretrain", *RUN, *places, f"run_dir={run}"]) == 0
    metrics = results_of(run)["metrics"]
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("split", "whole", "own"):
        curve = [float(r[f"val_knn_top1_{name}"]) for r in rows if r[f"val_knn_top1_{name}"]]
        assert len(curve) == 3  # untrained, and after each of two epochs
        assert metrics[f"knn_top1_{name}"] == pytest.approx(curve[-1], abs=1e-6)
    # the images of the run under another name: the same curve, and the same value
    own = [r["val_knn_top1"] for r in rows if r["val_knn_top1"]]
    assert own == [r["val_knn_top1_own"] for r in rows if r["val_knn_top1_own"]]
    assert metrics["knn_top1_own"] == metrics["knn_top1"]
    # and what erssl knn finds on the same folder, with the run's preprocessing
    words = {"data.train_dir": tmp_path / "split" / "train", "data.num_workers": 0, "k": 36}
    words |= {"data.val_dir": tmp_path / "split" / "val", "data.exif": True}
    words |= {"cache": False, "run_dir": tmp_path / "knn", "quiet": True}
    again = erssl.knn(run, "imagefolder", **words)
    assert again.metrics["top1"] == pytest.approx(metrics["knn_top1_split"], abs=1e-9)


def test_a_probe_that_cannot_be_read_is_named_before_there_is_a_run(tmp_path, capsys):
    wrong = f"evaluation.probes.other=cifar10:{tmp_path / 'none'}"
    assert main(["pretrain", *RUN, wrong, f"run_dir={tmp_path / 'run'}"]) == 2
    sentence = " ".join(capsys.readouterr().err.split())
    assert wrong in sentence
    assert "data.root" not in sentence and "resume" not in sentence
    assert not (tmp_path / "run").exists()


def test_probes_are_shown_where_the_training_images_have_no_labels(tmp_path, capsys):
    folder = tmp_path / "flat"
    folder.mkdir()
    for number, scan in enumerate(load_digits().images[:16]):
        Image.fromarray((scan * 15).astype("uint8")).save(folder / f"{number}.png")
    run = tmp_path / "run"
    own = ["data=imagefolder", f"data.train_dir={folder}", "data.image_size=8", "batch_size=8"]
    assert main(["pretrain", *RUN, *own, "evaluation.probes.own=digits", f"run_dir={run}"]) == 0
    value = f"{results_of(run)['metrics']['knn_top1_own']:.1%}"
    said = capsys.readouterr().out
    assert "no accuracy was measured" not in said
    assert any("own" in line and value in line for line in said.splitlines())
    (line,) = collect([run]).entries
    assert (line["dataset"], line["protocol"]) == ("own", "kNN at the end of pretraining")
    assert f"{line['top1']:.1%}" == value


@pytest.mark.parametrize(
    ("probes", "error", "sentence"),
    [
        ({"x": "/is/not/here"}, ConfigError, "neither a folder of images nor a data set"),
        ({"a b": "digits"}, ConfigError, "is no name of a metric"),
        ({"x": "cifar10"}, DataError, "has no data.root"),
    ],
)
def test_what_is_no_probe_is_refused(probes, error, sentence, tmp_path):
    from erssl.data import default_options
    from erssl.protocols.probes import probe_options

    ((name, place),) = probes.items()
    with pytest.raises(error, match=sentence):
        probe_options(name, place, default_options("digits")).load()
