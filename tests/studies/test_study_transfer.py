"""Transfers of a study's runs: which are missing, where they lie, what is read of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from erssl.errors import ConfigError
from erssl.protocols import study_transfer
from erssl.protocols.study_transfer import read_study_transfer, split_overrides
from erssl.studies.metrics import label_of, value_of

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


def leave(folder: Path, name: str, seed: int = 0, **metrics: float) -> None:
    """The results of a data set, as ``erssl transfer`` leaves them."""
    place = folder / f"seed{seed}" / name
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
    plain = read_study_transfer(SAID, ["data_root=/a"]).folder(tmp_path)
    for same in ("tolerance=1e-06", "cache=true", "feature_batch_size=7", "datasets=[pets,dtd]"):
        own = ["data_root=/a", same]
        assert read_study_transfer(SAID, own).folder(tmp_path) == plain, same
    for other in ("tolerance=0.01", "partial_ok=false", "features_precision=bf16"):
        own = ["data_root=/a", other]
        assert read_study_transfer(SAID, own).folder(tmp_path) != plain, other
    with pytest.raises(ConfigError, match=r"needs transfer\.data_root="):
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


def test_a_value_on_other_images_is_not_shown(tmp_path: Path) -> None:
    """Such as those of a part of a data set in another folder; equal copies are the same."""
    for name, content in (("part", b"1"), ("whole", b"123"), ("copy", b"1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image").write_bytes(content)
    said = {**SAID, "datasets": ["dtd"]}
    folder = read_study_transfer(said, [f"data_root={tmp_path / 'part'}"]).folder(tmp_path / "run")
    leave(folder, "dtd", top1=0.25)
    file = folder / "seed0" / "dtd" / "results.json"
    config = {"data_root": str(tmp_path / "part")}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"config": config}))
    for name, value in (("part", 0.25), ("copy", 0.25), ("whole", None), ("gone", 0.25)):
        transfer = read_study_transfer(said, [f"data_root={tmp_path / name}"])
        assert transfer.metrics(tmp_path / "run").get("transfer_dtd") == value, name
        assert transfer.missing(tmp_path / "run") is (value is None)
    with pytest.raises(ConfigError, match="gone does not exist"):
        transfer.check_images([])
    whole = read_study_transfer(said, [f"data_root={tmp_path / 'whole'}"])
    with pytest.raises(
        ConfigError, match=r"of other images than those in transfer\.data_root=.*away"
    ):
        whole.check_images([tmp_path / "run"])
    read_study_transfer(said, [f"data_root={tmp_path / 'copy'}"]).check_images([tmp_path / "run"])


def test_what_a_user_says_of_transfers_counts_for_the_page() -> None:
    """But for what may be added later, and where the images are."""
    own = ["data_root=/a", "seeds=2", "datasets=[dtd]", "cache=true", "tolerance=0.01"]
    assert read_study_transfer(SAID, own).that_counts == ("transfer.tolerance=0.01",)


def test_every_seed_counts(tmp_path: Path) -> None:
    """After the first of two a data set is missing; then its value is their mean."""
    transfer = read_study_transfer({**SAID, "datasets": ["dtd"]}, ["data_root=/a", "seeds=2"])
    leave(transfer.folder(tmp_path), "dtd", top1=0.25)
    assert transfer.missing(tmp_path)
    assert transfer.metrics(tmp_path) == {}
    leave(transfer.folder(tmp_path), "dtd", seed=1, top1=0.75)
    assert not transfer.missing(tmp_path)
    assert transfer.metrics(tmp_path) == {"transfer_dtd": 0.5}


def test_fine_tuned_is_not_called_linear(tmp_path: Path) -> None:
    """By the metric's name, and so in tables and figures."""
    transfer = read_study_transfer({**SAID, "mode": "finetune"}, ["data_root=/a"])
    leave(transfer.folder(tmp_path), "dtd", top1=0.25)
    (name,) = transfer.metrics(tmp_path)
    assert name == transfer.metric_names[0] != "transfer_dtd"
    assert label_of(name) == "dtd, fine-tuned (%)"
    assert value_of(name, 0.25) == 25


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
