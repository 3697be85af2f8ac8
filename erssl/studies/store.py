"""A store of runs: pretrainings of equal settings are never trained twice.

A store is a folder of run directories. A run is found by its resolved settings, whatever its
folder is called, so that a run of ``erssl pretrain`` may be laid beside the others. Settings that
say where and how a run works, not what it computes, do not count; images, and the weights that a
run begins with, count by what is in them, not by their path.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from erssl.data.places import content_of, images_digest, is_place
from erssl.errors import ConfigError, DataError, RunError
from erssl.files import write_json
from erssl.layers import flat
from erssl.paths import user_path
from erssl.run.checkpoint_files import has_checkpoint
from erssl.run.directory import CHECKPOINTS, CONFIG, LAST_CHECKPOINT, RESULTS
from erssl.run.summary import read_results
from erssl.settings.pretrain import resolved_config
from erssl.settings.resume import may_change

IMAGES = "images.json"  # what a finished run was asked to be, and trained on
FAILURE = "failure.json"  # why it ended without results
_PLANNED = ".planned"  # folder of the store: what unfinished runs are to be
_CHECKPOINT = "checkpoint"  # the weights that a run begins with
_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
# Changes what is computed, and a run that goes on may be told it.
_NONFINITE, _STOP = "on_nonfinite", "stop"
# What a run may fit to its images, so that it is not what was asked for.
FITTED = ("batch_size", "optimizer.warmup_epochs", "data.mean", "data.std")
# Of these 1 is one batch and 1.0 are all.
_COUNTS_OR_SHARES = ("trainer.limit_train_batches", "trainer.limit_val_batches")


@dataclass(frozen=True)
class Plan:
    """What a run is asked to be.

    Attributes:
        asked: Its key.
        rest: Its key without what it may fit to its images.
        digest: Of what it reads, by :func:`inputs_digest`.
    """

    asked: str
    rest: str
    digest: str


class RunStore:
    """The runs of a folder by what they were asked to be.

    A run may have fitted its settings to its images, such as the batch to a few of them; it is
    found by what was asked for as well as by what it came to.

    Attributes:
        folder: The folder, which need not exist yet.
        unread: Run directories whose settings could not be read, with the reason.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the settings of every run in the folder.

        Raises:
            ConfigError: If the folder is a file.
        """
        self.folder = user_path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise ConfigError(f"store={folder} is a file; name a folder.")
        self.unread: dict[Path, str] = {}
        self._runs: dict[str, Path] = {}
        for config in sorted(self.folder.glob(f"*/{CONFIG}")):
            self._read(config.parent)

    def place(self, key: str, method: str) -> Path:
        """Where the run of a key lies, or shall lie, which is no folder of another run."""
        name = f"{method}-{key[:12]}"
        place, number = self.folder / name, 1
        while key not in self._runs and _is_taken(place):
            if (place / CONFIG).is_file():  # which may be this run, begun since the store was read
                self._read(place)
            number += 1
            place = self.folder / f"{name}-{number}"
        return self._runs.get(key, place)

    def _read(self, run: Path) -> None:
        """Take in the keys of a run directory, or why it has none."""
        try:
            keys = _keys_of(run)
        except (ConfigError, RunError) as error:
            self.unread[run] = str(error)
            return
        for each in keys:
            held = self._runs.get(each)
            if held is None or (is_finished(run) and not is_finished(held)):
                self._runs[each] = run


def is_finished(run: Path) -> bool:
    """Whether a run directory holds results of a pretraining that can be read."""
    return _protocol_of(run) == "pretrain"


def is_of_another(run: Path) -> bool:
    """Whether a run directory holds results of something else than a pretraining."""
    return _protocol_of(run) not in (None, "pretrain")


def _protocol_of(run: Path) -> str | None:
    try:
        return str(read_results(run / RESULTS)["protocol"])
    except DataError:
        return None


def damage_of(run: Path) -> str | None:
    """Why the results of a run directory cannot be read; ``None`` of others and without results."""
    file = run / RESULTS
    if not file.exists():
        return None
    try:
        read_results(file)
    except DataError as error:
        return str(error)
    return None


def holds_run(run: Path) -> bool:
    """Whether a run has left something in a directory that another one would delete."""
    files = (run / CONFIG, run / RESULTS)
    return any(file.exists() for file in files) or has_checkpoint(run / LAST_CHECKPOINT)


def key_of(
    config: Mapping[str, Any], digest: str | None = None, without: Collection[str] = ()
) -> str:
    """Digest of what a run computes.

    Args:
        config: Its fully resolved settings.
        digest: Of what it reads, by :func:`inputs_digest`; ``None`` to read that now.
        without: Dotted keys that do not count.

    Returns:
        SHA-256 in hexadecimal.
    """
    counted = {
        key: _plain(value, key)
        for key, value in flat(config).items()
        if not (may_change(key) or is_place(key) or _is_empty(value))
        if key != _CHECKPOINT and key not in without
    }
    if config.get(_NONFINITE, _STOP) != _STOP:
        counted[_NONFINITE] = config[_NONFINITE]
    counted["images"] = digest or inputs_digest(config)
    text = json.dumps(counted, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def inputs_digest(config: Mapping[str, Any]) -> str:
    """Digest of the images of a run, and of the weights that it begins with where it has some."""
    images = images_digest(config["data"])
    start = config.get(_CHECKPOINT)
    if not start:
        return images
    return hashlib.sha256(f"{images}|{_weights_digest(str(start))}".encode()).hexdigest()


def mark_planned(run: Path, plan: Plan) -> None:
    """Keep what a run is to be and of what, before it begins, beside the runs of its store.

    Its own folder is its own to clear.
    """
    file = _planned_file(run)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, asdict(plan))


def mark_finished(run: Path, plan: Plan) -> None:
    """Keep what a run was asked to be, and the digest of what it read, where its images are gone.

    Of one that was asked for in two ways, the first, which it has fitted to its images.
    """
    key = key_of(resolved_config(run / CONFIG), plan.digest)
    before = _mark_of(run)
    asked = before.get("asked", plan.asked) if before.get("key") == key else plan.asked
    write_json(run / IMAGES, {"digest": plan.digest, "asked": asked, "key": key})
    _planned_file(run).unlink(missing_ok=True)


def mark_failure(run: Path, reason: str) -> None:
    """Keep why a run ended without results, so that it is not trained again unasked."""
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / FAILURE, {"reason": reason})


def failure_of(run: Path) -> str | None:
    """Why a run has no results that can be read, although it was tried; ``None`` of any other."""
    if damage := damage_of(run):
        return damage
    if is_of_another(run):
        return f"{run / RESULTS} is of erssl {_protocol_of(run)}; move it away."
    try:
        return str(json.loads((run / FAILURE).read_text(encoding="utf-8"))["reason"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "it failed, and why cannot be read"


def diverged(metrics: Mapping[str, float]) -> bool:
    """Whether the training of a finished run came to a loss that is no number."""
    return not math.isfinite(metrics.get("train_loss", 0.0))


def digest_of(run: Path) -> str | None:
    """The digest of what a run has read, where that was kept."""
    return _mark_of(run).get("digest")


def _keys_of(run: Path) -> set[str]:
    """What a run is found by: what it came to, and what it was asked to be.

    The latter only while nobody has gone on with it otherwise.
    """
    config, mark = resolved_config(run / CONFIG), _mark_of(run)
    digest = mark.get("digest")
    key = key_of(config, digest)
    if "asked" not in mark:
        return {key}
    if "key" in mark:
        same = mark["key"] == key
    else:  # planned alone
        same = mark.get("rest") == key_of(config, digest, FITTED)
    return {key, mark["asked"]} if same else {key}


def _mark_of(run: Path) -> dict[str, str]:
    """What was kept of a run when it was planned or finished; nothing of one trained by hand."""
    for file in (run / IMAGES, _planned_file(run)):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return {str(name): str(value) for name, value in content.items()}
        except (OSError, ValueError, AttributeError):
            continue
    return {}


def _planned_file(run: Path) -> Path:
    return run.parent / _PLANNED / f"{run.name}.json"


def _is_taken(place: Path) -> bool:
    """Whether a place is that of a run, or a file."""
    return (place.exists() and not place.is_dir()) or holds_run(place)


def _weights_digest(start: str) -> str:
    """Digest of a file, of the weights in a folder, or of the name of what is no place."""
    place = user_path(start)
    files = [place]
    if place.is_dir():  # such as of a run, which keeps more than weights
        below = sorted([*place.iterdir(), *(place / CHECKPOINTS).glob("*")])
        files = [file for file in below if file.suffix in _WEIGHTS and file.is_file()]
    digest = hashlib.sha256()
    for file in files:
        digest.update(content_of(str(file)))
    return digest.hexdigest()


def _plain(value: Any, key: str = "") -> Any:
    """A value as it counts: 1 and 1.0 are one number, which a file need not tell apart."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if key in _COUNTS_OR_SHARES:
        return value
    return float(value) if type(value) is int else value


def _is_empty(value: object) -> bool:
    """Whether a value is that of a key that nobody has set, which an older run may not have."""
    return value is None or value == [] or value == {}
