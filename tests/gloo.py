"""Processes that talk by gloo, for tests of what is gathered over ranks.

Importing torch and the methods costs far more than the cases that run in them, so that the
processes are started once for all tests and join as many groups as there are questions.
"""

import datetime
import pickle
import tempfile
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LARGEST = 4
PATIENCE = 120  # seconds for all that a test module asks at once


def prepared(noise):
    """In place of a normal's ``rsample``: each rank must draw its share of one process's noise."""
    draws = iter(noise)
    return lambda self, _shape=(): self.loc + self.scale * next(draws).to(self.loc)


class GlooPool:
    """Up to four ranks, forked from one process that has imported what they need."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._ranks = []
        self._groups = 0

    def run(self, world, function, *arguments):
        """What ``function(rank, world, *arguments)`` gives on each rank of a group of ``world``.

        Args:
            world: Number of ranks, at most four.
            function: Of a module, so that the processes find it by its name.
            *arguments: Whatever can be pickled.
        """
        self._start()
        self._groups += 1
        rendezvous = str(Path(self._folder.name) / f"group{self._groups}")
        ranks = self._ranks[:world]
        for rank, (_, connection) in enumerate(ranks):
            connection.send_bytes(pickle.dumps((rank, world, rendezvous, function, arguments)))
        answers = [self._answer(connection) for _, connection in ranks]
        for error, _ in answers:
            assert not error, error
        return [result for _, result in answers]

    def close(self):
        """End the processes; another question starts new ones."""
        for process, connection in self._ranks:
            connection.close()
            process.join(5)
            process.kill()
        self._ranks = []

    def _start(self):
        if self._ranks and all(process.is_alive() for process, _ in self._ranks):
            return
        self.close()  # a test that kills processes may have met one of these
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["erssl.callbacks", "erssl.methods", "pytest"])
        for _ in range(LARGEST):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there,), daemon=True)
            process.start()
            there.close()
            self._ranks.append((process, here))

    def _answer(self, connection):
        try:
            if connection.poll(PATIENCE):
                return pickle.loads(connection.recv_bytes())
        except EOFError:
            pass
        self.close()
        pytest.fail(f"A rank died, or said nothing for {PATIENCE} seconds.")


def _serve(connection):
    torch.set_num_threads(1)
    while True:
        try:
            rank, world, rendezvous, function, arguments = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        dist.init_process_group(
            "gloo",
            init_method=f"file://{rendezvous}",
            rank=rank,
            world_size=world,
            timeout=datetime.timedelta(seconds=60),  # ends the wait for a rank that failed
        )
        try:
            answer = ("", function(rank, world, *arguments))
        except Exception:
            answer = (traceback.format_exc(), None)
        dist.destroy_process_group()
        connection.send_bytes(pickle.dumps(answer))
