"""The runs of a store: which is whose, and what a study does before it trains."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from erssl.data.places import content_of
from erssl.errors import ConfigError, DataError, ErsslError, RunError
from erssl.protocols import study as command
from erssl.protocols.study_runs import _command, missing_of
from erssl.run.children import Children
from erssl.settings.pretrain import read_settings
from erssl.studies import RunStore, read_study
from erssl.studies.store import is_finished, key_of, mark_finished, mark_planned

from .small_study import finish, run, written


@pytest.fixture(autouse=True)
def _nothing_is_read_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings need checkpoints; digests of places are read anew."""
    monkeypatch.setattr("erssl.protocols.study_runs.readings_of", lambda _: {})
    content_of.cache_clear()


def planned(folder: Path, *further: str, **changes: Any) -> list[command.Planned]:
    """The runs of a study with one method, in a store beside it."""
    changes = {"axes": {"method": {"SimCLR": {"method": "simclr"}}}, "skip": []} | changes
    study = read_study(written(folder, **changes))
    grid = study.grid(study.scale("tiny"), further)
    return [command._planned(cell, RunStore(folder / "store")) for cell in grid.cells]


def key(*overrides: str) -> str:
    """Of a pretraining."""
    return key_of(read_settings(["method=simclr", "data=digits", *overrides])[1])


def test_a_run_that_was_made_longer_by_hand_is_another_one(tmp_path: Path) -> None:
    """Though it lies where the shorter one did; that is trained again, elsewhere."""
    (first,) = planned(tmp_path)
    finish(first)
    mark_finished(first.path, first.plan)
    assert planned(tmp_path)[0].path == first.path
    config = yaml.safe_load((first.path / "config.yaml").read_text())
    (first.path / "config.yaml").write_text(yaml.safe_dump(config | {"epochs": 3}))
    (again,) = planned(tmp_path)
    assert again.path.name == f"{first.path.name}-2"
    assert planned(tmp_path, "epochs=3")[0].path == first.path


@pytest.mark.parametrize("text", [None, "epochs: [", "method: {name: none}"])
def test_a_folder_whose_settings_are_lost_gives_its_number_to_no_cell(
    text: str | None, tmp_path: Path
) -> None:
    (first,) = planned(tmp_path)
    finish(first, knn_top1=0.9)
    config = first.path / "config.yaml"
    config.unlink() if text is None else config.write_text(text)
    (again,) = planned(tmp_path)
    assert again.path != first.path
    assert command._outcome(again).metrics == {}


def test_a_run_is_found_by_what_was_asked_for_too(tmp_path: Path) -> None:
    """Its batch, say, was fitted to a folder of images; it may be called anything."""
    (first,) = planned(tmp_path)
    finish(first)
    config = yaml.safe_load((first.path / "config.yaml").read_text())
    config["optimizer"]["weight_decay"] = 0.5
    (first.path / "config.yaml").write_text(yaml.safe_dump(config))
    mark_finished(first.path, first.plan)
    moved = first.path.rename(first.path.parent / "mine")
    assert planned(tmp_path)[0].path == moved
    assert planned(tmp_path, "optimizer.weight_decay=0.5")[0].path == moved


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path) -> None:
    """Which have taken the place of those that it began with."""
    images = tmp_path / "images"
    for name in ("a/1.png", "b/2.png"):
        (images / name).parent.mkdir(parents=True)
        (images / name).write_bytes(b"1")
    where = ("data=imagefolder", f"data.train_dir={images}", f"data.val_dir={images}")
    own = {"tiny": {"about": "a folder", "overrides": {"data.image_size": 16}}}
    (first,) = planned(tmp_path, *where, scales=own)
    _command(first)  # plans it
    first.path.mkdir(parents=True)
    config = read_settings(list(first.cell.overrides))[1]
    (first.path / "config.yaml").write_text(yaml.safe_dump(config))
    content_of.cache_clear()
    assert planned(tmp_path, *where, scales=own)[0].path == first.path
    (images / "a" / "1.png").write_bytes(b"another")
    content_of.cache_clear()
    (other,) = planned(tmp_path, *where, scales=own)
    assert other.path != first.path
    assert not other.path.exists()


def test_one_batch_and_all_batches_are_two_runs(tmp_path: Path) -> None:
    limit = "trainer.limit_train_batches="
    assert len({key(limit + each) for each in ("1", "1.0", "2", "0.5")}) == 4
    assert key("optimizer.weight_decay=0") == key("optimizer.weight_decay=0.0")


def test_weights_to_begin_with_count_by_what_they_are(tmp_path: Path) -> None:
    inner = tmp_path / "folder" / "checkpoints" / "last.ckpt"
    files = [tmp_path / "a.pth", tmp_path / "folder" / "backbone.safetensors", inner]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        for content in (b"one", b"two"):
            file.write_bytes(content)
    start = [tmp_path / "a.pth", tmp_path / "folder"]
    config = read_settings(["method=simclr", "data=digits"])[1]

    def keys(places: list[Path]) -> list[str]:
        content_of.cache_clear()
        return [key_of(config | {"checkpoint": str(place)}) for place in places]

    before = keys(start)
    copies = [shutil.copy(start[0], tmp_path / "b.pth"), shutil.copytree(start[1], tmp_path / "f")]
    assert keys(copies) == before
    (tmp_path / "folder" / "readings.json").write_text("{}")  # what a study writes beside them
    assert keys(start) == before
    for file in files:
        kept = file.read_bytes()
        file.write_bytes(b"owt")  # as long as before
        place = 0 if file == start[0] else 1
        assert keys(start)[place] not in {*before, key_of(config)}
        file.write_bytes(kept)


def test_a_run_that_went_on_after_a_loss_that_is_no_number_is_another(tmp_path: Path) -> None:
    assert len({key(f"on_nonfinite={each}") for each in ("stop", "skip", "backoff")}) == 3
    assert key("on_nonfinite=stop") == key()
    (first,) = planned(tmp_path)
    finish(first, knn_top1=0.1, train_loss=float("nan"))
    outcome = command._outcome(first)
    assert (outcome.metrics, outcome.failure) == ({}, "it diverged: its last loss is nan")


def test_of_two_runs_with_one_key_the_finished_one_counts(tmp_path: Path) -> None:
    """The last by its name has results that cannot be read."""
    (first,) = planned(tmp_path)
    finish(first, knn_top1=0.25)
    damaged = shutil.copytree(first.path, first.path.parent / "zzz")
    (damaged / "results.json").write_text("{")
    (again,) = planned(tmp_path)
    assert command._outcome(again).metrics["knn_top1"] == 0.25
    assert not is_finished(damaged)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"protocol": "knn"}'])
def test_results_that_cannot_be_read_are_said_and_tried_again_where_asked(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = planned(tmp_path)
    finish(first)
    (first.path / "results.json").write_text(content)
    small = str(tmp_path / "small.yaml")
    places = (f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    monkeypatch.setattr(Children, "run", lambda *_, **__: pytest.fail("it was trained"))
    result = run(small, *places)
    assert "results.json is not what a run writes" in result.results["runs"][0]["failure"]
    monkeypatch.setattr(Children, "run", lambda *_, **__: finish(first) or 0)
    assert run(small, *places, "retry=true").results["runs"][0]["failure"] is None


def test_results_of_an_evaluation_are_none_of_a_run(tmp_path: Path) -> None:
    (first,) = planned(tmp_path)
    finish(first)
    file = first.path / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"protocol": "knn"}))
    assert command._outcome(first).failure == f"{file} is of erssl knn; move it away."
    assert missing_of([first], retry=True) == []


def test_a_run_that_came_to_be_meanwhile_is_not_deleted(tmp_path: Path) -> None:
    """Another study was quicker: pretrain refuses the folder, and what lies there is read."""
    (first,) = planned(tmp_path)
    assert "overwrite=false" in _command(first)
    first.path.mkdir(parents=True)
    (first.path / "metrics.csv").write_text("step,train_loss\n1,2.0\n")
    config = read_settings(list(first.cell.overrides))[1]
    (first.path / "config.yaml").write_text(yaml.safe_dump(config))
    assert "overwrite=true" in _command(first)  # one that ended before its first checkpoint
    finish(first)
    _command(first)
    assert is_finished(first.path)


@pytest.mark.parametrize(
    ("key", "value", "same"), [("batch_size", 128, True), ("epochs", 3, False)]
)
def test_a_plan_is_of_the_run_that_came_of_it(
    key: str, value: int, same: bool, tmp_path: Path
) -> None:
    """It may have fitted its batch to its images; one that was ended otherwise by hand is not."""
    (first,) = planned(tmp_path)
    mark_planned(first.path, first.plan)
    finish(first)
    config = yaml.safe_load((first.path / "config.yaml").read_text())
    (first.path / "config.yaml").write_text(yaml.safe_dump(config | {key: value}))
    assert (planned(tmp_path)[0].path == first.path) is same
    assert planned(tmp_path, f"{key}={value}")[0].path == first.path


def test_a_run_that_is_asked_for_in_two_ways_is_found_by_both(tmp_path: Path) -> None:
    """By what was asked for first, which it has fitted, and by what it came to."""
    (first,) = planned(tmp_path)
    finish(first)
    config = yaml.safe_load((first.path / "config.yaml").read_text())
    (first.path / "config.yaml").write_text(yaml.safe_dump(config | {"batch_size": 128}))
    mark_finished(first.path, first.plan)
    (fitted,) = planned(tmp_path, "batch_size=128")
    assert fitted.path == first.path
    mark_finished(fitted.path, fitted.plan)
    assert planned(tmp_path)[0].path == first.path


@pytest.mark.parametrize(
    ("further", "error", "said"),
    [
        (("method.temperature=-1",), ConfigError, "The run SimCLR, seed 0 cannot be: .* above 0"),
        (("data=imagefolder", "data.train_dir={gone}"), DataError, "gone does not exist"),
    ],
)
def test_what_every_run_would_fail_by_is_said_once(
    further: tuple[str, ...],
    error: type[ErsslError],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the first of them is started, and nothing is written but the folder of the page."""
    monkeypatch.setattr(Children, "run", lambda *_, **__: pytest.fail("it was trained"))
    planned(tmp_path)
    given = [each.format(gone=tmp_path / "gone") for each in further]
    places = (f"store={tmp_path / 'store'}", f"output={tmp_path / 'out'}")
    with pytest.raises(error, match=said):
        run(str(tmp_path / "small.yaml"), *places, *given)
    assert not (tmp_path / "store").exists()


def test_a_page_is_not_written_over_by_other_settings(tmp_path: Path) -> None:
    """But by more seeds and loaders it is; old figures go, and nothing of the user's."""
    planned(tmp_path)
    words = (str(tmp_path / "small.yaml"), f"store={tmp_path / 'store'}", "only=0")
    out = tmp_path / "out"
    run(*words, f"output={out}", "epochs=2")
    for name in ("study.png", "study.svg", "study.tex"):
        (out / name).write_bytes(b"of before")
    run(*words, f"output={out}", "epochs=2", "seeds=[0,1]", "data.num_workers=2")
    assert {f.name for f in out.glob("study.*")} == {"study.md", "study.json", "study.tex"}
    with pytest.raises(RunError, match="holds this study with epochs=2 changed, and this is with"):
        run(*words, f"output={out}", "epochs=3")


def test_a_study_that_was_stopped_while_it_wrote_its_page_knows_its_folder(tmp_path: Path) -> None:
    planned(tmp_path)
    words = (str(tmp_path / "small.yaml"), f"store={tmp_path / 'store'}", "only=0")
    out = tmp_path / "out"
    run(*words, f"output={out}")
    (out / "study.json").unlink()
    (out / "study.png").write_bytes(b"")
    run(*words, f"output={out}")
    assert (out / "study.json").is_file()


@pytest.mark.parametrize("word", ["run_dir=x", "resume=true", "overwrite=true"])
def test_where_runs_lie_is_the_studys_own(word: str, tmp_path: Path) -> None:
    planned(tmp_path)
    with pytest.raises(ConfigError, match="is for erssl pretrain; a study says itself"):
        run(str(tmp_path / "small.yaml"), word, f"output={tmp_path / 'out'}")


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    planned(tmp_path)
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        run(str(tmp_path / "small.yaml"), f"store={tmp_path / 'small.yaml'}")


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"optimizer.base_lr": 0.1}, "optimizer={base_lr:0.5}"),
        ({"optimizer": {"base_lr": 0.1}}, "optimizer.base_lr=0.5"),
        ({"optimizer": "{base_lr:0.1}"}, "optimizer={base_lr: 0.5}"),
    ],
)
def test_what_varies_is_refused_however_it_is_written(
    options: dict[str, Any], given: str, tmp_path: Path
) -> None:
    axes = {"rate": {"low": options, "high": {"optimizer.base_lr": 1.0}}}
    study = read_study(written(tmp_path, axes=axes, skip=[]))
    with pytest.raises(ConfigError, match=r"optimizer\.base_lr varies between the runs"):
        study.grid(study.scale("tiny"), [given])
    assert study.grid(study.scale("tiny"), ["optimizer={weight_decay:0.5}"])


@pytest.mark.parametrize(
    ("rule", "left"),
    [(["1", "2"], 3), (["1", "1"], 3), (["2"], 2), (["b", "1"], 3)],
)
def test_a_rule_skips_what_it_names(rule: list[str], left: int, tmp_path: Path) -> None:
    """Labels that both axes have are of the axis of their place."""
    seconds = {"1": {"epochs": 1}, "2": {"epochs": 2}}
    if "b" in rule:
        seconds = {"a": {"epochs": 1}, "b": {"epochs": 2}}
    axes = {"rows": {"1": {"batch_size": 8}, "2": {"batch_size": 16}}, "epochs": seconds}
    study = read_study(written(tmp_path, axes=axes, skip=[rule]))
    cells = study.grid(study.scale("tiny")).cells
    assert len(cells) == left
    assert tuple(rule) not in {cell.labels for cell in cells}
