"""Every command is killed at a random moment and called again, for ``reliability``."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks._trials import COMMON, Study, unlike

_DIGITS = ("data.num_workers=0", "trainer.accelerator=cpu", "epochs=2", "batch_size=64")
_TRAINED = (*_DIGITS, "lr_per_256=false", "optimizer=sgd", "head_lr=0.05", "plots=false")
_DETECT = (
    "backend=torchvision",
    "recipe=mask_rcnn_fpn_1x",
    "batch_size=2",
    "iterations=4",
    "min_sizes=[64]",
    "max_size=96",
    "test_size=64",
    "rois_per_image=8",
    "checkpoint_period=2",
    "num_workers=0",
    "device=cpu",
)
#: Arguments of each command; {run}: a run to evaluate, {out}: where it writes.
COMMANDS: dict[str, tuple[str, ...]] = {
    "knn": ("checkpoint={run}", "k=20", "data.num_workers=0", "cache_dir={out}/cache"),
    "kmeans": ("checkpoint={run}", "data.num_workers=0", "cache_dir={out}/cache"),
    "linear": ("checkpoint={run}", *_TRAINED, "mode=augmented"),
    "semi": ("checkpoint={run}", *_TRAINED, "fraction=0.2", "backbone_lr=0.01"),
    "finetune": ("checkpoint={run}", *_TRAINED, "backbone_lr=0.01"),
    "transfer": (
        "checkpoint={run}",
        "data_root={transfer}",
        "datasets=[aircraft]",
        "partial_ok=true",
        "num_workers=0",
        "cache_dir={out}/cache",
    ),
    "detect": ("checkpoint=random:resnet18", "data_root={coco}", *_DETECT),
    "embed": ("checkpoint={run}", "data.num_workers=0", "output={out}/features.npy"),
    "lens": ("checkpoint={run}", "data.num_workers=0", "lens.probe_size=32", "output={out}"),
    "export": ("checkpoint={run}", "format=timm", "output={out}/weights.safetensors"),
    "predict": (
        "checkpoint={classifier}",
        "data.num_workers=0",
        "sheet=8",
        "output={out}/predictions.csv",
    ),
    "segment": (
        "checkpoint=random:resnet10t",
        "data_root={voc}",
        "class_names=[ground,red,green,blue]",
        "image_size=64",
        "batch_size=2",
        "iterations=6",
        "checkpoint_period=2",
        "num_workers=0",
    ),
    "report": ("{run}", "{classifier}", "output={out}/report"),
    "study": ("{study}", "store={out}/store", "output={out}/study", "jobs=1"),
}
#: Files that are compared beside weights, arrays and metrics.
_TABLES = ("predictions.csv", "report.csv", "report.md", "iou.csv")
_RESUMED = ("linear", "semi", "finetune", "transfer", "detect", "segment")  # others just run again
_NO_RUN_DIR = ("embed", "lens", "export", "predict", "report", "study")
_OVERWRITING = ("embed", "export", "predict")  # where their output is there
_STUDY: dict[str, Any] = {
    "question": "Does a kill change what a study says?",
    "axes": {
        "method": {
            name: {"method": name, **{f"method.{k}": v for k, v in small.items()}}
            for name, small in {
                "simclr": {"projection_hidden_dim": 32, "projection_dim": 16},
                "byol": {"projection_hidden_dim": 32, "projection_dim": 16},
            }.items()
        }
    },
    "scales": {
        "tiny": {
            "about": "digits",
            "overrides": {
                "data": "digits",
                "data.pipeline": "lightly",
                "data.views.recipe": "digits",
                **{k: yaml.safe_load(v) for k, _, v in (o.partition("=") for o in COMMON)},
                "lens.probe_size": 0,
                "epochs": 2,
                "trainer.precision": "32-true",
            },
        }
    },
}


def study_commands(study: Study, quick: bool) -> None:
    """Kill -9 of every command at a random moment, which is then called again."""
    places = {"transfer": _aircraft(study.new("aircraft")), "coco": _coco(study.new("coco"))}
    overrides = study.overrides("simclr")
    places["run"], _ = study.reference(overrides)
    places |= {"voc": _voc(study.new("voc")), "study": study.new("small").with_suffix(".yaml")}
    places["study"].write_text(json.dumps(_STUDY), encoding="utf-8")  # JSON is YAML
    places["classifier"] = study.new("classifier")
    cached = ("checkpoint={run}", *_TRAINED, "mode=cached")
    status = _command(study, "linear", cached, {**places, "out": places["classifier"]}).wait(300)
    assert status == 0
    for command, arguments in COMMANDS.items():
        if study.commands and command not in study.commands:
            continue
        whole = study.new("whole")
        whole.mkdir()
        child = _command(study, command, arguments, {**places, "out": whole})
        status = child.wait(300)
        seconds = time.perf_counter() - child.began
        for _ in range(1 if quick else 3):
            killed = False
            while not killed:  # one that had ended before is not counted
                out = study.new("out")
                out.mkdir()
                names = {**places, "out": out}
                child = _command(study, command, arguments, names)
                moment = child.began + study.random.uniform(0.05, 1) * seconds
                while time.perf_counter() < moment and not child.ended():
                    time.sleep(0.0005)
                killed = not hasattr(child, "status")
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            _wait_for_children(out)
            child = _command(study, command, (*arguments, *_on_again(command, out)), names)
            again = child.wait(300)
            failed = "".join(f.read_text() for f in whole.rglob("failure.json"))  # of a study
            fault = f"the command alone: {status} {failed}" if status or failed else ""
            fault = fault or (f"called again: {again}, {child.sentence()}" if again else "")
            fault = fault or _unlike_folders(whole, out)
            study.count(f"{command} killed", fault, kills=1)


def _wait_for_children(out: Path) -> None:
    """Runs that a killed study has started notice it within half a second, and end in order."""
    until = time.perf_counter() + 30
    while command_lines_with(f"{out}/") and time.perf_counter() < until:
        time.sleep(0.05)


def _on_again(command: str, out: Path) -> tuple[str, ...]:
    """The argument with which a command that was killed is called again."""
    begun = (out / "config.yaml").is_file()
    if command == "transfer":
        begun = any(out.iterdir())
    elif command in _NO_RUN_DIR:
        begun = command in _OVERWRITING and any(f for f in out.iterdir() if f.is_file())
    again = "resume=true" if command in _RESUMED else "overwrite=true"
    return (again,) if begun else ()


def _command(study: Study, command: str, arguments: Any, names: dict[str, Path]) -> Any:
    given = [argument.format(**names) for argument in arguments]
    if command not in _NO_RUN_DIR:
        given.append(f"run_dir={names['out']}")
    return study.command(command, given)


def _unlike_folders(one: Path, other: Path) -> str:
    """What the results of two folders do not have in common, to the bit.

    Of checkpoints the last: a run that a signal stopped has one of that step before it.
    """
    kinds = (".npy", ".safetensors", ".json")
    wanted = (*_TABLES, "last.ckpt")
    for file in sorted(f for f in one.rglob("*") if f.suffix in kinds or f.name in wanted):
        twin = other / file.relative_to(one)
        if not twin.is_file():
            return f"{file.relative_to(one)} is missing"
        contents: list[Any] = []
        for each in (file, twin):
            if each.suffix == ".ckpt":
                contents.append(torch.load(each, weights_only=True))
            elif each.name == "results.json":
                contents.append(json.loads(each.read_text())["metrics"])
            elif each.name == "seed.json":
                contents.append(_without_times(json.loads(each.read_text())))
            elif each.suffix != ".json":
                contents.append(each.read_bytes())
        if contents and (where := unlike(*contents)):
            return f"{file.relative_to(one)} differs {where}"
    return ""


def _without_times(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _without_times(v) for k, v in content.items() if "seconds" not in k}
    return content


def command_lines_with(text: str, whole: bool = False) -> list[int]:
    """Processes with an argument that holds a text, or is it; not torchrun itself."""
    numbers = []
    for place in Path("/proc").iterdir():
        try:
            line = (place / "cmdline").read_bytes() if place.name.isdigit() else b""
        except OSError:
            continue
        arguments = os.fsdecode(line).split("\0")
        if "torch.distributed.run" in arguments or place.name == str(os.getpid()):
            continue
        if any(text == each if whole else text in each for each in arguments):
            numbers.append(int(place.name))
    return sorted(numbers)


def _aircraft(root: Path) -> Path:
    """FGVC-Aircraft's layout with three variants of random images."""
    data = root / "fgvc-aircraft-2013b" / "data"
    (data / "images").mkdir(parents=True)
    variants = ("707-320", "DC-3", "F-16")
    (data / "variants.txt").write_text("".join(f"{name}\n" for name in variants))
    number = 0
    for split in ("train", "val", "test"):
        lines = []
        for variant in variants * 3:
            number += 1
            _image(data / "images" / f"{number:07d}.jpg", number, (40, 30))
            lines.append(f"{number:07d} {variant}\n")
        (data / f"images_variant_{split}.txt").write_text("".join(lines))
    return root


def _coco(root: Path) -> Path:
    """COCO's layout with a box on each of six and three random images."""
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("train", range(1, 7)), ("val", range(7, 10))):
        images, objects = [], []
        for n in numbers:
            name = f"{n:03}.png"
            _image(root / f"{split}2017" / name, n, (64, 48))
            images.append({"id": n, "file_name": name, "width": 64, "height": 48})
            corners = [[10, 8, 40, 8, 40, 32, 10, 32]]
            about = {"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "area": 720}
            objects.append({**about, "bbox": [10, 8, 30, 24], "segmentation": corners})
        content = {"images": images, "annotations": objects}
        content["categories"] = [{"id": 1, "name": "box"}]
        file = root / "annotations" / f"instances_{split}2017.json"
        file.write_text(json.dumps(content))
    return root


def _voc(root: Path) -> Path:
    """VOC's layout with masks of four classes for four and two random images."""
    folder = root / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (folder / "SegmentationClass").mkdir()
    for split, count in (("train", 4), ("val", 2)):
        names = [f"{split}{i}" for i in range(count)]
        (lists / f"{split}.txt").write_text("\n".join(names))
        for number, name in enumerate(names):
            _image(folder / "JPEGImages" / f"{name}.jpg", number, (64, 48))
            rows = np.arange(48)[:, None] // 12 % 4
            mask = np.broadcast_to((rows + number) % 4, (48, 64)).astype(np.uint8)
            palette = Image.fromarray(mask, "P")
            palette.putpalette(list(range(256)) * 3)  # whole, or Pillow writes two bits a pixel
            palette.save(folder / "SegmentationClass" / f"{name}.png")
    return root


def _image(file: Path, seed: int, size: tuple[int, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
