"""Does every family of timm's networks train, and is what was trained read back and exported?

    python -m benchmarks.timm_sweep

A family is a module of ``timm.models``; its smallest network (fewest parameters) has random
weights, is trained for two steps of SimCLR with SGD on four random images in two views, saved as a
run saves it, read back by ``load_backbone`` and exported as a Hugging Face folder, which timm and
``load_backbone`` read; features must be equal to 1e-5 of the largest. A checkpoint that timm's own
training would write (with classifier, under ``state_dict``) is read by the architecture's name.
Networks of any image size are trained at 128 pixels, at 112 or at timm's own size where that does
not do. Each family runs in a process of its own, the small ones first.
A family that cannot be trained must be refused before training: its sentence stands in its row.
Writes ``benchmarks/results/timm_sweep.json``; ``--table`` prints the table of docs/checkpoints.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._registry import _model_to_module
from torch import Tensor, nn

from benchmarks._runs import RESULTS
from erssl import load_backbone
from erssl.errors import ErsslError
from erssl.files import write_json
from erssl.methods import get_method
from erssl.models import BackboneOptions, build_backbone, check_input_size, save_backbone
from erssl.models.export import export_backbone
from erssl.models.named import named_architecture
from erssl.run.directory import environment

FILE = RESULTS / "timm_sweep.json"
SIZE, IMAGES, TOLERANCE = 128, 4, 1e-5
MULTIPLE = 112  # of 7, 8, 14 and 16
LIMIT = 600  # seconds of a family


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", help="one network, its row on the standard output")
    parser.add_argument("--families", nargs="*", help="only these; rows of the others stay")
    parser.add_argument("--table", action="store_true", help="print the table of the docs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.name:
        print(json.dumps(sweep_one(arguments.name)))
        return
    if arguments.table:
        print(table(json.loads(FILE.read_text())["rows"]))
        return
    report = json.loads(FILE.read_text()) if FILE.is_file() else {}
    if report.get("timm") != timm.__version__:
        report = {"timm": timm.__version__, "smallest": smallest(), "rows": []}
    rows = {row["family"]: row for row in report["rows"]}
    for family, (_, name) in sorted(report["smallest"].items(), key=lambda item: item[1]):
        if arguments.families is None and family in rows:
            continue
        if not arguments.families or family in arguments.families:
            rows[family] = {"family": family, **in_process(name)}
            print(rows[family], flush=True)
        report |= {
            "command": "python -m benchmarks.timm_sweep",
            "setting": {"image_size": SIZE, "images": IMAGES, "steps": 2, "tolerance": TOLERANCE},
            "seed": 0,
            "rows": [rows[key] for key in sorted(rows)],
            "environment": environment(),
        }
        write_json(FILE, report)


def smallest() -> dict[str, tuple[int, str]]:
    """Parameters and name of the smallest network of each module of ``timm.models``."""
    best: dict[str, tuple[int, str]] = {}
    for name in timm.list_models():
        with torch.device("meta"):
            network = timm.create_model(name, num_classes=0)
        size = sum(p.numel() for p in network.parameters())
        family = _model_to_module[name]
        best[family] = min(best.get(family, (size, name)), (size, name))
    return dict(sorted(best.items()))


def in_process(name: str) -> dict[str, Any]:
    """The row of a network, from a process that begins with everything imported."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, name))
    process.start()
    sender.close()
    try:
        if receiver.poll(LIMIT):
            row: dict[str, Any] = receiver.recv()
            return row
        return {"name": name, "failed": f"more than {LIMIT} s"}
    except EOFError:
        return {"name": name, "failed": "the process was killed"}
    finally:
        process.kill()
        process.join()


def _send(sender: Any, name: str) -> None:
    try:
        sender.send(sweep_one(name))
    except Exception as error:  # any network may fail in any way
        sender.send({"name": name, "failed": f"{type(error).__name__}: {error}"[:300]})


def sweep_one(name: str) -> dict[str, Any]:
    """Train, read back and export one network."""
    torch.manual_seed(0)
    began = time.perf_counter()
    config = timm.get_pretrained_cfg(name)
    size = min(config.input_size[1:]) if config.fixed_input_size else SIZE
    row: dict[str, Any] = {"name": name, "image_size": size, "trains": False}
    options = BackboneOptions(name, "timm")
    try:
        backbone = build_backbone(options)
        row["parameters"] = sum(p.numel() for p in backbone.parameters())
        row["image_size"] = size = first_size(backbone, size, min(config.input_size[1:]))
    except ErsslError as error:
        return row | {"refused": str(error)}
    train(backbone, size)
    if not all(bool(p.isfinite().all()) for p in backbone.parameters()):
        return row | {"failed": "gradients are not finite at random weights; a run stops there"}
    row["trains"] = True
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected = features(backbone.eval(), images)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "backbone.safetensors"
        preprocessing = {"image_size": size, "mean": [0.5] * 3, "std": [0.5] * 3}
        save_backbone(backbone, file, options, preprocessing)
        read = load_backbone(folder)
        row["read"] = difference(features(read, images), expected)
        for key, check in (("timm_file", by_name), ("huggingface", as_folder)):
            try:
                row[key] = difference(features(check(read, Path(folder)), images), expected)
            except ErsslError as error:
                row[f"{key}_refused"] = str(error)
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def first_size(backbone: nn.Module, *sizes: int) -> int:
    """The first size of images that a network takes; patches of 14 pixels take 112."""
    for size in (sizes[0], MULTIPLE):
        with contextlib.suppress(ErsslError):
            check_input_size(backbone, [size])
            return size
    check_input_size(backbone, [sizes[-1]])
    return sizes[-1]


def train(backbone: nn.Module, size: int) -> None:
    """Two steps of SimCLR."""
    method = get_method("simclr")(IMAGES, 2, backbone=backbone)
    method.log = method.log_dict = lambda *args, **keywords: None
    method.train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    for _ in range(2):
        views = [torch.randn(IMAGES, 3, size, size) for _ in range(2)]
        loss = method.multi_view_step(views).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite()


def by_name(read: nn.Module, folder: Path) -> nn.Module:
    """The weights beside timm's classifier, as its training script saves them."""
    architecture: Any = read.architecture
    whole = timm.create_model(architecture.name, num_classes=10)
    state = {**whole.state_dict(), **read.state_dict()}
    torch.save({"arch": architecture.name, "state_dict": state}, folder / "timm.pth.tar")
    return load_backbone(folder / "timm.pth.tar", named_architecture(architecture.name))


def as_folder(read: nn.Module, folder: Path) -> nn.Module:
    return load_backbone(export_backbone(read, "huggingface", folder / "export").path)


def features(backbone: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = backbone(images)
    return output.flatten(1)


def difference(features: Tensor, expected: Tensor) -> float:
    return float((features - expected).abs().max()) / (float(expected.abs().max()) or 1.0)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| family | smallest | parameters | trains | run read back | timm's file | export |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        millions = f"{row.get('parameters', 0) / 1e6:.1f} M" if "parameters" in row else ""
        cells = [row["family"], f"`{row['name']}`", millions, "yes" if row.get("trains") else "no"]
        cells += [equal(row, key) for key in ("read", "timm_file", "huggingface")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def equal(row: dict[str, Any], key: str) -> str:
    if key not in row:
        return "refused" if f"{key}_refused" in row or "refused" in row else "no"
    return "equal" if row[key] <= TOLERANCE else f"differs by {row[key]:.0e}"


if __name__ == "__main__":
    main()
