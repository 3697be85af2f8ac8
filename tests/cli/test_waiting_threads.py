"""What torch's threads do while they wait, said before torch is looked for."""

import json
import os
import subprocess
import sys

import pytest

from erssl.settings.waiting import SPINS, VARIABLES

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


@pytest.mark.parametrize(
    "call", [("pretrain", "data=cifar10"), ("pretrain", "data=digits"), ("knn", "checkpoint=x")]
)
def test_threads_look_a_little_before_they_sleep(call):
    assert said(*call) == {"GOMP_SPINCOUNT": str(SPINS)}


@pytest.mark.parametrize("name", VARIABLES)
def test_what_a_user_has_set_stays(name):
    assert said("pretrain", "data=digits", **{name: "7"}) == {name: "7"}
