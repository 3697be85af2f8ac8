"""Where the features of an evaluation lie: in memory, or on disk where they would fill it."""

from __future__ import annotations

from typing import Literal, get_args

from erssl.data.checks import check_choice
from erssl.evaluation.cache import StoredType
from erssl.limits import main_memory

Storage = Literal["auto", "memory", "disk"]
STORAGES: tuple[Storage, ...] = get_args(Storage)
SHARE = 0.25  # of the machine's memory that float32 features may take; protocols hold more beside


def storage_for(
    asked: Storage, images: int, width: int | None, memory: int | None = None
) -> Literal["memory", "disk"]:
    """Where features are held.

    Args:
        asked: ``"auto"`` is disk where they would take more than a quarter of the memory that this
            process may use.
        images: Number of all images, training and validation.
        width: Dimension of the features; ``None`` where nobody has said it.
        memory: Bytes of memory; ``None`` for those of this machine.

    Raises:
        ConfigError: If there is no such storage.
    """
    check_choice("features_storage", asked, STORAGES)
    if asked != "auto":
        return asked
    there = main_memory() if memory is None else memory
    if there is None or width is None:
        return "memory"
    return "disk" if 4 * images * width > SHARE * there else "memory"


def dtype_for(asked: StoredType, storage: Literal["memory", "disk"]) -> StoredType:
    """In what features are held: ``"auto"`` is float32 in memory, decided by shards on disk."""
    return "float32" if asked == "auto" and storage == "memory" else asked
