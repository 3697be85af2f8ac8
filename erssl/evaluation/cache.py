"""Features on disk: one folder a backbone and data set, of shards that are whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import erssl
from erssl.errors import DataError, ErsslWarning
from erssl.evaluation.fingerprints import tensor_bytes
from erssl.files import PARTIAL, write_bytes
from erssl.limits import size

CACHE_VERSION = 2  # to be raised when the same inputs give other features, or shards change
ABOUT = "about.json"

StoredType = Literal["float32", "float16", "auto"]
DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "float32": (torch.float32,),
    "float16": (torch.float16,),
    "auto": (torch.float16, torch.float32),
}
_PLACE = "folder (cache_dir=<folder>)"
_STALE = 3600.0  # seconds; no living process takes as long to write a file


class FeatureCache:
    """The shards of one data set's features.

    A shard ``00000.safetensors`` holds ``features`` (n, d) and ``labels`` (n,) of consecutive
    images; its header holds the key, its number and a SHA-256 of the content. It is written under
    a name of its own and renamed, so that a kill leaves no half of one and several processes may
    work in the same folder. A shard or a folder that cannot be used is never an error.

    Attributes:
        key: SHA-256 of all that the features depend on.
        folder: Where the shards lie.
    """

    def __init__(
        self,
        cache_dir: Path,
        about: Mapping[str, Any],
        dtype: StoredType,
        images: int,
        shard_size: int,
        required: bool = False,
    ) -> None:
        """Open a folder, and make it where it does not exist.

        Args:
            cache_dir: The folder that holds the folders of all keys.
            about: What the features depend on; becomes the key and, to be read, ``about.json``.
            dtype: Of the stored features; ``"auto"`` lets each shard have its own.
            images: Number of images.
            shard_size: Images a shard; the last one holds the rest.
            required: Whether there is no going on without the folder.

        Raises:
            DataError: If a folder that is required cannot be made.
        """
        content = _content(about, dtype, images, shard_size)
        self.key = hashlib.sha256(content.encode()).hexdigest()
        self.folder = _folder(cache_dir, content)
        self._dtypes = DTYPES[dtype]
        self._required = required
        self._faults: dict[int, str] = {}
        self._writable = True
        self._open(content)

    @staticmethod
    def is_begun(
        cache_dir: Path, about: Mapping[str, Any], dtype: StoredType, images: int, shard_size: int
    ) -> bool:
        """Whether there are shards of the same features in a type; the arguments as above."""
        folder = _folder(cache_dir, _content(about, dtype, images, shard_size))
        return next(folder.glob("*.safetensors"), None) is not None

    def load(
        self, shard: int, rows: int, width: int | None, check: bool = True
    ) -> tuple[Tensor, Tensor] | None:
        """Map a shard into memory and check that it is what was written.

        Args:
            shard: Its number.
            rows: Number n of its images.
            width: Dimension d of the features, where it is known.
            check: Whether to read all of it, for its checksum.

        Returns:
            Features (n, d) and labels (n, …); ``None`` if there is none that can be used.
        """
        path = self.folder / _name(shard)
        if not os.path.exists(path):  # Path.exists raises in a folder without permission
            return None
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                features, labels = file.get_tensor("features"), file.get_tensor("labels")
        except (SafetensorError, OSError) as error:
            self._faults[shard] = f"it cannot be read: {str(error).rstrip('.')}"
            return None
        shape = (rows, *features.shape[1:2]) if width is None else (rows, width)
        if (header.get("key"), header.get("shard")) != (self.key, str(shard)):
            self._faults[shard] = "it belongs to other features"
        elif check and header.get("sha256") != _checksum(features, labels):
            self._faults[shard] = "its checksum differs"
        elif (
            features.shape != shape
            or features.dtype not in self._dtypes
            or labels.shape[:1] != (rows,)
        ):
            self._faults[shard] = f"it holds {features.dtype} of shape {tuple(features.shape)}"
        else:
            return features, labels
        return None

    def store(self, shard: int, features: Tensor, labels: Tensor) -> None:
        """Write a shard; where that fails, warn once and write no more, or raise if required.

        Args:
            shard: Its number.
            features: (n, d), on the CPU, of the type that the cache was opened with.
            labels: (n,), or (n, K).

        Raises:
            DataError: If a folder that is required cannot be written to.
        """
        if not self._writable:
            return
        header = {"key": self.key, "shard": str(shard), "sha256": _checksum(features, labels)}
        # Not by save_file, which makes the file private to its user: folders may be shared.
        self._write(_name(shard), save({"features": features, "labels": labels}, metadata=header))

    def check_room(self, images: int, width: int) -> None:
        """Make sure that a disk has room for what is missing, before it is computed.

        Args:
            images: Number of missing images.
            width: Dimension d of the features.

        Raises:
            DataError: If it has not, and there is no going on without.
        """
        if not self._required:
            return
        need = images * width * min(dtype.itemsize for dtype in self._dtypes)
        with contextlib.suppress(OSError):
            if need > (free := shutil.disk_usage(self.folder).free):
                raise DataError(
                    f"The features that are missing need {size(need)} in {self.folder}, where "
                    f"{size(free)} are free; make room there, or give another {_PLACE}."
                )

    def warn_of_faults(self) -> None:
        """Say in one sentence which shards could not be used, if there were any."""
        if self._faults:
            shard, reason = next(iter(self._faults.items()))
            warnings.warn(
                f"{len(self._faults)} of the cached shards in {self.folder} cannot be used "
                f"({_name(shard)}: {reason}); their features are computed again.",
                ErsslWarning,
                stacklevel=4,
            )

    def _open(self, content: str) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for partial in self.folder.glob(f"*{PARTIAL}"):  # of processes that were killed
                if time.time() - partial.stat().st_mtime > _STALE:
                    partial.unlink()
        except OSError as error:  # of an old file too, which another process may have removed
            if not os.path.isdir(self.folder):
                self._give_up(error)
        if self._writable and not os.path.exists(self.folder / ABOUT):
            self._write(ABOUT, f"{content}\n".encode())

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_bytes(self.folder / name, content)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writable = False
        reason = error.strerror or error
        if self._required:
            raise DataError(
                f"Features cannot be kept in {self.folder} ({reason}), and would take too much "
                f"memory; make room there or give another {_PLACE}, and start again: what is there "
                "is not computed twice."
            ) from error
        warnings.warn(
            f"Features cannot be kept in {self.folder} ({reason}), which the run "
            "goes on without; make room there, or give another cache_dir.",
            ErsslWarning,
            stacklevel=5,
        )


def _content(about: Mapping[str, Any], dtype: str, images: int, shard_size: int) -> str:
    """All that features depend on, as ``about.json`` has it."""
    made_from = {
        **about,
        "dtype": dtype,
        "images": images,
        "shard_size": shard_size,
        "erssl": erssl.__version__,
        "cache_version": CACHE_VERSION,
    }
    return json.dumps(made_from, sort_keys=True, indent=2, default=str)


def _folder(cache_dir: Path, content: str) -> Path:
    return Path(cache_dir) / hashlib.sha256(content.encode()).hexdigest()[:32]


def _name(shard: int) -> str:
    return f"{shard:05d}.safetensors"


def _checksum(features: Tensor, labels: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in (features, labels):
        digest.update(repr((str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
