"""``load_backbone``: any checkpoint to a module that gives features."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erssl.errors import ConfigError, DataError, ErsslError
from erssl.models.architectures import assumed_of_transformer, infer_architecture
from erssl.models.backbones import BackboneOptions, build_backbone
from erssl.models.branches import offer, other_sets
from erssl.models.channels import RGB, channels_of, of_channels
from erssl.models.given import given_backbone
from erssl.models.layouts import BackboneWeights, find_backbone
from erssl.models.magnitudes import require_finite_features
from erssl.models.named import possible_architectures
from erssl.models.preprocessing import set_preprocessing, usual_preprocessing
from erssl.models.published import is_timm_address, load_published
from erssl.models.reports import PREPROCESSING, LoadReport, listed
from erssl.models.sources import WEIGHTS_FILE, Source, open_source, transformer_options
from erssl.models.state_dicts import at, named_tensors, places, unwrapped
from erssl.models.timm_options import timm_arguments
from erssl.models.weights_files import check_finite, one_line

__all__ = ["WEIGHTS_FILE", "LoadReport", "load_backbone"]

_UNTRACKED = "num_batches_tracked"  # of a batch normalisation; counts steps, older files have none
_UNREAD = ("mask_token",)  # of a network that is trained on masked images; no image needs it


def load_backbone(
    path: str | Path,
    arch: str | BackboneOptions | nn.Module | None = None,
    *,
    allow_partial: bool = False,
    layout: str | None = None,
    prefix: str | None = None,
    weights: str | None = None,
    feature_dim: int | None = None,
) -> nn.Module:
    """Read the backbone of any checkpoint.

    Reads run directories of ``erssl pretrain``, their ``backbone.safetensors`` and checkpoints,
    every layout of :data:`erssl.models.layouts.LAYOUTS`: torchvision, timm, MoCo, MoCo v3,
    SimSiam, SwAV, DeepCluster v2, DINO, Barlow Twins, VICReg, BYOL, MVEB, MAE, lightly, solo-learn,
    vissl and more, and folders of Hugging Face as timm and transformers (ViT, DeiT, MAE, DINOv2,
    DINOv3) write them. Nothing in the file is executed (``weights_only=True``).

    Args:
        path: A run directory, a file, a folder of Hugging Face, ``"zoo:<name>"`` for published
            weights, or ``"timm:<name>"`` for those that timm publishes.
        arch: The architecture: a torchvision name (``"resnet50"``), a ResNet for small images
            (``"resnet18_cifar"``), a timm name, options of it after commas
            (``"vit_small_patch16_224,num_heads=12"``), :class:`BackboneOptions`, or a module of
            your own, of which a copy is filled. ``None`` infers it from names and shapes.
        allow_partial: Take a file that does not hold every weight of the backbone; the others stay
            random.
        layout: Name of the only layout to try.
        prefix: What the backbone's names begin with, where no layout knows it.
        weights: The state dict to take of a file that holds several, its keys joined by dots, such
            as ``"state_dict_ema"``.
        feature_dim: Width of the features of a module of your own, where neither an attribute of
            it nor its run says so.

    Returns:
        The backbone in eval mode, giving features (N, feature_dim), with the attributes
        ``feature_dim``, ``architecture`` (:class:`BackboneOptions`), ``preprocessing`` (``mean``,
        ``std``, ``image_size``, ``interpolation``, ``crop_pct``, as far as they are known),
        ``transform()`` (the evaluation transform of a PIL image by it, whose keys may be given
        otherwise, as ``transform(image_size=96)``) and ``report`` (:class:`LoadReport`).

    Raises:
        DataError: If there is no such file, it cannot be read safely, no layout fits, weights are
            missing, not finite, negative where they are variances, or give features that are not
            finite, or the architecture cannot be told.
        ConfigError: If ``arch``, ``layout`` or ``weights`` is unknown.

    Example:
        >>> backbone = load_backbone("checkpoint.pth.tar")  # doctest: +SKIP
        >>> print(backbone.report.counts)  # doctest: +SKIP
        318 backbone weights matched, 0 missing, 0 unexpected (MoCo layout, 4 of heads left out)
    """
    if isinstance(arch, nn.Module):
        with given_backbone(arch, feature_dim):
            own = BackboneOptions("object", "object")
            return load_backbone(
                path,
                own,
                allow_partial=allow_partial,
                layout=layout,
                prefix=prefix,
                weights=weights,
            )
    if is_timm_address(path):
        return load_published(path, arch)
    source = open_source(path)
    if isinstance(arch, BackboneOptions) and arch.library == "object" and source.options:
        kept = source.options.library == "object"  # with the width that its run was told
        arch = source.options if kept else arch
    possible: list[BackboneOptions | None] = [source.options]
    if isinstance(arch, str):
        possible = [*possible_architectures(arch)]
    elif arch is not None:
        possible = [arch]
    extracted, options, assumed = _understand(
        source, possible, layout or source.layout, isinstance(arch, str), prefix, weights
    )
    backbone = build_backbone(options)
    given = arch if isinstance(arch, str) else None
    report = _compare(source.file, backbone.state_dict(), extracted, options, allow_partial, given)
    left_out = set(report.unexpected)
    matched = {name: tensor for name, tensor in extracted.state.items() if name not in left_out}
    backbone.load_state_dict(matched, strict=False)
    preprocessing = source.preprocessing
    if preprocessing is None:
        usual, whose = usual_preprocessing(options, extracted.layout, isinstance(arch, str))
        preprocessing = {**usual, **source.prepared}
        if usual and not source.prepared:
            assumed = (*assumed, f"{PREPROCESSING}{listed(usual)} ({whose})")
    if options.in_channels != RGB:
        preprocessing = of_channels(preprocessing, options.in_channels)
    taken, others = other_sets(source.content, extracted)
    report = dataclasses.replace(
        report, place=extracted.place, taken=taken, others=others, assumed=assumed
    )
    backbone.report = report  # type: ignore[assignment]
    set_preprocessing(backbone, preprocessing)
    backbone.eval()
    require_finite_features(source.file, backbone, options, preprocessing)
    return backbone


def _understand(
    source: Source,
    possible: list[BackboneOptions | None],
    layout: str | None,
    named: bool,
    prefix: str | None,
    weights: str | None,
) -> tuple[BackboneWeights, BackboneOptions, tuple[str, ...]]:
    """The backbone in a file, its architecture, and what of that is assumed."""
    try:
        extracted, options = _first_that_fits(source, possible, layout, prefix, weights, named)
        rule = extracted.layout
        assumed: tuple[str, ...] = ()
        if options is None:
            heads = source.transformer.get("num_heads", rule.vit_heads)
            extracted = extracted.without_heads()
            options = infer_architecture(extracted.state, rule.stem_padding, heads)
            if options is not None:
                assumed = assumed_of_transformer(options, extracted.state, heads)
                own = {**options.options, **transformer_options(source)}
                options = dataclasses.replace(options, options=own)
        elif named:
            options = _with_layout_details(options, extracted)
    except ErsslError:
        raise
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise DataError(
            f"The weights of {source.file} do not go together ({one_line(error)}); they are no "
            "backbone."
        ) from error
    if options is None:
        raise DataError(
            f"The architecture of {source.file} ({extracted.name} layout, "
            f"{len(extracted.state)} weights) is none of those that shapes tell (ResNet-18, 34, "
            "50, 101 and ViTs of square images); "
            "name it with arch=<torchvision or timm name>, and what no name says after commas, as "
            "arch=vit_small_patch16_224,img_size=224x448."
        )
    extracted = _own_weights(extracted, options)
    bounds = _bounds(extracted.state, options)
    without = {n: t for n, t in extracted.state.items() if n not in bounds}
    check_finite(source.file, without)
    if source.own:
        extracted = dataclasses.replace(extracted, name="erssl")
    return extracted, options, assumed


def _first_that_fits(
    source: Source,
    possible: list[BackboneOptions | None],
    layout: str | None,
    prefix: str | None,
    weights: str | None,
    named: bool,
) -> tuple[BackboneWeights, BackboneOptions | None]:
    """The backbone, by the first architecture whose first weight is there, or best: all of them."""
    first: tuple[BackboneWeights, BackboneOptions | None] | None = None
    for options in possible:
        # With a known architecture its own first weight marks the backbone, whatever it is called.
        planned = None if options is None else _planned(options)
        stem = None if planned is None else next(iter(planned))
        extracted = find_backbone(source.content, layout, stem, prefix, weights)
        if extracted is None:
            continue
        if len(possible) == 1 or (planned is not None and planned.keys() <= extracted.state.keys()):
            return extracted, options
        first = first or (extracted, options)
    if first is not None:
        return first
    options = possible[0]
    keys = ", ".join(str(key) for key in list(source.content)[:6])
    begin = f"{_first_weights(source.content)}its keys begin with {keys}"
    of = f"the layout {layout}" if layout else "any known layout"
    of = of if prefix is None else f"names that begin with {prefix}"
    what = "" if options is None else f" of {options.name}"
    hint = offer(source.content, None if options is None else _planned(options))
    if named and not hint:
        hint = "give another arch=, or what its names begin with by prefix="
    hint = hint or (
        "name its architecture with arch=<torchvision or timm name>, or save backbone.state_dict() "
        "alone"
        if options is None
        else "name what it is with arch=, or what its names begin with by prefix="
    )
    raise DataError(f"{source.file} holds no backbone{what} in {of} ({begin}); {hint}.")


def _first_weights(content: Mapping[str, Any]) -> str:
    """How the largest state dict in a file begins, for a message."""
    counted = {place: len(named_tensors(at(content, place))) for place in places(content)}
    if not counted:
        return ""
    place = max(counted, key=lambda key: counted[key])
    names = ", ".join(list(named_tensors(at(content, place)))[:3])
    return f"its {counted[place]} weights begin with {names}; "


def _own_weights(extracted: BackboneWeights, options: BackboneOptions) -> BackboneWeights:
    """The backbone without heads: those of the rule, and what its library adds for classes."""
    planned = _planned(options)
    plain = {unwrapped(name): name for name in planned}
    if any(name != own for name, own in plain.items()):  # a network with parts of wrappers' names
        renamed = {plain.get(name, name): tensor for name, tensor in extracted.state.items()}
        extracted = dataclasses.replace(extracted, state=renamed)
    own = extracted.without_heads(planned)
    if options.library != "timm" or own.state.keys() <= planned.keys():
        return own
    return extracted.without_heads(planned, _classifier(options) | set(_UNREAD))


def _bounds(state: Mapping[str, Tensor], options: BackboneOptions) -> set[str]:
    """Names of infinite values that the network begins with too, as bounds that bound nothing."""
    infinite = {
        n
        for n, t in state.items()
        if t.layout == torch.strided and t.is_floating_point() and bool(t.isinf().any())
    }
    if not infinite:
        return set()
    fresh = build_backbone(options).state_dict()
    return {n for n in infinite if n in fresh and torch.equal(fresh[n], state[n])}


def _classifier(options: BackboneOptions) -> set[str]:
    """Names that timm's network has with a classifier and without one has not."""
    import timm

    arguments = timm_arguments(options.options, options.in_channels)
    try:
        with torch.device("meta"):
            whole = timm.create_model(options.name, **arguments).state_dict()
    except Exception:  # not every network of timm can be built without values
        whole = timm.create_model(options.name, **arguments).state_dict()
    return set(whole) - set(_planned(options))


def _with_layout_details(options: BackboneOptions, extracted: BackboneWeights) -> BackboneOptions:
    """Padding of a small stem, and heads and size of a transformer, which no name says."""
    rule, state = extracted.layout, extracted.state
    options = dataclasses.replace(options, in_channels=channels_of(state))
    if options.cifar_stem:
        return dataclasses.replace(options, stem_padding=rule.stem_padding)
    own: dict[str, Any] = {}
    if rule.vit_heads is not None and "patch_embed.proj.weight" in state:
        own["num_heads"] = rule.vit_heads
    positions = state.get("pos_embed")
    if options.library == "timm" and positions is not None and positions.ndim == 3:
        own |= _size_of(options, positions.shape[1], state)
    return dataclasses.replace(options, options={**own, **options.options})


def _size_of(
    options: BackboneOptions, positions: int, state: Mapping[str, Tensor]
) -> dict[str, Any]:
    """``img_size`` of a transformer whose file has another square of positions than its name."""
    planned = _planned(options).get("pos_embed")
    stem = state.get("patch_embed.proj.weight")
    if planned is None or planned.ndim != 3 or stem is None or planned.shape[1] == positions:
        return {}
    tokens = min(planned.shape[1] - math.isqrt(planned.shape[1]) ** 2, planned.shape[1])
    side = math.isqrt(max(0, positions - tokens))
    return {"img_size": side * stem.shape[-1]} if side**2 == positions - tokens else {}


def _planned(options: BackboneOptions) -> dict[str, Tensor]:
    """Names and shapes of a network's weights, before any memory is taken for them."""
    try:
        with torch.device("meta"):
            return build_backbone(options).state_dict()
    except (ConfigError, NotImplementedError):  # not every network can be built without values
        return build_backbone(options).state_dict()


def _compare(
    file: Path,
    expected: Mapping[str, Tensor],
    extracted: BackboneWeights,
    options: BackboneOptions,
    allow_partial: bool,
    arch: str | None,
) -> LoadReport:
    """What of a file fits a network, by names and shapes; refuses what does not."""
    state = extracted.state
    matched = {n for n, t in state.items() if n in expected and _alike(t, expected[n])}
    report = LoadReport(
        extracted.name,
        len(matched),
        tuple(n for n in expected if n not in matched and not n.endswith(_UNTRACKED)),
        tuple(n for n in state if n not in matched),
        extracted.heads,
    )
    wrong = report.missing + report.unexpected
    if wrong and not (allow_partial and matched):
        first = _named(wrong[0], expected, state)
        other = (
            "name what it is with arch=<torchvision or timm name>"
            if arch is None
            else f"it is another network than arch={arch}, so give its own or leave arch out"
        )
        raise DataError(
            f"{file} does not fit {options.name}: {report.counts}, such as {first}; {other}, or "
            "take what matches with allow_partial=true."
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
