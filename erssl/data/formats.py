"""Which image files are read: their formats, by Pillow's names, and their extensions."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache

from PIL import Image, features
from torchvision.datasets.folder import IMG_EXTENSIONS

# What files of torchvision's extensions hold. Pillow goes by content and would hand others to
# programs: a "cat.jpg" of PostScript to Ghostscript.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
_EXTENSIONS = (*IMG_EXTENSIONS, ".gif", ".jfif", ".jpe")

# Format, the name of its decoder in PIL.features, extensions.
_OPTIONAL: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("JPEG2000", "jpg_2000", (".jp2",)),
    ("AVIF", "avif", (".avif",)),
)

# Plugins that a user may have installed: format, extensions, and the packages that bring it. None
# is an extra of erssl: the wheels for HEIC bundle encoders under the GPL.
_PLUGINS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("HEIF", (".heic", ".heif"), ("pillow_heif", "pi_heif")),
    ("JXL", (".jxl",), ("pillow_jxl",)),
)


# How files of the formats begin, of which so many bytes are looked at, and how they are named. PPM
# and BMP begin with letters that a text may begin with.
HEAD = 16
_BEGINNINGS: tuple[tuple[bytes, int, str], ...] = (
    (b"\xff\xd8\xff", 0, ".jpg"),
    (b"\x89PNG\r\n\x1a\n", 0, ".png"),
    (b"GIF8", 0, ".gif"),
    (b"II*\0", 0, ".tif"),
    (b"MM\0*", 0, ".tif"),
    (b"WEBP", 8, ".webp"),
    (b"jP  \r\n\x87\n", 4, ".jp2"),
    (b"ftypavif", 4, ".avif"),
    (b"ftyphei", 4, ".heic"),
)


def extension_of(head: bytes) -> str:
    """The extension that suits a file by its first bytes; empty where they are no image's.

    Args:
        head: The first :data:`HEAD` bytes of the file.
    """
    return next((e for mark, at, e in _BEGINNINGS if head[at:].startswith(mark)), "")


@cache
def image_formats() -> tuple[str, ...]:
    """Formats that are read here, by Pillow's names."""
    return _readable()[0]


@cache
def image_extensions() -> tuple[str, ...]:
    """Extensions of the names of files that are read here, in lower case and with their dot."""
    return _readable()[1]


@cache
def _readable() -> tuple[tuple[str, ...], tuple[str, ...]]:
    formats, extensions = list(_FORMATS), list(_EXTENSIONS)
    for name, decoder, endings in _OPTIONAL:
        if features.check(decoder):
            formats.append(name)
            extensions += endings
    for plugin, endings, packages in _PLUGINS:
        if plugin in Image.OPEN or any(map(_register, packages)):
            formats.append(plugin)
            extensions += endings
    return tuple(formats), tuple(extensions)


def _register(package: str) -> bool:
    """Let a plugin that is installed register itself with Pillow; ``False`` where there is none."""
    if importlib.util.find_spec(package) is None:
        return False
    try:
        module = importlib.import_module(package)
    except Exception:  # a library that it is built on is missing: as if it were not installed
        return False
    register = getattr(module, "register_heif_opener", None)
    if register is not None:
        register()
    return True
