"""Backbones as timm takes them: one file of weights, or a folder of the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from erssl.errors import DataError
from erssl.escaping import markdown_code, markdown_text
from erssl.files import write_text
from erssl.models.backbones import BackboneOptions
from erssl.models.channels import RGB
from erssl.models.reports import listed
from erssl.models.timm_options import timm_arguments

FOLDER_FILES = ("config.json", "model.safetensors", "README.md")
#: What describes the network and not the images or the weights that timm published for it.
_OF_THE_NETWORK = ("architecture", "first_conv", "classifier", "fixed_input_size", "min_input_size")
_CARD = """---
tags:
- timm
- image-feature-extraction
library_name: timm
---
# {name}

A backbone without classifier, exported by erssl: images (N, {channels}, H, W) become features
(N, {width}).

- Architecture: timm's {code}{arguments}
- Images: {images}{assumed}

```python
import timm

model = timm.create_model("local-dir:<this folder>", pretrained=True, num_classes=0).eval()
config = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**config, is_training=False)
```

or by transformers: `AutoModel.from_pretrained("<this folder>")`, whose `pooler_output` are the
features.
"""


def read_timm(options: BackboneOptions, path: Path) -> nn.Module:
    """Build the network by ``timm.create_model`` with a file of weights."""
    import timm

    model: nn.Module = timm.create_model(
        options.name,
        pretrained=False,
        num_classes=0,
        checkpoint_path=str(path),
        **timm_arguments(options.options, options.in_channels),
    )
    return model.eval()


def write_folder(
    options: BackboneOptions,
    state: Mapping[str, Tensor],
    preprocessing: Mapping[str, Any],
    feature_dim: int,
    folder: Path,
    assumed: Sequence[str] = (),
) -> None:
    """Write the folder that ``timm.create_model("local-dir:<folder>")`` reads.

    It can be uploaded as it is: timm then reads it as ``hf-hub:<owner>/<name>``.

    Args:
        options: The architecture.
        state: Weights by timm's names, on the CPU.
        preprocessing: ``mean``, ``std``, ``image_size``, ``interpolation``; what is absent stays
            as timm has it for this architecture.
        feature_dim: Width of the features, for the model card.
        folder: The folder; made where it does not exist.
        assumed: What the checkpoint did not say, for the model card.
    """
    import timm
    from timm.models import save_for_hf

    arguments = timm_arguments(options.options, options.in_channels)
    model: Any = timm.create_model(options.name, pretrained=False, num_classes=0, **arguments)
    model.load_state_dict(dict(state))
    model.pretrained_cfg = timm_config(model.pretrained_cfg, preprocessing)
    # safetensors takes no weights that share memory, as CoaT's do in the network
    model.state_dict = lambda: dict(state)
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    _without_classes(folder / FOLDER_FILES[0])
    images = markdown_text(listed(preprocessing))
    card = _CARD.format(
        name=markdown_text(options.name),
        code=markdown_code(options.name),
        width=feature_dim,
        channels=options.in_channels,
        arguments="".join(f", {markdown_code(f'{k}={v!r}')}" for k, v in arguments.items()),
        images=images or "not said by the checkpoint; config.json has what timm assumes",
        assumed="".join(
            f"\n- Assumed by erssl, not said by the checkpoint: {markdown_text(a)}" for a in assumed
        ),
    )
    write_text(folder / FOLDER_FILES[2], card)


def _without_classes(file: Path) -> None:
    """Take ``num_classes`` out of ``model_args``: transformers passes one of its own beside them.

    timm reads the one at the top of the file.
    """
    config = json.loads(file.read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)
    file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def timm_config(published: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """timm's ``pretrained_cfg`` for weights of our own.

    Args:
        published: timm's own, of the weights that it publishes: licence, paper and download
            address are not ours and go.
        preprocessing: ``mean``, ``std``, ``image_size``, ``interpolation`` of our weights.

    Returns:
        The configuration; the centre is cropped as in erssl's evaluation, 224 of 256 pixels, and
        not at all below 96 pixels.
    """
    keys = (*_OF_THE_NETWORK, "input_size", "mean", "std", "interpolation", "crop_pct")
    config = {key: published[key] for key in keys if published.get(key) is not None}
    config["num_classes"] = 0
    config |= {key: tuple(preprocessing[key]) for key in ("mean", "std") if preprocessing.get(key)}
    if size := preprocessing.get("image_size"):
        config["input_size"] = (preprocessing.get("channels", RGB), size, size)
        config["crop_pct"] = 224 / 256 if size >= 96 else 1.0
        config["interpolation"] = preprocessing.get("interpolation") or "bilinear"
    if preprocessing.get("crop_pct"):
        config["crop_pct"] = preprocessing["crop_pct"]
    return config


def read_folder(preprocessing: Mapping[str, Any], folder: Path) -> nn.Module:
    """Build the network from a folder as timm does, and see what images it then asks for.

    Raises:
        DataError: If timm reads another mean, standard deviation or size than ours.
    """
    import timm
    from timm.data.config import resolve_model_data_config

    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    read = resolve_model_data_config(model)
    theirs = {
        "mean": list(read["mean"]),
        "std": list(read["std"]),
        "image_size": read["input_size"][-1],
    }
    for key, value in theirs.items():
        ours = preprocessing.get(key, value)
        if value != (ours if key == "image_size" else list(ours)):
            raise DataError(f"timm reads {key}={value} from its config.json in place of {ours}.")
    return model.eval()
