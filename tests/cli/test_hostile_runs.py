"""Settings, tables and results of runs that somebody else has written."""

import json
import os

import pytest

from erssl.cli.main import main
from erssl.errors import ConfigError, DataError
from erssl.models.zoo import own_zoo, zoo_row
from erssl.run.directory import read_lens, read_metrics

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{','.join([f'*{chr(ord(c) - 1)}'] * 9)}]\n" for c in "bcdefghijk"
)
SETTINGS = {
    "grows without bounds": LAUGHS,
    "holds itself": "a: &a [*a]\n",
    "deeper than the stack": "[" * 5000,
    "runs code": "!!python/object/apply:os.system ['touch ran']\n",
    "no text": b"\xff\xfe\x00",
    "no mapping": "- 1\n",
}


def result(**changes):
    content = {
        "protocol": "knn",
        "dataset": "digits",
        "method": "simclr",
        "metrics": {"top1": 0.5},
        "published": None,
        "seed": 0,
        "config": {"k": 20},
        "environment": {"command": "erssl"},
    }
    return content | changes


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "home").mkdir()
    (tmp_path / "run").mkdir()


@pytest.mark.parametrize("what", SETTINGS)
@pytest.mark.parametrize("arguments", [["pretrain", "run_dir=run", "resume=true"], ["zoo"]])
def test_settings_that_cannot_be_read_are_one_sentence(tmp_path, capsys, what, arguments):
    content = SETTINGS[what]
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    own_zoo().write_bytes(content)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and len(told) < 1500
    assert not (tmp_path / "ran").exists()


def test_a_pipe_in_place_of_settings_is_not_waited_for(tmp_path, capsys):
    os.mkfifo(tmp_path / "run" / "config.yaml")
    assert main(["knn", "checkpoint=run", "data=digits"]) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"top1": 10**400}},
        {"metrics": {"top1": 1e308}},
        {"environment": "x"},
        {"config": {"evaluation": 3}, "protocol": "pretrain"},
        {"published": {"groups": 3}},
        {"published": [1]},
        {"published": {"groups": [{"rows": {"A": {"top1": "x"}}, "unit": "percent"}]}},
        {"method": "half \udc80"},
        {"method": ["x"]},
    ],
)
def test_results_that_no_run_writes_are_refused(tmp_path, capsys, changes):
    (tmp_path / "run" / "results.json").write_text(json.dumps(result(**changes)))
    assert main(["report", "run"]) == 2
    assert "is not what a run writes" in capsys.readouterr().err
    (tmp_path / "run" / "config.yaml").write_text("a: 1\n")
    assert main(["zoo", "add", "run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_that_looks_like_a_formula_is_drawn_as_it_stands(tmp_path):
    (tmp_path / "run" / "results.json").write_text(json.dumps(result(method=r"$\frac^{$")))
    assert main(["report", "run"]) == 0
    (tmp_path / "$b^$").mkdir()
    for folder in ("run", "$b^$"):
        (tmp_path / folder / "lens.csv").write_text("step,i_er_k10\n0,1\n9,2\n")
    assert main(["lens", "run", "$b^$", "output=lens.png"]) == 0


TABLES = {
    "no text": b"\xff\xfe",
    "no numbers": b"step,entropy_k10\nx,y\n",
    "no step": b"entropy_k10\n1\n",
    "too many cells": b"step,entropy_k10\n1,2,3,4\n",
    "a cell without end": b"step,entropy_k10\n1," + b"x" * 200_000,
    "too large": b"step,entropy_k10\n1e308,1e308\n-1e308,-1e308\n",
}


@pytest.mark.parametrize("what", TABLES)
def test_a_table_that_no_run_writes_is_refused(tmp_path, what):
    for name, read in (("lens.csv", read_lens), ("metrics.csv", read_metrics)):
        (tmp_path / "run" / name).write_bytes(TABLES[what])
        if (name, what) not in {("metrics.csv", "too large"), ("metrics.csv", "no step")}:
            with pytest.raises(DataError, match="is no table"):
                read(tmp_path / "run" / name)


@pytest.mark.parametrize("content", ["", "step,entropy_k10\n", "step,other\n1,2\n"])
def test_a_lens_without_readings_is_refused(tmp_path, content):
    (tmp_path / "run" / "lens.csv").write_text(content)
    assert main(["lens", "run", "output=lens.png"]) == 2


@pytest.mark.parametrize(
    "fields",
    [
        "file_name: ../../up.pth",
        "file_name: /abs/olute.pth",
        "file_name: ..",
        "url: https://x/%2e%2e%2fup",
        "url: https://x/..",
    ],
)
def test_a_row_of_the_zoo_cannot_leave_the_folder_of_weights(tmp_path, fields):
    url = "" if fields.startswith("url") else "    url: https://nowhere.invalid/a.pth\n"
    own_zoo().write_text(f"rows:\n  mine:\n    method: x\n{url}    {fields}\n")
    try:
        place = zoo_row("mine").path
    except (DataError, ConfigError):
        return
    assert place.resolve().is_relative_to((tmp_path / "torch").resolve())


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-of-this-name"])
@pytest.mark.parametrize(
    "command",
    [
        ["report"],
        ["lens"],
        ["lens", "run", "run"],
        ["zoo", "add"],
        ["knn", "data=digits", "checkpoint="],
        ["pretrain", "run_dir="],
        ["pretrain", "data=imagefolder", "data.train_dir="],
    ],
)
def test_an_argument_that_names_no_file_is_one_sentence(capsys, command, name):
    *first, last = command
    arguments = [*first, last + name] if last.endswith("=") else [*command, name]
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_sentence_quotes_anything_in_one_line():
    quoted = f"a\nb\x1b[31m{'x' * 5000}; do this."
    told = str(DataError(quoted))
    assert told.startswith("a b\\x1b[31mxxx") and told.endswith("; do this.") and len(told) < 1300
