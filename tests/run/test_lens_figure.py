"""The figure of the lens, by what matplotlib was asked to draw."""

import math

import numpy as np
import pytest

from erssl.run.directory import read_lens, write_lens
from erssl.run.lens_figure import plot_lens
from erssl.run.plots import plot_curves

AREA = {128: -127.2, 2048: -4898.4}


def readings(dim, below=(-40.0, -30.0, -20.0), before=False):
    own = [] if before else ["nats_below_uniform_kde", "nats_below_uniform_knn"]
    return [
        {
            "step": 10 * i,
            **dict.fromkeys(own, value),
            "entropy_k10": AREA[dim] - 5 + i,
            "reconstruction_k10": -AREA[dim] + 7 - i,
            "i_er_k10": 2.0,
            "infonce_k10": 1.0,
            "log_sphere_area": AREA[dim],
            "log_n": 5.0,
            "effective_rank": 9.0,
        }
        for i, value in enumerate(below)
    ]


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes}


def heights(axes):
    return [line.get_ydata().tolist() for line in axes.lines if len(line.get_ydata()) == 3]


def test_runs_of_different_dimensions_share_one_scale(drawn, tmp_path):
    runs = {"small": readings(128), "large": readings(2048, (-90.0, -60.0, -50.0))}
    assert plot_lens(runs, tmp_path / "lens.png")
    axes = panels(drawn[0])
    first = axes["entropy H, nats below uniform (at most)"]
    assert heights(first) == [[-40, -30, -20], [-90, -60, -50]]
    assert any(line.get_ydata()[0] == 0 for line in first.lines)  # uniform
    reconstruction = axes["E[log q], nats above uniform (κ = 10)"]
    assert np.array(heights(reconstruction)) == pytest.approx(np.array([[7, 6, 5]] * 2))
    for panel in axes.values():
        panel.figure.canvas.draw()
        assert panel.yaxis.get_offset_text().get_text() == ""


def test_a_run_shows_the_bound_and_the_estimate(drawn, tmp_path):
    assert plot_lens({"run": readings(128)}, tmp_path / "lens.png")
    first = panels(drawn[0])["entropy H, nats below uniform"]
    legend = [text.get_text() for text in first.get_legend().get_texts()]
    assert legend == ["at most (best κ, held out)", "estimate (nearest neighbours)"]
    information = panels(drawn[0])["information of the views, nats"]
    legend = [text.get_text() for text in information.get_legend().get_texts()]
    assert legend == ["estimate H + E[log q] κ = 10", "at least (InfoNCE) κ = 10"]


def test_readings_of_before_are_read_and_drawn(drawn, tmp_path):
    file = tmp_path / "lens.csv"
    write_lens(file, readings(2048, before=True))
    before = read_lens(file)
    assert plot_lens({"before": before}, tmp_path / "lens.png")
    first = panels(drawn[0])["smoothed density, nats below uniform"]
    assert heights(first) == [pytest.approx([-5, -4, -3])]
    assert plot_lens({"before": before, "now": readings(128)}, tmp_path / "both.png")
    both = panels(drawn[1])
    assert len(heights(both["entropy H, nats below uniform (at most)"])) == 1
    assert len(heights(both["smoothed by κ = 10, nats below uniform"])) == 2
    assert {t.get_text() for t in drawn[1].legends[0].get_texts()} == {"before", "now"}


def test_an_entropy_without_its_ceiling_is_not_drawn(drawn, tmp_path):
    rows = [{"step": 1.0, "entropy_k10": -4901.5}, {"step": 2.0, "entropy_k10": -4901.4}]
    assert not plot_lens({"run": rows}, tmp_path / "lens.png")
    rows = [row | {"effective_rank": 3.0} for row in rows]
    assert plot_lens({"run": rows}, tmp_path / "lens.png")
    assert set(panels(drawn[0])) == {"effective rank"}


def test_a_collapse_is_marked_and_named(drawn, tmp_path):
    file = tmp_path / "lens.csv"
    write_lens(file, readings(128, (-40.0, -math.inf, -math.inf)))
    assert plot_lens({"run": read_lens(file)}, tmp_path / "lens.png")
    first = panels(drawn[0])["entropy H, nats below uniform"]
    assert "collapsed" in [text.get_text() for text in first.texts]
    marks = [line for line in first.lines if line.get_marker() == "x"]
    assert list(marks[0].get_xdata()) == [10, 20]


def test_curves_show_nats_below_uniform(drawn, tmp_path):
    curves = {
        "train_loss": [(1, 2.0), (2, 1.0)],
        "train_entropy": [(1, -4901.5), (2, -4901.4)],
        "train_nats_below_uniform": [(1, -3000.0), (2, -12.0)],
    }
    assert plot_curves(curves, {}, tmp_path / "curves.png")
    axes = panels(drawn[0])
    assert set(axes) == {"loss", "entropy, nats below uniform"}
    assert axes["entropy, nats below uniform"].get_yscale() == "symlog"
    assert axes["loss"].get_yscale() == "linear"
