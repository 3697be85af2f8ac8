#!/usr/bin/env bash
# torchvision 0.29.1: a half turn of KeyPoints is not a horizontal and a vertical flip; the two differ
# by one pixel each way. Flips count pixels (x becomes width - 1 - x), turns and resizing edges.
#
# Guess: KeyPoints are coordinates as boxes are, and x becomes width - x; or they are indices of
# pixels in every transform. Seen: neither. In a 6 x 4 image the key point (1, 1) goes to (4, 2) by
# two flips and to (5, 3) by rotate 180; image and box come out the same both ways. Resizing doubles
# (1, 1) to (2, 2), the corner of the pixel, not to its centre (2.5, 2.5). And a key point within the
# last pixel is flipped out of the canvas: 5.75 of 6 becomes -0.75, which SanitizeKeyPoints removes
# and ClampKeyPoints moves to 0 (width - x would be 0.25).
# Who meets it: landmark heads, and dense losses that match points of two views (a flip in one, a turn
# or another size in the other): a bias of one unit, which on a canvas of 14 x 14 patches is a patch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torchvision==0.29.1 torch==2.14.1 numpy==2.4.6
"$folder/env/bin/python" -W ignore - <<'PY'
import torch
import torchvision
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

print("torchvision", torchvision.__version__)
HEIGHT, WIDTH = SIZE = 4, 6


def points(*pairs):
    """Key points on the canvas."""
    return tv_tensors.KeyPoints(torch.tensor(pairs), canvas_size=SIZE)


def flips(value):
    """Horizontal, then vertical."""
    return functional.vertical_flip(functional.horizontal_flip(value))


def turn(value):
    """Half a turn."""
    return functional.rotate(value, 180)


image = tv_tensors.Image(torch.arange(HEIGHT * WIDTH).reshape(1, *SIZE).to(torch.uint8))
box = tv_tensors.BoundingBoxes(torch.tensor([[1.0, 1.0, 2.0, 2.0]]), format="XYXY", canvas_size=SIZE)
point = points([1.0, 1.0])
assert torch.equal(flips(image), turn(image))
assert torch.allclose(flips(box), turn(box)) and flips(box).tolist() == [[4.0, 2.0, 5.0, 3.0]]
print("box by flips", flips(box).tolist(), "by a half turn", turn(box).tolist())
print("key point by flips", flips(point).tolist(), "by a half turn", turn(point).tolist())
assert flips(point).tolist() == [[4.0, 2.0]]
assert torch.allclose(turn(point), torch.tensor([[5.0, 3.0]]))

double = functional.resize(point, [2 * HEIGHT, 2 * WIDTH]).tolist()
print("key point in twice the size", double)
assert double == [[2.0, 2.0]]
centre = points([WIDTH / 2, HEIGHT / 2])
quarter = functional.rotate(centre, 90, expand=True).tolist()
print("centre by flips", flips(centre).tolist(), "by a quarter turn", quarter)
assert flips(centre).tolist() == [[2.0, 1.0]]
assert torch.allclose(torch.tensor(quarter), torch.tensor([[2.0, 3.0]]), atol=1e-4)

edge = points([5.75, 1.0], [1.0, 1.0])
flipped = functional.horizontal_flip(edge)
inside = v2.SanitizeKeyPoints(labels_getter=None)({"points": flipped})["points"]
clamped = v2.ClampKeyPoints()(flipped).tolist()
print("near the edge", edge.tolist(), "flipped", flipped.tolist(), "kept", len(inside), clamped)
assert flipped.tolist() == [[-0.75, 1.0], [4.0, 1.0]] and clamped[0] == [0.0, 1.0]
assert len(v2.SanitizeKeyPoints(labels_getter=None)({"points": edge})["points"]) == 2
assert len(inside) == 1
print("as described")
PY
