"""A method from its settings."""

from __future__ import annotations

from torch import nn

from erssl.errors import ConfigError
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
    sizes = [settings.data.image_size, *[views.local_image_size] * bool(views.n_local_views)]
    check_input_size(backbone, sizes)
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
