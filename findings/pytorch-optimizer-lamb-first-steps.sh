#!/usr/bin/env bash
# pytorch-optimizer 4.1.0: Lamb's first step moves every layer by ten times the learning rate (with
# the default betas; by 100 times for beta1 0.99), where LAMB's trust ratio promises exactly one.
#
# Guess: LAMB moves a layer by lr * |w|, whatever the gradient's size. That is its point: the update
# is divided by its own length. Seen: the bias correction 1 / (1 - beta1^t), which belongs into the
# moment before that division, multiplies the step after it. |change| / (lr |w|) is 10, 5.3, 3.7,
# 2.9, ... and still 1.5 at step 10: the learning rate's warm-up backwards. With lr 0.1 the first
# step is as long as the weights. torch-optimizer 0.3.0 gives 1 at each step.
# Who meets it: large-batch pretraining, which takes LAMB to have no layer jump; a rate tuned with
# another implementation diverges in the first steps here, or a rate tuned here is too low later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q torch==2.14.1 numpy==2.4.6 \
  pytorch-optimizer==4.1.0 torch-optimizer==0.3.0
"$folder/env/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import numpy as np
import pytorch_optimizer
import torch
import torch_optimizer

print("pytorch-optimizer", version("pytorch-optimizer"), "torch", torch.__version__)


def changes(optimizer, rate=0.01, steps=10, **options):
    """Relative change of a layer at each step, in units of the learning rate."""
    layer = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    update = optimizer([layer], lr=rate, **options)
    result = []
    for _ in range(steps):
        before = layer.detach().clone()
        layer.grad = torch.tensor([[6.0, 8.0]])
        update.step()
        result.append(float((layer.detach() - before).norm() / before.norm()) / rate)
    return np.array(result)


expected = 1 / (1 - 0.9 ** np.arange(1, 11))
for rate in (0.001, 0.01):
    here, other = (changes(kind.Lamb, rate) for kind in (pytorch_optimizer, torch_optimizer))
    print(f"rate {rate}: {here.round(2)}, torch-optimizer {other.round(2)}")
    assert np.allclose(here, expected, rtol=1e-2)
    assert np.allclose(other, 1, rtol=1e-2)
slow = changes(pytorch_optimizer.Lamb, 0.001, 3, betas=(0.99, 0.999))
none = changes(pytorch_optimizer.Lamb, 0.001, 3, betas=(0.0, 0.999))
print("beta1 0.99:", slow.round(1), "beta1 0:", none.round(2))
assert np.allclose(slow, 1 / (1 - 0.99 ** np.arange(1, 4)), rtol=1e-2)
assert np.allclose(none, 1, rtol=1e-2)
first = changes(pytorch_optimizer.Lamb, 0.1, 1)[0] * 0.1
print(f"rate 0.1: the first step is {first:.3f} of the weights' length")
assert np.isclose(first, 1, rtol=1e-3)
print("as described")
PY
