"""What ends a run from outside, in one sentence that says how to go on."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch.distributed import DistError

from erssl.errors import DataError, ErsslError, RunError, own_sentence
from erssl.files import FAULTS_OF_PLACES
from erssl.limits import lacks_memory
from erssl.run.checkpoint_files import has_checkpoint
from erssl.run.directory import CONFIG, LAST_CHECKPOINT

_LOADERS = "torch.utils.data.dataloader"
_NO_ROOM = (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.EDQUOT)
_SHARED_MEMORY = re.compile(r"unable to [^\n]*</torch_[^>\n]*>[^\n]*: ([^:\n]+?) \(\d+\)")


@contextmanager
def naming_run(path: Path) -> Iterator[None]:
    """Say of what ends a training how to go on with it.

    Args:
        path: The run directory.

    Raises:
        DataError: If an image could not be read.
        RunError: If the disk or the memory is full, the folder cannot be written to, or a loader
            process or another process of the run died.
    """
    try:
        yield
    except DataError as error:
        if not has_checkpoint(path / LAST_CHECKPOINT):
            raise
        raise DataError(f"{own_sentence(error).rstrip('.')}; {_way_on(path)}.") from error
    except ErsslError:
        raise
    except Exception as error:
        if (what := fault_from_outside(error)) is not None:
            raise RunError(f"{what}; {_way_on(path)}.") from error
        _name_others(error, path)
        raise


@contextmanager
def naming_faults() -> Iterator[None]:
    """Say of what ends a command from outside what it was, in one sentence.

    Raises:
        RunError: If a loader process died, or memory, shared or not, took no more.
    """
    try:
        yield
    except ErsslError:
        raise
    except Exception as error:
        what = fault_from_outside(error)
        if what is None or (isinstance(error, ConnectionError) and not _by_a_loader(error)):
            raise
        raise RunError(f"{what}; then call the command again.") from error


def fault_from_outside(error: BaseException) -> str | None:
    """What loader processes or the memory met and what to do about it, if that is behind an error.

    Args:
        error: What ended the work.

    Returns:
        A sentence without its end, or ``None`` where it is something else.
    """
    if (reason := _full_shared_memory(error)) is not None:
        return (
            f"The memory in which loader processes hand over images took no more ({reason}); make "
            "room in /dev/shm, raise the limits of files (ulimit -f, ulimit -n), take smaller "
            "batches, or load in one process (num_workers=0)"
        )
    if (what := _lost_loader(error)) is not None:
        return f"A loader process {what}, often for want of memory (set data.num_workers to less)"
    if lacks_memory(error):
        return (
            "There is too little memory for this; take smaller batches (batch_size, "
            "feature_batch_size), smaller images or fewer loader processes (data.num_workers)"
        )
    return None


def _name_others(error: Exception, path: Path) -> None:
    if isinstance(error, OSError):
        if error.errno not in FAULTS_OF_PLACES:
            return
        place = error.filename2 or error.filename or path
        raise RunError(
            f"{error.strerror}: {place}; make room or see to its permissions, then {_way_on(path)}."
        ) from error
    if isinstance(error, RuntimeError) and _lost_process(error):
        raise RunError(
            f"Another process of the run is gone, or no longer answers ({_first_line(error)}); "
            f"{_way_on(path)}."
        ) from error


def _lost_loader(error: BaseException | None) -> str | None:
    """What happened to a loader process, if that is behind an error.

    torch raises wherever the run is when the process dies, so that any library may have caught it
    and raised something of its own; a connection that breaks is the one to that process.
    """
    broken = None
    while error is not None:
        if "DataLoader worker" in str(error) and isinstance(error, RuntimeError):
            return str(error).splitlines()[0].partition("DataLoader worker ")[2].rstrip(". ")
        broken = "is gone" if isinstance(error, ConnectionError) else broken
        error = error.__cause__ or error.__context__
    return broken


def _by_a_loader(error: BaseException) -> bool:
    """Whether an error came through torch's loaders, and not from some other connection."""
    calls = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == _LOADERS for frame, _ in calls)


def _full_shared_memory(error: BaseException | None) -> str | None:
    """Why the system gave no shared memory, if that is behind an error of a loader process.

    torch names the piece of memory and the system's reason in an error of its own. Where not even
    the locks of its queues can be made, Python's error names no place.
    """
    while error is not None:
        if isinstance(error, OSError) and error.filename is None:
            number = error.errno
            if number in _NO_ROOM and _by_a_loader(error):
                return os.strerror(number)
        if isinstance(error, RuntimeError):
            if told := _SHARED_MEMORY.search(str(error)):
                return told[1]
            if "received 0 items of ancdata" in str(error):
                return os.strerror(errno.EMFILE)
        error = error.__cause__ or error.__context__
    return None


def _lost_process(error: RuntimeError) -> bool:
    """Whether a collective operation found another process gone."""
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(error, DistError) or any(sign in str(error) for sign in signs)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")[:200]


def _way_on(path: Path) -> str:
    if has_checkpoint(path / LAST_CHECKPOINT):
        return f"go on from the last checkpoint with resume=true run_dir={path}"
    return f"begin again with resume=true run_dir={path}"


def restarted(overrides: Sequence[str]) -> list[str]:
    """The overrides of a run, with ``resume=true`` where SLURM has put its job back into the queue.

    SLURM starts the same command again, which would find a run in its own ``run_dir``.
    """
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    run_dir = dict(override.partition("=")[::2] for override in overrides).get("run_dir", "")
    again = count.isdigit() and int(count) > 0 and bool(run_dir)
    if not again or not (Path(run_dir).expanduser() / CONFIG).is_file():
        return list(overrides)
    own = ("resume", "overwrite")
    return [
        *(override for override in overrides if override.partition("=")[0] not in own),
        "resume=true",
    ]
