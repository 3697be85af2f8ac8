#!/usr/bin/env bash
# OpenCV 5.0.0.93 (opencv-python-headless): cv2.imread gives None for a TIFF whose Orientation tag
# turns it by 90 degrees, unless it is square; cv2.imdecode reads the same bytes, turned upright.
#
# Guess: imread and imdecode are two doors to one decoder. Seen: imread logs an internal error
# ("'original_ptr == real_mat.data' must be 'true'") and returns None for orientations 5 to 8 of a
# 64 x 32 image; a square image and orientations 1 to 4 are read, and so is the same image as JPEG,
# PNG or WebP.
# Who meets it: a folder of scans whose reader calls imread gives None, which code that skips
# unreadable files drops without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q opencv-python-headless==5.0.0.93 Pillow==13.0.0 numpy==2.4.6
cd "$folder"
env/bin/python - <<'PY' 2>/dev/null
import cv2
import numpy as np
from PIL import Image

ORIENTATION = 0x112


def shapes(size, orientation, name):
    """Shape from the file and shape from its bytes, None where nothing was read."""
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint32) % 251
    image = Image.fromarray(pixels.astype(np.uint8).reshape(size[1], size[0], 3))
    if name.endswith("tiff"):
        image.save(name, tiffinfo={ORIENTATION: orientation})
    else:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image.save(name, exif=exif)
    data = np.fromfile(name, np.uint8)
    read = cv2.imread(name), cv2.imdecode(data, cv2.IMREAD_COLOR)
    return tuple(None if pixels is None else pixels.shape[:2] for pixels in read)


print("OpenCV", cv2.__version__)
for orientation in range(1, 9):
    found = shapes((64, 32), orientation, "wide.tiff")
    print("TIFF 64 x 32, orientation", orientation, "imread", found[0], "imdecode", found[1])
    turned = orientation >= 5
    assert found == ((None, (64, 32)) if turned else ((32, 64), (32, 64))), found
assert shapes((32, 32), 6, "square.tiff") == ((32, 32), (32, 32))
for name in ("a.jpg", "a.png", "a.webp"):
    assert shapes((64, 32), 6, name) == ((64, 32), (64, 32)), name
print("as described")
PY
