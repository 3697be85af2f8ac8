"""One process for each GPU, whose complaints reach the reader as one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from erssl.errors import RunError

_SENTENCE = re.compile(r"^erssl\.errors\.\w+: (.+)$", re.MULTILINE)


def launch(work: Callable[[Any], Any], argument: Any, devices: int, **places: Any) -> None:
    """Call a function in each process of a run.

    Args:
        work: The function.
        argument: Its argument; must be fit for pickle where there are several processes.
        devices: Processes on this machine.
        **places: ``num_machines``, ``machine_rank`` and ``dist_url`` of Detectron2's ``launch``.

    Raises:
        RunError: If a process of several stopped with a sentence of erssl's.
    """
    from detectron2.engine import launch as detectron2_launch
    from torch.multiprocessing.spawn import ProcessRaisedException

    try:
        detectron2_launch(work, devices, args=(argument,), **places)
    except ProcessRaisedException as error:
        sentences = _SENTENCE.findall(str(error))
        if not sentences:
            raise
        raise RunError(sentences[-1]) from error
