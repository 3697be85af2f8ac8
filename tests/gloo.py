"""Two processes that talk by gloo, for tests of what is gathered over ranks."""

import datetime
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2


def start_rank(rank, folder):
    """Join the other process; an early death of it ends the wait after a minute."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=WORLD,
        timeout=datetime.timedelta(seconds=60),
    )


def results_of_ranks(worker, folder):
    """What ``worker(rank, folder)`` saved as ``<rank>.pt`` on each of the ranks."""
    context = mp.spawn(worker, args=(str(folder),), nprocs=WORLD, join=False)
    deadline = time.monotonic() + 120
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail("The two processes did not end within two minutes.")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]
