"""The command line in this process, up to the point where work would begin."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import Any, NoReturn
from unittest.mock import patch

from erssl.cli.main import main

from .harness import WorkBegins

# Where each command begins to compute, or to start others that do.
_WORK = (
    "erssl.protocols.pretrain.train_and_measure",
    "erssl.protocols.evaluation.Evaluation.features",
    "erssl.protocols.linear.train_seeds",
    "erssl.protocols.semi.train_seeds",
    "erssl.protocols.finetune.train_seeds",
    "erssl.protocols.transfer._one",
    "erssl.protocols.transfer_shares.launch",
    "erssl.callbacks.er_lens.ERLens.read",
    "erssl.protocols.compare.start",
    "erssl.protocols.embed._features",
)


def run_command(arguments: Sequence[str]) -> str | None:
    """Run ``erssl`` and give the message where it ended with status 2.

    Raises:
        WorkBegins: Where everything was accepted and work would begin.
        AssertionError: If it ended otherwise.
    """
    # streams as a terminal has them: what cannot be encoded there is an error here
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    told = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    level = logging.root.manager.disable
    logging.disable()
    try:
        with ExitStack() as stack:
            for place in _WORK:
                stack.enter_context(patch(place, _begin))
            stack.enter_context(patch("erssl.protocols.detect.find_backend", lambda *_: _begin))
            # by git, which is a process
            stack.enter_context(patch("erssl.run.directory._git_commit", lambda: None))
            stack.enter_context(redirect_stdout(out))
            stack.enter_context(redirect_stderr(told))
            status = main(list(arguments))
    finally:
        logging.disable(level)
    out.flush()
    told.flush()
    message = told.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if status == 0:
        return None
    assert status == 2, f"status {status}"
    assert message.startswith("erssl: "), message
    return message


def _begin(*_: Any, **__: Any) -> NoReturn:
    raise WorkBegins
