"""Detectron2's checkpoints, written in one go and read whole: imported only where Detectron2 is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

from erssl.downstream.detection.detectron2_config import LAST
from erssl.errors import DataError
from erssl.files import write_text
from erssl.models.weights_files import check_values


def load_detector(model: Any, path: str) -> None:
    """Read a whole detector to evaluate it.

    Args:
        model: What Detectron2 built; changed in place.
        path: The file, or an address that Detectron2 knows.

    Raises:
        DataError: If a weight found no partner, or gives no numbers.
    """
    _WholeCheckpointer(model).load(path)


class _CheckedCheckpointer(DetectionCheckpointer):
    """Refuses weights that give no numbers."""

    def load(self, path: str, *arguments: Any, **options: Any) -> Any:
        """Read the file, and look at what was read."""
        content = super().load(path, *arguments, **options)
        check_values(path, self.model.state_dict())
        return content


class _WholeCheckpointer(_CheckedCheckpointer):
    """Refuses what Detectron2 only logs."""

    def _load_model(self, checkpoint: Any) -> Any:
        incompatible = super()._load_model(checkpoint)
        wrong = [name for name, *_ in incompatible.incorrect_shapes]
        unmatched = [*incompatible.missing_keys, *incompatible.unexpected_keys, *wrong]
        unmatched = [name for name in unmatched if not name.endswith("num_batches_tracked")]
        if unmatched:
            raise DataError(
                f"{len(unmatched)} weights of the checkpoint or of the detector found no partner, "
                f"such as {unmatched[0]}; evaluate it with the config that it was trained with."
            )
        return incompatible


class Checkpointer(_CheckedCheckpointer):
    """Names a checkpoint as the last one in one go: a kill leaves the old name or the new one."""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name."""
        write_text(Path(self.save_dir) / LAST, last_filename_basename)


class Kept:
    """Something that goes into each checkpoint."""

    def __init__(self, content: Mapping[str, str]) -> None:
        """Take what goes there."""
        self.content = dict(content)

    def state_dict(self) -> dict[str, str]:
        """What goes there."""
        return self.content

    def load_state_dict(self, content: Mapping[str, str]) -> None:
        """Compared before: see ``first_iteration``."""
