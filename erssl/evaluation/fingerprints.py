"""What frozen features depend on, as short digests: the backbone and the images."""

from __future__ import annotations

import hashlib
import json
import os
import re
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Subset
from torchvision.datasets.folder import default_loader

from erssl.data.given import GivenImages
from erssl.errors import ConfigError, DataError

_BLOCK = 8192  # files that a thread looks at in one go
_THREADS = 8  # of no use on a local disk; network file systems answer slowly, but many at a time


def weights_digest(backbone: nn.Module) -> str:
    """Digest of all that a backbone computes with.

    It covers the names, types, shapes and bytes of all parameters and buffers, and the class and
    plain options (numbers, texts, switches and lists of them) of every part: two activations may
    hold the same weights. Whether the backbone trains or evaluates does not matter.

    Args:
        backbone: The backbone, on any device.

    Returns:
        SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    for name, part in backbone.named_modules():
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        digest.update(repr((name, kind, _options(part))).encode())
    for kind in ("parameter", "buffer"):
        for name, tensor in getattr(backbone, f"named_{kind}s")():
            digest.update(repr((kind, name, str(tensor.dtype), tuple(tensor.shape))).encode())
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def data_digest(images: Any) -> str:
    """Digest of a data set's images and class numbers, in their order.

    Of image files the path, size, time of change and class number of each count, not the bytes;
    of images in memory the pixels. A data set of another kind says itself when its images change,
    by a text ``fingerprint``; of one that does not, or has a transform or a loader of its own,
    every image is read.

    Args:
        images: A data set with ``samples`` (``ImageFiles``, torchvision's ``ImageFolder``; the
            class number may be a sequence of marks, where images show several classes),
            with ``pixels`` or ``data`` and ``targets`` (``ImagesInMemory``, torchvision's
            CIFAR), with ``fingerprint`` and ``targets`` (images in tars and of Hugging Face), a
            ``Subset`` of one, or any of pairs of an image, of Pillow's or a tensor, and a target.

    Returns:
        SHA-256 in hexadecimal.

    Raises:
        ConfigError: If items are no such pairs.
        DataError: If an image file is gone.
    """
    if isinstance(images, GivenImages):
        return _digest_of_given(images)
    return _quick_digest(images) or _digest_of_items(images)


def _quick_digest(images: Any) -> str | None:
    """Digest of what tells when the images change; ``None`` where only the images do."""
    digest = hashlib.sha256()
    if isinstance(images, Subset):
        if (whole := _quick_digest(images.dataset)) is None:
            return None
        digest.update(whole.encode())
        digest.update(np.asarray(images.indices, dtype=np.int64).tobytes())
        return digest.hexdigest()
    kind = type(images)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(told := getattr(images, "fingerprint", None), str):  # it says itself when
        digest.update(repr((name, told)).encode())
        digest.update(np.asarray(images.targets, dtype=np.int64).tobytes())
        return digest.hexdigest()
    if not _gives_what_it_holds(images):
        return None
    digest.update(repr((name, ["None", "None"])).encode())  # no transforms
    pixels = getattr(images, "pixels", getattr(images, "data", None))
    if hasattr(images, "samples"):
        for line in _files(images.samples):
            digest.update(line)
        if getattr(images, "upright", False):
            digest.update(b"upright")
        if (channels := getattr(images, "channels", 3)) != 3:
            digest.update(f"{channels} channels".encode())
    elif isinstance(pixels, np.ndarray | Tensor) and hasattr(images, "targets"):
        values = torch.as_tensor(pixels)
        digest.update(repr((str(values.dtype), tuple(values.shape))).encode())
        digest.update(tensor_bytes(values))
        digest.update(np.asarray(images.targets, dtype=np.int64).tobytes())
    else:
        return None
    return digest.hexdigest()


def _digest_of_given(images: GivenImages) -> str:
    """Digest of a user's data set: by what it is made of where that tells, else by every image."""
    digest = hashlib.sha256(images.targets.tobytes())
    if images.channels != 3:
        digest.update(f"{images.channels} channels".encode())
    if quick := _quick_digest(images.dataset):
        digest.update(quick.encode())
        return digest.hexdigest()
    for index in range(len(images)):
        _add_image(digest, images[index][0])
    return digest.hexdigest()


def _digest_of_items(images: Any) -> str:
    digest = hashlib.sha256()
    for index in range(len(images)):
        item = images[index]
        if not (
            isinstance(item, tuple | list)
            and len(item) == 2
            and isinstance(item[0], Image.Image | Tensor)
        ):
            raise ConfigError(
                f"Features of a {type(images).__qualname__} cannot be kept, since it has items "
                "other than pairs of an image and a target; set cache=false (in Python: give "
                "cache_dir=None, or a data_key that changes when the images do)."
            )
        digest.update(np.asarray(item[1], dtype=np.int64).tobytes())
        _add_image(digest, item[0])
    return digest.hexdigest()


def _add_image(digest: hashlib._Hash, image: Image.Image | Tensor) -> None:
    if isinstance(image, Tensor):
        digest.update(repr(tuple(image.shape)).encode())
        digest.update(tensor_bytes(image))
    else:
        digest.update(repr(image.size).encode())
        digest.update(image.tobytes())


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor of any type, without a copy where it lies on the CPU in order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def without_addresses(thing: object) -> str:
    """The text of an object without the places in memory that differ from run to run."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))


def _gives_what_it_holds(images: Any) -> bool:
    """Whether a data set's items are its files or pixels, as they lie there.

    What a transform does, a loader or a class of somebody's own, no text of theirs tells.
    """
    stock = type(images).__module__.partition(".")[0] in ("erssl", "torchvision")
    changes = any(getattr(images, name, None) is not None for name in _TRANSFORMS)
    return stock and not changes and getattr(images, "loader", default_loader) is default_loader


_TRANSFORMS = ("transform", "transforms", "target_transform")


def _options(part: nn.Module) -> list[tuple[str, object]]:
    named = {k: _told(v) for k, v in vars(part).items() if not k.startswith("_")}
    options = {k: v for k, v in named.items() if v is not _UNTOLD}
    options.pop("training")
    return sorted(options.items())


_UNTOLD = object()


def _told(value: object) -> Any:
    """An option as its text says all of it: functions and classes by name, no other objects."""
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, tuple | list):
        each = [_told(v) for v in value]
        whole = tuple(each) if isinstance(value, tuple) else each
        return _UNTOLD if any(v is _UNTOLD for v in each) else whole
    if isinstance(value, dict):
        items = [(_told(k), _told(v)) for k, v in value.items()]
        return _UNTOLD if any(_UNTOLD in pair for pair in items) else items
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else _UNTOLD


def _files(samples: Sequence[tuple[str, int]]) -> Iterator[bytes]:
    blocks = [samples[start : start + _BLOCK] for start in range(0, len(samples), _BLOCK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_file_block, blocks)


def _file_block(samples: Sequence[tuple[str, int]]) -> bytes:
    try:
        rows = [
            (
                os.path.abspath(path),
                (status := os.stat(path)).st_size,
                status.st_mtime_ns,
                np.asarray(target, dtype=np.int64).tolist(),
            )
            for path, target in samples
        ]
    except OSError as error:
        raise DataError(
            f"The image {error.filename} cannot be read ({error.strerror}); scan the folder again."
        ) from error
    return json.dumps(rows).encode(errors="surrogatepass")
