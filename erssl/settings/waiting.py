"""What torch's threads do while they wait for their next operation, said before torch is loaded.

Threads that spin long take the core from a loader process: views by lightly's transforms then come
at three quarters of the rate on two cores. Threads that sleep at once are woken late at each of a
step's many small operations, which costs up to a seventh. So they look for work a little before
they sleep (``python -m benchmarks.waiting_threads``). libgomp, which PyTorch brings on Linux, reads
it once.
"""

from __future__ import annotations

import os

#: What OpenMP's libraries read; what a user has set stays.
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

#: How often libgomp looks for work before a thread sleeps: some ten microseconds; its own: 300,000.
SPINS = 1000


def let_threads_sleep() -> None:
    """Have torch's threads sleep soon after they wait."""
    if not any(name in os.environ for name in VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)
