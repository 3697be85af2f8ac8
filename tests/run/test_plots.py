"""Images of evaluations, by what matplotlib was asked to draw."""

import matplotlib.figure
import pytest
import torch
from matplotlib.patches import Rectangle

from erssl.run.plots import plot_confusion, plot_recall, plot_results


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved."""
    figures, save = [], matplotlib.figure.Figure.savefig

    def keep(self, path, **keywords):
        figures.append(self)
        save(self, path, **keywords)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return figures


def bars(axes):
    return [p.get_width() for p in axes.patches if isinstance(p, Rectangle)]


def test_confusion_is_drawn_as_shares_of_the_true_class(drawn, tmp_path):
    matrix = torch.tensor([[3, 1, 0], [0, 2, 2], [0, 0, 0]])
    plot_confusion(matrix, ("a", "b", "c"), tmp_path / "confusion.png")
    axes = drawn[0].axes[0]
    shares = axes.images[0].get_array()
    expected = [[0.75, 0.25, 0], [0, 0.5, 0.5], [0, 0, 0]]  # no image of the last class
    assert shares.tolist() == expected
    assert [t.get_text() for t in axes.texts] == ["75%", "25%", "50%", "50%"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]


def test_confusion_of_many_classes_leaves_their_names_out(drawn, tmp_path):
    plot_confusion(torch.eye(50).long(), [f"c{i}" for i in range(50)], tmp_path / "confusion.png")
    assert not drawn[0].axes[0].texts
    assert "c7" not in [t.get_text() for t in drawn[0].axes[0].get_yticklabels()]


def test_recall_is_drawn_from_the_worst_class_up(drawn, tmp_path):
    plot_recall(torch.tensor([0.5, 0.25, 1.0]), ("a", "b", "c"), tmp_path / "recall.png")
    axes = drawn[0].axes[0]
    assert bars(axes) == [0.25, 0.5, 1.0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["b", "a", "c"]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(1.75 / 3)


def test_recall_of_many_classes_shows_the_worst_sixty(drawn, tmp_path):
    recall = torch.linspace(1, 0, 100)
    plot_recall(recall, [str(i) for i in range(100)], tmp_path / "recall.png")
    assert bars(drawn[0].axes[0]) == pytest.approx(recall.flip(0)[:60].tolist())
    assert drawn[0].axes[0].lines[0].get_xdata()[0] == pytest.approx(0.5)  # of all


def test_results_have_a_panel_for_each_protocol_and_data_set(drawn, tmp_path):
    common = {"dataset": "digits", "folder": "x"}
    entries = [
        {"method": "mveb", "protocol": "knn", "top1": 0.5, **common},
        {"method": "byol", "protocol": "knn", "top1": 0.75, "top1_std": 0.125, **common},
        {"method": "mveb", "protocol": "semi", "top1": 0.25, **common},
        {"method": "mveb", "protocol": "lens", **common},
    ]
    assert plot_results(entries, tmp_path / "report.png")
    panels = {axes.get_title(): bars(axes) for axes in drawn[0].axes}
    assert panels == {"knn, digits": [0.5, 0.75], "semi, digits": [0.25]}


def test_nothing_is_drawn_of_results_without_accuracies(tmp_path):
    assert not plot_results([{"method": "m", "protocol": "lens"}], tmp_path / "report.png")
    assert not (tmp_path / "report.png").exists()
