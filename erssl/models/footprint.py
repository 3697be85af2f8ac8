"""What a training keeps in memory, and what it computes, counted without a device."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

_BYTES = (
    4  # of a weight, a gradient and an optimiser's moment, also where autocast computes in less
)
Optimizer = Literal["sgd", "lars", "adamw", "muon"]
# Moments that an optimiser keeps of each weight; Muon has two of the few biases and norms.
MOMENTS: dict[Optimizer, int] = {"sgd": 1, "lars": 1, "adamw": 2, "muon": 1}
_BATCHES = (2, 4)  # of which what grows with the batch and what does not are told apart


class Footprint(NamedTuple):
    """A network that is trained on images of one size, in float32.

    Attributes:
        parameters: Number of weights.
        buffers: Bytes of running statistics.
        activations: Bytes that autograd keeps for the backward pass, an image.
        constant: Those that it keeps whatever the number of images.
        forward_flops: Operations of a forward pass, an image; multiplying and adding are two.
    """

    parameters: int
    buffers: int
    activations: float
    constant: float
    forward_flops: float

    @property
    def step_flops(self) -> float:
        """Operations of forward and backward pass, an image.

        A product, also one that is a convolution, has two of its size in the backward pass, for
        what goes in and for its weights; the first layer's for the images is left out by torch, and
        is counted here.
        """
        return 3 * self.forward_flops


def footprint(network: nn.Module, image_size: int) -> Footprint:
    """Count what a network keeps and computes; nothing is computed, nor a weight allocated.

    Args:
        network: On the meta device, in training mode: from images (N, 3, H, W) to one tensor.
        image_size: Side of the images, pixels.
    """
    kept = [saved_bytes(network, _images(size, image_size)) for size in _BATCHES]
    activations = (kept[1] - kept[0]) / (_BATCHES[1] - _BATCHES[0])
    size = _BATCHES[0]
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        network(_images(size, image_size))
    return Footprint(
        parameters=sum(p.numel() for p in network.parameters()),
        buffers=sum(b.numel() * b.element_size() for b in network.buffers()),
        activations=activations,
        constant=kept[0] - size * activations,
        forward_flops=forward.get_total_flops() / size,
    )


def saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps between a forward pass and its backward pass, without the weights.

    Memory that several operations keep counts once.
    """
    own = {_memory(p) for p in network.parameters()} | {_memory(b) for b in network.buffers()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _memory(tensor) not in own:
            kept[_memory(tensor)] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
        network(images)
    return sum(storage.nbytes() for storage in kept.values())


def training_bytes(
    counted: Footprint, images: int, optimizer: Optimizer, ema: bool
) -> dict[str, float]:
    """Bytes of a training step on one device, by what takes them.

    Args:
        counted: The network that is trained.
        images: Images of a step on the device, all views of all images of the batch.
        optimizer: Which moments there are.
        ema: Whether there is a target network, an average of the trained one.

    Returns:
        ``weights``, ``gradients``, ``optimizer``, ``target`` and ``activations``.
    """
    weights = _BYTES * counted.parameters
    return {
        "weights": weights + counted.buffers,
        "gradients": weights,
        "optimizer": MOMENTS[optimizer] * weights,
        "target": weights + counted.buffers if ema else 0,
        "activations": images * counted.activations + counted.constant,
    }


def largest_batch(
    counted: Footprint,
    memory: float,
    views: int,
    optimizer: Optimizer,
    ema: bool,
) -> int:
    """Images of a batch of which all views fit into so many bytes; 0 where not one does."""
    fixed = sum(training_bytes(counted, 0, optimizer, ema).values())
    return max(0, int((memory - fixed) // (views * counted.activations)))


def step_operations(counted: Footprint, views: int, ema: bool) -> float:
    """Operations of a training step for an image in all its views.

    Args:
        counted: The network that is trained.
        views: Of an image.
        ema: Whether a target network passes each view once, without a backward pass.
    """
    return views * (counted.step_flops + (counted.forward_flops if ema else 0))


def step_seconds(counted: Footprint, batch: int, views: int, ema: bool, rate: float) -> float:
    """Seconds that the operations of a training step take at a rate.

    Args:
        counted: The network that is trained.
        batch: Images of the step, each in all its views.
        views: Of an image.
        ema: Whether there is a target network.
        rate: Operations a second that the device reaches on such a network, a part of its peak,
            since normalisations and small products wait for memory.
    """
    return batch * step_operations(counted, views, ema) / rate


class _FusedAttention(TorchFunctionMode):
    """Attention as devices compute it, which keep no matrix of all pairs; the meta device does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take the place of torch's function."""
        if func is F.scaled_dot_product_attention and args[0].device.type == "meta":
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return fused(*args, **(kwargs or {}))[0]
        return func(*args, **(kwargs or {}))


def _images(count: int, size: int) -> Tensor:
    return torch.empty(count, 3, size, size, device="meta")


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
