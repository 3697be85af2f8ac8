#!/usr/bin/env bash
# onnx 1.23.2: version_converter takes a Softmax over channels from opset 13 to 12 and changes what it
# computes: the result sums to 1 over channels and pixels together. No error, no warning.
#
# Guess: a converter that handles Softmax upwards (12 to 13, with a Flatten and a Reshape around it)
# either undoes that downwards or refuses. Seen: the node keeps its axis, but
# before opset 13 an axis meant "all axes from here on". For 3 x 4 x 4 scores and axis 1 a pixel's
# probabilities sum to 1/16 on average; back in opset 13 the model keeps the new meaning. Only the last
# axis is right. Hardmax upwards loses the old meaning in turn: a 1 a sample becomes one a pixel.
# Who meets it: a dense or patch-wise head (softmax over axis 1) brought down for an older runtime;
# an argmax over channels still agrees, so accuracy hides it, while scores, thresholds and losses change.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/env/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.version_converter import convert_version

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
SHAPE = [2, 3, 4, 4]
scores = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def model(operator, opset, axis):
    """One node over scores of SHAPE."""
    node = helper.make_node(operator, ["scores"], ["result"], axis=axis)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)
              for name in ("scores", "result")]
    graph = helper.make_graph([node], "head", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def run(network):
    """What onnxruntime computes, after a check of the model."""
    onnx.checker.check_model(network, full_check=True)
    session = onnxruntime.InferenceSession(
        network.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"scores": scores})[0]


for axis, same in ((1, False), (2, False), (3, True), (-1, True)):
    new = model("Softmax", 13, axis)
    old = convert_version(new, 12)
    before, after, again = run(new), run(old), run(convert_version(old, 13))
    print(f"Softmax over axis {axis}: sums {before.sum(axis).mean():.4f} in opset 13,",
          f"{after.sum(axis).mean():.4f} in 12, {again.sum(axis).mean():.4f} back in 13")
    assert np.allclose(before.sum(axis), 1, atol=1e-5)
    assert np.allclose(after, before, atol=1e-6) == same
    assert np.allclose(again, after, atol=1e-6)
    if axis == 1:
        assert np.allclose(after.sum((1, 2, 3)), 1, atol=1e-5)
        assert np.array_equal(after.argmax(1), before.argmax(1))

old = model("Hardmax", 12, 1)
before, after = run(old).sum((1, 2, 3)), run(convert_version(old, 13)).sum((1, 2, 3))
print("Hardmax over axis 1, ones a sample:", before, "in opset 12,", after, "in 13")
assert (before == 1).all() and (after == 16).all()
print("as described")
PY
