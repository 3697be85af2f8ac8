#!/usr/bin/env bash
# Pillow 13.0.0: a grey, uncompressed TIFF with Orientation 5 to 8, opened by its name, has its pixels
# mixed up: it is neither the stored image nor the turned one. No error, no warning.
#
# Guess: a TIFF is turned upright while it is loaded, whatever it holds.
# Seen: RGB, compressed grey and files opened from memory are right; a grey uncompressed file that is
# opened by name is mapped into memory by its turned size, but has the rows of the stored one.
# Who meets it: scanners and microscopes write such files; a trainer sees diagonal stripes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q Pillow==13.0.0 numpy==2.4.6
cd "$folder"
env/bin/python - <<'PY'
import io
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

TURNED = {1: lambda a: a, 3: lambda a: np.rot90(a, 2), 6: lambda a: np.rot90(a, -1), 8: np.rot90}
grey = (np.add.outer(np.arange(20) * 7, np.arange(30)) % 251).astype(np.uint8)
kinds = {
    "grey": (grey, None),
    "grey, LZW": (grey, "tiff_lzw"),
    "grey, 16 bits": (grey.astype(np.uint16), None),
    "RGB": (np.stack([grey] * 3, -1), None),
}
print("Pillow", PIL.__version__)
for kind, (pixels, compression) in kinds.items():
    right = {}
    for orientation, turn in TURNED.items():
        image = Image.fromarray(pixels)
        image.save("a.tif", compression=compression, tiffinfo={0x112: orientation})
        expected = turn(pixels)
        by_name = np.asarray(Image.open("a.tif"))
        in_memory = np.asarray(Image.open(io.BytesIO(Path("a.tif").read_bytes())))
        assert np.array_equal(in_memory, expected), (kind, orientation)
        right[orientation] = np.array_equal(by_name, expected)
        if not right[orientation]:
            assert by_name.shape == pixels.shape and not np.array_equal(by_name, pixels)
    print(f"{kind}, opened by name, right for orientation: {right}")
    mapped = kind in ("grey", "grey, 16 bits")
    assert right == {1: True, 3: True, 6: not mapped, 8: not mapped}, right
print("as described")
PY
