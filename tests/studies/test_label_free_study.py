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
from rich.console import Console

from erssl.errors import ConfigError, DataError
from erssl.evaluation.label_free import label_free_reading
from erssl.protocols import pretrain, report
from erssl.protocols import study as command
from erssl.protocols.build import trained_method
from erssl.protocols.rank import ranking
from erssl.protocols.readings import kept_readings, readings_of
from erssl.run.summary import collect
from erssl.settings.pretrain import run_settings

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
    assert "not finite" in table[3]


def test_the_study_reads_every_run_and_says_what_it_leaves_out(store: Path, tmp_path: Path) -> None:
    """One page, one record; a run whose checkpoint is gone is named."""
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
