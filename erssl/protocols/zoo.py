"""``erssl zoo``: published checkpoints, fetched by name, and the user's own beside them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from erssl.errors import ConfigError, printable
from erssl.evaluation.published import published, published_value
from erssl.models.zoo import ZooRow, own_zoo, zoo_file, zoo_row, zoo_rows
from erssl.protocols.model_card import add_to_zoo
from erssl.run.console import say
from erssl.settings.arguments import is_setting
from erssl.settings.hints import nearest
from erssl.settings.keys import command_keys

_WIDTH = 100
_ADD = command_keys("zoo")  # of erssl zoo add
_TABLES_OF = "resnet50"  # the backbone of the tables that are per method
_TABLES = {
    "transfer_linear": "average of eleven data sets, linear",
    "transfer_finetune": "average of eleven data sets, fine-tuned",
    "coco_detection": "COCO, Mask R-CNN",
}


def run(arguments: Sequence[str], console: Console) -> None:
    """List, show, fetch or add checkpoints."""
    console.width = _WIDTH
    if arguments and arguments[0] == "add":
        _add(arguments[1:], console)
        return
    for argument in arguments:
        if "=" in argument or argument.startswith("-"):
            raise ConfigError(
                f"erssl zoo takes names of checkpoints but was given {argument}; see "
                "erssl zoo --help."
            )
    if arguments and arguments[0] == "get":
        _get(arguments[1:])
        return
    if not arguments:
        _list(console)
    for row in [zoo_row(name) for name in arguments]:
        _show(row)


def _get(names: Sequence[str]) -> None:
    if not names:
        raise ConfigError("erssl zoo get needs the name of a checkpoint; erssl zoo lists them.")
    for row in [zoo_row(name) for name in names]:
        print(printable(str(zoo_file(row.name)[0])))


def _add(arguments: Sequence[str], console: Console) -> None:
    folders = [each for each in arguments if not is_setting(each)]
    given = dict(each.partition("=")[::2] for each in arguments if is_setting(each))
    for key in given:
        if key not in _ADD:
            raise ConfigError(f"The key {key} is unknown; {nearest(key, _ADD)}")
    if len(folders) != 1:
        raise ConfigError("erssl zoo add needs one finished run directory.")
    if given.get("overwrite", "false") not in ("true", "false"):
        raise ConfigError(f"overwrite={given['overwrite']} does not fit; give true or false.")
    row, card = add_to_zoo(
        folders[0], given.get("name"), given.get("url"), given.get("overwrite") == "true"
    )
    for line in (
        f"Written: {card}",
        f"Added to {own_zoo()} as {row.name}",
        f'Next: erssl zoo {row.name}; erssl.load_backbone("zoo:{row.name}")',
    ):
        say(console, line)


def _list(console: Console) -> None:
    rows = zoo_rows().values()
    heads = ("name", "architecture", "epochs", "linear", "kNN", "transfer", "COCO", "cached")
    table = _table(*heads)
    for row in (r for r in rows if not r.own):
        numbers = [row.published.get(key) for key in ("linear_top1", "knn_top1")]
        numbers += [
            _of_method(row, "transfer_linear", "average", "mean"),
            _of_method(row, "coco_detection", "coco", "box_ap"),
        ]
        shown = (_text(number) for number in numbers)
        table.add_row(row.name, row.architecture, _text(row.epochs), *shown, _yes(row.cached))
    console.print(table)
    console.print(
        "\nPublished, per cent, not measured here. linear, kNN: ImageNet top-1 of this very file, "
        "each by the protocol of its source (erssl zoo <name>). transfer, COCO: linear average of "
        "eleven data sets and box AP of a ResNet-50 of the method in the MVEB paper, not of this "
        "file."
    )
    own = [row for row in rows if row.own]
    if not own:
        return
    table = _table("yours", "architecture", "epochs", "data", "linear", "kNN", "there")
    for row in own:
        numbers = [row.measured.get(key) for key in ("linear_top1", "knn_top1")]
        shown = ("-" if value is None else f"{100 * value:.1f}" for value in numbers)
        table.add_row(
            row.name, row.architecture, _text(row.epochs), row.data, *shown, _yes(row.cached)
        )
    console.print("\n", table, sep="")
    console.print("\nMeasured by your own runs, per cent, on their own data.")


def _show(row: ZooRow) -> None:
    print(printable(row.name))
    arch = row.arch
    options = f" {arch.options}" if arch and arch.options else ""
    fields = {
        "also": ", ".join(row.aliases),
        "method": row.method,
        "paper": f"arXiv {row.paper}" if row.paper else "",
        "architecture": f"{row.architecture} ({arch.library}{options})" if arch else "",
        "trained on": row.data,
        "epochs": _text(row.epochs, ""),
        "batch": _text(row.batch, ""),
        "seed": _text(row.seed, ""),
        "layout": row.layout or "",
        "preprocessing": ", ".join(f"{k} {v}" for k, v in row.preprocessing.items()),
        "url": row.url or "",
        "file": f"{row.path} ({'there' if row.cached else 'not there yet'})",
        "sha256": row.sha256,
        "md5": row.md5,
        "run": row.run,
        "source": row.source,
        "note": row.note,
    }
    for key, value in fields.items():
        if value:
            print(_wrapped(f"  {key:<15}", value))
    if row.published:
        _numbers("Published for this file, per cent:", row.published)
        print(_wrapped("    ", f"Source: {row.source}"))
    if row.measured:
        _numbers(f"Measured here ({row.protocol}, on {row.data}):", row.measured)
    for protocol, what in _TABLES.items():
        dataset = "coco" if protocol == "coco_detection" else "average"
        groups = published(protocol, dataset) if _in_tables(row) else None
        for group in groups or ():
            if row.method in group["rows"]:
                title = f"Published of the method {row.method}, not of this file: {what}:"
                _numbers(title, group["rows"][row.method])
                print(_wrapped("    ", f"Source: {group['source']}"))
    print()


def _numbers(title: str, numbers: dict[str, float]) -> None:
    print(_wrapped("  ", title))
    for name, value in numbers.items():
        print(printable(f"    {name:<22} {value}"))


def _wrapped(begin: str, text: str) -> str:
    """Lines of 100 columns, where no address is broken."""
    return textwrap.fill(
        printable(text),
        _WIDTH,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _in_tables(row: ZooRow) -> bool:
    return not row.own and row.architecture == _TABLES_OF


def _of_method(row: ZooRow, protocol: str, dataset: str, metric: str) -> float | None:
    """What the tables have of the row's method; they are of ResNet-50 only."""
    return published_value(protocol, dataset, row.method, metric) if _in_tables(row) else None


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    texts = ("name", "yours", "architecture", "data", "cached", "there")
    for head in heads:
        table.add_column(head, justify="left" if head in texts else "right", no_wrap=True)
    return table


def _text(value: object, otherwise: str = "-") -> str:
    return otherwise if value is None else str(value)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
