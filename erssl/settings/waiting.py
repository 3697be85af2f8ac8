"""What torch's threads do while they wait for their next operation, said before torch is loaded.

Threads that spin take the core from a loader process, or from another program: views by lightly's
transforms come at 0.71 times the rate on two cores. Threads that sleep at once are woken late at
each of a step's many small operations: where no loader process has work, a fifth is lost of it
(``python -m benchmarks.waiting_threads``). So they sleep at once where there are loader processes,
and look a little before they sleep where there are none. libgomp, which PyTorch brings on Linux,
reads it once.
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

#: How often libgomp looks for work before a thread sleeps, where no loader process waits: some ten
#: microseconds. Its own 300,000 cost a run most of its rate beside another busy program.
SPINS = 1000


def let_threads_sleep(command: str, arguments: Sequence[str]) -> None:
    """Have torch's threads sleep as soon as they wait, or soon after where no loader process works.

    Args:
        command: Such as ``pretrain``.
        arguments: What follows it on the command line, whose names are known.
    """
    if any(name in os.environ for name in VARIABLES):
        return
    if command == "study" or not set(arguments).isdisjoint(MULTIRUN):
        return  # which start commands that say it for themselves
    if _has_loaders(command, arguments):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    else:
        os.environ["GOMP_SPINCOUNT"] = str(SPINS)


def _has_loaders(command: str, arguments: Sequence[str]) -> bool:
    """Whether a command works beside loader processes of its own; where unknown, it does."""
    if command != "pretrain":
        return True
    said = dict(split_override(each, command) for each in arguments if is_setting(each))
    data = _data(said)
    pipeline = said.get("data.pipeline", data.get("pipeline"))
    workers = said.get("data.num_workers", data.get("num_workers"))
    return pipeline != "device" and str(workers) != "0"


def _data(said: dict[str, str]) -> dict[str, Any]:
    """The settings of the data set below the overrides, or of the run that is resumed."""
    stored = user_path(said.get("run_dir", "")) / CONFIG
    if said.get("resume", "").lower() == "true" and stored.is_file():
        try:
            config = read_settings_file(stored)
        except (OSError, ValueError):  # who resumes the run says what is wrong
            return {}
    else:
        options = {key: said[key] for key in PRETRAIN_GROUPS if key in said}
        known = {key: option for key, option in options.items() if option in own_options(key)}
        config = merge_layers(config_layers("pretrain", known))[0]
    data = config.get("data") if isinstance(config, dict) else None
    return data if isinstance(data, dict) else {}
