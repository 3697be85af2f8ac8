"""torchvision's classifiers beyond the plain ResNets, without their last layer."""

from __future__ import annotations

from typing import Any

from torch import nn

from erssl.errors import ConfigError

# Where torchvision keeps what comes after the features.
_HEADS = ("fc", "classifier", "heads", "head")
# Training passes of these return more than one output, or their features are no vector.
_REFUSED = ("googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1")


def torchvision_names() -> list[str]:
    """Names of the classifiers that can be used as backbones."""
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return [name for name in names if name not in _REFUSED]


def build_torchvision(name: str) -> nn.Module:
    """Build a network; its last linear layer becomes an identity.

    Args:
        name: Of :func:`torchvision_names`.

    Returns:
        Module giving what its classifier's last layer takes, (N, feature_dim), with the attribute
        ``feature_dim``.

    Raises:
        ConfigError: If it has no such layer.
    """
    import torchvision

    network: nn.Module = torchvision.models.get_model(name, weights=None)
    for head in _HEADS:
        module = getattr(network, head, None)
        if isinstance(module, nn.Module):
            linear = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.Linear)]
            if linear:
                path, layer = linear[-1]
                parent, _, last = f"{head}.{path}".rstrip(".").rpartition(".")
                setattr(network.get_submodule(parent), last, nn.Identity())
                network.feature_dim = layer.in_features  # type: ignore[assignment]
                return network
    raise ConfigError(f"{name} has no linear classifier whose input would be the features.")


def torchvision_preprocessing(name: str) -> dict[str, Any]:
    """How torchvision evaluates the first weights that it published under a name."""
    import torchvision

    weights = next(iter(torchvision.models.get_model_weights(name)))
    used = weights.transforms()
    size, resized = used.crop_size[0], used.resize_size[0]
    return {
        "image_size": size,
        "mean": list(used.mean),
        "std": list(used.std),
        "interpolation": used.interpolation.value,
        "crop_pct": size / resized,
    }
