"""The figures of docs/reliability.md are those of the recorded trials."""

import json
import re
from pathlib import Path

import pytest

from benchmarks._runs import RESULTS
from benchmarks._trials import table
from erssl.settings.commands import commands

PAGE = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())


def recorded(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def test_the_promises_are_those_that_were_tried():
    trials = recorded("reliability")["trials"]
    assert table(trials) in PAGE
    kills = [trials[f"kill -9 {how}"] for how in ("at a random moment", "while writing")]
    runs, hit, half = (
        sum(each[key] for each in kills)
        for key in ("trials", "kills", "kills_that_left_half_a_file")
    )
    assert f"Of the {runs} runs" in WORDS
    assert f"{hit} kills, {half} of which left half a checkpoint behind" in WORDS
    for name, said in (("EFBIG", "(EFBIG) {} of {} runs"), ("EDQUOT", "(EDQUOT) {} of {}.")):
        assert said.format(trials[name]["refused"], trials[name]["trials"]) in WORDS


def test_methods_and_killed_commands_are_those_that_were_tried():
    """One more method or command changes nothing here: the page tells what was recorded."""
    trials = recorded("reliability")["trials"]
    for when in ("inside an epoch", "between epochs"):
        tried = trials[f"resumed {when}"]["trials"]
        assert f"resuming was tried with {tried} methods" in WORDS
    killed = {name.removesuffix(" killed"): c for name, c in trials.items() if "killed" in name}
    processes = {"a loader process", "a rank of three"}
    assert set(killed) - processes <= set(commands()) - {"pretrain", "zoo", "methods"}
    uncounted = [name for name in commands() if name in killed and "kills" not in killed[name]]
    assert uncounted == ["finetune", "semi", "transfer"]
    assert "of `semi`, `finetune` and `transfer` it was not counted whether a kill hit" in WORDS


def test_versions_are_those_of_the_recordings():
    report = recorded("reliability")
    parts = {key: part["environment"] for key, part in report.items() if key.endswith("_processes")}
    early = {"two_processes", "loader_processes"}
    first = {report["environment"]["packages"]["torch"]}
    first |= {parts[key]["packages"]["torch"] for key in early}
    later = {each["packages"]["torch"] for key, each in parts.items() if key not in early}
    assert f"torch {''.join(first)};" in WORDS
    assert f"below them with torch {''.join(later)}." in WORDS


@pytest.mark.parametrize("key", ["cases", "accepted", "refused", "failed"])
def test_the_fuzzing_is_what_was_recorded(key):
    report = recorded("fuzz")
    lines = PAGE.partition("| what is read |")[2].splitlines()[2:]
    rows = [re.split(r" *\| *", line)[1:-1] for line in lines[: len(report["surfaces"])]]
    column = 1 + ["cases", "accepted", "refused", "failed"].index(key)
    for (name, counts), row in zip(report["surfaces"].items(), rows, strict=True):
        assert int(row[column].replace(",", "")) == counts[key], (name, row)
    assert not lines[len(rows)].startswith("|")
    assert f"{report['totals']['cases']:,} cases of fuzzing" in WORDS
