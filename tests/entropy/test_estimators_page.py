"""docs/entropy.md and its results: the page is written from them, they are of this code."""

import json
import math

import pytest
import torch

import erssl.entropy
from benchmarks import _densities as densities
from benchmarks import entropy_estimators as page
from benchmarks._pages import with_tables


@pytest.fixture(scope="module")
def report():
    return json.loads(page.FILE.read_text(encoding="utf-8"))


def test_the_page_holds_the_tables_of_the_results(report):
    text = page.PAGE.read_text(encoding="utf-8")
    assert with_tables(text, page.tables(report)) == text
    changed = json.loads(json.dumps(report))
    changed["cells"][2]["estimates"]["Kozachenko–Leonenko, k = 3"]["mean"] += 1
    assert with_tables(text, page.tables(changed)) != text


def test_a_table_needs_its_place():
    with pytest.raises(ValueError, match="0 places for the table a"):
        with_tables("no place", {"a": "| x |"})


def test_the_results_are_of_this_code(report):
    for density in (densities.uniform(8), densities.vmf(8, 16)):
        where = (density.name, 8, 64)
        (stored,) = [c for c in report["cells"] if (c["density"], c["dim"], c["n"]) == where]
        again = page.cell(density, 64, stored["seeds"])
        assert again["nats"] == pytest.approx(stored["nats"], rel=1e-3, abs=1e-3)
        for name, read in stored["estimates"].items():
            # float32 rows; 1e-3 is what another order of sums can make of their last digits
            assert again["estimates"][name]["mean"] == pytest.approx(
                read["mean"], rel=2e-3, abs=2e-3
            )


def test_what_the_page_calls_an_upper_bound_is_one_in_every_cell(report):
    for name in ("KDE, best κ (held out)", "KDE κ = 10, leave-one-out"):
        for cell in report["cells"]:
            read = cell["estimates"][name]
            # of few samples: three standard errors, and the third digit of a Monte Carlo truth
            slack = 3 * (read["spread"] or 0.0) / math.sqrt(cell["seeds"]) + 0.02
            assert read["mean"] > cell["nats"] - slack, (name, cell["density"], cell["n"])


def test_every_estimator_of_the_package_is_on_the_page():
    text = page.PAGE.read_text(encoding="utf-8")
    for name in erssl.entropy.__all__:
        if name.endswith(("_entropy", "coding_rate")) and name != "vmf_entropy":
            assert f"`{name}(" in text, name


def test_discrete_cells_have_the_bias_that_the_page_names():
    read = page.discrete_cell(10, 64, seeds=200)
    expected = -(10 - 1) / (2 * 64)
    assert read["mean"] - read["nats"] == pytest.approx(expected, abs=0.02)
    assert torch.isfinite(torch.tensor(read["spread"]))
