"""``erssl report``: any number of results in one table."""

import csv
import json
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from erssl.cli.main import main
from erssl.run.directory import make_results
from erssl.run.report import _row_label, metric_label

STRANGE = 'a|b <i>"c" & [/d]'


def write(folder, protocol="knn", method="mveb", metrics=None, **config):
    metrics = {"top1": 0.5, "top5": 0.9, "mean_per_class": 0.4} if metrics is None else metrics
    results = make_results(
        protocol, "digits", method, metrics, 3, config, {"command": "erssl"}, 1.5
    )
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


SEEDS = {"top1": 0.25, "top1_std": 0.015625, "top1_seed0": 0.24, "best_on_val_top1": 0.75}
PRETRAIN = {
    "knn_top1": 0.625,
    "linear_top1": 0.875,
    "untrained_knn_top1": 0.125,
    "untrained_linear_top1": 0.375,
    "train_loss": 4.5,
}


@pytest.fixture
def reported(tmp_path):
    runs = tmp_path / "runs"
    write(runs / "a", preset="dino", k=20)
    write(runs / "b", "semi", STRANGE, SEEDS, preset="mveb", fraction="0.1", epochs=60)
    write(runs / "c", "pretrain", "entrec", PRETRAIN, evaluation={"knn_k": 20})
    output = tmp_path / "out"
    assert main(["report", str(runs), f"output={output}"]) == 0
    return output


def test_the_terminal_tells_runs_of_one_method_apart(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second[/b]", "third" * 30):
        write(tmp_path / "runs" / name)
    assert main(["report", "runs"]) == 0
    shown = capsys.readouterr().out
    assert "runs/first" in shown
    assert "runs/second[/b]" in shown
    head, *lines = shown.splitlines()
    assert head.split()[-1] == "folder"
    assert shown.count("50.00") == 3
    tail = "".join(line[head.index("folder") :].strip() for line in lines)
    assert "third" * 30 in tail


class Cells(HTMLParser):
    """The rows of a table as a browser reads them."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def markdown_rows(text):
    """The rows of the tables of a Markdown file as a reader of it shows them."""
    return Cells(MarkdownIt("commonmark").enable("table").render(text)).rows


def test_markdown_and_html_hold_the_same_table(reported):
    table = markdown_rows((reported / "report.md").read_text())
    assert len({len(row) for row in table}) == 1
    assert table == Cells((reported / "report.html").read_text()).rows
    assert len(table) == 1 + 2 + 4  # head, two evaluations, four readings of a pretraining


def test_csv_holds_every_metric_unrounded_and_agrees_with_the_table(reported):
    with (reported / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    table = markdown_rows((reported / "report.md").read_text())
    head = table[0]
    for row, shown in zip(rows, table[1:], strict=True):
        line = dict(zip(head, shown, strict=True))
        for name in ("method", "protocol", "setting", "dataset", "seed", "folder"):
            assert row[name] == line[name]
        assert f"{100 * float(row['top1']):.2f}" == line["top1"].partition(" ±")[0]
    assert rows[1]["top1_std"] == "0.015625"
    assert rows[1]["top1_seed0"] == "0.24"


def test_several_seeds_show_their_deviation(reported):
    head, _, seeds, *_ = markdown_rows((reported / "report.md").read_text())
    line = dict(zip(head, seeds, strict=True))
    assert line["top1"] == "25.00 ± 1.56"
    assert (line["top5"], line["best_on_val_top1"]) == ("-", "75.00")
    assert line["setting"] == "preset=mveb fraction=0.1 epochs=60"


def test_a_pretraining_has_a_line_for_each_of_its_readings(reported):
    head, *rows = markdown_rows((reported / "report.md").read_text())
    lines = [dict(zip(head, row, strict=True)) for row in rows[2:]]
    assert [(x["method"], x["protocol"], x["setting"], x["top1"]) for x in lines] == [
        ("entrec", "kNN at the end of pretraining", "k=20", "62.50"),
        ("entrec", "logistic regression at the end of pretraining", "", "87.50"),
        ("entrec", "kNN before training", "k=20", "12.50"),
        ("entrec", "logistic regression before training", "", "37.50"),
    ]


def test_special_characters_are_text_in_every_form(reported):
    page = (reported / "report.html").read_text()
    assert "a|b &lt;i&gt;&quot;c&quot; &amp; [/d]" in page
    assert "<i>" not in page
    assert any(STRANGE in row for row in markdown_rows((reported / "report.md").read_text()))
    with (reported / "report.csv").open(newline="") as file:
        assert STRANGE in [row["method"] for row in csv.DictReader(file)]


def test_special_characters_are_printed_as_they_are(tmp_path, capsys):
    folder = write(tmp_path / "run", method="[red]m[/x]")
    assert main(["report", str(folder), f"output={tmp_path / '[o]'}"]) == 0
    printed = capsys.readouterr().out
    assert "[red]m[/x]" in printed
    assert "[o]" in printed


def test_bars_are_drawn_and_shown(reported):
    assert Image.open(reported / "report.png").width > 400
    assert "![accuracies](report.png)" in (reported / "report.md").read_text()
    assert '<img src="report.png"' in (reported / "report.html").read_text()


def test_results_without_accuracies_have_no_bars(tmp_path):
    folder = write(tmp_path / "run", "lens", None, {"entropy_k10": -1.5})
    assert main(["report", str(folder), f"output={tmp_path / 'out'}"]) == 0
    assert not (tmp_path / "out" / "report.png").exists()
    assert "png" not in (tmp_path / "out" / "report.html").read_text()


def test_a_result_that_is_named_twice_is_one_line(tmp_path):
    folder = write(tmp_path / "runs" / "a")
    overrides = [str(tmp_path / "runs"), str(folder), f"output={tmp_path / 'out'}"]
    assert main(["report", *overrides]) == 0
    assert len(markdown_rows((tmp_path / "out" / "report.md").read_text())) == 2


def test_a_second_report_replaces_the_first(reported, tmp_path):
    assert main(["report", str(tmp_path / "runs" / "a"), f"output={reported}"]) == 0
    assert len(markdown_rows((reported / "report.md").read_text())) == 2


@pytest.mark.parametrize(
    "content",
    [
        '{"metrics"',
        "[]",
        '{"metrics": {"top1": 1}}',
        json.dumps(make_results("knn", "d", "m", {"top1": "high"}, 0, {}, {}, 1.0)),
        json.dumps(make_results("knn", "d", "m", {}, 0, [], {}, 1.0)),
    ],
)
def test_results_that_no_run_wrote_are_refused_by_name(tmp_path, capsys, content):
    write(tmp_path / "runs" / "a")
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "results.json").write_text(content)
    assert main(["report", str(tmp_path / "runs"), f"output={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert "b/results.json is not what a run writes" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_wrong_overrides_are_one_sentence(tmp_path, capsys):
    folder = str(write(tmp_path / "run"))
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for overrides, sentence in (
        ([], "needs run directories"),
        ([folder, "outptu=x"], "did you mean output?"),
        ([str(tmp_path / "empty")], "There is no results.json in"),
        ([str(tmp_path / "nowhere")], "There is no file or folder"),
        ([folder, f"output={tmp_path / 'file'}"], "is a file; name a folder"),
        ([folder, f"output={folder}"], "has a report.md of its own"),
    ):
        assert main(["report", *overrides]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("protocol", "name", "config", "label"),
    [
        ("knn", "top1", {"k": 200}, "top1 (k=200)"),
        ("knn", "top1", {"k": 200, "whiten": True}, "top1 (k=200, whitened)"),
        ("knn", "top1", {"k": 200, "whiten": False}, "top1 (k=200)"),
        ("linear", "top1", {"features_k": 142}, "top1"),
        ("linear", "features_knn_top1", {"features_k": 142}, "features_knn_top1 (k=142)"),
        ("pretrain", "knn_top1", {"evaluation": {"knn_k": 20}}, "knn_top1 (k=20)"),
        ("pretrain", "linear_top1", {"evaluation": {"knn_k": 20}}, "linear_top1"),
    ],
)
def test_every_accuracy_of_knn_says_its_k(protocol, name, config, label):
    assert metric_label(name, {"protocol": protocol, "config": config}) == label


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({}, "untrained_knn_top1 (k=20)"),
        ({"checkpoint": "a.pth"}, "knn_top1 (k=20) before training, from the given weights"),
    ],
)
def test_given_weights_are_not_called_untrained(config, label):
    results = {"protocol": "pretrain", "config": {"evaluation": {"knn_k": 20}, **config}}
    assert _row_label("untrained_knn_top1", results) == label
