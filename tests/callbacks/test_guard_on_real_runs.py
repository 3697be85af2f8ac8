"""The collapse guard on what the lens read of real runs (benchmarks/guard_readings.py)."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.guard_readings import COLLAPSING, FILE, HEALTHY
from erssl.callbacks import CollapseGuard
from erssl.entropy import sphere_log_area
from erssl.protocols.pretrain_measures import callbacks_of

RUNS = json.loads(FILE.read_text(encoding="utf-8"))


def dimension(row):
    """The d of whose sphere this is the area."""
    areas = {2**power: sphere_log_area(2**power) for power in range(1, 14)}
    (dim,) = [d for d, area in areas.items() if abs(area - row["log_sphere_area"]) < 0.01]
    return dim


def said(name, guard):
    """What the guard says, by step, of readings as they came."""
    sentences = {}
    for stored in RUNS[name]["readings"]:
        row = {k: -math.inf if v is None else v for k, v in stored.items()}
        reading = {k: v for k, v in row.items() if k != "step"}
        if sentence := guard.check(int(row["step"]), reading, dimension(row)):
            sentences[int(row["step"])] = sentence
    return sentences


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize("grace_steps", [100, 0])
def test_no_alarm_on_runs_that_learn(name, grace_steps):
    assert RUNS[name]["readings"][0]["mean_cosine"] > 0.9  # each begins in a cone
    assert said(name, CollapseGuard(grace_steps=grace_steps)) == {}


@pytest.mark.parametrize("name", COLLAPSING)
def test_an_alarm_on_runs_that_collapse(name):
    (sentence,) = said(name, CollapseGuard()).values()
    assert "The embeddings have collapsed at step" in sentence
    # a cone, which neither rank nor the entropy at a fixed κ shows
    assert "a cone" in sentence
    assert said(name, CollapseGuard(max_cosine=1.0)) == {}


@pytest.mark.parametrize("compares_views", [True, False])
def test_a_loss_that_compares_no_embeddings_may_leave_them_in_a_cone(compares_views):
    settings = SimpleNamespace(
        freeze_epochs=0,
        seed=0,
        evaluation=SimpleNamespace(every_n_epochs=0, probes={}),
        lens=SimpleNamespace(probe_size=8, every_n_steps=None, kappas=[10], on_collapse="warn"),
    )
    data = SimpleNamespace(measurable=True, probe_views=lambda n: torch.zeros(2, n, 3, 4, 4))
    (lens,) = callbacks_of(settings, data, Path(), compares_views)
    warning = said("mveb without entropy", lens.guard)
    assert bool(warning) == compares_views
