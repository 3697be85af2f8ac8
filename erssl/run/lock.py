"""One process at a time writes to a run directory.

The lock is a file that appears whole, by a hard link, which network file systems do in one go as
well. It names its process; one that is no more, on this machine, counts at once, and on another
machine when it has not touched its file for :data:`SILENT` seconds of the file system's own clock.
Whoever meets a lock of another machine waits until it is touched, or has been silent for as long.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erssl.errors import RunError

NAME = ".erssl-lock"
BEAT = 15.0  # seconds from one touch of the file to the next
SILENT = 120.0  # seconds without a touch after which a process elsewhere is taken for gone
_LOOK = 1.0  # seconds from one look at a lock of another machine to the next
_IN_USE = "is in use by"
_SETTLE = 0.2  # seconds for others that take the same stale lock over


@contextmanager
def locked(folder: Path, key: str = "run_dir") -> Iterator[None]:
    """Keep other processes out of a run directory.

    Args:
        folder: The directory; made where it does not exist, and removed again where nothing else
            was written to it. One that cannot be written to is left as it is: whatever writes
            there says so.
        key: The key by which the command line names it.

    Raises:
        RunError: If another process that is alive works in it.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    own = _Lock(folder, key)
    try:
        if folder.exists() and not folder.is_dir():
            held = False
        else:
            folder.mkdir(parents=True, exist_ok=True)
            held = own.take()
    except RunError:
        raise
    except OSError:
        held = False
    if not held:
        yield
        return
    done = threading.Event()
    beating = threading.Thread(target=own.beat, args=(done,), daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        own.release()
        beating.join(_SETTLE)  # so that the process has no thread more than before
        with contextlib.suppress(OSError):  # it holds a run now
            for place in made:
                place.rmdir()


def holder_of(folder: Path) -> str | None:
    """The process that works in a directory, as a sentence names it; ``None`` where none does.

    One of another machine counts as long as it has touched its lock lately.
    """
    lock = _Lock(folder, "run_dir")
    content = lock.read()
    if content is None:
        return None
    alive = _owner_lives(content) if lock.is_here(content) else lock.is_recent()
    return _named(content) if alive else None


def was_refused(sentence: str) -> bool:
    """Whether a command ended by this sentence because its directory was in use."""
    return _IN_USE in sentence


class _Lock:
    """A lock of this process on a folder."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.file = folder / NAME
        self.token = uuid.uuid4().hex
        pid = os.getpid()
        owner = {"pid": pid, "started": _started(pid), "machine": _machine(), "boot": _boot()}
        self.content = json.dumps({**owner, "node": platform.node(), "token": self.token})

    def take(self) -> bool:
        """Take the lock.

        Raises:
            RunError: If a process that is alive has it.
        """
        taken_over = False
        while not self._create():
            holder = self.read()
            if holder is None:
                continue  # given back in this moment
            alive = _owner_lives(holder) if self.is_here(holder) else self._beats(holder)
            if alive is None:
                continue  # it has changed hands
            if alive:
                raise RunError(self._refusal(holder))
            self._move_away(holder)
            taken_over = True
        if taken_over:  # others may have found the same lock, and one may have moved ours away
            time.sleep(_SETTLE)
            holder = self.read()
            if holder != self.content:
                raise RunError(self._refusal(holder or ""))
        return True

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        with contextlib.suppress(OSError):
            if self.read() == self.content:
                self.file.unlink()

    def beat(self, done: threading.Event) -> None:
        """Touch the file from time to time, for processes of other machines."""
        while not done.wait(BEAT):
            with contextlib.suppress(OSError):
                if self.read() == self.content:
                    os.utime(self.file)

    def _create(self) -> bool:
        """Let the lock appear whole; ``False`` where there is one."""
        draft = self.folder / f"{NAME}-{self.token}"
        draft.write_text(self.content, encoding="utf-8")
        try:
            os.link(draft, self.file)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            try:
                with self.file.open("x", encoding="utf-8") as file:
                    file.write(self.content)
            except FileExistsError:
                return False
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _move_away(self, stale: str) -> None:
        """Remove a stale lock, and put back what has taken its place meanwhile."""
        aside = self.folder / f"{NAME}-{self.token}-old"
        try:
            self.file.rename(aside)
        except FileNotFoundError:
            return
        if self.read(aside) != stale:
            with contextlib.suppress(OSError):
                os.link(aside, self.file)
        aside.unlink(missing_ok=True)

    def read(self, file: Path | None = None) -> str | None:
        """What a lock holds, by default that of the folder; ``None`` where there is none."""
        try:
            return (file or self.file).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None

    def is_here(self, content: str) -> bool:
        """Whether a lock names a process whose end can be seen from this one."""
        owner = _owner(content)
        return owner.get("machine") == _machine() and owner.get("boot") == _boot()

    def _beats(self, content: str) -> bool | None:
        """Wait until a process elsewhere touches its lock, or has been silent for too long.

        Args:
            content: Its lock.

        Returns:
            Whether it is alive; ``None`` where the lock is gone or another's meanwhile.
        """
        began, seen = time.monotonic(), None
        while True:
            touched, age = self._touched()
            if touched is None or self.read() != content:
                return None
            if seen is not None and touched != seen:
                return True
            if max(age, time.monotonic() - began) > SILENT:  # whatever a clock that jumped says
                return False
            if seen is None:
                warnings.warn(self._waiting(content, SILENT - age), stacklevel=5)
            seen = touched
            time.sleep(_LOOK)

    def _touched(self) -> tuple[int | None, float]:
        """When the lock was touched, ``None`` without one, and seconds since then.

        Both times are of the file system's clock.
        """
        now = self.folder / f"{NAME}-{self.token}-now"
        now.touch()
        try:
            touched = self.file.stat().st_mtime_ns
            return touched, (now.stat().st_mtime_ns - touched) / 1e9
        except FileNotFoundError:
            return None, 0.0
        finally:
            now.unlink(missing_ok=True)

    def is_recent(self) -> bool:
        """Whether the lock was touched so lately that its process is taken to be alive."""
        touched, age = self._touched()
        return touched is not None and age <= SILENT

    def _waiting(self, content: str, seconds: float) -> str:
        return (
            f"{self.key}={self.folder} was in use by {_named(content)} a moment ago; waiting for a "
            f"sign of life, at most {max(seconds, 0):.0f} s."
        )

    def _refusal(self, content: str) -> str:
        return (
            f"{self.key}={self.folder} {_IN_USE} {_named(content)}; wait for its end, name "
            f"another {self.key}, or delete {self.file} where that process is no more."
        )


def _owner_lives(content: str) -> bool:
    """Whether the process that a lock of this machine names still runs."""
    owner = _owner(content)
    return _started(owner.get("pid")) == owner.get("started")


def _named(content: str) -> str:
    owner = _owner(content)
    if not owner:
        return "another process"
    return f"process {owner.get('pid', 'unknown')} on {owner.get('node', 'another machine')}"


def _owner(content: str) -> dict[str, Any]:
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _machine() -> str:
    """The host, and the name space of its process numbers: containers may share the former."""
    try:
        space = f" {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        space = ""
    return f"{platform.node()}{space}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _started(pid: Any) -> str | None:
    """When a process began; ``None`` where it is no more, or has ended and is not yet collected."""
    if not isinstance(pid, int) or pid < 1:
        return None
    if Path("/proc/self/stat").exists():
        try:
            about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = about.rpartition(")")[2].split()  # after the name, which may hold anything
        return None if fields[0] in "ZX" else fields[19]
    asked = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or None
