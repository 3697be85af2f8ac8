"""Trials of settings, quotas, ranks, every command, and damaged files, for ``reliability``."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks._damage import Damaged
from benchmarks._trials import LAST, Study, differences, unlike

SETTINGS = ("trainer.reload_dataloaders_every_n_epochs=1", "trainer.precision=64-true")
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
}
_DAMAGED = 200  # cases that are drawn
_RESUMED = ("linear", "semi", "finetune", "transfer", "detect")  # the others just run again
_NO_RUN_DIR = ("embed", "lens", "export")


def study_settings(study: Study, quick: bool) -> None:
    """Resuming with settings that make loaders or numbers of another kind."""
    for setting in SETTINGS:
        for method in ("mocov2",) if quick else ("mocov2", "deepclusterv2", "mae"):
            overrides = study.overrides(method, "keep_checkpoints=20", setting)
            whole, _ = study.reference(overrides)
            for number in (8, 12):
                run_dir = study.new("run")
                shutil.copytree(whole, run_dir)
                (run_dir / "results.json").unlink()
                _only_checkpoint(run_dir / "checkpoints", number)
                study.count(f"resumed with {setting}", study.finish(overrides, run_dir))


def _only_checkpoint(folder: Path, step: int) -> None:
    files = {torch.load(f, weights_only=True)["global_step"]: f for f in folder.glob("*.ckpt")}
    content = files[step].read_bytes()
    for file in files.values():
        file.unlink()
    (folder / "last.ckpt").write_bytes(content)


def study_sizes(study: Study, quick: bool) -> None:
    """Writes that the system refuses: files that may not grow, and a quota that is used up."""
    methods = ("mocov2", "deepclusterv2", "mae", "byol", "dino")
    for method in methods[:1] if quick else methods:
        overrides = study.overrides(method)
        whole, _ = study.reference(overrides)
        largest = (whole / LAST).stat().st_size
        for name, refuse in (("EFBIG", _limit_files), ("EDQUOT", _use_up_quota)):
            limit = int(largest * study.random.uniform(0.001, 0.95))
            if name == "EDQUOT" and platform.machine() != "x86_64":
                continue
            run_dir = study.new("run")
            child = study.child(overrides, run_dir, prepare=_with(refuse, limit))
            status, sentence = child.wait(), child.sentence()
            finished = (run_dir / "results.json").is_file()
            told = os.strerror(getattr(errno, name))
            right = status == 2 and told in sentence and not child.traceback_shown()
            fault = "" if right or finished else f"status {status}, {sentence}"
            fault = fault or ("" if finished else study.finish(overrides, run_dir))
            study.count(name, fault, refused=int(not finished))


def _with(refuse: Callable[[int], None], limit: int) -> Callable[[], None]:
    return lambda: refuse(limit)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _use_up_quota(size: int) -> None:
    """Let the kernel refuse each ``write`` of so many bytes or more with EDQUOT, by a filter."""
    load, equal, greater, give = 0x20, 0x15, 0x35, 0x06
    length = 32  # of seccomp_data: the low half of the third argument
    program = [
        (load, 0, 0, 0),  # the number of the system call
        (equal, 0, 3, 1),  # write
        (load, 0, 0, length),
        (greater, 0, 1, size),
        (give, 0, 0, 0x00050000 | errno.EDQUOT),
        (give, 0, 0, 0x7FFF0000),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    held = ctypes.create_string_buffer(code)
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    if libc.prctl(22, 2, ctypes.c_char_p(header), 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


def study_ranks(study: Study, quick: bool) -> None:
    """Kill -9 of one of three ranks that torchrun has started."""
    for method in ("mocov2",) if quick else ("mocov2", "swav", "deepclusterv2"):
        more = ("trainer.devices=3", "trainer.strategy=ddp", "batch_size=18")
        overrides = [o for o in study.overrides(method) if not o.startswith("batch_size=")]
        whole, run_dir, log = study.new("whole"), study.new("run"), study.new("log")
        fault = "" if not _torchrun([*overrides, *more], whole, log).wait() else log.read_text()
        process = _torchrun([*overrides, *more], run_dir, log)
        while not (run_dir / LAST).is_file() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(study.random.uniform(0, 0.3))
        ranks = _ranks_of(run_dir)
        if ranks:
            os.kill(study.random.choice(ranks), signal.SIGKILL)
        process.wait(120)
        told = log.read_text(errors="replace").count("Another process of the run is gone")
        if not fault and not (process.returncode and told and not _ranks_of(run_dir)):
            fault = f"status {process.returncode}, {told} sentences, left {_ranks_of(run_dir)}"
        status = _torchrun(["resume=true"], run_dir, log).wait()
        fault = fault or (f"resuming ended with {status}" if status else "")
        study.count("a rank of three killed", fault or differences(run_dir, whole))


def _torchrun(arguments: list[str], run_dir: Path, log: Path) -> subprocess.Popen[bytes]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3")
    command = [sys.executable, *launcher, "-m", "erssl.cli.main", "pretrain", *arguments]
    with log.open("wb") as out:
        return subprocess.Popen(
            [*command, f"run_dir={run_dir}"], stdout=out, stderr=subprocess.STDOUT
        )


def _ranks_of(run_dir: Path) -> list[int]:
    found = []
    for place in Path("/proc").iterdir():
        try:
            words = (place / "cmdline").read_bytes().split(b"\0") if place.name.isdigit() else []
        except OSError:
            continue
        if f"run_dir={run_dir}".encode() in words and b"torch.distributed.run" not in words:
            found.append(int(place.name))
    return sorted(found)


def study_commands(study: Study, quick: bool) -> None:
    """Kill -9 of every command at a random moment, which is then called again."""
    places = {"transfer": _aircraft(study.new("aircraft")), "coco": _coco(study.new("coco"))}
    overrides = study.overrides("simclr")
    places["run"], _ = study.reference(overrides)
    for command, arguments in COMMANDS.items():
        whole = study.new("whole")
        whole.mkdir()
        child = _command(study, command, arguments, {**places, "out": whole})
        status = child.wait(300)
        seconds = time.perf_counter() - child.began
        for _ in range(1 if quick else 3):
            out = study.new("out")
            out.mkdir()
            names = {**places, "out": out}
            child = _command(study, command, arguments, names)
            moment = child.began + study.random.uniform(0.05, 1) * seconds
            while time.perf_counter() < moment and not child.ended():
                time.sleep(0.0005)
            killed = not hasattr(child, "status")
            if killed:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
            child = _command(study, command, (*arguments, *_on_again(command, out)), names)
            again = child.wait(300)
            fault = f"the command alone: {status}" if status else ""
            fault = fault or (f"called again: {again}, {child.sentence()}" if again else "")
            fault = fault or _unlike_folders(whole, out)
            study.count(f"{command} killed", fault, kills=int(killed))


def _on_again(command: str, out: Path) -> tuple[str, ...]:
    """The argument with which a command that was killed is called again."""
    begun = (out / "config.yaml").is_file()
    if command == "transfer":
        begun = any(out.iterdir())
    elif command in _NO_RUN_DIR:
        begun = command != "lens" and any(out.iterdir())
    again = "resume=true" if command in _RESUMED else "overwrite=true"
    return (again,) if begun else ()


def _command(study: Study, command: str, arguments: Any, names: dict[str, Path]) -> Any:
    given = [argument.format(**names) for argument in arguments]
    if command not in _NO_RUN_DIR:
        given.append(f"run_dir={names['out']}")
    return study.command(command, given)


def _unlike_folders(one: Path, other: Path) -> str:
    """What the results of two folders do not have in common, to the bit."""
    kinds = (".npy", ".safetensors", ".ckpt", ".json")
    for file in sorted(f for f in one.rglob("*") if f.suffix in kinds):
        twin = other / file.relative_to(one)
        if not twin.is_file():
            return f"{file.relative_to(one)} is missing"
        contents: list[Any] = []
        for each in (file, twin):
            if each.suffix == ".ckpt":
                contents.append(torch.load(each, weights_only=True))
            elif each.name == "results.json":
                contents.append(json.loads(each.read_text())["metrics"])
            elif each.suffix != ".json" or each.name == "seed.json":
                contents.append(each.read_bytes())
        if contents and (where := unlike(*contents)):
            return f"{file.relative_to(one)} differs {where}"
    return ""


def study_damage(study: Study, quick: bool) -> None:
    """Files beside a whole checkpoint are damaged; every command that reads them is called."""
    os.environ["ERSSL_HOME"] = str(study.folder / "home")
    damaged = Damaged(study.new("damaged"))
    cases = list(damaged.cases())
    for case in study.random.sample(cases, 20 if quick else _DAMAGED):
        study.count("a damaged file", damaged.trial(*case)[1])


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


def _image(file: Path, seed: int, size: tuple[int, int]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
