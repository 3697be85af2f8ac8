"""A frozen backbone made quick: batch normalisation inside the convolutions, channels-last."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import reduce
from typing import Any, Literal, NamedTuple

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Precision = Literal["float32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bf16")
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)
_CLOSE = 1e-5  # of the largest feature, as documented; folding rounds to about 3e-7 of it
_TRACES = threading.Lock()  # tracing, and the switch of TF32, are the whole process's
_PART = 32  # images that a CPU computes at a time: larger activations are new memory at each layer


class Frozen(NamedTuple):
    """A backbone that is ready to be computed with.

    Attributes:
        forward: From images (n, 3, H, W) in float32, on the device of the backbone, to features.
        folded: Batch normalisations that went into the convolution before them.
        kept: Those that stayed, as where they stand before the convolution.
    """

    forward: Callable[[Tensor], Tensor]
    folded: int
    kept: int


@torch.no_grad()
def freeze(backbone: nn.Module, precision: Precision = "float32") -> Frozen:
    """Make a quick copy of a backbone in eval mode, which itself is left as it is.

    Every batch normalisation that alone takes what a convolution gives is multiplied into it, and
    convolutions compute channels-last. A backbone in which there is none to fold, or that torch.fx
    cannot trace, computes as it comes.

    Args:
        backbone: In eval mode.
        precision: ``"bf16"`` computes with weights and activations in bfloat16.
    """
    norms = sum(isinstance(part, _NORMS) for part in backbone.modules())
    net: nn.Module = backbone
    folded = 0
    if norms:
        net, folded = _fold(backbone)
    if precision == "bf16":
        net = (net if folded else copy.deepcopy(net)).to(torch.bfloat16)
    if folded:
        net = net.to(memory_format=torch.channels_last)
    dtype = next((p.dtype for p in net.parameters()), torch.float32)

    def forward(images: Tensor) -> Tensor:
        images = images.to(dtype)
        if folded:
            images = images.to(memory_format=torch.channels_last)
        parts = images.split(_PART) if images.device.type == "cpu" else (images,)
        outputs = [net(part).flatten(start_dim=1).float() for part in parts]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    return Frozen(forward, folded, norms - folded)


class _Tracer(fx.Tracer):
    """Sees convolutions and normalisations whole, of whatever library they are.

    While torch.fx traces, it stands in the way of every module's calls, in all threads; those of
    other threads are let through.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (nn.Conv2d, *_NORMS)) or super().is_leaf_module(
            m, module_qualified_name
        )


def _fold(backbone: nn.Module) -> tuple[nn.Module, int]:
    """A copy with its batch normalisations folded, and their number; as it came where none can."""
    net = copy.deepcopy(backbone)
    try:
        with _TRACES:
            graph = _Tracer().trace(net)
    except Exception:  # whatever control flow of a network has to say against being traced
        return backbone, 0
    parts = dict(net.named_modules())
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    folded = 0
    for node in list(graph.nodes):
        if node.op != "call_module" or not isinstance(parts[str(node.target)], _NORMS):
            continue
        before = node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        conv, norm = parts[str(before.target)], parts[str(node.target)]
        once = calls.count(str(before.target)) == calls.count(str(node.target)) == 1
        if once and len(before.users) == 1 and _foldable(conv, norm):
            _replace(net, str(before.target), fuse_conv_bn_eval(conv, norm))
            _replace(net, str(node.target), _after(norm))
            folded += 1
    if not folded:
        return backbone, 0
    quick = fx.GraphModule(net, graph)
    return (quick, folded) if _same(backbone, quick) else (backbone, 0)


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether a convolution can take a normalisation of fixed statistics in."""
    plain = isinstance(conv, nn.Conv2d) and not hasattr(conv, "parametrizations")
    hooks = any(part._forward_hooks or part._forward_pre_hooks for part in (conv, norm))
    return plain and not hooks and norm.running_mean is not None


def _after(norm: nn.Module) -> nn.Module:
    """What is left of a normalisation: timm's have the activation inside."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity()


def _replace(net: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(reduce(getattr, parent.split("."), net) if parent else net, last, part)


def _same(backbone: nn.Module, quick: nn.Module) -> bool:
    """Whether both give the same features of two images of noise."""
    parameter: Any = next(backbone.parameters())
    size = getattr(backbone, "preprocessing", {}).get("image_size", 64)
    generator = torch.Generator().manual_seed(0)
    channels = getattr(backbone, "preprocessing", {}).get("channels", 3)
    images = torch.randn(2, channels, size, size, generator=generator).to(parameter)
    with _TRACES:
        tf32 = torch.backends.cudnn.allow_tf32  # on by default, and rounds to 1e-3 of the features
        torch.backends.cudnn.allow_tf32 = False
        try:
            quick.to(memory_format=torch.channels_last)  # as it computes from then on
            before = backbone(images)
            after = quick(images.to(memory_format=torch.channels_last))
        except Exception:  # of a size that it does not take: it is not known to be the same
            return False
        finally:
            torch.backends.cudnn.allow_tf32 = tf32
    return bool((before - after).abs().max() <= _CLOSE * before.abs().max())
