"""What torch's threads do while they wait, said before torch is loaded."""

import os
import subprocess
import sys

import pytest

from erssl.settings.waiting import SPINS, VARIABLES, let_threads_sleep

# Stops where torch is first looked for, and prints what is set by then.
CODE = """
import os, sys
from erssl.cli.main import main

class Finder:
    def find_spec(self, wanted, path=None, target=None):
        if wanted == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Finder())
main(sys.argv[1:])
"""


SAID = {("PASSIVE", None): "PASSIVE", (None, str(SPINS)): "spins", (None, None): None}


@pytest.fixture
def unset(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is set here is taken back too
        monkeypatch.delenv(name)


def policy(command, *arguments):
    let_threads_sleep(command, arguments)
    said = os.environ.pop("OMP_WAIT_POLICY", None), os.environ.pop("GOMP_SPINCOUNT", None)
    return SAID[said]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=cifar10"], "PASSIVE"),
        (["data=digits"], "spins"),  # whose pipeline is the device's
        (["data=digits", "data.pipeline=lightly"], "PASSIVE"),
        (["data=cifar10", "data.pipeline=device"], "spins"),
        (["data=cifar10", "data.num_workers=0"], "spins"),
        (["data=digits", "data.pipeline=fast", "data.num_workers=2"], "PASSIVE"),
        (["experiment=cifar10_cpu"], "spins"),
        (["experiment=cifar10_cpu", "data=imagefolder"], "spins"),
        (["method=mveb,simclr", "data=cifar10", "--multirun"], None),  # its runs say it themselves
    ],
)
def test_a_pretraining_sleeps_where_it_has_loader_processes(unset, arguments, expected):
    assert policy("pretrain", *arguments) == expected


def test_evaluations_sleep_and_studies_leave_it_to_their_runs(unset):
    assert policy("knn", "checkpoint=runs/x", "data=digits") == "PASSIVE"
    assert policy("study", "mveb_beta", "scale=tiny") is None


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("data: {pipeline: device}", "spins"),
        ("data: {pipeline: fast}", "PASSIVE"),
        ("data: [", "PASSIVE"),
        ("data", "PASSIVE"),
    ],
)
def test_a_resumed_run_has_the_pipeline_that_it_began_with(unset, tmp_path, config, expected):
    (tmp_path / "config.yaml").write_text(config)
    assert policy("pretrain", f"run_dir={tmp_path}", "resume=true") == expected


@pytest.mark.parametrize("name", VARIABLES)
def test_what_a_user_has_set_stays(unset, monkeypatch, name):
    monkeypatch.setenv(name, "7")
    let_threads_sleep("knn", [])
    assert {each: os.environ.get(each) for each in VARIABLES if each in os.environ} == {name: "7"}


def test_it_is_said_before_torch_is_looked_for():
    variables = {name: value for name, value in os.environ.items() if name not in VARIABLES}

    def asked(*arguments):
        command = [sys.executable, "-c", CODE, "pretrain", *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=True)

    assert asked("data=cifar10").stdout == "PASSIVE None\n"
    assert asked("data=digits").stdout == "None 1000\n"
