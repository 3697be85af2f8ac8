"""The study of readings without labels and the report that ranks by one, on two small runs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from erssl.errors import ConfigError, DataError
from erssl.evaluation.label_free import label_free_reading
from erssl.protocols import pretrain, report
from erssl.protocols import study as command
from erssl.protocols.build import trained_method
from erssl.protocols.rank import RANKED_BY, ranking
from erssl.protocols.read_runs import read_run
from erssl.protocols.readings import (
    _training,
    kept_linear,
    kept_readings,
    linear_of,
    readings_of,
)
from erssl.run.summary import collect
from erssl.settings.pretrain import run_settings
from erssl.studies.ranking import rank_readings

QUIET = Console(quiet=True)
TINY = (
    "data=digits",
    "data.views.recipe=digits",
    "data.image_size=8",
    "epochs=1",
    "backbone=timm",
    "backbone.name=test_resnet",
    "method.projection_dim=8",
    "trainer.limit_train_batches=2",
    "data.num_workers=0",
    "evaluation.linear=false",
    "evaluation.untrained=false",
    "evaluation.every_n_epochs=0",
    "lens.probe_size=0",
)


IMAGES = 64  # of a reading, where 1,024 would take seconds each


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read few images."""
    monkeypatch.setattr("erssl.protocols.readings.IMAGES", IMAGES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of two methods, the last on long-tailed images."""
    folder = tmp_path_factory.mktemp("store")
    for number, method in enumerate(("mveb", "simclr", "mveb")):
        own = [f"method={method}", f"seed={number}", f"run_dir={folder / f'run{number}'}"]
        own += ["data.imbalance=2"] if number == 2 else []
        pretrain.run([*TINY, *own], QUIET)
    return folder


def test_readings_are_those_of_the_checkpoint_and_are_kept(store: Path) -> None:
    """Of training images in two views, features and embeddings each."""
    run = store / "run0"
    readings = readings_of(run)
    assert kept_readings(run) == readings
    settings = run_settings(run, [])
    method = trained_method(run / "checkpoints" / "last.ckpt", settings).eval()
    images = settings.data.load().train
    places = np.linspace(0, len(images) - 1, IMAGES).round().astype(int).tolist()
    from erssl.data import SSLDataModule

    views = SSLDataModule(settings.data, 1, settings.seed).pipeline.probe(
        images, places, settings.seed
    )
    for space, embed in (("features", method), ("embedding", method.embed)):
        with torch.no_grad():
            expected = label_free_reading([embed(view) for view in views])
        for name, value in expected.items():
            assert readings[f"{space}_{name}"] == pytest.approx(value, rel=1e-3), (space, name)
    kept = json.loads((run / "readings.json").read_text())
    (run / "readings.json").write_text(json.dumps({**kept, "readings": {"features_rankme": 7}}))
    assert readings_of(run) == {"features_rankme": 7.0}
    (run / "readings.json").unlink()


def test_readings_of_an_earlier_training_do_not_count(store: Path, tmp_path: Path) -> None:
    """A run that was made longer, or anew in the same directory, is read anew."""
    run = tmp_path / "run"
    shutil.copytree(store / "run1", run)
    before = readings_of(run)
    longer = (f"run_dir={run}", "resume=true", "epochs=2", "data.num_workers=0")
    pretrain.run(longer, QUIET)
    assert kept_readings(run) is None
    after = readings_of(run)
    assert after != before
    again = (*TINY, "method=simclr", "seed=1", f"run_dir={run}", "overwrite=true")
    pretrain.run(again, QUIET)
    assert not (run / "readings.json").exists()
    assert readings_of(run) == pytest.approx(before)


def test_a_loss_that_is_not_finite_is_not_ranked(store: Path, tmp_path: Path) -> None:
    """NaN stands below the others, whatever the order of the folders."""
    for name, number in (("n0", 0), ("n1", 1)):
        shutil.copytree(store / f"run{number}", tmp_path / name)
    file = tmp_path / "n0" / "results.json"
    results = json.loads(file.read_text())
    results["metrics"]["train_loss"] = math.nan
    file.write_text(json.dumps(results))
    table = ranking(collect([str(tmp_path)]), "train_loss").splitlines()
    assert "n1" in table[2]
    assert "| none |" in table[3]


def test_the_study_reads_every_run_and_says_what_it_leaves_out(store: Path, tmp_path: Path) -> None:
    """One page, one record; a run whose checkpoint is gone is named."""
    unread = shutil.ignore_patterns("readings.json")
    store = Path(shutil.copytree(store, tmp_path / "store", ignore=unread))
    broken = store / "broken"
    broken.mkdir()
    for name in ("results.json", "config.yaml"):
        (broken / name).write_bytes((store / "run0" / name).read_bytes())
    words = ("label_free", f"store={store}", f"output={tmp_path / 'out'}")
    dry = command.run((*words, "dry_run=true"), QUIET)
    assert dry.metrics["missing"] == 4
    result = command.run(words, QUIET)
    assert {run["name"] for run in result.results["runs"]} == {"run0", "run1", "run2"}
    assert "has no" in result.results["left_out"]["broken"]
    names = {each["name"] for each in result.results["readings"]}
    assert {"features_rankme", "embedding_lidar", "features_clid", "train_loss"} <= names
    pairs = next(e for e in result.results["readings"] if e["name"] == "features_rankme")
    assert (pairs["within"]["pairs"], pairs["across"]["pairs"]) == (1, 2)
    text = (tmp_path / "out" / "study.md").read_text()
    assert "nothing is answered yet" in text
    assert "mveb 2, simclr 1" in text
    assert (tmp_path / "out" / "study.png").stat().st_size > 5000


def edited(source: Path, run: Path, **metrics: float) -> Path:
    """A copy of a run with other metrics, and readings that still count as its own."""
    shutil.copytree(source, run)
    results = json.loads((run / "results.json").read_text())
    results["metrics"] |= metrics
    (run / "results.json").write_text(json.dumps(results))
    readings = {"features_rankme": 3.0 + metrics.get("train_loss", 0.0)}
    content = {"images": IMAGES, "views": 2, "of": _training(run), "readings": readings}
    (run / "readings.json").write_text(json.dumps(content))
    return run


def reconfigured(run: Path, **changes: Any) -> Path:
    """The run with other settings in its config.yaml, by dotted keys."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    for key, value in changes.items():
        *groups, name = key.split("__")
        within = config
        for group in groups:
            within = within[group]
        within[name] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def test_each_run_counts_once_and_one_without_accuracy_not_at_all(
    store: Path, tmp_path: Path
) -> None:
    """Copies, trainings of equal settings, and an accuracy of NaN are left out with a reason."""
    runs = tmp_path / "store"
    for number in range(3):
        edited(store / f"run{number}", runs / f"run{number}", train_loss=float(number))
    shutil.copytree(runs / "run0", runs / "run0_copy")
    shutil.copytree(runs / "run0", runs / "run0_copy_of_copy")
    edited(store / "run1", runs / "run1_again", train_loss=9.0)
    reconfigured(edited(store / "run2", runs / "run2_nan", knn_top1=math.nan), epochs=5)
    words = ("label_free", f"store={runs}", f"output={tmp_path / 'out'}")
    result = command.run(words, QUIET)
    assert {run["name"] for run in result.results["runs"]} == {"run0", "run1", "run2"}
    left_out = result.results["left_out"]
    assert "a copy of run0," in left_out["run0_copy"]
    assert "a copy of run0," in left_out["run0_copy_of_copy"]
    assert "the settings of run1," in left_out["run1_again"]
    assert "not finite" in left_out["run2_nan"]
    text = (tmp_path / "out" / "study.md").read_text()
    assert "3 runs of 1 setting: mveb 2, simclr 1." in text
    assert "count once" in text
    taus = [each["every"]["value"] for each in result.results["readings"]]
    assert any(math.isfinite(value) for value in taus)


@pytest.mark.parametrize(
    "word",
    ["foo.bar=1", "method.beta=3", "seeds=[3]", "jobs=2", "retry=true", "data.trian_dir=/tmp"],
)
def test_what_only_a_training_would_heed_is_refused(word: str, tmp_path: Path) -> None:
    """Before anything is read, also with dry_run."""
    for further in ((), ("dry_run=true",)):
        with pytest.raises(ConfigError, match="trains none"):
            command.run(("label_free", f"store={tmp_path}", word, *further), QUIET)


def test_where_the_images_are_may_be_said(store: Path, tmp_path: Path) -> None:
    """And is of no account to runs whose data set has no such place."""
    words = (f"store={store}", f"output={tmp_path / 'out'}", "data.train_dir=/anywhere")
    result = command.run(("label_free", *words, "dry_run=true"), QUIET)
    assert "missing" in result.metrics
    run = edited(store / "run0", tmp_path / "run")
    assert read_run(run, ["data.train_dir=/anywhere"]) == read_run(run)


def test_report_ranks_within_a_setting_and_tells_runs_apart(store: Path, tmp_path: Path) -> None:
    """A table for each network, the settings that differ, and the runs that cannot be read."""
    for number in range(3):
        run = edited(store / "run0", tmp_path / f"b{number}", train_loss=float(number))
        reconfigured(run, method__beta=0.01 * (number + 1))
    reconfigured(edited(store / "run1", tmp_path / "s"), method__temperature=0.3)
    other = edited(store / "run0", tmp_path / "wide", train_loss=7.0)
    reconfigured(other, data__image_size=16)
    moved = edited(store / "run0", tmp_path / "moved")
    (moved / "readings.json").unlink()
    (moved / "checkpoints" / "last.ckpt").unlink()
    text = ranking(collect([str(tmp_path)]), "features_rankme")
    first, second = text.split("data.image_size=16:")
    rows = [line for line in first.splitlines() if line[:4] in ("| 1 ", "| 2 ", "| 3 ", "| 4 ")]
    order = [row.split("|")[-2].strip().rpartition("/")[2] for row in rows]
    assert order == ["b2", "b1", "b0", "s"]
    assert "method.beta=0.03" in rows[0]
    assert "temperature" not in first  # one run of its method has nothing to be told apart from
    assert "wide" in second and "moved" not in first
    assert "The highest features" in text
    assert "moved: " in second and "has no" in second


def test_every_reading_of_the_page_can_rank(store: Path, tmp_path: Path) -> None:
    """What training logged needs no checkpoint; CLID is relative to the runs of the table."""
    places = [str(store / f"run{number}") for number in range(3)]
    for place in places:
        readings_of(Path(place))
    summary = collect(places)
    taus = rank_readings([read_run(Path(place)) for place in places])
    assert {each.name for each in taus} <= set(RANKED_BY)
    assert "lowest train" in ranking(summary, "train_loss")
    assert "highest train" in ranking(summary, "train_nats_below_uniform")
    assert "nearest to 1" in ranking(summary, "features_alpha_req")
    clids = [line for line in ranking(summary, "features_clid").splitlines() if "run" in line]
    values = [float(line.split("|")[-3]) for line in clids if line.startswith("| ")]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(0, abs=1e-3)


def test_report_ranks_runs_without_labels(store: Path, tmp_path: Path) -> None:
    """By α-ReQ the nearest to 1 comes first; the page has the table."""
    places = [str(store / f"run{number}") for number in range(3)]
    values = {place: readings_of(Path(place))["features_alpha_req"] for place in places}
    result = report.run([*places, "rank=features_alpha_req", f"output={tmp_path}"], QUIET)
    text = (result.path / "report.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(("| 1 ", "| 2 ", "| 3 "))]
    ordered = sorted(places, key=lambda place: abs(values[place] - 1))
    assert [line.split("|")[-2].strip().replace("\\\\", "") for line in lines] == ordered
    with pytest.raises(ConfigError, match="did you mean features_rankme"):
        ranking(collect(places), "features_rankm")


def test_there_is_nothing_to_rank_among_other_protocols(store: Path, tmp_path: Path) -> None:
    """kNN results have no order without labels."""
    results: dict[str, Any] = json.loads((store / "run0" / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps({**results, "protocol": "knn"}))
    with pytest.raises(DataError, match="none here"):
        ranking(collect([tmp_path]), "features_rankme")


def test_the_linear_accuracy_of_a_finished_run_is_the_one_that_a_run_ends_with(
    store: Path, tmp_path: Path
) -> None:
    """Measured from the checkpoint, kept, and not that of a training made longer since."""
    run = Path(shutil.copytree(store / "run0", tmp_path / "run"))
    again = tmp_path / "again"
    with_linear = ("method=mveb", "seed=0", f"run_dir={again}", "evaluation.linear=true")
    pretrain.run([*TINY, *with_linear], QUIET)
    expected = json.loads((again / "results.json").read_text())["metrics"]["linear_top1"]
    assert kept_linear(run) == {}
    assert linear_of(run) == kept_linear(run) == {"linear_top1": expected}
    longer = (f"run_dir={run}", "resume=true", "epochs=2", "data.num_workers=0")
    pretrain.run(longer, QUIET)
    assert kept_linear(run) == {}
