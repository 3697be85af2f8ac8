#!/usr/bin/env bash
# torch 2.14.1 (oneDNN) on a CPU with AVX512-BF16: the weight's gradient of a bfloat16 convolution over
# single pixels takes five times its forward pass or more, for the same number of operations.
#
# Guess: forward pass, gradient of the input and gradient of the weight are three products of one size
# and take about the same time, as they do for a map of 16 x 16 (weight 1.3 times forward).
# Seen: 512 images of 256 channels, kernel 3 x 3, padding 1, one thread: forward 1.0 ms, input's gradient
# 1.0, weight's gradient 9.6, of which eight of nine taps are known to be 0. Written as a product of
# matrices over unfolded patches, zeros included, the same gradient takes a third of that.
# Who meets it: bf16 training of small residual networks on images of 16 or 32 pixels on a CPU, whose
# last stages have maps of one or two pixels: a third of a step can be these gradients.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.6
"$folder/env/bin/python" -W ignore - <<'PY'
import time
from statistics import median

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
supported = torch.cpu._is_avx512_bf16_supported()
print("torch", torch.__version__, "AVX512-BF16:", supported)
if not supported:
    raise SystemExit("This processor has no AVX512-BF16: nothing can be seen on it.")


def milliseconds(run):
    seen = []
    for _ in range(20):
        start = time.perf_counter()
        run()
        seen.append(1e3 * (time.perf_counter() - start))
    return median(seen[5:])


ratios = {}
for images, channels, side in ((512, 256, 1), (512, 32, 16)):
    x = torch.randn(images, channels, side, side).bfloat16()
    weight = torch.randn(channels, channels, 3, 3).bfloat16()
    x, weight = (each.to(memory_format=torch.channels_last) for each in (x, weight))
    output = F.conv2d(x, weight, None, 1, 1)
    gradient = torch.randn_like(output)

    def of(which):
        torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, which
        )

    forward = milliseconds(lambda: F.conv2d(x, weight, None, 1, 1))
    of_input = milliseconds(lambda: of([True, False, False]))
    of_weight = milliseconds(lambda: of([False, True, False]))
    ratios[side] = of_weight / forward
    print(f"side {side}: forward {forward:.1f} ms, input {of_input:.1f}, weight {of_weight:.1f}")
assert ratios[1] > 4 > 2.5 > ratios[16], ratios
print("as described")
PY
