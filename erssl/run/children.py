"""Commands in processes of their own, which end when the process that started them does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import erssl
from erssl.errors import Stopped

PARENT_VARIABLE = "ERSSL_PARENT"  # the process that a command shall not outlive
ONE_OF_SEVERAL = "ERSSL_ONE_OF_SEVERAL"  # tells a command that another one reports on it
# by its file, since python -m would look for modules in the working folder first
_CHILD = str(Path(erssl.__file__).with_name("cli") / "child.py")
_LOOK = 0.5  # seconds from one look at the parent to the next
_SILENT: ContextVar[bool] = ContextVar("silent_children", default=False)


@contextmanager
def silent_children(silent: bool) -> Iterator[None]:
    """Let no process that :class:`Children` starts print anything inside, where ``silent``."""
    token = _SILENT.set(silent)
    try:
        yield
    finally:
        _SILENT.reset(token)


def are_silent() -> bool:
    """Whether processes that are started now print nothing."""
    return _SILENT.get()


class Children:
    """Processes of ``erssl`` commands.

    Each has a session of its own: a signal of the terminal or the batch system reaches the parent
    alone, which hands it on once, so that a training has its time for a checkpoint.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ending: int | None = None
        self._silent = are_silent()  # asked here, since a thread that runs one does not know

    def run(
        self,
        arguments: Sequence[str],
        variables: Mapping[str, str] | None = None,
        heard: Callable[[str], None] | None = None,
    ) -> int:
        """Run a command and give its exit status.

        Args:
            arguments: Of the command, without ``erssl``.
            variables: Its environment; ``None`` for that of this process.
            heard: Gets every line of its standard error, which is printed as well, unless silent.
        """
        if self._ending is not None:
            return 128 + self._ending
        environment = {**(os.environ if variables is None else variables)}
        environment[PARENT_VARIABLE] = str(os.getpid())
        environment[ONE_OF_SEVERAL] = "1"
        command = [sys.executable, _CHILD, *arguments]
        out = subprocess.DEVNULL if self._silent else None
        pipe = subprocess.PIPE if heard else out
        process = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=out, stderr=pipe
        )
        self._running.add(process)
        for line in process.stderr or ():
            if not self._silent:
                sys.stderr.write(line.decode(errors="replace"))
            if heard:
                heard(line.decode(errors="replace"))
        status = process.wait()
        self._running.discard(process)
        return status

    @contextmanager
    def ended_together(self) -> Iterator[Children]:
        """Hand on what ends this process, and wait for the others; a second time without delay."""
        try:
            yield self
        except BaseException as end:
            number = signal.SIGINT if isinstance(end, KeyboardInterrupt) else signal.SIGTERM
            self._end(end.signal if isinstance(end, Stopped) else number)
            raise

    def _end(self, number: int) -> None:
        self._ending = number
        try:
            self._tell(number)
            for process in list(self._running):
                process.wait()
        except BaseException:
            self._tell(number)
            raise

    def _tell(self, number: int) -> None:
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def end_with_parent() -> None:
    """End this process by SIGTERM when the one that started it by :class:`Children` is no more."""
    parent = os.environ.pop(PARENT_VARIABLE, "")  # processes of this one have this one as theirs
    if not parent.isdigit():
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(_LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
