"""A pretrained run that several files judge."""

import pytest

from erssl.cli.main import main

from .test_pretrain import TINY, UNMEASURED

# Not what digits has by default: evaluations must take it from the run.
OWN_PREPROCESSING = {"image_size": 28, "mean": [0.25, 0.25, 0.25], "std": [0.5, 0.5, 0.5]}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged") / "simclr-run"
    own = [f"data.{key}={value}".replace(" ", "") for key, value in OWN_PREPROCESSING.items()]
    words = [*TINY, *UNMEASURED, *own, "method=simclr", "lens.probe_size=0"]
    assert main(["pretrain", *words, f"run_dir={folder}"]) == 0
    return folder
