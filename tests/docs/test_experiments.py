"""The table of experiments in docs/scaling.md is that of their files."""

import re
from pathlib import Path

from erssl.layers import merge_layers
from erssl.settings.compose import config_layers, group_options


def test_the_table_has_batch_rate_and_optimiser_of_every_experiment():
    expected = []
    for name in group_options("experiment"):
        values, _ = merge_layers(config_layers("pretrain", {"experiment": name}))
        batch, optimizer = values["batch_size"], values["optimizer"]
        rate, kind = optimizer["base_lr"], optimizer["name"]
        expected.append(f"| `{name}` | {batch} | {rate:g} | {rate * batch / 256:g} | {kind} |")
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
    table = page.partition("| experiment | batch N |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `.*$", table, re.MULTILINE) == expected
