"""``erssl pretrain --multirun``: which runs, and what comes of them."""

import json
import statistics

import pytest
from PIL import Image

from erssl.cli.main import main
from erssl.errors import ConfigError
from erssl.protocols import compare
from erssl.protocols.compare import plan, summarize, table_text
from erssl.run.directory import make_results
from erssl.settings.arguments import overrides_of
from erssl.settings.pretrain import read_settings

from .test_pretrain import TINY


def test_runs_are_the_product_and_differ_in_nothing_else():
    runs, _ = plan(["method=mveb,simclr", "seed=0,1", "epochs=3", "run_dir=out"])
    assert [r.choices for r in runs] == [
        {"method": m, "seed": s} for m in ("mveb", "simclr") for s in ("0", "1")
    ]
    assert [r.path.as_posix() for r in runs] == [
        f"out/{m}-seed{s}" for m in ("mveb", "simclr") for s in (0, 1)
    ]
    assert all("epochs=3" in r.overrides for r in runs)
    assert {r.row for r in runs} == {("mveb",), ("simclr",)}


def test_a_methods_own_key_reaches_its_runs_alone():
    runs, _ = plan(["method=mveb,simclr", "simclr.temperature=0.2"])
    assert "method.temperature=0.2" not in runs[0].overrides
    assert "method.temperature=0.2" in runs[1].overrides
    shared = ["method=simclr,cmc", "method.temperature=0.2"]  # not a key of the default method
    assert all("method.temperature=0.2" in r.overrides for r in plan(shared)[0])
    assert len(plan(["data=cifar10,cifar100", "data.root=/x"])[0]) == 2  # not read by the default
    recipe = ["experiment=simclr_imagenet", "data.root=/x", "seed=0,1", "simclr.temperature=0.3"]
    assert "method.temperature=0.3" in plan(recipe)[0][0].overrides


def test_other_keys_are_swept_and_commas_in_brackets_and_paths_are_not():
    runs, _ = plan(["method.beta=0.01,0.03", "data.mean=[0.1,0.2,0.3]", "run_dir=a,b"])
    assert [r.choices for r in runs] == [{"method.beta": "0.01"}, {"method.beta": "0.03"}]
    assert runs[0].path.as_posix() == "a,b/beta0.01"


def test_folders_are_swept_where_a_choice_is_said():
    folders = ["/x/a", "/x/b, c"]
    (said,) = overrides_of({"data.root": folders})
    choice = f"data.root=choice({said.partition('=')[2].strip('[]')})"
    runs, _ = plan(["data=cifar10", choice, "run_dir=out"])
    assert [r.choices for r in runs] == [{"data.root": folder} for folder in folders]
    assert [read_settings(r.overrides)[0].data.root for r in runs] == folders


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=mveb"], "needs a key with several values"),
        (["method=mveb,simclr", "method.beta=1"], "key method.beta is unknown"),
        (["method=mveb,simclr", "byol.momentum_start=0.9"], "is for method=byol, which is not"),
        (["method=mveb,simcl"], "method=simcl is unknown"),
        (["seed=0,1", "epoch=3"], "key epoch is unknown"),
        (["seed=0,0"], "would be the same"),
        (["seed=0,1", "resume=true"], "resume=true needs run_dir"),
    ],
)
def test_wrong_overrides_stop_before_the_first_run(overrides, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        plan(overrides)
    assert not list(tmp_path.iterdir())


def test_several_values_without_multirun_name_the_flag(capsys):
    assert main(["pretrain", "method=mveb,simclr"]) == 2
    assert "add --multirun" in capsys.readouterr().err


def fake_runs(tmp_path, values):
    runs, _ = plan(["method=mveb,simclr", "seed=0,1", f"run_dir={tmp_path}"])
    for item, value in zip(runs, values, strict=True):
        item.path.mkdir(parents=True)
        metrics = {"knn_top1": value, "untrained_knn_top1": 0.3}
        names = ("pretrain", "digits", item.choices["method"])
        results = make_results(*names, metrics, int(item.choices["seed"]), {}, {}, 10.0)
        (item.path / "results.json").write_text(json.dumps(results))
    return runs


def test_table_gives_mean_and_deviation_over_seeds(tmp_path):
    report = summarize(fake_runs(tmp_path, [0.5, 0.6, 0.4, 0.41]))
    first = report["table"][0]
    assert first["metrics"]["knn_top1"]["mean"] == pytest.approx(0.55)
    assert first["metrics"]["knn_top1"]["std"] == pytest.approx(statistics.stdev([0.5, 0.6]))
    text = table_text(report)
    assert "| mveb | 0, 1 | 55.0 ± 7.1 | - | 10 |" in text
    assert "| untrained |  | 30.0 ± 0.0 | - |  |" in text
    assert "Last epoch" in text


def test_neighbours_of_whitened_features_have_a_column_where_they_were_measured(tmp_path):
    runs = fake_runs(tmp_path, [0.5, 0.6, 0.4, 0.41])
    file = runs[0].path / "results.json"
    results = json.loads(file.read_text())
    results["metrics"] |= {"knn_whitened_top1": 0.7, "untrained_knn_whitened_top1": 0.35}
    file.write_text(json.dumps(results))
    text = table_text(summarize(runs))
    assert "| kNN top-1 | whitened | linear top-1 | seconds |" in text
    assert "| mveb | 0, 1 | 55.0 ± 7.1 | 70.0" in text
    assert "| untrained |  | 30.0 ± 0.0 | 35.0" in text
    assert "| simclr | 0, 1 | 40.5 ± 0.7 | - | - | 10 |" in text


def test_two_methods_end_in_one_table_and_are_not_run_twice(tmp_path, capfd, monkeypatch):
    def in_this_process(overrides):  # a process of its own costs ten seconds of importing
        return main(["pretrain", *overrides]), ""

    monkeypatch.setattr("erssl.protocols.compare.start", in_this_process)
    overrides = [*TINY, "method=simclr,simclr_er", "epochs=1", "trainer.limit_train_batches=3"]
    overrides += [
        "lens.probe_size=32",
        "evaluation.every_n_epochs=0",
        f"run_dir={tmp_path / 'out'}",
    ]
    assert main(["pretrain", *overrides, "--multirun"]) == 0
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [r["choices"]["method"] for r in report["table"]] == ["simclr", "simclr_er"]
    assert report["runs"][0]["metrics"]["untrained_knn_top1"] == pytest.approx(
        report["runs"][1]["metrics"]["untrained_knn_top1"]  # the same backbone
    )
    assert Image.open(tmp_path / "out" / "lens.png").width > 800
    assert "simclr_er" in (tmp_path / "out" / "compare.md").read_text()
    capfd.readouterr()
    assert main(["pretrain", *overrides, "-m"]) == 2
    assert "already holds a run" in capfd.readouterr().err
    assert main(["pretrain", *overrides, "resume=true", "-m"]) == 0
    assert "nothing left to resume" in capfd.readouterr().out


def test_a_launcher_of_hydra_is_given_all_runs_at_once(tmp_path, monkeypatch, capsys):
    given = []

    def launch(commands, launcher, folder):
        given.extend(commands)
        assert launcher == ["hydra/launcher=basic"]
        assert folder == tmp_path / "launch"

    monkeypatch.setattr(compare, "launch", launch)
    overrides = ["method=mveb,simclr", f"run_dir={tmp_path}", "hydra/launcher=basic", "--multirun"]
    assert main(["pretrain", *overrides]) == 2  # since nothing came of them
    assert [c[:2] for c in given] == [["pretrain", f"method={m}"] for m in ("mveb", "simclr")]
    assert f"run_dir={tmp_path / 'mveb'}" in given[0]
    assert "2 of 2 runs failed" in capsys.readouterr().err
