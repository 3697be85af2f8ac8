"""What a machine can take of processes and memory, and how far a number of a setting may go.

A number with a zero too many shall not start thousands of processes or fill the memory of a machine
that others use. Whoever means it says so by the environment variable ``ERSSL_NO_LIMITS=1``.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erssl.errors import ConfigError

INSIST = "ERSSL_NO_LIMITS"
_LEAST_PROCESSES, _PROCESSES_A_CPU = 64, 8
_COUNTS = 10**9  # epochs, steps: more than any training has
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
_CGROUP = ("memory.max", "memory/memory.limit_in_bytes")


def check_processes(key: str, count: int) -> None:
    """Refuse to start more processes than help on this machine.

    Args:
        key: The setting.
        count: Processes that it asks for.

    Raises:
        ConfigError: If there are more than 64 and more than eight for each CPU.
    """
    most = max(_LEAST_PROCESSES, _PROCESSES_A_CPU * cpus())
    if count > most:
        _refuse(
            f"{key}={count} would start {count:,} processes and this one may use {cpus()} CPUs; "
            f"set it to at most {most}"
        )


def check_least(values: Mapping[str, Any], least: Mapping[str, float]) -> None:
    """Refuse numbers below the smallest that makes sense.

    Args:
        values: Settings by key; one that is ``None`` is not said.
        least: The smallest value of each key that is checked.

    Raises:
        ConfigError: Naming the first that is too small.
    """
    for key, smallest in least.items():
        value = values[key]
        if value is not None and value < smallest:
            raise ConfigError(f"{key} must be at least {smallest} but is {value}.")


def check_count(key: str, count: int) -> None:
    """Refuse a number of epochs or steps that no training comes to the end of.

    Raises:
        ConfigError: If it is above a thousand million.
    """
    if count > _COUNTS:
        _refuse(f"{key}={count} is more than any training has; set it to at most {_COUNTS}")


def check_memory(what: str, need: float, way: str, memory: int | None = None) -> None:
    """Refuse what does not fit in memory, before it is allocated.

    Args:
        what: What needs it, such as ``"batch_size=64"``.
        need: Bytes.
        way: What to do, as an imperative without a full stop.
        memory: Bytes of the device; ``None`` for those of this machine.

    Raises:
        ConfigError: If there are fewer.
    """
    there = main_memory() if memory is None else memory
    if there is not None and need > there:
        _refuse(f"{what} needs {size(need)} of memory and there are {size(there)}; {way}")


def check_images(
    key: str, side: int, channels: int = 3, images: int = 1, count_key: str = ""
) -> None:
    """Refuse images that do not fit in memory as float32, before one is made.

    Args:
        key: The setting of their size.
        side: Height and width in pixels.
        channels: Of each.
        images: That are held at a time.
        count_key: The setting of their number; empty for one image.

    Raises:
        ConfigError: If they do not.
    """
    at_once = f"{images:,} images at a time" if count_key else "one image"
    less = f"{key} or {count_key}" if count_key else key
    need = 4 * channels * images * side**2
    check_memory(f"{key}={side} with {at_once}", need, f"set {less} to less")


def lacks_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised for, is that memory did not suffice.

    Python, NumPy and PIL raise MemoryError; torch raises RuntimeError with a text, for the memory
    of the machine and of a GPU; the system refuses to start a process.
    """
    while error is not None:
        told = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)
        refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
        if told or refused or isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def cpus() -> int:
    """CPUs that this process may use; a container often grants fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main_memory() -> int | None:
    """Bytes of memory that this process may use; ``None`` where the system does not say."""
    try:
        known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError, AttributeError):
        known = []
    for name in _CGROUP:
        try:
            told = Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        known += [int(told)] if told.isdigit() else []
    return min(known, default=None)


def size(count: float) -> str:
    """Bytes in the largest unit that leaves at least one."""
    if count == math.inf:
        return "more bytes than can be counted"
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def _refuse(sentence: str) -> None:
    if os.environ.get(INSIST) != "1":
        raise ConfigError(f"{sentence}, or insist with {INSIST}=1 in the environment.")
