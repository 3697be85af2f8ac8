"""Small tensors: a second thread costs more than it brings, tenfold on a busy machine."""

from collections.abc import Iterator

import pytest
import threadpoolctl
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpoolctl.threadpool_limits(1):
        yield
    torch.set_num_threads(threads)
