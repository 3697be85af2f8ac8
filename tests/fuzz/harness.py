"""One case of a fuzz test: in a folder of its own, watched, with limits of time and memory.

A case is accepted, or refused by one of our errors, whose message is a sentence of one line.
Anything else is a failure: another exception, a case that takes too long, a file written outside
of the case's folder, a connection, a process, or the import of a name by a pickle.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from erssl.errors import ErsslError

SECONDS = 20.0  # of a case, on cores that others keep busy; most take a few milliseconds
MEMORY = 3 * 2**30  # bytes that a case may take beside what the process has
_LONGEST = 2000  # characters of a message

Kind = Literal["accepted", "refused", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What a case came to: ``what`` is the error's class, or where another one was raised."""

    kind: Kind
    what: str = ""
    trace: str = ""


@dataclass(frozen=True)
class Surface:
    """Something that reads what others have written.

    Attributes:
        name: In results.
        cases: What is tried.
        act: Does it, in the folder; gives the message where a command ended with status 2.
        share: Of the recorded run's cases, in proportion to those of the others.
        prepare: Makes the sound files that cases begin with, before the first.
        connects: Whether connections are the user's own wish, which is only kept from happening.
        blocked: Whether writing elsewhere is so, too.
    """

    name: str
    cases: SearchStrategy[Any]
    act: Callable[[Any, Path], str | None]
    share: int = 1
    prepare: Callable[[], object] = lambda: None
    connects: bool = False
    blocked: bool = False


class WorkBegins(BaseException):
    """Stands in place of work: all that can be refused before it has been accepted."""


class _TooLong(BaseException):
    """A case took too long."""


def run_case(surface: Surface, case: Any) -> Outcome:
    """Run one case and say what came of it."""
    folder = Path(tempfile.mkdtemp(prefix="case-", dir=home()))
    with _as_before():
        os.chdir(folder)
        try:
            with _limits(), _WATCH.of(folder, surface):
                try:
                    sentence = surface.act(case, folder)
                except WorkBegins:
                    sentence = None
        except ErsslError as error:
            outcome = _refused(type(error).__name__, str(error))
        except _TooLong:
            outcome = Outcome("failed", f"no end after {SECONDS:.0f} s", _trace())
        except (Exception, SystemExit) as error:
            outcome = Outcome("failed", _place(error), _trace())
        else:
            outcome = Outcome("accepted") if sentence is None else _refused("status 2", sentence)
    if _WATCH.seen:
        outcome = Outcome("failed", _WATCH.seen[0])
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def run_many(
    surface: Surface, count: int, tell: Callable[[Any, Outcome], None], number: int | None = None
) -> None:
    """Run many cases.

    Args:
        surface: What is tried.
        count: How many.
        tell: Takes every case and its outcome.
        number: Seed of the cases; ``None`` for cases that are always the same.
    """

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=number is None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(surface.cases)
    def one(case: Any) -> None:
        tell(case, run_case(surface, case))

    surface.prepare()
    (one if number is None else seed(number)(one))()


def check(surface: Surface, count: int) -> None:
    """The property as a test: no case fails, and both of the other outcomes occur."""
    kinds: set[Kind] = set()

    def tell(case: Any, outcome: Outcome) -> None:
        assert outcome.kind != "failed", f"{outcome.what}\n{case!r}\n{outcome.trace}"
        kinds.add(outcome.kind)

    run_many(surface, count, tell)
    assert kinds == {"accepted", "refused"}, "these cases cannot show anything"


def home() -> Path:
    """The folder of all cases of this process, which goes with it."""
    global _home
    if _home is None:
        import atexit

        _home = Path(os.path.realpath(tempfile.mkdtemp(prefix="fuzz-")))
        atexit.register(shutil.rmtree, _home, ignore_errors=True)
    return _home


_home: Path | None = None


def _refused(what: str, sentence: str) -> Outcome:
    sound = sentence.strip() and "\n" not in sentence.strip() and len(sentence) <= _LONGEST
    if sound and "Traceback" not in sentence:
        return Outcome("refused", what)
    return Outcome("failed", "the message is no sentence of one line", sentence[: 2 * _LONGEST])


def _place(error: BaseException) -> str:
    """The exception's class and the innermost line of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    root = Path(__file__).resolve().parents[2]
    ours = [f for f in frames if Path(os.path.realpath(f.filename)).is_relative_to(root)]
    ours = [f for f in ours if "/tests/" not in f.filename] or ours or list(frames)
    where = f"{Path(ours[-1].filename).name}, {ours[-1].name}" if ours else "nowhere"
    return f"{type(error).__name__} in {where}"


def _trace() -> str:
    return traceback.format_exc()[-6000:]


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Undo what a case did to the process."""
    place, variables = os.getcwd(), dict(os.environ)
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.environ |= {"ERSSL_HOME": "home", "TORCH_HOME": "torch", "HF_HOME": "hf"}
            yield
    finally:
        os.chdir(place)
        os.environ.clear()
        os.environ.update(variables)
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """End what takes too long, and let what takes too much memory fail."""

    def end(*_: object) -> None:
        raise _TooLong

    gc.collect(0)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, end)
    # where C code does not come back: print where, and end the process
    faulthandler.dump_traceback_later(10 * SECONDS, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


_RUN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.startfile")
_RUN += ("pickle.find_class",)
_NET = ("socket.connect", "socket.getaddrinfo", "urllib.Request")
_LINK = ("os.symlink", "os.link")
_CHANGE = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link")
_CHANGE += ("os.truncate", "os.chmod", "os.chown", "shutil.rmtree", "os.utime")
_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_DEVICES = ("/dev/null", "/dev/tty", "/dev/shm")


class _Watch:
    """Sees, through Python's audit events, what a case does outside of its folder."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.connects = self.blocked = False
        self.seen: list[str] = []

    @contextlib.contextmanager
    def of(self, folder: Path, surface: Surface) -> Iterator[None]:
        self.connects, self.blocked = surface.connects, surface.blocked
        self.folder, self.seen = os.path.realpath(folder), []
        try:
            yield
        finally:
            self.folder = None

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in _RUN:
            self._refuse(f"runs {event}", False)
        elif event in _NET:
            self._refuse(f"connects by {event}", self.connects)
        elif event == "open" and args[2] & _WRITE and not self._inside(args[0]):
            self._refuse("writes outside of its folder", self.blocked)
        elif event in _CHANGE and not all(
            self._inside(a, last=False)
            for a in args[event in _LINK : 2]  # of a link its own place, not what it names
            if isinstance(a, (str, bytes, os.PathLike))
        ):
            self._refuse(f"{event} outside of its folder", self.blocked)

    def _refuse(self, what: str, wished: bool) -> None:
        if not wished:
            self.seen.append(what)
        raise PermissionError(13, "Permission denied", what)

    def _inside(self, place: Any, last: bool = True) -> bool:
        if isinstance(place, int):  # a file that is open already
            return True
        folder, self.folder = self.folder, None
        try:
            path = os.fsdecode(place)
            if last:
                path = os.path.realpath(path)
            else:  # the name itself is changed, not what it is a link to
                above, name = os.path.split(path.rstrip("/"))
                path = os.path.join(os.path.realpath(above), name)
        except ValueError:  # no name of a file
            return True
        finally:
            self.folder = folder
        return path == folder or path.startswith((f"{folder}/", *_DEVICES))


_WATCH = _Watch()
sys.addaudithook(_WATCH)
sys.dont_write_bytecode = True
