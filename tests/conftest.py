"""What all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # tests start processes beside torch's threads

import pytest
import threadpoolctl
import torch

from .gloo import GlooPool


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small tensors: a second thread costs more than it brings, tenfold on a busy machine.

    Of the whole session, so that what tests share is computed on as many threads as they are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpoolctl.threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def pages_unsaid() -> None:
    """What is said once in a process is said once in a test."""
    if (images := sys.modules.get("erssl.data.images")) is not None:
        images.warn_of_pages.cache_clear()


@pytest.fixture(scope="session")
def gloo() -> Iterator[GlooPool]:
    """Processes for what runs on several ranks, started by the first test that asks."""
    pool = GlooPool()
    yield pool
    pool.close()
