"""Trials of settings, quotas, ranks and damaged files, for ``reliability``."""

from __future__ import annotations

import ctypes
import errno
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

import torch

from benchmarks._damage import Damaged
from benchmarks._killed_commands import command_lines_with
from benchmarks._trials import LAST, Study, differences

SETTINGS = ("trainer.reload_dataloaders_every_n_epochs=1", "trainer.precision=64-true")
_DAMAGED = 500  # cases that are drawn


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
        size = (whole / LAST).stat().st_size
        write = _largest_tensor(torch.load(whole / LAST, weights_only=True))
        for name, refuse, limit in (
            ("EFBIG", _limit_files, int(size * study.random.uniform(0.001, 0.95))),
            ("EDQUOT", _use_up_quota, int(write * study.random.uniform(0.2, 0.95))),
        ):
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


def _largest_tensor(content: Any) -> int:
    """Bytes of the largest tensor of a checkpoint, which is written in one go."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        content = list(content.values())
    return max(map(_largest_tensor, content), default=0) if isinstance(content, list) else 0


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
    return command_lines_with(f"run_dir={run_dir}", whole=True)


def study_damage(study: Study, quick: bool) -> None:
    """Files beside a whole checkpoint are damaged; every command that reads them is called."""
    os.environ["ERSSL_HOME"] = str(study.folder / "home")
    damaged = Damaged(study.new("damaged"))
    cases = list(damaged.cases())
    for case in study.random.sample(cases, 20 if quick else _DAMAGED):
        study.count("a damaged file", damaged.trial(*case)[1])
