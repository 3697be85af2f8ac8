#!/usr/bin/env bash
# torch 2.14.1 on a CPU, glibc 2.36 (Debian 12): a list of detached losses, four bytes each, keeps a
# buffer of the size of the logits for every step. A thousand steps of 4 MB logits hold 4 GB.
#
# Guess: `losses.append(loss.detach())` is the advice against a host that waits for its device at each
# step, and keeps one number; the graph is gone, the logits are freed. Seen: they are freed, and
# never used again. torch asks for memory aligned to 64 bytes, which takes a little more than the block
# it gives back; the number that was made meanwhile lies behind that block, so that it cannot
# grow, and the next logits of the same size do not fit. `malloc_trim(0)` gives all of it back.
# Losses written into one tensor, or read by `item()`, hold a few such buffers: 0 to 12 MB for 208.
# Who meets it: linear probes and classifiers of many classes on a CPU, with as many numbers kept as an
# epoch has steps; memory that grows through an epoch, and that no Python object accounts for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.6
cat > "$folder/steps.py" <<'PY'
import ctypes
import sys

import torch
import torch.nn.functional as F

ROWS, CLASSES, BEFORE, STEPS = 1024, 1000, 10, 50
torch.set_num_threads(1)


def held():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1000


torch.manual_seed(0)
layer = torch.nn.Linear(8, CLASSES)
optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
features, labels = torch.randn(ROWS, 8), torch.randint(CLASSES, (ROWS,))
one = torch.empty(BEFORE + STEPS)
kept = []
for step in range(BEFORE + STEPS):
    if step == BEFORE:
        start = held()
    loss = F.cross_entropy(layer(features), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if sys.argv[1] == "list":
        kept.append(loss.detach())
    elif sys.argv[1] == "item":
        kept.append(loss.item())
    else:
        one[step] = loss.detach()
grown = held() - start
ctypes.CDLL("libc.so.6").malloc_trim(0)
print(grown, held() - start)
PY
"$folder/env/bin/python" -W ignore - "$folder/steps.py" <<'PY'
import platform
import subprocess
import sys
from importlib.metadata import version

print("torch", version("torch"), *platform.libc_ver())
logits = 1024 * 1000 * 4 / 1e6
for how in ("list", "item", "tensor"):
    command = [sys.executable, "-W", "ignore", sys.argv[1], how]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grown, trimmed = map(float, said.split())
    print(f"{how}: {grown:.1f} MB in 50 steps of {logits:.1f} MB logits, {trimmed:.1f} after a trim")
    if how == "list":
        assert 0.8 * 50 * logits < grown < 1.2 * 50 * logits and trimmed < logits
    else:
        assert grown < 5 * logits
print("as described")
PY
