"""Transfers of a study's runs: which are missing, where they lie, what is read of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from erssl.errors import ConfigError
from erssl.protocols import study_transfer
from erssl.protocols.study_transfer import read_study_transfer, split_overrides
from erssl.studies.page import label_of, value_of

SAID = {"datasets": ["dtd", "pets"], "mode": "linear", "partial_ok": True}
RESULTS = {
    "protocol": "transfer_linear",
    "dataset": "dtd",
    "method": "mine",
    "metrics": {"top1": 0.25},
    "seed": 0,
    "config": {},
    "environment": {},
}


def leave(folder: Path, name: str, **metrics: float) -> None:
    """The results of a data set, as ``erssl transfer`` leaves them."""
    place = folder / "seed0" / name
    place.mkdir(parents=True)
    content = {**RESULTS, "dataset": name, "metrics": metrics}
    (place / "results.json").write_text(json.dumps(content))


def test_what_a_user_says_of_transfers_is_told_from_the_runs() -> None:
    """By its group."""
    own, rest = split_overrides(["transfer.data_root=/a", "data.root=/b", "epochs=1"])
    assert (own, rest) == (["data_root=/a"], ["data.root=/b", "epochs=1"])


def test_transfers_lie_by_what_they_are(tmp_path: Path) -> None:
    """Not by where the images are; other data sets or another mode are others."""
    folders = [
        read_study_transfer(SAID, own).folder(tmp_path)
        for own in (["data_root=/a"], ["data_root=/b"], ["data_root=/a", "datasets=[dtd]"])
    ]
    assert folders[0] == folders[1] != folders[2]
    with pytest.raises(ConfigError, match="data_root"):
        read_study_transfer(SAID, [])


def test_metrics_are_each_data_sets_own_and_shown_in_per_cent(tmp_path: Path) -> None:
    """Pets count by the mean of the classes, DTD by top-1."""
    transfer = read_study_transfer(SAID, ["data_root=/a"])
    assert transfer.metric_names == ("transfer_dtd", "transfer_pets")
    assert transfer.missing(tmp_path)
    leave(transfer.folder(tmp_path), "dtd", top1=0.25)
    assert transfer.missing(tmp_path)
    leave(transfer.folder(tmp_path), "pets", mean_per_class=0.5, top1=0.75)
    assert not transfer.missing(tmp_path)
    assert transfer.metrics(tmp_path) == {"transfer_dtd": 0.25, "transfer_pets": 0.5}
    assert value_of("transfer_dtd", 0.25) == 25
    assert label_of("transfer_dtd") == "dtd, linear (%)"


def test_a_transfer_that_was_begun_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that fails leaves the others to run."""
    commands: list[list[str]] = []

    def run(_: object, words: list[str], **named: object) -> int:
        commands.append(words)
        return 1

    monkeypatch.setattr(study_transfer.Children, "run", run)
    transfer = read_study_transfer(SAID, ["data_root=/a"])
    begun, new = tmp_path / "begun", tmp_path / "new"
    transfer.folder(begun).mkdir(parents=True)
    (transfer.folder(begun) / "config.yaml").write_text("")
    transfer.run([begun, new], Console(quiet=True))
    assert [words[0] for words in commands] == ["transfer", "transfer"]
    assert [words[-1] for words in commands] == ["resume=true", "resume=false"]
    assert f"checkpoint={new}" in commands[1]
    assert f"run_dir={transfer.folder(new)}" in commands[1]
