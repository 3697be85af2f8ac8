"""How long a run has taken, in all its parts."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning.callbacks import Callback


class Elapsed(Callback):
    """Count the seconds of a run; those up to a checkpoint count again where it goes on from it.

    Lightning's ``Timer`` does so for the training alone; here the images are listed, and
    accuracies measured, in that time too.

    Attributes:
        before: Seconds of the parts before this one, up to the checkpoint that it goes on from.
    """

    def __init__(self, began: float) -> None:
        """Begin to count.

        Args:
            began: ``time.perf_counter()`` when this part of the run began.
        """
        self.before = 0.0
        self._began = began

    @property
    def seconds(self) -> float:
        """Of all parts until now."""
        return self.before + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count what the checkpoint has kept."""
        self.before = float(state_dict["seconds"])
