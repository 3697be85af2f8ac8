#!/usr/bin/env bash
# torch 2.14.1 (oneDNN): on a CPU with AVX512-BF16 the weight's gradient of a bfloat16 convolution is
# partly not written, where an image is narrower than the convolution's stride.
#
# Guess: a part of the kernel that meets nothing but padding has the gradient 0, as in float32.
# Seen: a 3 x 3 convolution of stride 2 and padding 1 over a single pixel: in 16 of 16 trials entries of
# the gradient are what lay in that memory before (NaN, where it was filled with NaN; any finite number
# else, silently). At stride 1, and over 2 x 2 pixels, in none.
# Who meets it: bf16-mixed or bf16 autocast of a ResNet on images of 16 pixels (the first convolution
# of the last stage strides over one pixel). The output does not depend on those entries, but weight
# decay, LARS and clipping by the norm do, and NaN spreads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import torch
from torch import nn

supported = torch.cpu._is_avx512_bf16_supported()
print("torch", torch.__version__, "AVX512-BF16:", supported)
counts = []
for side, stride in ((1, 2), (2, 2), (1, 1)):
    wrong = 0
    for _ in range(16):
        convolution = nn.Conv2d(64, 64, 3, stride, 1, bias=False).bfloat16()
        output = convolution(torch.randn(8, 64, side, side).bfloat16()).float().sum()
        spoilt = [torch.full_like(convolution.weight, torch.nan) for _ in range(8)]
        del spoilt
        output.backward()
        wrong += not bool(convolution.weight.grad.isfinite().all())
    print(f"image {side} x {side}, stride {stride}: not finite in {wrong} of 16")
    counts.append(wrong)
if supported:
    assert counts == [16, 0, 0], "another behaviour than the one that is described"
else:
    raise SystemExit("This processor has no AVX512-BF16: nothing can be seen on it.")
print("as described")
PY
