"""State dicts under wrappers, prefixes and containers, and files that hold several sets."""

import pytest
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

from erssl import load_backbone
from erssl.errors import ConfigError, DataError
from erssl.models import build_backbone
from erssl.models.backbones import BackboneOptions


def network(seed):
    torch.manual_seed(seed)
    return torchvision.models.resnet18()


@pytest.fixture(scope="module")
def trained():
    return network(0).state_dict()


@pytest.fixture(scope="module")
def average():
    return network(1).state_dict()


def prefixed(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def within(stage, wrapper, state):
    return {name.replace(f"{stage}.", f"{stage}.{wrapper}."): t for name, t in state.items()}


def same(backbone, state):
    own = {n: t for n, t in state.items() if not n.startswith("fc.")}
    torch.testing.assert_close(backbone.state_dict(), own, rtol=0, atol=0)


WRAPPED = {
    "compile of DDP": lambda s: prefixed("_orig_mod.module.", s),
    "DDP of compile": lambda s: prefixed("module._orig_mod.", s),
    "DDP twice": lambda s: prefixed("module.module.", s),
    "FSDP": lambda s: within(
        "layer1", "_fsdp_wrapped_module", prefixed("_fsdp_wrapped_module.", s)
    ),
    "checkpointing": lambda s: within("layer1.0", "_checkpoint_wrapped_module", s),
    "fabric": lambda s: {"model": prefixed("_forward_module.module.", s)},
    "a part": lambda s: {"state_dict": prefixed("backbone.module.", s)},
    "DeepSpeed": lambda s: {"module": s, "optimizer": None, "dp_world_size": 1},
    "containers": lambda s: {"model_state_dict": prefixed("module.encoder_q.", s), "epoch": 1},
    "average": lambda s: prefixed("module.backbone.", s) | {"n_averaged": torch.tensor(5)},
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_are_left_out_of_names_in_any_order(trained, tmp_path, wrapper):
    torch.save(WRAPPED[wrapper](trained), tmp_path / "file.pth")
    same(load_backbone(tmp_path / "file.pth"), trained)


def test_a_network_that_has_a_wrappers_name_in_it_keeps_it(tmp_path):
    options = BackboneOptions("iformer_t", "timm")
    state = build_backbone(options).state_dict()
    assert any(".module." in name for name in state)
    torch.save(prefixed("module.", state), tmp_path / "iformer.pth")
    read = load_backbone(tmp_path / "iformer.pth", "iformer_t")
    torch.testing.assert_close(read.state_dict(), state, rtol=0, atol=0)


def test_a_prefix_that_no_rule_knows_is_offered_and_taken(trained, average, tmp_path):
    file = tmp_path / "file.ckpt"
    torch.save({"state_dict": prefixed("net.encoder.", trained)}, file)
    with pytest.raises(DataError, match=r"a whole backbone is read with prefix=net.encoder \(resn"):
        load_backbone(file)
    for prefix in ("net.encoder", "net.encoder."):
        same(load_backbone(file, prefix=prefix), trained)
    with pytest.raises(DataError, match=r"no backbone in names that begin with net\.decoder"):
        load_backbone(file, prefix="net.decoder")
    two = prefixed("net.a.", trained) | prefixed("net.b.", average)
    torch.save({"state_dict": two}, file)
    with pytest.raises(DataError, match=r"prefix=net.a \(resnet18\), or prefix=net.b \(resnet18\)"):
        load_backbone(file)
    backbone = load_backbone(file, prefix="net.b")
    same(backbone, average)
    assert "this is prefix=net.b (another is read with prefix=net.a)" in str(backbone.report)
    tv = torchvision.models.mobilenet_v3_small().state_dict()
    torch.save(prefixed("model.", tv), file)
    with pytest.raises(DataError, match=r"read with prefix=model \(of this architecture\)"):
        load_backbone(file, "mobilenet_v3_small")


def swa(trained, average):
    kept = {"StochasticWeightAveraging": {"average_model_state": prefixed("backbone.", average)}}
    return {"state_dict": prefixed("backbone.", trained), "callbacks": kept}


def references(trained, average):
    """torchvision's own: ``ExponentialMovingAverage`` is an AveragedModel."""
    model = torchvision.models.resnet18()
    model.load_state_dict(average)
    return {"model": trained, "model_ema": AveragedModel(model).state_dict()}


# what takes which of two sets; that of the rules first
TWO_SETS = {
    "timm": (
        lambda t, a: {"arch": "resnet18", "state_dict": t, "state_dict_ema": a},
        ("average", {}),
        ("trained", {"weights": "state_dict"}),
    ),
    "DeiT": (
        lambda t, a: {"model": t, "model_ema": a},
        ("average", {}),
        ("trained", {"weights": "model"}),
    ),
    "torchvision": (references, ("average", {}), ("trained", {"weights": "model"})),
    "lightning": (
        lambda t, a: {
            "state_dict": prefixed("backbone.", a),
            "current_model_state": prefixed("backbone.", t),
        },
        ("average", {}),
        ("trained", {"weights": "current_model_state"}),
    ),
    "swa": (
        swa,
        ("trained", {}),
        ("average", {"weights": "callbacks.StochasticWeightAveraging.average_model_state"}),
    ),
    "ours": (
        lambda t, a: {"state_dict": prefixed("backbone.", t) | prefixed("target_backbone.", a)},
        ("trained", {}),
        ("average", {"prefix": "target_backbone"}),
    ),
    "MoCo": (
        lambda t, a: {
            "state_dict": prefixed("module.encoder_q.", t) | prefixed("module.encoder_k.", a)
        },
        ("trained", {}),
        ("average", {"prefix": "encoder_k"}),
    ),
}


@pytest.mark.parametrize("kind", TWO_SETS)
def test_of_two_sets_of_weights_the_report_says_which_and_how_to_take_the_other(
    trained, average, tmp_path, kind
):
    make, (first, _), (second, how) = TWO_SETS[kind]
    states = {"trained": trained, "average": average}
    torch.save(make(trained, average), tmp_path / "file.pth")
    backbone = load_backbone(tmp_path / "file.pth")
    same(backbone, states[first])
    said = " ".join(f"{key}={value}" for key, value in how.items())
    assert f"(another is read with {said})" in str(backbone.report)
    same(load_backbone(tmp_path / "file.pth", **how), states[second])


def test_a_container_that_is_not_there_is_refused_with_those_that_are(trained, tmp_path):
    torch.save({"state_dict": trained, "model_ema": trained}, tmp_path / "file.pth")
    with pytest.raises(ConfigError, match=r"weights=ema is no container.*state_dict, model_ema"):
        load_backbone(tmp_path / "file.pth", weights="ema")


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "shufflenet_v2_x0_5"])
def test_torchvisions_other_names_are_read(tmp_path, name):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)().eval()
    torch.save(reference.state_dict(), tmp_path / "file.pth")
    backbone = load_backbone(tmp_path / "file.pth", name)
    assert backbone.architecture == BackboneOptions(name)
    images = torch.rand(2, 3, 64, 64)
    inputs = []
    last = [m for m in reference.modules() if isinstance(m, nn.Linear)][-1]
    last.register_forward_hook(lambda module, given, output: inputs.append(given[0]))
    with torch.no_grad():
        reference(images)
        torch.testing.assert_close(backbone(images), inputs[0])
    assert backbone.feature_dim == inputs[0].shape[1]
    assert "as torchvision has it for" in str(backbone.report)


def test_infinite_bounds_of_a_network_are_no_fault_of_a_file(tmp_path):
    small = {"depth": 1, "embed_dim": 64, "num_heads": 2}
    options = BackboneOptions("gemma4_vit_167m", "timm", options=small)
    state = build_backbone(options).state_dict()
    bounds = [name for name, tensor in state.items() if tensor.isinf().any()]
    assert bounds
    torch.save(state, tmp_path / "file.pth")
    torch.testing.assert_close(load_backbone(tmp_path / "file.pth", options).state_dict(), state)
    weight = next(name for name in state if name not in bounds and state[name].ndim == 2)
    for name, value in ((weight, float("inf")), (bounds[0], float("nan"))):
        torch.save(state | {name: torch.full_like(state[name], value)}, tmp_path / "file.pth")
        with pytest.raises(DataError, match=rf"NaN or infinite values in 1 of .* such as {name}"):
            load_backbone(tmp_path / "file.pth", options)
