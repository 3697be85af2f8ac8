"""Studies: their files, the grid, the store of runs, the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import erssl
from erssl.cli.main import main
from erssl.data.places import content_of, images_digest
from erssl.errors import DataError, ErsslError, RunError
from erssl.protocols import study as command
from erssl.run.children import Children
from erssl.run.lock import locked
from erssl.settings.pretrain import read_settings
from erssl.studies import RunStore, read_study
from erssl.studies.store import key_of, mark_failure

from .small_study import SMALL, run, written


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


def test_a_dry_run_of_images_that_are_not_there_says_so_before_all_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not after a list of runs."""
    (tmp_path / "empty").mkdir()
    images = ("data=imagefolder", f"data.train_dir={tmp_path / 'empty'}")
    with pytest.raises(DataError, match="holds no images"):
        command.run(("mveb_beta", *images, "dry_run=true", f"store={tmp_path / 's'}"), Console())
    assert capsys.readouterr().out == ""


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
