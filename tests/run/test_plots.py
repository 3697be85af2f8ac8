"""Images of evaluations, by what matplotlib was asked to draw."""

import itertools

import matplotlib.colors
import matplotlib.figure
import pytest
import torch
from matplotlib.patches import Rectangle

from erssl.downstream.transfer.results import Row, plot_transfer, published_rows
from erssl.run.class_tables import write_classes
from erssl.run.lens_figure import plot_lens
from erssl.run.plots import plot_confusion, plot_curves, plot_recall, run_style
from erssl.run.results_figure import bar_names, plot_results


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


def test_a_class_without_images_has_no_accuracy(drawn, tmp_path):
    counts = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 2]])
    write_classes(counts, ("a", "b", "c"), tmp_path)
    assert (tmp_path / "per_class.csv").read_text().split() == [
        "class,accuracy",
        "a,0.5",
        "b,nan",
        "c,1.0",
    ]
    recall = drawn[1].axes[0]
    assert bars(recall) == [0.5, 1.0]
    assert recall.lines[0].get_xdata()[0] == pytest.approx(0.75)


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


def entries(count, protocol="knn", dataset="cifar10"):
    return [
        {
            "method": ("mveb", "simclr_er")[i % 2],
            "protocol": protocol,
            "dataset": dataset,
            "top1": (i + 1) / (count + 1),
            "folder": f"/home/me/runs/sweep{i // 5}/knn-cifar10-20261129-0002{i:02d}",
        }
        for i in range(count)
    ]


def assert_inside(figure):
    """All that a figure draws lies in it."""
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0) > -0.01
    assert box.x1 < width + 0.01
    assert box.y1 < height + 0.01


@pytest.mark.parametrize("count", [1, 3, 12, 30])
def test_no_text_of_many_results_is_cut_off(drawn, tmp_path, count):
    long = "a folder of images with a name that goes on and on until nobody reads it any more"
    runs = [*entries(count), *entries(count, "linear", long), *entries(2, "semi")]
    assert plot_results(runs, tmp_path / "report.png")
    assert_inside(drawn[0])
    assert [len(bars(axes)) for axes in drawn[0].axes] == [count, count, 2]


def test_bars_are_named_by_what_tells_them_apart():
    runs = entries(3)
    assert bar_names(runs[:2]) == ["mveb", "simclr_er"]
    assert bar_names(runs) == [
        "mveb, knn-cifar10-20261129-000200",
        "simclr_er",
        "mveb, knn-cifar10-20261129-000202",
    ]
    same = [{"method": "m", "folder": f"/r/{x}/knn", "setting": "k=20"} for x in "aab"]
    same[1]["setting"] = "k=200"
    assert bar_names(same) == ["m, a/knn, k=20", "m, a/knn, k=200", "m, b/knn"]


def test_the_untrained_network_is_drawn_apart(drawn, tmp_path):
    runs = entries(2)
    runs[1]["method"] = "mveb before training"
    plot_results(runs, tmp_path / "report.png")
    assert [bool(p.get_hatch()) for p in drawn[0].axes[0].patches] == [False, True]


def luminance(colour):
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_run_of_one_epoch_has_its_accuracy_before_and_after(drawn, tmp_path):
    curves = {"train_loss": [(0, 2.0), (8, 1.0)], "val_knn_top1": [(0, 0.25)]}
    metrics = {"untrained_knn_top1": 0.25, "knn_top1": 0.5}
    assert plot_curves(curves, metrics, tmp_path / "curves.png", before="before")
    axes = drawn[-1].axes[-1]
    assert axes.lines[0].get_xydata().tolist() == [[0, 0.25], [8, 0.5]]
    assert axes.lines[0].get_marker() == "o" and axes.texts[0].get_text() == "before"


def test_styles_of_many_runs_differ_also_in_grey():
    styles = [run_style(i) for i in range(42)]
    assert len({(s["color"], s["linestyle"]) for s in styles}) == 42
    for near, far in itertools.combinations(styles[:11], 2):
        assert near["marker"] != far["marker"]
    assert all(luminance(s["color"]) < 0.75 for s in styles)  # seen on white


@pytest.mark.parametrize("count", [3, 12, 30])
def test_lenses_of_many_runs_have_a_legend_that_names_each(drawn, tmp_path, count):
    reading = {"step": 0.0, "alignment": 0.5}
    runs = {
        f"runs/mveb-with-a-long-name-{i}": [reading, {**reading, "step": 1.0}] for i in range(count)
    }
    plot_lens(runs, tmp_path / "lens.png")
    [legend] = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == list(runs)
    assert_inside(drawn[0])


@pytest.mark.parametrize("parts", [(), ("dtd",), ("dtd", "pets")])
def test_published_rows_are_not_drawn_beside_a_part_of_a_data_set(drawn, tmp_path, parts):
    names = ["dtd", "pets"]
    ours = Row("a checkpoint with a long name.pth", {"dtd": 50, "pets": 60}, {}, False, parts)
    rows = [ours, *published_rows("linear")]
    plot_transfer(rows, names, tmp_path / "transfer.png")
    assert_inside(drawn[0])
    [legend] = drawn[0].legends
    shown = 1 if len(parts) == 2 else len(rows)
    assert len(legend.get_texts()) == shown
    points = [x for c in drawn[0].axes[0].containers for x in c.lines[0].get_xdata()]
    columns = [round(x) for x in points]
    assert columns.count(0) == (1 if "dtd" in parts else len(rows))
    assert columns.count(1) == (1 if "pets" in parts else len(rows))
    assert ("* a part" in drawn[0].axes[0].get_xlabel()) == bool(parts)


@pytest.mark.parametrize("plots", ["pdf", "svg"])
def test_a_vector_figure_stands_beside_and_does_not_change(tmp_path, plots):
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        plot_results(entries(2), folder / "report.png", plots)
        assert {f.name for f in folder.iterdir()} == {"report.png", f"report.{plots}"}
        written.append((folder / f"report.{plots}").read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith(b"%PDF" if plots == "pdf" else b"<?xml")
