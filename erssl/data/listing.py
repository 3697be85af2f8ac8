"""What lies in folders of images, listed at nearly the speed of the system's own call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from erssl.data.file_list import FileListBuilder
from erssl.data.left_out import LeftOut, first_bytes


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over."""
    # Among them, with an image's extension, are other systems' notes ("._cat.jpg").
    return name.startswith(".")


def images_among(
    folder: str, names: list[str], left_out: LeftOut, extensions: Sequence[str]
) -> list[str]:
    """Those of the names that an image's file has; the others are counted in ``left_out``."""
    if _all_images(names, extensions):
        return names
    kept = []
    for name in names:
        if is_hidden(name):
            left_out.hide()
        elif os.path.splitext(name)[1].lower() in extensions:
            kept.append(name)
        else:
            path = os.path.join(folder, name)
            left_out.add(path, partial(first_bytes, path))
    return kept


def _all_images(names: Sequence[str], extensions: Sequence[str]) -> bool:
    """Whether all names end in the same extension of images, and none is hidden.

    Told of all at once, since a second a million names is as long as listing them takes.
    """
    if not names:
        return False
    extension = os.path.splitext(names[0])[1]
    lines = "\0".join(["", *names, ""])
    alike = extension and lines.count(f"{extension}\0") == len(names)
    return bool(alike) and extension.lower() in extensions and "\0." not in lines


def add_images_below(
    folder: str,
    number: int,
    builder: FileListBuilder,
    left_out: LeftOut,
    extensions: Sequence[str],
) -> bool:
    """Add the images of a class in torchvision's order; whether there are any.

    Links to folders are followed, but never twice: a link to the folder that it lies in would else
    be followed for ever.
    """
    places: list[tuple[str, list[str]]] = []
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        place = waiting.pop()
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        try:
            inner, files = split_entries(place)
        except OSError:
            left_out.counts["folder that cannot be read"] += 1
            continue
        left_out.hide(sum(map(is_hidden, inner)))
        shown = sorted(name for name in inner if not is_hidden(name))
        waiting += [os.path.join(place, name) for name in reversed(shown)]
        files.sort()
        places.append((place, images_among(place, files, left_out, extensions)))
    for place, files in sorted(places):
        builder.add(place, files, number)
    return any(files for _, files in places)


def split_entries(folder: str) -> tuple[list[str], list[str]]:
    """Names of the folders in a folder, links to some among them, and of all else."""
    with os.scandir(folder) as listed:
        entries = list(listed)
    try:
        inner = [entry.name for entry in entries if entry.is_dir()]
    except OSError:  # of a link in a circle
        inner = [entry.name for entry in entries if _leads_to_folder(entry)]
    if not inner:  # as where there are many
        return inner, [entry.name for entry in entries]
    folders = set(inner)
    return inner, [entry.name for entry in entries if entry.name not in folders]


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
