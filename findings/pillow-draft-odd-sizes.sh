#!/usr/bin/env bash
# Pillow 13.0.0: Image.draft, asked for exactly the size at which libjpeg decodes at half scale,
# decodes at full scale when a side is odd. simplejpeg 1.9.0 and OpenCV 5.0.0.93 give the half.
#
# Guess: libjpeg makes ceil(side / 2) pixels at half scale, so asking for that size gets it.
# Seen: Pillow takes the scale min(width // asked, height // asked), and 501 // 251 is 1: a 501 x 375
# JPEG asked for 251 x 188 stays 501 x 375; asked for 250 x 187, one pixel less a side, it is
# 251 x 188. The same at a quarter and an eighth: always twice the size that was possible.
# Who meets it: loaders that decode at reduced scale before a crop are up to four times as slow on
# images with an odd side (most photographs) as on the others, and see other pixels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q Pillow==13.0.0 simplejpeg==1.9.0 \
  opencv-python-headless==5.0.0.93 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import io

import cv2
import numpy as np
import PIL
import simplejpeg
from PIL import Image

print("Pillow", PIL.__version__, "simplejpeg", simplejpeg.__version__, "OpenCV", cv2.__version__)


def sizes(width, height, factor):
    """Width and height that each library decodes to at 1 / factor."""
    ramp = np.add.outer(np.arange(height), np.arange(width)) % 256
    buffer = io.BytesIO()
    Image.fromarray(ramp.astype(np.uint8)).convert("RGB").save(buffer, "JPEG")
    data = buffer.getvalue()
    wide, high = -(-width // factor), -(-height // factor)
    exact, less = (Image.open(io.BytesIO(data)) for _ in range(2))
    exact.draft("RGB", (wide, high))
    less.draft("RGB", (width // factor, height // factor))
    simple = simplejpeg.decode_jpeg(data, min_width=wide, min_height=high, min_factor=1)
    mode = getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}")
    opencv = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    return exact.size, less.size, simple.shape[1::-1], opencv.shape[1::-1]


for width, height in ((501, 375), (500, 375), (333, 500)):
    for factor in (2, 4, 8):
        exact, less, simple, opencv = sizes(width, height, factor)
        print(f"{width} x {height} at 1/{factor}: Pillow {exact}, asked for less {less},", end=" ")
        print(f"simplejpeg {simple}, OpenCV {opencv}")
        reduced = (-(-width // factor), -(-height // factor))
        double = (-(-width * 2 // factor), -(-height * 2 // factor))
        assert less == simple == opencv == reduced
        assert exact == double
even = sizes(512, 384, 2)
assert even == ((256, 192),) * 4, even
print("as described")
PY
