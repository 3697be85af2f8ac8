"""Names of files, classes and runs in everything that others open, with hostile ones among them.

Markdown is read as CommonMark with tables, which markdown-it-py implements; HTML by Python's own
parser, CSV by Python's own reader: none of them is ours.
"""

import csv
import io
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from rich.console import Console
from rich.table import Table

import erssl
from erssl.callbacks.csv_logger import ResumableCSVLogger
from erssl.cli.main import main
from erssl.downstream.detection import train_net
from erssl.downstream.transfer.results import Row, write_table
from erssl.errors import DataError, printable
from erssl.escaping import csv_cell, csv_table, html_text, markdown_code, markdown_text
from erssl.models.backbones import BackboneOptions, build_backbone
from erssl.models.export.timm_files import write_folder
from erssl.models.zoo import ZooRow, own_zoo
from erssl.protocols.compare import table_text
from erssl.protocols.model_card import _card
from erssl.run.class_tables import CLASS_TABLES, write_classes
from erssl.run.console import Terminal, say
from erssl.run.directory import make_results
from erssl.run.feature_files import ImageRows, write_features
from erssl.run.lens_figure import plot_lens
from erssl.run.report import write_evaluation_report, write_report
from erssl.run.summary import Summary
from erssl.yaml_text import commented_yaml

NAMES = (
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1+1)",
    " =1",
    "\uff1d1+1",
    "\t=1",
    "a\r=1+1",
    "a\n=1+1",
    "a\n\n# b",
    "x;=1+1",
    "'quoted",
    '"quoted", too',
    "a|b",
    "a\\|b",
    "`x` ``y",
    "<script>alert(1)</script>",
    "</td></tr></table>",
    "</title>",
    "<!--",
    "a&lt;b",
    "[click](javascript:alert)",
    "![x](http://127.0.0.1/x)",
    "**b** _i_ __c__ ~~d~~",
    "# head",
    "- item",
    "1. item",
    "---",
    "$x_1$",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\u202egnp.exe",
    "caf\udce9",
    "[red]m[/red] :cat:",
    "猫",
)
RAW = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def shown(name):
    """A name as a reader sees it: white space at the ends and doubled does not show."""
    return " ".join(printable(name).split())


class Page(HTMLParser):
    """Texts of a page by the tag around them, and all tags."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = set(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.tags |= {f"{tag} {key}" for key, _ in attrs}
        if tag not in ("img", "hr", "br", "meta"):
            self._open.append(tag)
            self.texts.append((tag, ""))

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.texts:
            tag, text = self.texts[-1]
            self.texts[-1] = (tag, text + data)

    def handle_comment(self, data):
        self.tags.add("comment")

    @property
    def text(self):
        return " ".join(" ".join(text.split()) for _, text in self.texts)

    def cells(self):
        return [" ".join(text.split()) for tag, text in self.texts if tag in ("td", "th")]


def markdown_page(text):
    assert not RAW.search(text)
    return Page(MarkdownIt("commonmark", {"html": True}).enable(["table"]).render(text))


PLAIN = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "strong", "ul", "li"}
PLAIN |= {"pre", "img", "img src", "img alt", "hr", "code class"}


def names_in_csv(path):
    """Cells of a file, once it is sure that a spreadsheet computes none of them."""
    text = path.read_text(encoding="utf-8")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    for cell in (cell for row in rows for cell in row):
        assert not FORMULA.match(cell) or float(cell) is not None, cell
    # with another idea of what ends a cell, too
    for other in (csv.reader(io.StringIO(text, newline=""), delimiter=d) for d in ";\t"):
        for cell in (cell for row in other for cell in row[1:]):
            assert not FORMULA.match(cell), cell
    return [[unguarded(cell) for cell in row] for row in rows]


def unguarded(cell):
    """What a reader of a table makes of a cell, by the rule that `csv_cell` states."""
    return re.sub(r"(^|[;\t\r\n])'", r"\1", cell)


def results_of(name, protocol="knn", metrics=None, **config):
    command = {"command": f"erssl {protocol} data.train_dir={name}", "packages": {}}
    about = {**command, "python": "3", "device": "cpu", "git_commit": None}
    metrics = metrics or {"top1": 0.5}
    results = make_results(protocol, name, name, metrics, 0, config, about, 1.0, None)
    return {**results, "warnings": [f"{name} is doubtful."]}


@pytest.mark.parametrize("name", NAMES)
def test_a_text_is_one_text_in_every_form(name):
    text = markdown_page(f"# {markdown_text(name)}\n\n{markdown_code(name)}")
    assert text.tags <= {"h1", "p", "code"}
    assert [" ".join(part.split()) for tag, part in text.texts if tag != "p"] == [shown(name)] * 2
    assert Page(f"<b>{html_text(name)}</b>").texts == [("b", printable(name))]
    [[read]] = csv.reader(io.StringIO(csv_table([[name]]), newline=""))
    assert unguarded(read) == name


def test_numbers_stay_numbers_in_a_table():
    numbers = [-0.5, -1, 1e-300, float("-inf"), np.float32(-0.25), "-0.5", "+1", "-1e-3", "-inf"]
    assert [csv_cell(n) for n in numbers] == numbers
    [read] = csv.reader(io.StringIO(csv_table([numbers])))
    assert [float(cell) for cell in read] == [float(n) for n in numbers]


def test_reports_of_runs_and_evaluations(tmp_path):
    for number, name in enumerate(NAMES):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_evaluation_report(results_of(name, fitted=name), folder, ["a.png"], f"About {name}")
        evaluation = markdown_page((folder / "report.md").read_text(encoding="utf-8"))
        write_report(results_of(name, "pretrain", {"knn_top1": 0.5}), folder)
        run = markdown_page((folder / "report.md").read_text(encoding="utf-8"))
        for page in (evaluation, run):
            assert page.tags <= PLAIN, name
            assert shown(name) in page.texts[0][1].replace("  ", " ")
            assert page.cells()[:2] == ["metric", "value"]
            assert page.text.count(f"{shown(name)} is doubtful") == 1
        assert shown(f"data.train_dir={name}") in evaluation.text


def test_many_results_in_one_table(tmp_path):
    results = tuple(results_of(name) for name in NAMES)
    summary = Summary(results, tuple(Path("runs") / str(i) for i in range(len(NAMES))))
    written = [shown(name) for name in NAMES]
    markdown = markdown_page(summary.markdown())
    page = Page(summary.html("report.png"))
    assert markdown.tags <= PLAIN
    assert page.tags <= PLAIN | {"html", "html lang", "head", "meta", "title", "style", "body"} | {
        "meta charset"
    }
    columns = len(summary.header())
    for cells in (markdown.cells(), page.cells()):
        assert len(cells) == columns * (1 + len(NAMES))
        assert cells[columns::columns] == written
    (tmp_path / "report.csv").write_text(summary.csv(), encoding="utf-8", errors="backslashreplace")
    rows = names_in_csv(tmp_path / "report.csv")
    assert [row[0] for row in rows[1:]] == [escaped(name) for name in NAMES]


def escaped(name):
    return name.encode(errors="backslashreplace").decode()


def test_tables_and_figures_of_classes(tmp_path):
    classes = NAMES[::2]
    assert write_classes(torch.eye(len(classes)).long(), classes, tmp_path, "svg")
    confusion, per_class = (names_in_csv(tmp_path / file) for file in CLASS_TABLES)
    names = [escaped(name) for name in classes]
    assert confusion[0][1:] == names == [row[0] for row in confusion[1:]]
    assert [row[0] for row in per_class[1:]] == names
    assert {row[1] for row in per_class[1:]} == {"1.0"}
    for figure in ("confusion", "per_class"):
        assert Image.open(tmp_path / f"{figure}.png").width > 300
        assert "<script>" not in (tmp_path / f"{figure}.svg").read_text(encoding="utf-8")


def test_tables_of_features_transfer_and_comparisons(tmp_path):
    count = len(NAMES)
    rows = ImageRows(list(NAMES), list(range(count)), list(NAMES), ["train"] * count)
    write_features(tmp_path / "f.npy", np.zeros((count, 2), np.float32), rows)
    read = names_in_csv(tmp_path / "f.csv")[1:]
    assert [(row[0], row[2]) for row in read] == [(escaped(n), escaped(n)) for n in NAMES]
    ours = [Row(name, {"dtd": 50.0}, {}, published=False) for name in NAMES]
    write_table(tmp_path, ours, ["dtd"], "linear")
    assert [row[0] for row in names_in_csv(tmp_path / "transfer.csv")[1:]] == [r[0] for r in read]
    transfer = markdown_page((tmp_path / "transfer.md").read_text(encoding="utf-8"))
    assert transfer.tags <= PLAIN
    bold = [" ".join(text.split()) for tag, text in transfer.texts if tag == "strong"]
    assert bold == [shown(name) for name in NAMES]
    runs = [
        {"choices": {"method": n}, "seeds": [0], "metrics": {}, "wall_seconds": {"mean": 1.0}}
        for n in NAMES
    ]
    compared = markdown_page(table_text({"table": runs, "runs": [{"knn": "kNN"}]}))
    assert compared.cells()[5::5] == [shown(name) for name in NAMES]


def test_curves_on_disk_go_on_letter_by_letter(tmp_path):
    logger = ResumableCSVLogger(tmp_path)
    logger.experiment.log_metrics({"a": float("-inf"), "b": -0.125}, 1)
    logger.save()
    again = ResumableCSVLogger(tmp_path, resume_step=2)
    again.experiment.log_metrics({"c": -1e-5}, 2)
    again.save()
    assert (tmp_path / "metrics.csv").read_text() == "a,b,c,step\n-inf,-0.125,,1\n,,-1e-05,2\n"


@pytest.mark.parametrize("name", NAMES)
def test_model_cards(name):
    arch = BackboneOptions(name="resnet18")
    row = ZooRow("mine", name, arch, url=name, data=name, protocol="pretrain")
    backbone = build_backbone(BackboneOptions(name="resnet18"))
    card = _card(row, backbone, results_of(name), f"data: {name}\n```\n<script>\n")
    page = markdown_page(card)
    assert page.tags <= PLAIN
    assert page.cells().count(shown(name)) == 3
    assert [tag for tag, _ in page.texts if tag == "pre"] == ["pre", "pre"]


def test_the_card_of_a_hugging_face_folder(tmp_path):
    options = BackboneOptions(library="timm", name="test_resnet")
    state = build_backbone(options).state_dict()
    write_folder(options, state, {"image_size": 32}, 8, tmp_path, NAMES)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "timm"
    page = markdown_page(body)
    assert page.tags <= PLAIN
    assert sum(text.startswith("Assumed by erssl") for tag, text in page.texts) == len(NAMES)


def test_settings_keep_their_comments_to_their_lines():
    for name in NAMES:
        text = commented_yaml({"a": name.encode(errors="replace").decode(), "b": 1}, {"b": name})
        assert yaml.safe_load(text)["b"] == 1
        assert not RAW.search(text.partition("#")[2])


@pytest.mark.parametrize("name", NAMES)
def test_the_terminal_obeys_no_name(name, capsys):
    console = Terminal(width=200)
    say(console, f"Read {name}.")
    say(Console(width=200), f"Read {name}.")
    table = Table("name", box=None)
    table.add_row(name)
    console.print(table)
    console.print(f"Read {name}.", soft_wrap=True)
    assert main(["report", f"no/{name}"]) == 2
    out, err = capsys.readouterr()
    assert not RAW.search(out + err)
    assert out.count(f"Read {printable(name)}.\n") >= 2
    assert err.count("\n") == 1
    assert err.startswith("erssl: There is no file or folder")


def test_the_terminal_obeys_nothing_of_a_zoo_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ERSSL_HOME", str(tmp_path))
    raw = "a\x1b[31m\nb"
    keys = ("note", "data", "source", "paper", "method", "run", "protocol")
    row = {key: raw for key in keys} | {"measured": {raw: 0.5}, "file": str(tmp_path / raw)}
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump({"rows": {"mine": row}}))
    assert own_zoo() == tmp_path / "zoo.yaml"
    assert main(["zoo", "mine"]) == 0
    out = capsys.readouterr().out
    assert not RAW.search(out)
    assert out.count(printable(raw)) >= len(keys)


def test_the_terminal_obeys_no_error_of_train_net(monkeypatch, capsys):
    def refused():
        raise DataError("There is no file a\x1b[31m\nb.")

    monkeypatch.setattr(train_net, "require_detectron2", refused)
    assert train_net.main([]) == 2
    assert capsys.readouterr().err == "train_net: There is no file a\\x1b[31m b.\n"


def test_the_terminal_obeys_no_warning(tmp_path, capsys):
    folder = tmp_path / "photos"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "x.png")
    loose = folder / "y\x1b[31m\n<b>.png"
    Image.new("RGB", (8, 8)).save(loose)
    words = [f"data={folder}", f"output={tmp_path / 'f.npy'}", "checkpoint=random:resnet18_cifar"]
    assert main(["embed", *words, "data.image_size=8", "data.num_workers=0"]) == 0
    out, err = capsys.readouterr()
    assert not RAW.search(out + err)
    [warning] = [line for line in err.splitlines() if "class folders" in line]
    assert warning.startswith("Warning: ")
    assert "UserWarning" not in err


def test_figures_of_many_names(tmp_path):
    reading = {"step": 0.0, "alignment": 0.5}
    assert plot_lens(
        {name: [reading, {**reading, "step": 1.0}] for name in NAMES}, tmp_path / "l.png"
    )


def test_files_that_a_library_makes_private_are_as_their_neighbours(tmp_path):
    before = os.umask(0o027)
    try:
        backbone = build_backbone(BackboneOptions(name="resnet18", cifar_stem=True))
        from erssl.models import save_backbone

        save_backbone(backbone, tmp_path / "b.safetensors", backbone.architecture)
        (tmp_path / "neighbour").touch()
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {"b.safetensors": 0o640, "neighbour": 0o640}


SOURCE = Path(erssl.__file__).parent
WAYS = {  # that would go round what escapes, and the only files that may take them
    r"\bcsv\.(writer|DictWriter)\b": set(),
    r"\bhtml\.escape\b|import html\b": {"escaping.py"},
    r"\bConsole\((?!\))": {"console.py"},
    r"\bfrom rich import print\b": set(),
    r"\.savefig\(": {"plots.py"},
    r"\bsafetensors\b.*\bimport\b.*\bsave_file\b": {
        "saving.py",
        "formats.py",
        "classifier_training.py",
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_there_is_one_way_for_each(way):
    files = [*SOURCE.rglob("*.py"), *(SOURCE.parent / "downstream").rglob("*.py")]
    assert {f.name for f in files if re.search(way, f.read_text(encoding="utf-8"))} <= WAYS[way]
