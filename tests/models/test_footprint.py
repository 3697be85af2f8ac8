"""Formulas of memory and operations against bytes that are counted where they are allocated."""

import json
from pathlib import Path

import pytest
import torch
from timm.optim.muon import Muon
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from erssl.methods.lars import LARS
from erssl.models import BackboneOptions, build_backbone
from erssl.models.footprint import (
    footprint,
    largest_batch,
    saved_bytes,
    step_seconds,
    training_bytes,
)

ROOT = Path(__file__).resolve().parents[2]
FIRST = 2 * 64 * 3 * 7 * 7 * 32 * 32  # of a ResNet's first layer, for one image of 64 pixels


def on_meta(options):
    with torch.device("meta"):
        return build_backbone(options).train()


def test_a_small_network_by_hand():
    with torch.device("meta"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 5))
    counted = footprint(net, 4)
    assert counted.parameters == 48 * 10 + 10 + 10 * 5 + 5
    # the first layer keeps its input, ReLU its output, which the second layer keeps too
    assert (counted.activations, counted.constant) == (4 * (48 + 10), 0)
    assert counted.forward_flops == 2 * (48 * 10 + 10 * 5)
    # back through both, for the weights and for what went in
    assert counted.step_flops == counted.forward_flops + 2 * 2 * (48 * 10 + 10 * 5)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        (BackboneOptions("resnet18"), 64),
        (BackboneOptions("test_resnet", "timm"), 32),
        (BackboneOptions("test_vit", "timm"), 160),
    ],
)
def test_the_formula_is_what_is_counted(options, size):
    counted = footprint(on_meta(options), size)
    real = build_backbone(options).train()
    images = torch.randn(6, 3, size, size)
    formula = training_bytes(counted, 6, "sgd", ema=False)["activations"]
    assert formula == saved_bytes(on_meta(options), images.to("meta"))
    assert formula == pytest.approx(saved_bytes(real, images), rel=0.02)  # on a device there is


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_step_is_three_forward_passes_but_for_the_first_layers_images(name):
    net = on_meta(BackboneOptions(name))
    images = torch.empty(2, 3, 64, 64, device="meta")
    with FlopCounterMode(display=False) as step:
        net(images).sum().backward()
    assert step.get_total_flops() / 2 == footprint(net, 64).step_flops - FIRST


@pytest.mark.parametrize("ema", [False, True])
def test_the_time_of_a_step_is_its_counted_operations_by_the_rate(ema):
    net, target = on_meta(BackboneOptions("resnet18")), on_meta(BackboneOptions("resnet18"))
    with FlopCounterMode(display=False) as step:
        for view in (torch.empty(3, 3, 64, 64, device="meta") for _ in range(2)):
            net(view).sum().backward()
            with torch.no_grad():
                target(view if ema else view[:0])
    operations = step.get_total_flops() + 2 * 3 * FIRST
    seconds = step_seconds(footprint(net, 64), 3, 2, ema, rate=1e9)
    assert seconds == pytest.approx(operations / 1e9, rel=1e-12)


@pytest.mark.parametrize("kind", ["lars", "adamw"])
def test_the_states_formula_is_what_is_allocated(kind):
    options = BackboneOptions("test_resnet", "timm")
    net, target = build_backbone(options), build_backbone(options)
    groups = [{"params": list(net.parameters())}]
    optimizer = LARS(groups, lr=0.1, momentum=0.9) if kind == "lars" else torch.optim.AdamW(groups)
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    states = [v for state in optimizer.state.values() for v in state.values()]
    said = training_bytes(footprint(on_meta(options), 32), 0, kind, ema=True)

    def size(tensors):
        return sum(t.numel() * t.element_size() for t in tensors if torch.is_tensor(t))

    assert said["weights"] == size([*net.parameters(), *net.buffers()])
    assert said["gradients"] == size(p.grad for p in net.parameters())
    assert said["optimizer"] == size(v for v in states if torch.is_tensor(v) and v.dim() > 0)
    assert said["target"] == size([*target.parameters(), *target.buffers()])


def test_muon_keeps_little_more_than_one_moment_of_each_weight():
    options = BackboneOptions("test_resnet", "timm")
    net = build_backbone(options)
    optimizer = Muon(net.parameters(), lr=0.1)
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    states = [v for state in optimizer.state.values() for v in state.values()]
    kept = sum(v.numel() * v.element_size() for v in states if torch.is_tensor(v) and v.dim() > 0)
    said = training_bytes(footprint(on_meta(options), 32), 0, "muon", ema=False)
    norms = sum(p.numel() for p in net.parameters() if p.dim() == 1)
    assert kept == said["optimizer"] + 4 * norms
    assert norms < 0.02 * sum(p.numel() for p in net.parameters())


def test_the_largest_batch_is_the_last_that_fits():
    counted = footprint(on_meta(BackboneOptions("resnet18")), 64)
    memory = 2e9
    batch = largest_batch(counted, memory, 2, "lars", ema=True)

    def total(images):
        return sum(training_bytes(counted, 2 * images, "lars", ema=True).values())

    assert total(batch) - counted.constant <= memory < total(batch + 1) - counted.constant
    assert largest_batch(counted, 1e3, 2, "lars", ema=True) == 0


def test_the_page_has_the_tables_of_the_results():
    from benchmarks.memory import tables

    report = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())
    page = (ROOT / "docs" / "memory.md").read_text()
    for table in tables(report["rows"]).values():
        assert table in page
    row = next(row for row in report["rows"] if row["backbone"] == "resnet18")
    from benchmarks.memory import measure

    assert measure("resnet18") == row
