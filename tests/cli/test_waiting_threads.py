"""What torch's threads do while they wait, said before torch is looked for."""

import json
import os
import subprocess
import sys

import pytest

from erssl.settings.waiting import SPINS, VARIABLES, let_threads_sleep

# Stops where torch is first looked for, and prints what is set by then.
CODE = """
import json, os, sys
from erssl.cli.main import main

class Finder:
    def find_spec(self, wanted, path=None, target=None):
        if wanted == "torch":
            print(json.dumps({name: os.environ.get(name) for name in sys.argv[1].split(",")}))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Finder())
main(sys.argv[2:])
"""


def said(command, *arguments, **variables):
    """The variables that are set when a command looks for torch, beside those of the user."""
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    call = [sys.executable, "-c", CODE, ",".join(VARIABLES), command, *arguments]
    run = subprocess.run(call, env=own | variables, capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    return {name: value for name, value in found.items() if value is not None}


LOOKS = {"GOMP_SPINCOUNT": str(SPINS)}


@pytest.mark.parametrize(
    "call",
    [
        ("pretrain", "data=cifar10"),
        ("pretrain", "data=digits", "data.pipeline=lightly"),
        ("pretrain", "experiment=mveb_imagenet_2view"),
        ("knn", "checkpoint=x"),
    ],
)
def test_threads_look_a_little_before_they_sleep(call):
    assert said(*call) == LOOKS


@pytest.mark.parametrize(
    "call",
    [
        (),
        ("data=cifar10", "data.pipeline=device"),
        ("experiment=cifar10_cpu",),
        ("experiment=cifar10_cpu", "data=imagefolder", "seed=0"),
        ("experiment=null",),
        ("method=mveb", "data.pipeline=lightly,fast", "--multirun"),  # each run says its own
    ],
)
def test_threads_spin_as_they_do_by_themselves_where_no_other_process_makes_views(call):
    assert said("pretrain", *call) == {}


def test_a_run_that_goes_on_is_asked_for_its_own_pipeline(tmp_path):
    call = ("pretrain", f"run_dir={tmp_path}", "resume=true")
    for pipeline, expected in (("lightly", LOOKS), ("device", {})):
        (tmp_path / "config.yaml").write_text(f"data: {{pipeline: {pipeline}}}")
        assert said(*call) == expected
    (tmp_path / "config.yaml").write_text("data: [")  # which is refused later, in a sentence
    assert said(*call) == LOOKS
    (tmp_path / "config.yaml").unlink()
    assert said(*call, "data=cifar10") == LOOKS


def test_data_of_another_package_may_come_from_loader_processes(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    let_threads_sleep("pretrain", ["data=brought_by_another_package"])
    assert os.environ.pop("GOMP_SPINCOUNT") == str(SPINS)


@pytest.mark.parametrize("name", VARIABLES)
def test_what_a_user_has_set_stays(name):
    assert said("pretrain", "data=cifar10", **{name: "7"}) == {name: "7"}
