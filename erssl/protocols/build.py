"""A method from its settings."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from erssl.errors import ConfigError, DataError
from erssl.methods import MultiViewMethod, get_method
from erssl.models import build_backbone, check_input_size
from erssl.settings.pretrain import PretrainSettings


def build_method(
    settings: PretrainSettings,
    num_classes: int,
    batch_size: int,
    backbone: nn.Module | None = None,
) -> MultiViewMethod:
    """Build the method, and make sure that it and its backbone take the views.

    Args:
        settings: The run.
        num_classes: Classes of the online probe.
        batch_size: Images a step on each device.
        backbone: Whose weights it starts from; ``None`` builds a random one.

    Raises:
        ConfigError: If method, backbone and views do not fit together.
    """
    options = dict(settings.method)
    name = options.pop("name")
    views = settings.data.views
    backbone = build_backbone(settings.backbone) if backbone is None else backbone
    sizes = [settings.data.image_size]
    if views.n_local_views:
        sizes.append(views.local_image_size)
    check_input_size(backbone, sizes, settings.data.channels)
    if settings.optimizer.layer_decay != 1 and not hasattr(backbone, "blocks"):
        raise ConfigError(
            f"optimizer.layer_decay={settings.optimizer.layer_decay} is for vision transformers, "
            f"which have blocks, and {settings.backbone.name} has none; leave it at 1."
        )
    method_class = get_method(name)
    if views.n_local_views and not method_class.info.multi_crop:
        raise ConfigError(
            f"data.views.n_local_views={views.n_local_views} but method={name} takes "
            f"{method_class.info.views} views; set data.views.n_local_views=0."
        )
    if views.n_views < method_class.info.min_views:
        raise ConfigError(
            f"data.views.recipe={views.recipe} gives {views.n_views} view of an image but "
            f"method={name} compares {method_class.info.min_views}; choose another recipe."
        )
    try:
        return method_class(
            batch_size,
            num_classes,
            backbone=backbone,
            optimizer=settings.optimizer,
            channels_last=settings.channels_last,
            compile=settings.compile,
            **options,
        )
    except ValueError as error:
        raise ConfigError(f"method={name} cannot be built: {error}") from error


def trained_method(file: Path, settings: PretrainSettings) -> MultiViewMethod:
    """The method of a run as a checkpoint of it has it.

    Args:
        file: The checkpoint.
        settings: The run.

    Raises:
        DataError: If the file cannot be read, or is of another run.
    """
    try:
        state = torch.load(file, "cpu", weights_only=True)["state_dict"]
        probe = state["online_classifier.classification_head.weight"]
        method = build_method(settings, num_classes=len(probe), batch_size=2)
        method.load_state_dict(state)
    except ConfigError:
        raise
    except Exception as error:  # torch's reader raises nearly anything on damaged files
        reason = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
        raise DataError(
            f"{file} is no checkpoint of this run ({reason}); on=features reads its backbone."
        ) from error
    return method
