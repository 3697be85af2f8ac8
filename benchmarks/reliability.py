"""Do runs that are killed, stopped or damaged end as they would have ended?

    python -m benchmarks.reliability            # all, about an hour on one core
    python -m benchmarks.reliability --quick    # a few trials of each
    python -m benchmarks.reliability --only methods --methods mveb  # a part, or some of its kind

Short runs of ``erssl pretrain`` on scikit-learn's digits, each in a process of its own, forked from
one that has everything imported. A trial ends the process, or takes something from it, at a random
moment, resumes it until it is finished, and compares weights, buffers, optimiser, schedules,
metrics and ``metrics.csv`` with a run that was left alone: bit by bit, so a single differing bit is
a failure. The disk that is full or read-only is a file system in memory, mounted for the trial,
which takes root; without it these trials are left out. Writes
``benchmarks/results/reliability.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks._further_trials import (
    study_damage,
    study_ranks,
    study_settings,
    study_sizes,
)
from benchmarks._killed_commands import study_commands
from benchmarks._runs import RESULTS
from benchmarks._trials import (
    COMMON,
    HEAD,
    LAST,
    Study,
    differences,
    digit_folder,
    remount,
    table,
    wait_for_writing,
)
from erssl.files import write_json
from erssl.methods import MultiViewMethod, available_methods
from erssl.run.checkpoint_files import state_of
from erssl.run.directory import environment

KILLED = ("mocov2", "deepclusterv2", "mae")  # a queue and an EMA, k-means, random masks


def resume_everywhere(study: Study, method: str) -> None:
    """From a checkpoint inside an epoch and from one between two, for a method."""
    overrides = study.overrides(method, "keep_checkpoints=20")
    whole, _ = study.reference(overrides)
    for number, kind in ((8, "inside an epoch"), (6, "between epochs")):
        run_dir = study.new("run")
        shutil.copytree(whole, run_dir)
        for name in ("results.json", "backbone.safetensors"):
            (run_dir / name).unlink()
        kept = {
            torch.load(f, weights_only=True)["global_step"]: f
            for f in (run_dir / "checkpoints").glob("last*.ckpt")
        }
        kept[number].replace(run_dir / LAST)
        for file in (run_dir / "checkpoints").glob("last-*.ckpt"):
            file.unlink()
        study.count(f"resumed {kind}", study.finish(overrides, run_dir))


def kill(study: Study, method: str, in_writing: bool) -> None:
    """Kill -9 at a random moment, or while a checkpoint is being written; at times again."""
    overrides = study.overrides(method)
    _, seconds = study.reference(overrides)
    run_dir = study.new("run")
    writing = kills = 0
    again = 0.4
    while True:
        started = (run_dir / "config.yaml").is_file()
        child = study.child(("resume=true",) if started else overrides, run_dir)
        if in_writing:
            wait_for_writing(study, child, run_dir)
        else:
            moment = child.began + study.random.uniform(0, seconds)
            while time.perf_counter() < moment and not child.ended():
                time.sleep(0.0005)
        if hasattr(child, "status"):
            if child.status or kills:
                break
            shutil.rmtree(run_dir)  # it had ended before: another moment
            continue
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        kills += 1
        writing += bool(list((run_dir / "checkpoints").glob("*.partial")))
        if study.random.random() > again:
            break
        again /= 2
    study.count(
        "kill -9 while writing" if in_writing else "kill -9 at a random moment",
        study.finish(overrides, run_dir),
        kills=kills,
        kills_that_left_half_a_file=writing,
    )


def stop(study: Study, method: str, number: signal.Signals, workers: int) -> None:
    """A signal to the process, or with loader processes to the whole group."""
    overrides = study.overrides(method, f"data.num_workers={workers}")
    _, seconds = study.reference(overrides)
    run_dir = study.new("run")
    child = study.child(overrides, run_dir)
    while not (run_dir / LAST).is_file() and not child.ended():
        time.sleep(0.001)
    time.sleep(study.random.uniform(0, 0.3 * seconds))
    if child.ended():
        return
    (os.killpg if workers else os.kill)(child.pid, number)
    status, sentence = child.wait(), child.sentence()
    fault = ""
    finished = (run_dir / "results.json").is_file()
    if not finished and (status != 128 + number or "resume=true" not in sentence):
        fault = f"status {status}, {sentence}"
    if child.traceback_shown():
        fault = "a traceback was shown"
    group = " to all processes of the group" if workers else ""
    name = f"{number.name}{group}"
    study.count(name, fault or ("" if finished else study.finish(overrides, run_dir)))


def damage(study: Study, method: str, everything: bool) -> None:
    """A bit turned in, or a piece cut from, the newest checkpoint, or from every one."""
    overrides = study.overrides(method)
    whole, _ = study.reference(overrides)
    run_dir = study.new("run")
    shutil.copytree(whole, run_dir)
    (run_dir / "results.json").unlink()
    files = sorted((run_dir / "checkpoints").glob("last*.ckpt"))
    for file in files if everything else [run_dir / LAST]:
        data = bytearray(file.read_bytes())
        if study.random.random() < 0.5:
            data[study.random.randrange(len(data))] ^= 1 << study.random.randrange(8)
        else:
            del data[study.random.randrange(len(data)) :]
        file.write_bytes(data)
        if state_of(file) != "damaged":
            study.count("a damaged newest checkpoint", "the damage was not seen")
            return
    if not everything:
        study.count("a damaged newest checkpoint", study.finish(overrides, run_dir))
        return
    child = study.child((), run_dir, "resume=true")
    status, sentence = child.wait(), child.sentence()
    right = status == 2 and "no readable checkpoint" in sentence and not child.traceback_shown()
    study.count("every checkpoint damaged", "" if right else f"status {status}, {sentence}")


def stop_two(study: Study, method: str) -> None:
    """SIGTERM to the first of two processes, which Lightning has started and gloo connects."""
    overrides = study.overrides(method, "trainer.devices=2", "trainer.strategy=ddp")
    command = [sys.executable, "-m", "erssl.cli.main", "pretrain"]
    whole, run_dir = study.new("whole"), study.new("run")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, *overrides, f"run_dir={whole}"], check=True, **quiet)
    child = subprocess.Popen([*command, *overrides, f"run_dir={run_dir}"], **quiet)
    while not (run_dir / LAST).is_file() and child.poll() is None:
        time.sleep(0.001)
    time.sleep(study.random.uniform(0, 0.3))
    child.terminate()
    fault = "" if child.wait(120) == 143 else f"status {child.returncode}"
    again = [*command, f"run_dir={run_dir}", "resume=true"]
    status = subprocess.run(again, check=False, **quiet).returncode
    fault = fault or (f"resuming ended with {status}" if status else "")
    study.count("SIGTERM to one of two processes", fault or differences(run_dir, whole))


def lose_worker(study: Study, method: str) -> None:
    """Kill -9 of a loader process."""
    overrides = study.overrides(method, "data.num_workers=2")
    run_dir = study.new("run")
    child = study.child(overrides, run_dir)
    while not (run_dir / LAST).is_file() and not child.ended():
        time.sleep(0.001)
    time.sleep(study.random.uniform(0, 0.3))
    listed = subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True, text=True)
    if not listed.stdout.split():
        child.wait()
        return
    os.kill(int(study.random.choice(listed.stdout.split())), signal.SIGKILL)
    status, sentence = child.wait(), child.sentence()
    finished = (run_dir / "results.json").is_file()  # it was not needed any more
    right = finished or (status == 2 and "A loader process" in sentence)
    fault = "" if right else f"status {status}, {sentence}"
    study.count("a loader process killed", fault or study.finish(overrides, run_dir))


def break_image(study: Study, images: Path, workers: int) -> None:
    """An image file is cut while the run goes on, and put back afterwards."""
    overrides = (
        "data=imagefolder",
        f"data.train_dir={images}",
        "data.verify=true",
        "method=byol",
        *COMMON,
        *HEAD,
        "optimizer=sgd",
        "data.views.recipe=digits",
        "batch_size=8",
        f"data.num_workers={workers}",
    )
    run_dir = study.new("run")
    study.reference(overrides)
    file = study.random.choice(sorted(images.glob("*/*.png")))
    good = file.read_bytes()
    child = study.child(overrides, run_dir)
    while not (run_dir / LAST).is_file() and not child.ended():
        time.sleep(0.001)
    file.write_bytes(good[: len(good) // 2])
    status, sentence = child.wait(), child.sentence()
    file.write_bytes(good)
    finished = (run_dir / "results.json").is_file()
    right = finished or (status == 2 and file.name in sentence and "resume=true" in sentence)
    fault = "" if right else f"status {status}, {sentence}"
    study.count(
        "an image that breaks", fault or ("" if finished else study.finish(overrides, run_dir))
    )


def refuse_disk(study: Study, method: str, how: str) -> None:
    """A file system that is full, or read-only from some moment on."""
    overrides = study.overrides(method)
    whole, _ = study.reference(overrides)
    place = study.new("disk")
    place.mkdir()
    size = sum(f.stat().st_size for f in whole.rglob("*") if f.is_file())
    limit = "64m" if how == "read-only" else str(int(size * study.random.uniform(0.75, 0.95)))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={limit}", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        return
    try:
        run_dir = place / "run"
        child = study.child(overrides, run_dir)
        if how == "read-only":
            while not (run_dir / LAST).is_file() and not child.ended():
                time.sleep(0.001)
            time.sleep(study.random.uniform(0, 0.3))
            remount(place, "ro")
        status, sentence = child.wait(), child.sentence()
        shown = child.traceback_shown()
        remount(place, "rw,size=64m")
        finished = (run_dir / "results.json").is_file()
        right = finished or (status == 2 and str(place) in sentence and not shown)
        fault = "" if right else f"status {status}, {sentence}"
        name = "a disk that is full" if how == "full" else "a folder that becomes read-only"
        study.count(name, fault or ("" if finished else study.finish(overrides, run_dir)))
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def spoil(study: Study, method: str) -> None:
    """The loss of a random step is a NaN; the run stops, and goes on without the fault."""
    overrides = study.overrides(method)
    run_dir = study.new("run")
    step = study.random.randint(1, 18)

    def prepare() -> None:
        original, calls = MultiViewMethod.training_step, itertools.count(1)

        def training_step(self: Any, batch: Any, index: int) -> Any:
            loss = original(self, batch, index)
            return loss * float("nan") if next(calls) == step else loss

        MultiViewMethod.training_step = training_step  # type: ignore[method-assign]

    child = study.child(overrides, run_dir, prepare=prepare)
    status, sentence = child.wait(), child.sentence()
    right = status == 2 and f"Step {step} is not finite" in sentence
    fault = "" if right else f"status {status}, {sentence}"
    study.count("a NaN in the loss", fault or study.finish(overrides, run_dir))


def study_all(study: Study, quick: bool) -> None:
    """Kills, signals, damage, disks and images, of one process."""
    pick = itertools.cycle(KILLED)
    for _ in range(2 if quick else 30):
        kill(study, next(pick), in_writing=False)
    for _ in range(2 if quick else 20):
        kill(study, next(pick), in_writing=True)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        for _ in range(1 if quick else 5):
            stop(study, next(pick), number, workers=0)
    for _ in range(1 if quick else 5):
        stop(study, next(pick), signal.SIGTERM, workers=2)
    for index in range(2 if quick else 10):
        damage(study, next(pick), everything=index % 5 == 4)
    for _ in range(1 if quick else 5):
        spoil(study, next(pick))
        refuse_disk(study, next(pick), "full")
        refuse_disk(study, next(pick), "read-only")
    images = digit_folder(study.folder / "images")
    for index in range(1 if quick else 4):
        break_image(study, images, workers=index % 2)


def study_methods(study: Study, quick: bool) -> None:
    """Every method, resumed."""
    for method in study.methods or (("mae", "byol") if quick else available_methods()):
        resume_everywhere(study, method)


def study_loaders(study: Study, quick: bool) -> None:
    """Trials of loader processes that are killed."""
    pick = itertools.cycle(KILLED)
    for _ in range(1 if quick else 15):
        lose_worker(study, next(pick))


def study_two(study: Study, quick: bool) -> None:
    """Trials of two processes, which take most of their time to start."""
    for method in KILLED[: 1 if quick else 3]:
        stop_two(study, method)


PARTS = {
    "one": study_all,
    "methods": study_methods,
    "loader": study_loaders,
    "two": study_two,
    "settings": study_settings,
    "sizes": study_sizes,
    "ranks": study_ranks,
    "commands": study_commands,
    "damage": study_damage,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few trials of each, not written")
    parser.add_argument("--only", choices=PARTS, help="a part alone, the others as they were")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", default=[], help="of that part these alone")
    parser.add_argument(
        "--methods", nargs="+", default=[], help="resume these; others stay, and are counted too"
    )
    options = parser.parse_args()
    if options.methods and options.only != "methods":
        parser.error("--methods is for --only methods; give both.")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder), options.seed)
        study.commands, study.methods = options.commands, options.methods
        for name, part in PARTS.items():
            if options.only in (None, name):
                part(study, options.quick)
        seconds = {w[0]: round(s, 2) for w, (_, s) in study.references.items()}
    report: dict[str, Any] = {
        "command": "python -m benchmarks.reliability",
        "run": f"erssl pretrain {' '.join(COMMON)}",
        "killed_methods": list(KILLED),
        "seed": options.seed,
        "trials": study.counts,
        "seconds_of_a_run_left_alone": seconds,
        "seconds": round(time.perf_counter() - began),
        "environment": {k: v for k, v in environment().items() if k != "command"},
    }
    file = RESULTS / "reliability.json"
    if options.only and file.is_file():  # the other part stays, with what was said of its run
        earlier = json.loads(file.read_text(encoding="utf-8"))
        added = {k: report[k] for k in ("seed", "seconds", "environment")}
        if options.methods:
            added |= {"methods": options.methods}
            for name, count in study.counts.items():
                before = earlier["trials"][name]
                count |= {key: before[key] + count[key] for key in count}
        earlier["trials"] |= study.counts
        report = earlier | {f"{options.only}_processes": added}
    print(table(report["trials"]))
    if not options.quick:
        write_json(file, report)


if __name__ == "__main__":
    main()
