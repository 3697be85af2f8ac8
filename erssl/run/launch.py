"""Several commands at once: processes of this machine, a GPU each, or jobs of a hydra launcher."""

from __future__ import annotations

import json
import os
import queue
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from erssl.errors import ConfigError
from erssl.files import write_json
from erssl.paths import user_path
from erssl.run.children import Children
from erssl.run.directory import RUN_DIR_VARIABLE
from erssl.run.lock import was_refused

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_FULL_ERROR = "HYDRA_FULL_ERROR"
_ERROR = "erssl: "
_SIGNALLED = 128  # and above: statuses of what a signal ended


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Its exit status; below 0 where a signal ended it, or nobody knows.
        sentence: The error that it printed; empty where it printed none.
    """

    status: int
    sentence: str

    @property
    def was_stopped(self) -> bool:
        """Whether something else ended it, so that it may go on."""
        return not 0 <= self.status < _SIGNALLED

    @property
    def was_refused(self) -> bool:
        """Whether another process had its directory in use."""
        return self.status != 0 and was_refused(self.sentence)


def count_jobs(jobs: int | None) -> int:
    """How many commands run at once: as said, else one for each GPU, or one."""
    return jobs or max(1, torch.cuda.device_count())


def started_processes() -> int:
    """How many processes torchrun or SLURM's srun have started together, this one among them."""
    counts = (os.environ.get(name, "") for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))
    return max(1, *(int(count) if count.isdigit() else 1 for count in counts))


def started_share() -> tuple[int, int] | None:
    """Number of this process and of all that were started together; ``None`` of a single one."""
    count = started_processes()
    number = next((os.environ[n] for n in ("RANK", "SLURM_PROCID") if n in os.environ), "")
    return (int(number), count) if count > 1 and number.isdigit() else None


def given_folder(run_dir: str | None) -> Path | None:
    """The run directory that was named; processes that Lightning starts take the first one's.

    Raises:
        ConfigError: If none was, and processes that were started together would each name a
            folder after its own clock.
    """
    if named := run_dir or os.environ.get(RUN_DIR_VARIABLE):
        return user_path(named)
    if (processes := started_processes()) > 1:
        raise ConfigError(
            f"{processes} processes were started together and must agree on a folder; name it "
            "with run_dir=<folder>."
        )
    return None


def launch(
    commands: Sequence[Sequence[str]],
    jobs: int = 1,
    launcher: Sequence[str] = (),
    folder: Path | None = None,
) -> list[Ended]:
    """Run ``erssl`` commands, each in a process of its own, and wait for all of them.

    Args:
        commands: Arguments of each command, the first of which is its name.
        jobs: How many run at once on this machine, each on the next of its GPUs.
        launcher: Overrides that choose and set a launcher of hydra, which then says where and how
            many run at once: ``hydra/launcher=joblib`` (package hydra-joblib-launcher), or
            ``hydra/launcher=submitit_slurm`` (hydra-submitit-launcher) for a SLURM cluster.
        folder: Where the launcher keeps its own files, and jobs how they ended.

    Returns:
        How each ended; whether it came to results is seen by what it has left.

    Raises:
        ConfigError: If hydra refuses the launcher's overrides.
    """
    if launcher:
        with _callers_hydra_aside():
            return _launch_by_hydra(commands, launcher, folder or Path("launch"))
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)

    children = Children()

    def one(arguments: Sequence[str]) -> Ended:
        slot = slots.get()
        try:
            return _end_of(children, arguments, _variables(slot, jobs))
        finally:
            slots.put(slot)

    pool = ThreadPoolExecutor(jobs)
    try:
        with children.ended_together():
            return list(pool.map(one, commands))
    finally:
        pool.shutdown(cancel_futures=True)


def run_one(arguments: Sequence[str]) -> Ended:
    """Run an ``erssl`` command in a process of its own, on all devices, and wait for it."""
    with Children().ended_together() as children:
        return _end_of(children, arguments, None)


def _launch_by_hydra(
    commands: Sequence[Sequence[str]], launcher: Sequence[str], folder: Path
) -> list[Ended]:
    import hydra

    listed = [list(arguments) for arguments in commands]
    ends = [str(folder.absolute() / f"ended-{uuid.uuid4().hex}.json") for _ in commands]
    run = _run  # so that the launcher's processes need nothing of this module's names

    @hydra.main(version_base="1.3", config_path=None)
    def job(config: dict[str, int]) -> None:
        run(listed[config["number"]], config["number"], ends[config["number"]])

    arguments = [f"+number=range({len(listed)})", *launcher, f"hydra.sweep.dir='{folder}'"]
    arguments += ["hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
    try:
        with _arguments(["erssl", "--multirun", *arguments]):
            job()
    except (HydraException, OmegaConfBaseException) as error:
        what = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(
            f"hydra refuses {' '.join(launcher)} ({what}); name a launcher that is installed."
        ) from error
    return [_read_end(Path(file)) for file in ends]


@contextmanager
def _callers_hydra_aside() -> Iterator[None]:
    """Let hydra start anew inside, and give back what a program around it has made of it."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase

    made = Singleton._instances  # hydra has no public name for all that it keeps of a program
    states: tuple[type, ...] = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
    before = {state: made.pop(state) for state in states if state in made}
    try:
        yield
    finally:
        for state in states:
            made.pop(state, None)
        made.update(before)


@contextmanager
def _arguments(arguments: list[str]) -> Iterator[None]:
    """The command line that hydra reads, and its errors as exceptions, which it else prints."""
    before, told = sys.argv, os.environ.get(_FULL_ERROR)
    sys.argv, os.environ[_FULL_ERROR] = arguments, "1"
    try:
        yield
    finally:
        sys.argv = before
        if told is None:
            del os.environ[_FULL_ERROR]
        else:
            os.environ[_FULL_ERROR] = told


def _run(arguments: Sequence[str], number: int, file: str) -> None:
    """One command in a job of a launcher, on the device of its number; how it ended goes there."""
    with Children().ended_together() as children:
        ended = _end_of(children, arguments, _variables(number, 1))
    write_json(Path(file), asdict(ended))


def _read_end(file: Path) -> Ended:
    """How a job of a launcher ended; one that has not said it was stopped."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return Ended(int(content["status"]), str(content["sentence"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Ended(-1, "")
    finally:
        file.unlink(missing_ok=True)


def _end_of(
    children: Children, arguments: Sequence[str], variables: Mapping[str, str] | None
) -> Ended:
    heard: list[str] = []
    status = children.run(arguments, variables, heard=heard.append)
    return Ended(status, _sentence(heard))


def _sentence(heard: Sequence[str]) -> str:
    """The error that ended a command, as it was printed."""
    starts = [number for number, line in enumerate(heard) if line.startswith(_ERROR)]
    text = "".join(heard[starts[-1] :]) if starts else ""
    return " ".join(text.removeprefix(_ERROR).split())


def _variables(number: int, beside: int) -> dict[str, str]:
    """Where a command runs: the device of its number, the cores that ``beside`` at once leave."""
    variables = dict(os.environ)
    count = torch.cuda.device_count()
    if count:
        seen = variables.get(_VISIBLE, "").split(",")
        seen = seen if len(seen) == count else [str(device) for device in range(count)]
        variables[_VISIBLE] = seen[number % count]
    variables.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // beside)))
    return variables
