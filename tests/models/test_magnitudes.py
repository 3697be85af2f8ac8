"""Weights that are read without complaint and give no finite feature."""

import pickle
import re

import numpy as np
import pytest
import torch

from erssl import load_backbone
from erssl.downstream.detection.weights import backbone_weights
from erssl.errors import DataError
from erssl.models import build_backbone
from erssl.models.export.detectron import detectron2_names


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return build_backbone("resnet18").state_dict()


def load(state, tmp_path):
    torch.save(state, tmp_path / "weights.pth")
    return load_backbone(tmp_path / "weights.pth")


def change(state, name, value, dtype=None):
    changed = {key: tensor.clone() for key, tensor in state.items()}
    if dtype is not None:
        changed[name] = changed[name].to(dtype)
    changed[name].view(-1)[0] = value
    return changed


@pytest.mark.parametrize(
    ("name", "value", "dtype", "says"),
    [
        ("layer2.0.bn1.running_var", -1e-3, None, "variances below 0"),
        ("layer3.1.bn2.running_var", -1.0, torch.float16, "variances below 0"),
        ("layer1.0.conv1.weight", 1e300, torch.float64, "single precision cannot hold"),
        ("layer1.0.conv1.weight", float("nan"), torch.bfloat16, "NaN or infinite"),
        ("layer4.1.conv2.weight", 3e38, None, "weights up to 3.0e+38 in"),
    ],
)
def test_a_tensor_that_gives_no_finite_feature_is_named(state, tmp_path, name, value, dtype, says):
    with pytest.raises(DataError, match=rf"{re.escape(says)}.*{re.escape(name)}"):
        load(change(state, name, value, dtype), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(state, tmp_path, dtype):
    stored = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
    read = load(stored, tmp_path).state_dict()
    for name, tensor in stored.items():
        torch.testing.assert_close(read[name], tensor.to(read[name].dtype), rtol=0, atol=0)


def test_large_weights_with_finite_features_are_read(state, tmp_path):
    """A variance may be large: what it divides is as large."""
    backbone = load(change(state, "bn1.running_var", 1e6), tmp_path)
    assert backbone(torch.zeros(1, 3, 64, 64)).isfinite().all()


@pytest.mark.parametrize(
    ("value", "says"), [(-1.0, "variances below 0"), (np.inf, "NaN or infinite")]
)
def test_weights_in_detectron2s_names_are_checked_too(state, tmp_path, value, says):
    arrays = {name: tensor.numpy().copy() for name, tensor in detectron2_names(state).items()}
    arrays["stem.conv1.norm.running_var"][0] = value
    file = tmp_path / "R-18.pkl"
    file.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    with pytest.raises(DataError, match=rf"{says}.*stem\.conv1\.norm\.running_var"):
        backbone_weights(file)
