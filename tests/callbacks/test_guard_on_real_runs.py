"""The collapse guard on what the lens read of real runs (benchmarks/guard_readings.py)."""

import json
import math

import pytest

from benchmarks.guard_readings import COLLAPSING, FILE, HEALTHY
from erssl.callbacks import CollapseGuard
from erssl.entropy import sphere_log_area

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
