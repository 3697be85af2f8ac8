"""Studies: their files, the grid, the store of runs, the page."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import erssl
from erssl.cli.main import main
from erssl.data.places import content_of, images_digest
from erssl.errors import ConfigError, ErsslError, RunError
from erssl.protocols import study as command
from erssl.protocols.study_transfer import read_study_transfer
from erssl.run.children import Children
from erssl.run.directory import environment, make_results
from erssl.run.lock import holder_of, locked
from erssl.run.result import Result
from erssl.settings.pretrain import read_settings
from erssl.studies import RunStore, available_studies, read_study
from erssl.studies.store import key_of, mark_failure

SMALL: dict[str, Any] = {
    "question": "Does the batch matter?",
    "axes": {
        "method": {"SimCLR": {"method": "simclr"}, "MVEB": {"method": "mveb"}},
        "batch": {"128": {"batch_size": 128}, "256": {"batch_size": 256}},
    },
    "skip": [["MVEB", "256"]],
    "scales": {
        "tiny": {
            "about": "digits",
            "overrides": {
                "data": "digits",
                "data.pipeline": "lightly",
                "data.image_size": 16,
                "data.views.recipe": "digits",
                "epochs": 1,
                "trainer.precision": "32-true",
                "evaluation.knn_k": 20,
                "lens.probe_size": 0,
                "batch_size": 256,
                "backbone": "timm",
                "backbone.name": "test_resnet",
                "data.num_workers": 0,
                "method.projection_hidden_dim": 32,
                "method.projection_dim": 16,
            },
        }
    },
}


def written(folder: Path, **changes: Any) -> str:
    """A study of its own in a folder."""
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **changes}, sort_keys=False))
    return str(file)


def finish(planned: command.Planned, **metrics: float) -> None:
    """Leave what a pretraining leaves, with these metrics."""
    config = read_settings(list(planned.cell.overrides))[1]
    planned.path.mkdir(parents=True, exist_ok=True)
    (planned.path / "config.yaml").write_text(yaml.safe_dump(config))
    results = make_results("pretrain", "digits", "simclr", metrics, 0, config, environment(), 1.0)
    (planned.path / "results.json").write_text(json.dumps(results))


def run(*words: str) -> Result:
    """The command, silent."""
    return command.run(words, Console(quiet=True))


@pytest.mark.parametrize("name", available_studies())
def test_every_run_of_every_study_is_one_that_pretrain_takes(name: str) -> None:
    """Composed and checked; one cell a row, to save time, and every option somewhere."""
    study = read_study(name)
    if study.transfer is not None:
        read_study_transfer(study.transfer, ["data_root=/anywhere"])
    for size in study.scales:
        if study.reads_store:
            assert study.scale(size).about
            continue
        grid = study.grid(study.scale(size), ["data.root=/anywhere"])
        told: set[str] = set()
        for cell in grid.cells:
            if set(cell.labels) <= told:
                continue
            told |= set(cell.labels)
            settings, _ = read_settings(list(cell.overrides))
            assert settings.seed == cell.seed
        assert told == {label for axis in grid.axes for label in axis.options}


def test_grid_is_the_product_without_what_is_skipped(tmp_path: Path) -> None:
    """Those of the first seed come first, and later overrides win."""
    study = read_study(written(tmp_path))
    grid = study.grid(study.scale("tiny"), ["epochs=2"], seeds=(0, 1))
    assert [(*cell.labels, cell.seed) for cell in grid.cells] == [
        ("SimCLR", "128", 0),
        ("SimCLR", "256", 0),
        ("MVEB", "128", 0),
        ("SimCLR", "128", 1),
        ("SimCLR", "256", 1),
        ("MVEB", "128", 1),
    ]
    first = dict(word.partition("=")[::2] for word in grid.cells[0].overrides)
    assert (first["batch_size"], first["epochs"], first["seed"]) == ("128", "2", "0")


def test_an_option_with_images_of_its_own_takes_none_of_the_others(tmp_path: Path) -> None:
    """Neither the scale's nor the user's, who may still say theirs for the rest."""
    images = {"as given": {}, "digits": {"data": "digits", "data.image_size": 8, "epochs": 2}}
    study = read_study(written(tmp_path, axes={"images": images}, skip=[]))
    given = ["data=imagefolder", "data.train_dir=/a", "batch_size=32"]
    grid = study.grid(study.scale("tiny"), given)
    first, second = (
        dict(word.partition("=")[::2] for word in cell.overrides) for cell in grid.cells
    )
    assert (first["data"], first["data.train_dir"]) == ("imagefolder", "/a")
    assert first["data.pipeline"] == "lightly"
    own = {key: value for key, value in second.items() if key.partition(".")[0] == "data"}
    assert own == {"data": "digits", "data.image_size": "8"}
    assert (second["epochs"], second["batch_size"]) == ("2", "32")
    with pytest.raises(ConfigError, match="epochs varies"):
        study.grid(study.scale("tiny"), ["epochs=3"])
    views = {"views": {"a": {"data.views.global_scale": [0.5, 1.0]}, "b": {}}}
    varied = read_study(written(tmp_path, axes=views, skip=[]))
    with pytest.raises(ConfigError, match="global_scale varies"):
        varied.grid(varied.scale("tiny"), ["data.views.global_scale=[0.1,1]"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("transfer", "data=digits"), "needs transfer.data_root"),
        (("transfer", "transfer.datasets=[mnist]", "transfer.data_root=/"), "datasets=mnist"),
        (("terms", "transfer.data_root=/"), "transfer"),
        (("label_free", "scale=imagenet"), "has no scale 'imagenet'"),
        (("label_free",), "has 0 finished ones"),
        (("no_such_study",), "There is no study"),
        (("mveb_bta",), "did you mean mveb_beta"),
        (("{small}", "scale=huge"), "has no scale 'huge'"),
        (("{small}", "batch_size=64"), "batch_size varies between the runs"),
        (("{small}", "method.no_key=1"), "The run SimCLR, 128, seed 0 cannot be"),
        (("{small}", "seeds=[0,0]"), "must be different"),
        (("{small}", "jobs=0"), "jobs must be at least 1"),
        ((), "needs the name of a study"),
        (("mveb_beta", "mveb_batch"), "one study at a time"),
        (("{missing}",), "There is no file"),
    ],
)
def test_what_cannot_be_is_refused_before_any_training(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """One sentence each, and nothing written."""
    small = written(tmp_path)
    places = {"small": small, "missing": str(tmp_path / "none.yaml")}
    before = sorted(tmp_path.rglob("*"))
    arguments = [word.format(**places) for word in words]
    with pytest.raises(ErsslError, match=said):
        run(*arguments, f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axis": {}}, "has no key 'axis'"),
        ({"question": ""}, "says nothing of question"),
        ({"axes": {}}, "says nothing of axes"),
        ({"axes": {"method": [1]}}, "maps no label"),
        ({"scales": [1]}, "is not written as a study is"),
        ({"scales": {"tiny": 3}}, "is not written as a study is"),
        ({"published": [{"title": "no rows"}]}, "is not written as a study is"),
        ({"skip": 3}, "skip is a list of lists of labels and not 3"),
        ({"skip": [["SimCLR", "1024"]]}, "names '1024', which no axis has"),
        ({"metrics": "knn_top1"}, "metrics is a list of texts and not 'knn_top1'"),
        ({"notes": [3]}, r"notes is a list of texts and not \[3\]"),
        ({"scales": {"tiny": {"seeds": [0, 0]}}}, r"seeds=\[0, 0\] must be different whole"),
        ({"scales": {"tiny": {"seeds": [0.5]}}}, r"seeds=\[0.5\] must be different whole"),
        ({"scales": {"tiny": {"seeds": "01"}}}, "seeds=01 must be different whole"),
        ({"scales": {"tiny": {"axes": [1]}}}, "is not written as a study is"),
        ({"axes": {"batch": {"1": {}, 1: {}}}}, "has a label twice"),
        ({"reads": "folder"}, "a study reads the store, or has axes"),
    ],
)
def test_a_file_that_is_no_study_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """By what it lacks."""
    with pytest.raises(ConfigError, match=said):
        read_study(written(tmp_path, **changes))


def test_key_counts_what_a_run_computes_and_nothing_else(tmp_path: Path) -> None:
    """Folders, loaders and logging do not matter; seed, method and images do."""

    def key(*words: str) -> str:
        return key_of(read_settings(["method=simclr", *words])[1])

    same = key()
    assert key("run_dir=runs/other", "data.num_workers=3", "trainer.devices=1") == same
    assert key("keep_checkpoints=5", "optimizer.weight_decay=0.0005") == same
    for word in ("seed=1", "epochs=9", "method=mveb", "batch_size=64", "data.image_size=16"):
        assert key(word) != same, word
    folders = []
    for name in "ab":
        (tmp_path / name / "class").mkdir(parents=True)
        (tmp_path / name / "class" / "image.png").write_bytes(b"123")
        folders.append({"name": "imagefolder", "train_dir": str(tmp_path / name)})
    assert images_digest(folders[0]) == images_digest(folders[1])
    (tmp_path / "b" / "class" / "image.png").write_bytes(b"1234")
    content_of.cache_clear()  # folders are read once a process
    assert images_digest(folders[0]) != images_digest(folders[1])


def test_runs_are_trained_once_and_found_by_their_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call trains nothing; another study takes a run of equal settings from the store."""
    started: list[list[str]] = []
    real = Children.run

    def counted(self: Any, words: list[str], *rest: Any, **named: Any) -> int:
        started.append(list(words))
        if len(started) > 1:  # a process takes as long to start as to train here
            return main(list(words))
        return real(self, words, *rest, **named)

    monkeypatch.setattr(Children, "run", counted)
    monkeypatch.setattr("erssl.protocols.readings.IMAGES", 64)  # more take longer
    places = (f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    small = written(tmp_path, axes={"method": SMALL["axes"]["method"]}, skip=[])
    (tmp_path / "out").mkdir()
    result = run(small, "only=1", *places)
    assert len(started) == 1
    assert [bool(each["metrics"]) for each in result.results["runs"]] == [True, False]
    moved = next((tmp_path / "store").iterdir()).rename(tmp_path / "store" / "by_hand")
    study = read_study(small)
    first = study.grid(study.scale("tiny")).cells[0]
    assert command._planned(first, RunStore(tmp_path / "store")).path == moved

    # a run of a build that knew fewer options is the same run
    config = yaml.safe_load((moved / "config.yaml").read_text())
    for group, key in (
        ("data", "channels"),
        ("backbone", "in_channels"),
        ("method", "gather_distributed"),
    ):
        del config[group][key]
    (moved / "config.yaml").write_text(yaml.safe_dump(config))

    mark_failure(tmp_path / "store" / "other", "not of this study")
    result = run(small, *places)
    assert len(started) == 2
    kept = json.loads((moved / "readings.json").read_text())
    assert kept["images"] == 64
    assert len(kept["readings"]) == 18  # nine of features, nine of embeddings
    assert kept["readings"].items() <= result.results["runs"][0]["metrics"].items()
    metrics = [each["metrics"]["knn_top1"] for each in result.results["runs"]]
    stored = json.loads((moved / "results.json").read_text())["metrics"]["knn_top1"]
    assert metrics[0] == stored
    text = (tmp_path / "out" / "study.md").read_text()
    for method, metric in zip(("SimCLR", "MVEB"), metrics, strict=True):
        assert f"| {method} | {100 * metric:.1f} |" in text  # one seed makes no winner
    assert "Settings: images digits; epochs 1; batch 256; network test_resnet. Written on" in text
    assert f"with erssl {erssl.__version__}, torch" in text
    assert (tmp_path / "out" / "study.png").stat().st_size > 5000

    again = {"batch": {"256": {"batch_size": 256}}}
    (tmp_path / "two").mkdir()
    two = written(tmp_path / "two", axes=again, skip=[], overrides={"method": "simclr"})
    run(two, places[0], f"output={tmp_path / 'out_two'}")
    assert len(started) == 2


def test_a_run_that_failed_is_said_and_not_tried_again_unasked(tmp_path: Path) -> None:
    """Its cell says so, with the sentence that ended it."""
    axes = {"method": {"MVEB": {"method": "mveb", "optimizer.base_lr": 1e9}}}
    small = written(tmp_path, axes=axes, skip=[])
    places = (f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    for _ in range(2):
        result = run(small, *places)
        (only,) = result.results["runs"]
        assert "is not finite" in only["failure"]
        text = (tmp_path / "out" / "study.md").read_text()
        assert "| MVEB | failed |" in text
        assert "Runs that failed" in text


def test_a_scale_of_ones_own_says_what_it_is(tmp_path: Path) -> None:
    """Images, network and length."""
    own = {"mine": {**SMALL["scales"]["tiny"], "seeds": [3]}}
    study = read_study(written(tmp_path, scales=own))
    assert study.scale("mine").about == "digits"
    assert {cell.seed for cell in study.grid(study.scale("mine")).cells} == {3}
    silent = read_study(written(tmp_path, scales={"mine": {"seeds": [3]}}))
    with pytest.raises(ConfigError, match="says nothing about its runs"):
        silent.scale("mine")


def test_images_count_by_their_content(tmp_path: Path) -> None:
    """Of a table its bytes, of a folder names and sizes, of CIFAR-10 neither."""
    table, folder = tmp_path / "images.csv", tmp_path / "root"
    table.write_text("path,label\n")
    folder.mkdir()

    def digests() -> list[str]:
        content_of.cache_clear()
        return [
            images_digest({"name": "table", "file": str(table)}),
            images_digest({"name": "imagenet", "root": str(folder)}),
            images_digest({"name": "cifar10", "root": str(folder)}),
        ]

    before = digests()
    table.write_text("path,label\na.png,1\n")
    (folder / "a.png").write_bytes(b"1")
    assert [a != b for a, b in zip(before, digests(), strict=True)] == [True, True, False]


def test_a_study_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder holds the lock of a process that is gone; a damaged result is said."""
    monkeypatch.setattr("erssl.run.lock.SILENT", 0.2)  # two minutes of a machine elsewhere
    monkeypatch.setattr("erssl.run.lock._LOOK", 0.05)
    small = written(tmp_path, axes={"method": {"SimCLR": {"method": "simclr"}}}, skip=[])
    places = (f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    (tmp_path / "out").mkdir()
    lock = tmp_path / "out" / ".erssl-lock"
    lock.write_text("{}")
    planned = command._planned(
        read_study(small).grid(read_study(small).scale("tiny")).cells[0],
        RunStore(tmp_path / "store"),
    )
    planned.path.mkdir(parents=True)
    config = read_settings(list(planned.cell.overrides))[1]
    (planned.path / "config.yaml").write_text(yaml.safe_dump(config))
    (planned.path / "results.json").write_text("")
    result = run(small, "only=0", *places)
    damaged = planned.path / "results.json"
    assert result.results["runs"][0]["failure"].startswith(f"{damaged} is not what a run writes")
    assert str(damaged) in (tmp_path / "out" / "study.md").read_text().replace("\\", "")
    assert not lock.exists()


def _one_run(folder: Path) -> tuple[str, tuple[str, ...], command.Planned]:
    """A study of one run, its arguments, and that run."""
    small = written(folder, axes={"method": {"SimCLR": {"method": "simclr"}}}, skip=[])
    cell = read_study(small).grid(read_study(small).scale("tiny")).cells[0]
    places = (f"store={folder / 'store'}", f"output={folder / 'out'}")
    return small, places, command._planned(cell, RunStore(folder / "store"))


def test_a_run_that_was_stopped_or_is_trained_elsewhere_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first by its status, the second by its lock; both go on, or are read, the next time."""
    monkeypatch.setattr("erssl.run.waiting.PATIENCE", 0.1)
    small, places, planned = _one_run(tmp_path)
    for status, lock in ((143, False), (-9, False), (2, True)):
        planned.path.mkdir(parents=True, exist_ok=True)
        if lock:
            (planned.path / ".erssl-lock").write_text("{}")
        monkeypatch.setattr(Children, "run", lambda *_, s=status, **__: s)
        result = run(small, *places)
        (outcome,) = result.results["runs"]
        in_use_by = "another process" if lock else None
        assert (outcome["failure"], outcome["in_use_by"]) == (None, in_use_by), status
    assert "1 are in use by another process" in (tmp_path / "out" / "study.md").read_text()
    (planned.path / ".erssl-lock").unlink()
    result = run(small, *places)
    assert result.results["runs"][0]["failure"] == "it ended with status 2."


@pytest.mark.parametrize("further", [(), ("jobs=2",), ("hydra/launcher=basic",)])
def test_a_study_comes_back_to_a_run_that_another_process_lets_go(
    further: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trained once it is free, also where it came into use after the study had looked."""
    monkeypatch.setattr("erssl.run.waiting._LOOK", 0.02)
    small, places, planned = _one_run(tmp_path)
    started: list[bool] = []

    def trained(self: Any, words: list[str], *_: Any, heard: Any, **__: Any) -> int:
        started.append(holder_of(planned.path) is not None)
        if len(started) == 1:  # another study was quicker, and was killed
            heard(f"erssl: run_dir={planned.path} is in use by process 1 on\n")
            heard("node; wait for its end.\n")
            return 2
        heard("erssl: What is wrong\n")
        heard("with it.\n")
        return 2

    monkeypatch.setattr(Children, "run", trained)
    taken, let_go = threading.Event(), threading.Event()

    def other() -> None:
        with locked(planned.path):
            taken.set()
            let_go.wait(20)

    holder = threading.Thread(target=other)
    holder.start()
    assert taken.wait(20)
    threading.Timer(0.3, let_go.set).start()
    result = run(small, *places, *further)
    holder.join()
    assert started == [False, False]
    assert result.results["runs"][0]["failure"] == "What is wrong with it."


def test_a_run_that_another_process_finishes_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained then."""
    monkeypatch.setattr("erssl.run.waiting._LOOK", 0.02)
    monkeypatch.setattr(Children, "run", lambda *_, **__: pytest.fail("it was trained"))
    read: list[Path] = []

    def readings(folder: Path) -> None:
        read.append(folder)
        digest = hashlib.sha256((folder / "results.json").read_bytes()).hexdigest()
        content = {"of": digest, "readings": {"features_rankme": 1.0}}
        (folder / "readings.json").write_text(json.dumps(content))

    monkeypatch.setattr("erssl.protocols.study_runs.readings_of", readings)
    small, places, planned = _one_run(tmp_path)
    taken = threading.Event()

    def other() -> None:
        with locked(planned.path):
            taken.set()
            time.sleep(0.3)
            finish(planned)

    holder = threading.Thread(target=other)
    holder.start()
    assert taken.wait(20)
    run(small, *places)
    holder.join()
    run(small, *places)
    assert read == [planned.path]
    (planned.path / "images.json").unlink()  # as where a study was killed while it read
    run(small, "only=0", *places)
    assert read == [planned.path]
    run(small, *places)
    assert read == [planned.path] * 2
    (planned.path / "readings.json").unlink()  # as of a build that had none, or could make none
    run(small, *places)
    assert read == [planned.path] * 3


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    """Another study's, another scale's, one with other files, a file."""
    small = written(tmp_path)
    store = f"store={tmp_path / 'store'}"
    out = tmp_path / "out"
    out.mkdir()
    (out / "study.json").write_text(json.dumps({"study": "other", "scale": {"name": "tiny"}}))
    with pytest.raises(RunError, match="holds the study other at scale tiny"):
        run(small, store, f"output={out}")
    (out / "study.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read as the record"):
        run(small, store, f"output={out}")
    (out / "study.json").unlink()
    (out / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="something else than a study"):
        run(small, store, f"output={out}")
    with pytest.raises(RunError, match="is no folder"):
        run(small, store, f"output={small}")


def test_dry_run_estimates_and_trains_nothing(tmp_path: Path) -> None:
    """An estimate above 0, and no folder."""
    small = written(tmp_path, axes={"batch": SMALL["axes"]["batch"]}, skip=[])
    result = run(small, "dry_run=true", f"store={tmp_path / 'store'}", f"output={tmp_path / 'o'}")
    assert result.metrics["missing"] == 2
    assert result.metrics["seconds"] > 0
    assert not (tmp_path / "store").exists()


def test_a_step_is_measured_once_for_runs_that_differ_by_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """β and the learning rate cost no time; the batch and whole numbers of a method do."""
    measured: list[Any] = []
    monkeypatch.setattr(
        "erssl.protocols.step_time._seconds_of_step",
        lambda settings: measured.append(settings) or 1.0,
    )
    axes = {
        "β": {"0": {"method.beta": 0.01}, "1": {"method.beta": 0.1, "optimizer.base_lr": 0.3}},
        "rows": {"64": {"method.score_rows": 64}, "32": {"method.score_rows": 32}},
        "batch": SMALL["axes"]["batch"],
    }
    small = written(tmp_path, axes=axes, overrides={"method": "mveb"}, skip=[])
    run(small, "dry_run=true", f"store={tmp_path / 'store'}", f"output={tmp_path / 'o'}")
    told = {(each.method["score_rows"], each.batch_size) for each in measured}
    assert len(measured) == 4
    assert len(told) == 4


def test_two_processes_on_one_study_are_refused(tmp_path: Path) -> None:
    """By the lock of its folder, before any training."""
    small = written(tmp_path)
    with locked(tmp_path / "out"), pytest.raises(RunError, match=r"output=.* is in use by process"):
        run(small, f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    assert not (tmp_path / "store").exists()
