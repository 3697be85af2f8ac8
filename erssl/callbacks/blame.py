"""Which module, term or gradient was the first that is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from erssl.loss.state import hold_state, states_of

_PROBE = "online_classifier"


def terms_of(module: LightningModule) -> Mapping[str, Tensor]:
    """The terms of the loss that a criterion keeps."""
    terms = getattr(getattr(module, "criterion", None), "terms", {})
    return {name: v.detach() for name, v in terms.items() if isinstance(v, Tensor)}


@torch.no_grad()
def first_in_forward(trainer: Trainer, module: LightningModule, batches: Sequence[Any]) -> str:
    """Pass the batches once more, and name what gives other than finite values for finite ones.

    Buffers change as in a step; queues and centres do not. Whatever is drawn, such as masks, is
    drawn anew.

    Returns:
        Such as ``"the output of projection_head.1 (BatchNorm1d)"``; empty where all is finite.
    """
    step: Any = getattr(module, "multi_view_step", None)
    blamed: list[str] = []
    # the criterion's part is said by its terms
    modules = ((n, m) for n, m in module.named_modules() if not n.startswith("criterion"))
    names = {m: n for n, m in modules if not list(m.children())}

    def look(child: nn.Module, given: Any, gave: Any) -> None:
        if not blamed and _finite(given) and not _finite(gave):
            blamed.append(f"the output of {names[child]} ({type(child).__name__})")

    bad = [number for number, batch in enumerate(batches, 1) if not _finite(batch)]
    # all ranks go on together or none: one that went on alone would wait in a loss that gathers
    if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
        return f"the images of batch {bad[0]} of the step" if bad else "the images of another rank"
    if step is None:
        return ""
    handles = [child.register_forward_hook(look) for child in names]
    try:
        with trainer.precision_plugin.forward_context(), hold_state(states_of(module)):
            for batch in batches:
                step(batch[0])
    finally:
        for handle in handles:
            handle.remove()
    return blamed[0] if blamed else ""


def first_in_backward(names: Sequence[str], flags: Tensor, terms: Mapping[str, Tensor]) -> str:
    """Name terms of the loss, or the module at which gradients ceased to be finite.

    Gradients pass modules in the opposite order: the last one is where they came from.

    Args:
        names: Of the parameters.
        flags: Whether the loss and each parameter's gradient is not finite, (1 + P,).
        terms: Of the loss.
    """
    bad_terms = [name for name, value in terms.items() if not bool(value.isfinite().all())]
    bad = [n for n, flag in zip(names, flags[1:].tolist(), strict=True) if flag]
    own = [name for name in bad if not name.startswith(_PROBE)]
    loss = bool(flags[0])
    if bad_terms:
        term = "term" if len(bad_terms) == 1 else "terms"
        return f"the loss, in its {term} {', '.join(bad_terms)}"
    if own:
        what = f"the gradient of {own[-1]}, {len(bad)} of {len(names)} gradients in all"
        return f"the loss and {what}" if loss else what
    return "the loss of the online probe" if bad else "the loss"


def _finite(values: Any) -> bool:
    tensors = [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()]
    return all(bool(x.isfinite().all()) for x in tensors)
