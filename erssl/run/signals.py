"""Signals that end a run: a checkpoint at the end of the step, then a sentence how to go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from erssl.errors import Stopped  # and nothing that takes time: signals are heard from then on

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

#: SIGUSR1 is what SLURM sends before it takes the machine away, by sbatch --signal=USR1@90.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGUSR1: "SIGUSR1"}


class Ending:
    """Remembers the signal that ends a command, as ``number``; ``None`` before there was one."""

    number: int | None = None

    @property
    def sentence(self) -> str:
        """What is said of it."""
        return f"Stopped by {_NAMES[signal.Signals(self.number or signal.SIGTERM)]}."


@contextmanager
def ended_by_signals() -> Iterator[Ending]:
    """End a command at a signal wherever it is, except where a :class:`SignalWatch` is installed.

    Outside the main thread, which hears none, nothing is done.

    Yields:
        What was heard: a library that is interrupted while it is imported, or that catches
        everything, may have made another error of it.
    """
    ending, own = Ending(), os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a process that was forked, such as a loader's
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        ending.number = number
        raise Stopped(ending.sentence, number)

    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class SignalWatch:
    """Hears SIGTERM, SIGINT and SIGUSR1, and stops the training between two steps.

    Before the training a signal ends the run at once; so does a second one, for whoever does not
    want to wait for the checkpoint.
    """

    def __init__(self, run_dir: Path, resume_from: str | None = None) -> None:
        """Name ``run_dir`` in the sentence how to go on.

        Args:
            run_dir: The folder of the run.
            resume_from: The file in it without which there is nothing to go on with; ``None`` for
                the last checkpoint.
        """
        self.run_dir = run_dir
        self.resume_from = resume_from
        self._process = os.getpid()
        self._signal: int | None = None
        self._training = False

    @contextmanager
    def installed(self) -> Iterator[SignalWatch]:
        """Handle the signals inside; outside the main thread, which hears none, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._hear) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def training_begins(self) -> None:
        """From now on a signal waits for the end of the step, also with Lightning's trainer.

        Its own handlers communicate inside of a step: that for SIGTERM broadcasts, and that for
        SIGUSR1 writes a checkpoint, wherever a step is; here the flag is read between steps.
        """
        self._training = True
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._hear)

    def training_ends(self) -> None:
        """From now on a signal ends the run at once again.

        Raises:
            Stopped: If one was heard after the last step, such as while its checkpoint was written.
        """
        self._training = False
        if self._signal is not None:
            self._end(self._signal)

    @property
    def heard_here(self) -> bool:
        """Whether this process has heard a signal."""
        return self._signal is not None

    def heard(self, trainer: Trainer) -> bool:
        """Whether any process has heard a signal; every process has to ask after every step.

        One process tells without communication. Several agree by one all-reduce of a number: a
        signal reaches them in different steps, and all must stop after the same one.
        """
        if trainer.world_size == 1:
            return self.heard_here
        return bool(trainer.strategy.reduce_boolean_decision(self.heard_here, all=False))

    def stop(self, step: int, first: bool = True) -> NoReturn:
        """End the run after its checkpoint.

        Args:
            step: Optimiser steps that the checkpoint has.
            first: Whether this is the first process of several; the others are silent.

        Raises:
            Stopped: Always.
        """
        number = self._signal or signal.SIGTERM
        sentence = (
            f"Stopped by {_NAMES[signal.Signals(number)]} at step {step}, with a "
            f"checkpoint; go on with resume=true run_dir={self.run_dir}."
        )
        if first and number == signal.SIGUSR1:
            sentence += _requeue()
        raise Stopped(sentence if first else "", number)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process that was forked, such as a loader's
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        first = self._signal is None
        self._signal = number
        if self._training and first:
            return
        self._end(number)

    def _end(self, number: int) -> NoReturn:
        name = _NAMES[signal.Signals(number)]
        raise Stopped(f"Stopped by {name}{self._way_on()}.", number)

    def _way_on(self) -> str:
        from erssl.run.checkpoint_files import has_checkpoint
        from erssl.run.directory import LAST_CHECKPOINT

        if self.resume_from is not None:
            begun = (self.run_dir / self.resume_from).is_file()
            return f"; go on with resume=true run_dir={self.run_dir}" if begun else ""
        if not has_checkpoint(self.run_dir / LAST_CHECKPOINT):
            return " before the first checkpoint"
        return f"; go on from the last checkpoint with resume=true run_dir={self.run_dir}"


def _requeue() -> str:
    """Ask SLURM to start the job again, as Lightning would; what to add to the sentence."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return ""
    import subprocess

    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    job = f"{array}_{task}" if array and task else job
    try:
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, check=False)
    except OSError:
        return " SLURM's scontrol was not found, so the job was not put back into the queue."
    if asked.returncode:
        return f" SLURM did not put job {job} back into the queue."
    return f" SLURM has put job {job} back into the queue."
