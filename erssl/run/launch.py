"""Several commands at once: processes of this machine, a GPU each, or jobs of a hydra launcher."""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from erssl.errors import ConfigError
from erssl.paths import user_path
from erssl.run.children import Children
from erssl.run.directory import RUN_DIR_VARIABLE

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_FULL_ERROR = "HYDRA_FULL_ERROR"


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
) -> None:
    """Run ``erssl`` commands, each in a process of its own, and wait for all of them.

    Whether one of them failed is seen by what it has left.

    Args:
        commands: Arguments of each command, the first of which is its name.
        jobs: How many run at once on this machine, each on the next of its GPUs.
        launcher: Overrides that choose and set a launcher of hydra, which then says where and how
            many run at once: ``hydra/launcher=joblib`` (package hydra-joblib-launcher), or
            ``hydra/launcher=submitit_slurm`` (hydra-submitit-launcher) for a SLURM cluster.
        folder: Where the launcher keeps its own files.

    Raises:
        ConfigError: If hydra refuses the launcher's overrides.
    """
    if launcher:
        _launch_by_hydra(commands, launcher, folder or Path("launch"))
        return
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)

    children = Children()

    def one(arguments: Sequence[str]) -> None:
        slot = slots.get()
        try:
            children.run(arguments, _variables(slot, jobs))
        finally:
            slots.put(slot)

    pool = ThreadPoolExecutor(jobs)
    try:
        with children.ended_together():
            list(pool.map(one, commands))
    finally:
        pool.shutdown(cancel_futures=True)


def _launch_by_hydra(
    commands: Sequence[Sequence[str]], launcher: Sequence[str], folder: Path
) -> None:
    import hydra

    listed = [list(arguments) for arguments in commands]
    run = _run  # so that the launcher's processes need nothing of this module's names

    @hydra.main(version_base="1.3", config_path=None)
    def job(config: dict[str, int]) -> None:
        run(listed[config["number"]], config["number"])

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


def _run(arguments: Sequence[str], number: int) -> None:
    """One command in a job of a launcher, on the device of its number."""
    with Children().ended_together() as children:
        children.run(arguments, _variables(number, 1))


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
