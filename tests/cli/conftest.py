"""A pretrained run that several files evaluate."""

import pytest

from erssl.cli.main import main

from .test_pretrain import TINY, UNMEASURED

# Not what digits has by default: evaluations must take it from the run.
OWN_PREPROCESSING = {"image_size": 28, "mean": [0.25, 0.25, 0.25], "std": [0.5, 0.5, 0.5]}


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "simclr-run"
    own = [f"data.{key}={value}".replace(" ", "") for key, value in OWN_PREPROCESSING.items()]
    overrides = [*TINY, *UNMEASURED, *own, "method=simclr", "lens.probe_size=0"]
    assert main(["pretrain", *overrides, f"run_dir={folder}"]) == 0
    return folder


HERE = ("trainer.accelerator=cpu", "data.num_workers=0")
QUICK = (*HERE, "epochs=2", "batch_size=64", "lr_per_256=false", "optimizer=sgd", "head_lr=0.05")
CACHED = (*HERE, "mode=cached", "epochs=4", "optimizer=sgd", "batch_size=256")
COMMANDS = {
    "knn": ("knn", "data.num_workers=0", "k=20", "plots=true"),
    "cached": ("linear", *CACHED, "seeds=3"),
    "augmented": ("linear", *QUICK, "epochs=1", "batch_size=512"),
    "semi": ("semi", *QUICK, "fraction=0.1", "backbone_lr=0.01", "seeds=2", "plots=true"),
    "finetune": ("finetune", *QUICK, "epochs=1", "backbone_lr=0.01", "trainer.log_every_n_steps=1"),
}


def evaluate(run_dir, *overrides):
    command, *rest = overrides
    return main([command, *rest, f"run_dir={run_dir}"])


@pytest.fixture(scope="session")
def evaluated(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    for name, overrides in COMMANDS.items():
        assert evaluate(folder / name, *overrides, f"checkpoint={tiny_run}") == 0
    return folder
