"""What torch's threads do while they wait for their next operation, said before torch is loaded.

Threads that spin long take the core from a loader process: views by lightly's transforms then come
at three quarters of the rate on two cores. Threads that sleep at once are woken late at each of a
step's many small operations, which costs up to a seventh. So they look for work a little before
they sleep. Where the views are made in the training process, which waits for no other, they spin as
libgomp does by itself (``python -m benchmarks.waiting_threads``). libgomp, which PyTorch brings on
Linux, reads it once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from erssl.layers import merge_layers
from erssl.paths import user_path
from erssl.run.directory import CONFIG
from erssl.settings.arguments import MULTIRUN, is_setting
from erssl.settings.compose import PRETRAIN_GROUPS, config_layers, own_options, split_override
from erssl.yaml_text import read_settings_file

#: What OpenMP's libraries read; what a user has set stays.
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

#: How often libgomp looks for work before a thread sleeps: some ten microseconds; its own: 300,000.
SPINS = 1000


def let_threads_sleep(command: str, arguments: Sequence[str]) -> None:
    """Have torch's threads sleep soon after they wait, unless nothing else needs the cores.

    Args:
        command: Such as ``pretrain``.
        arguments: What follows it on the command line, with names that there are.
    """
    several = command == "study" or bool({*MULTIRUN} & {*arguments})  # whose processes say it
    if several or any(name in os.environ for name in VARIABLES):
        return
    if command != "pretrain" or _pipeline(arguments) != "device":
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def _pipeline(arguments: Sequence[str]) -> Any:
    """What ``data.pipeline`` will be in a pretraining, or in one that goes on.

    ``None`` where it is not known yet, as of a data set that another package brings.
    """
    said = dict(split_override(each) for each in arguments if is_setting(each))
    if "data.pipeline" in said:
        return said["data.pipeline"]
    file = user_path(said.get("run_dir", "")) / CONFIG
    if said.get("resume", "").lower() == "true" and file.is_file():
        try:
            return read_settings_file(file)["data"]["pipeline"]
        except (OSError, ValueError, TypeError, LookupError):
            return None  # who reads all of it says what is wrong
    chosen = {key: said[key] for key in PRETRAIN_GROUPS if said.get(key, "null") != "null"}
    if any(value not in own_options(key) for key, value in chosen.items()):
        return None
    return merge_layers(config_layers("pretrain", chosen))[0]["data"]["pipeline"]
