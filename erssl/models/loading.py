"""``load_backbone``: any checkpoint to a module that gives features."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightly.transforms.utils import IMAGENET_NORMALIZE
from torch import Tensor, nn

from erssl.errors import ConfigError, DataError, ErsslError
from erssl.models.architectures import infer_architecture
from erssl.models.backbones import RESNETS, BackboneOptions, build_backbone
from erssl.models.checkpoints import check_finite, one_line, read_checkpoint
from erssl.models.headers import HEADER, own_header
from erssl.models.layouts import Found, find_backbone
from erssl.models.magnitudes import require_finite_features
from erssl.paths import user_path

WEIGHTS_FILE = "backbone.safetensors"
_SMALL = 96  # pixels; a transformer of smaller images was not trained on ImageNet's
_UNTRACKED = "num_batches_tracked"  # of a batch normalisation; counts steps, older files have none


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What was found in a checkpoint.

    Attributes:
        layout: Name of the rule by which the backbone was found.
        matched: Number of backbone weights that were read.
        missing: Names that the backbone has and the file has not, or in another shape.
        unexpected: Names of backbone weights in the file that the backbone has no place for.
        heads: Number of weights of heads, which are left out.
        assumed: Whether the preprocessing is what such files usually have, since neither the file
            nor the zoo says it.
    """

    layout: str
    matched: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    heads: int
    assumed: bool = False

    def __str__(self) -> str:
        """One sentence with the counts."""
        return (
            f"{self.matched} backbone weights matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected ({self.layout} layout, {self.heads} of heads left "
            "out)" + ("; preprocessing is assumed" if self.assumed else "")
        )


def load_backbone(
    path: str | Path,
    arch: str | BackboneOptions | None = None,
    *,
    allow_partial: bool = False,
    layout: str | None = None,
) -> nn.Module:
    """Read the backbone of any checkpoint.

    Reads run directories of ``erssl pretrain``, their ``backbone.safetensors`` and checkpoints,
    and every layout of :data:`erssl.models.layouts.LAYOUTS`: torchvision, timm, MoCo, MoCo v3,
    SimSiam, SwAV, DeepCluster v2, DINO, Barlow Twins, VICReg, BYOL, MVEB, MAE, lightly, solo-learn,
    vissl and more. Nothing in the file is executed (``weights_only=True``).

    Args:
        path: A run directory, a file, or ``"zoo:<name>"`` for published weights.
        arch: The architecture: a torchvision ResNet (``"resnet50"``), the same for small images
            (``"resnet18_cifar"``), a timm name, or options. ``None`` infers it from names and
            shapes.
        allow_partial: Take a file that does not hold every weight of the backbone; the others stay
            random.
        layout: Name of the only layout to try.

    Returns:
        The backbone in eval mode, giving features (N, feature_dim), with the attributes
        ``feature_dim``, ``architecture`` (:class:`BackboneOptions`), ``preprocessing`` (``mean``,
        ``std``, ``image_size``, ``interpolation``; empty where nothing is known) and ``report``
        (:class:`LoadReport`).

    Raises:
        DataError: If there is no such file, it cannot be read safely, no layout fits, weights are
            missing, not finite, negative where they are variances, or give features that are not
            finite, or the architecture cannot be told.
        ConfigError: If ``arch`` or ``layout`` is unknown.

    Example:
        >>> backbone = load_backbone("checkpoint.pth.tar")  # doctest: +SKIP
        >>> print(backbone.report)  # doctest: +SKIP
        318 backbone weights matched, 0 missing, 0 unexpected (MoCo layout, 4 of heads left out)
    """
    prepared: dict[str, Any] = {}
    if str(path).startswith("zoo:"):
        from erssl.models.zoo import zoo_file

        path, row = zoo_file(str(path).removeprefix("zoo:"))
        arch, layout, prepared = arch or row.arch, layout or row.layout, row.preprocessing
    path = user_path(path)
    file = path / WEIGHTS_FILE if (path / WEIGHTS_FILE).is_file() else path
    if file.is_dir():
        raise DataError(
            f"{path} has no {WEIGHTS_FILE}; name a finished run directory, or one of its "
            "checkpoints/*.ckpt."
        )
    content, header = read_checkpoint(file)
    options = named_architecture(arch) if isinstance(arch, str) else arch
    own, preprocessing = own_header(file, content, header)
    options = options or own
    found, options = _understand(file, content, options, layout, arch if own is None else None)
    if own is not None:
        found = dataclasses.replace(found, name="erssl")
    if options is None:
        raise DataError(
            f"The architecture of {file} ({found.name} layout, {len(found.state)} weights) "
            "is none of those that shapes tell (ResNet-18, 34, 50, 101 and plain ViTs); name it "
            "with arch=<torchvision or timm name>."
        )
    _compare(file, _planned(options), found, options, allow_partial)
    backbone = build_backbone(options)
    report = _fill(file, backbone, found, options, allow_partial)
    if preprocessing is None:
        preprocessing = {**_usual_preprocessing(options, found), **prepared}
        report = dataclasses.replace(report, assumed=not prepared)
    backbone.report = report  # type: ignore[assignment]
    backbone.preprocessing = preprocessing  # type: ignore[assignment]
    backbone.eval()
    require_finite_features(file, backbone, options, preprocessing)
    return backbone


def save_backbone(
    backbone: nn.Module,
    path: Path,
    options: BackboneOptions,
    preprocessing: dict[str, Any] | None = None,
) -> None:
    """Write weights as safetensors with all that is needed to use them in the file's header.

    Args:
        backbone: The trained backbone.
        path: The file to write.
        options: What the backbone was built from.
        preprocessing: ``mean``, ``std``, ``image_size`` and ``interpolation`` of the images.
    """
    from safetensors.torch import save_file

    state = {name: t.detach().cpu().contiguous() for name, t in backbone.state_dict().items()}
    metadata = {
        "backbone": json.dumps(dataclasses.asdict(options)),
        "preprocessing": json.dumps(preprocessing or {}),
    }
    partial = path.with_suffix(".partial")
    try:
        save_file(state, partial, metadata=metadata)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def checkpoint_header(
    backbone: nn.Module, preprocessing: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What a checkpoint keeps beside its state dict, so that its backbone can be read from it.

    Args:
        backbone: The backbone that was trained.
        preprocessing: What its images pass through.

    Returns:
        Keys to add to the checkpoint; none where the architecture is not known.
    """
    architecture = getattr(backbone, "architecture", None)
    if not isinstance(architecture, BackboneOptions):
        return {}
    options = dataclasses.asdict(architecture)
    return {HEADER: {"backbone": options, "preprocessing": dict(preprocessing)}}


def named_architecture(name: str) -> BackboneOptions:
    """Options of an architecture by its name: a torchvision ResNet, ``…_cifar``, or timm's."""
    plain = name.removesuffix("_cifar")
    if plain in RESNETS:
        return BackboneOptions(plain, cifar_stem=plain != name)
    return BackboneOptions(name, "timm")


def _with_what_no_name_says(options: BackboneOptions, found: Found) -> BackboneOptions:
    """Padding of a small stem and heads of a transformer, which the layout knows and no name."""
    rule = found.layout
    if options.cifar_stem:
        return dataclasses.replace(options, stem_padding=rule.stem_padding)
    if rule.vit_heads is not None and "patch_embed.proj.weight" in found.state:
        heads = {"num_heads": rule.vit_heads}
        return dataclasses.replace(options, options={**heads, **options.options})
    return options


def _understand(
    file: Path,
    content: Mapping[str, Any],
    options: BackboneOptions | None,
    layout: str | None,
    arch: str | BackboneOptions | None,
) -> tuple[Found, BackboneOptions | None]:
    """The backbone in a file, and its architecture where that can be told."""
    try:
        found = _find(file, content, options, layout)
        check_finite(file, found.state)
        rule = found.layout
        if options is None:
            options = infer_architecture(found.state, rule.stem_padding, rule.vit_heads)
        elif isinstance(arch, str):
            options = _with_what_no_name_says(options, found)
    except ErsslError:
        raise
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise DataError(
            f"The weights of {file} do not go together ({one_line(error)}); they are no backbone."
        ) from error
    return found, options


def _planned(options: BackboneOptions) -> dict[str, Tensor]:
    """Names and shapes of a network's weights, before any memory is taken for them."""
    try:
        with torch.device("meta"):
            return build_backbone(options).state_dict()
    except ConfigError:  # not every network of timm can be built without values
        return build_backbone(options).state_dict()


def _find(
    file: Path, content: Mapping[str, Any], options: BackboneOptions | None, layout: str | None
) -> Found:
    # With a known architecture its own first weight marks the backbone, whatever timm calls it.
    stem = None if options is None else next(iter(_planned(options)))
    found = find_backbone(content, layout, stem)
    if found is not None:
        return found
    keys = ", ".join(str(key) for key in list(content)[:6])
    of = f"the layout {layout}" if layout else "any known layout"
    what = "" if options is None else f" of {options.name}"
    raise DataError(
        f"{file} holds no backbone{what} in {of} (its keys begin with {keys}); name its "
        "architecture with arch=<torchvision or timm name>, or save backbone.state_dict() alone."
    )


def _usual_preprocessing(options: BackboneOptions, found: Found) -> dict[str, Any]:
    """ImageNet's, which every layout of the table was published with; none of small images."""
    if options.cifar_stem:
        return {}
    if (own_size := options.options.get("img_size", _SMALL)) < _SMALL:
        return {"image_size": own_size}
    return {
        "image_size": 224,
        "mean": list(IMAGENET_NORMALIZE["mean"]),
        "std": list(IMAGENET_NORMALIZE["std"]),
        "interpolation": found.layout.interpolation,
    }


def _fill(
    file: Path, backbone: nn.Module, found: Found, options: BackboneOptions, allow_partial: bool
) -> LoadReport:
    expected = backbone.state_dict()
    report = _compare(file, expected, found, options, allow_partial)
    left_out = set(report.unexpected)
    matched = {name: tensor for name, tensor in found.state.items() if name not in left_out}
    backbone.load_state_dict(matched, strict=False)
    return report


def _compare(
    file: Path,
    expected: Mapping[str, Tensor],
    found: Found,
    options: BackboneOptions,
    allow_partial: bool,
) -> LoadReport:
    """What of a file fits a network, by names and shapes; refuses what does not."""
    state = found.state
    matched = {n for n, t in state.items() if n in expected and _alike(t, expected[n])}
    report = LoadReport(
        found.name,
        len(matched),
        tuple(n for n in expected if n not in matched and not n.endswith(_UNTRACKED)),
        tuple(n for n in state if n not in matched),
        found.heads,
    )
    wrong = report.missing + report.unexpected
    if wrong and not (allow_partial and matched):
        first = _named(wrong[0], expected, state)
        raise DataError(
            f"{file} does not fit {options.name}: {report}, such as {first}; name "
            "what it is with arch=<torchvision or timm name>, or take what matches with "
            "allow_partial=true."
        )
    return report


def _alike(given: Tensor, expected: Tensor) -> bool:
    same_kind = given.is_floating_point() == expected.is_floating_point()
    return same_kind and given.shape == expected.shape


def _named(name: str, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    if name in expected and name in state:
        given, wanted = state[name], expected[name]
        if given.shape == wanted.shape:
            return f"{name} of type {given.dtype} for {wanted.dtype}"
        return f"{name} of shape {tuple(given.shape)} for {tuple(wanted.shape)}"
    return name
