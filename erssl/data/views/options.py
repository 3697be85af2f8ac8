"""What the views of an image are: the options, and how recipes of views are known by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightly.transforms.multi_view_transform import MultiViewTransform

from erssl.announced import load_announced
from erssl.data.bands import RGB, has_pixels
from erssl.data.checks import as_numbers, check_choice, check_whole
from erssl.data.views.bands import BandView
from erssl.data.views.draws import ViewSpec, read_view
from erssl.errors import ConfigError

Scale = tuple[float, float]
_GLOBAL_SIZE = "data.views.global_image_size"


@dataclass(frozen=True)
class Crops:
    """What a recipe cuts its views to.

    Attributes:
        image_size: Side of the global views in pixels.
        global_scale: Smallest and largest area of a global view as a share of the image's.
        n_local_views: Number of small crops beside the global views.
        local_image_size: Side of the local views in pixels.
        local_scale: Smallest and largest area of a local view; (0, 0) of a recipe without any.
        normalize: Channel means to subtract and deviations to divide by, under ``"mean"`` and
            ``"std"``, a number for each channel (three, or one of grey images, on which steps for
            colours do nothing) for pixels in 0..1.
    """

    image_size: int
    global_scale: Scale
    n_local_views: int
    local_image_size: int
    local_scale: Scale
    normalize: dict[str, list[float]]


View = Callable[[Any], Any]
"""From a PIL image to a tensor (3, side, side)."""


@dataclass(frozen=True)
class ViewRecipe:
    """A row of `RECIPES`.

    Attributes:
        views: Gives the transform of each view: the global ones, then the local ones.
        global_scale: Area of a global view where the options say none.
        beside_local: The same where there are local views, which then bring the variety.
        local_scale: Area of a local view; ``None`` where the recipe has no local views.
        n_global: Number of global views.
        any_scale: Whether the area of a global view may end below 1.
    """

    views: Callable[[Crops], Sequence[View]]
    global_scale: Scale
    beside_local: Scale
    local_scale: Scale | None
    n_global: int
    any_scale: bool


RECIPES: dict[str, ViewRecipe] = {}
"""The recipes of views by name, those of other packages once they are imported."""

R = Callable[[Crops], Sequence[View]]


def register_views(
    name: str,
    *,
    global_scale: Scale = (0.08, 1.0),
    beside_local: Scale | None = None,
    local_scale: Scale | None = None,
    n_global: int = 2,
    any_scale: bool | None = None,
) -> Callable[[R], R]:
    """Decorator that makes a function known as the recipe ``data.views.recipe=<name>``.

    Another package names the module of its recipes under the entry-point group ``erssl.views``.

    Args:
        name: The name used in configs; must be free.
        global_scale: Smallest and largest area of a global view as a share of the image's; by
            default lightly's and BYOL's, where the variety comes from the crops themselves.
        beside_local: The same where there are local views; ``None`` for ``global_scale``.
        local_scale: That of local views; ``None`` for a recipe without any.
        n_global: Number of global views.
        any_scale: Whether ``data.views.global_scale`` may end below 1, which lightly's transforms
            of two views cannot; ``None``: where there are local views.

    Returns:
        The decorator, which gives the function back. The function takes `Crops` and gives the
        transforms of all views of an image.

    Raises:
        ConfigError: If another recipe has the name already.

    Example:
        >>> from lightly.transforms.torchvision_v2_compatibility import torchvision_transforms as T
        >>> @register_views("plain", n_global=1)
        ... def plain(crops: Crops) -> list[View]:
        ...     size = (crops.image_size, crops.image_size)
        ...     return [T.Compose([T.Resize(size), T.ToTensor(), T.Normalize(**crops.normalize)])]
        >>> ViewOptions("plain").n_views
        1
        >>> del RECIPES["plain"]
    """

    def decorate(views: R) -> R:
        known = RECIPES.get(name)
        if known is not None and known.views.__qualname__ != views.__qualname__:
            raise ConfigError(
                f"The view recipe {name!r} is taken by {known.views.__qualname__}; register "
                f"{views.__qualname__} under another name."
            )
        RECIPES[name] = ViewRecipe(
            views,
            global_scale,
            beside_local or global_scale,
            local_scale,
            n_global,
            local_scale is not None if any_scale is None else any_scale,
        )
        return views

    return decorate


def available_views() -> list[str]:
    """Names of all recipes of views, those of other packages included, in alphabetical order."""
    load_announced("views")
    return sorted(RECIPES)


@dataclass(frozen=True)
class ViewOptions:
    """What the views of an image are.

    Attributes:
        recipe: Which augmentation; :mod:`erssl.data.views.recipes` says what each does.
        n_local_views: Number of small crops beside the two global views.
        local_image_size: Side of the local views in pixels, at most that of the global views.
        global_image_size: Side of the global views in pixels; ``None``: ``data.image_size``, the
            side of the images that a run evaluates. A smaller one trains faster. Several sides
            share the epochs, each as many one after the other: (16, 16, 32) trains two thirds of
            them at 16 pixels and the last third at 32. Fewer epochs than sides have the last of
            them; a run that is made longer divides all of its epochs anew.
        global_scale: Smallest and largest share of the image's area in a global view. ``None`` is
            the recipe's own, which is another one for some where there are local views.
        local_scale: The same for the local views.

    Raises:
        ConfigError: If a value is out of range, or the recipe has no local views.
    """

    recipe: str = "dino"
    n_local_views: int = 0
    local_image_size: int = 96
    global_image_size: int | tuple[int, ...] | None = None
    global_scale: Scale | None = None
    local_scale: Scale | None = None

    def __post_init__(self) -> None:
        """Check the values; pairs may come as lists, as configuration files have them."""
        if self.recipe not in RECIPES:
            check_choice("data.views.recipe", self.recipe, available_views())
        check_whole("data.views.n_local_views", self.n_local_views, 0, "a number of views")
        check_whole("data.views.local_image_size", self.local_image_size, 1, "a size in pixels")
        if isinstance(self.global_image_size, list | tuple):
            object.__setattr__(self, "global_image_size", tuple(self.global_image_size))
            if not self.global_image_size:
                raise ConfigError(f"{_GLOBAL_SIZE}=[] names no size in pixels; give one or more.")
        for side in self._given_sides:
            check_whole(_GLOBAL_SIZE, side, 1, "a size in pixels")
        row = RECIPES[self.recipe]
        if self.n_local_views > 0 and row.local_scale is None:
            raise ConfigError(
                f"data.views.n_local_views={self.n_local_views} cannot be had with "
                f"data.views.recipe={self.recipe}, which has none; choose one of "
                f"{_those(lambda other: other.local_scale is not None)}, or n_local_views=0."
            )
        for key in ("global_scale", "local_scale"):
            object.__setattr__(self, key, _checked_scale(f"data.views.{key}", getattr(self, key)))
        if self.global_scale is not None and self.global_scale[1] != 1 and not row.any_scale:
            raise ConfigError(
                f"data.views.global_scale={self.global_scale} does not end at 1, which "
                f"data.views.recipe={self.recipe} needs; end it at 1, or choose one of "
                f"{_those(lambda other: other.any_scale)}."
            )

    @property
    def n_views(self) -> int:
        """Number of views of an image, global and local."""
        return RECIPES[self.recipe].n_global + self.n_local_views

    @property
    def size_key(self) -> str:
        """The setting that says the side of the global views."""
        return "data.image_size" if self.global_image_size is None else _GLOBAL_SIZE

    @property
    def _given_sides(self) -> tuple[int, ...]:
        given = self.global_image_size
        return () if given is None else given if isinstance(given, tuple) else (given,)

    def parts(self) -> list[ViewOptions]:
        """The options of each part of a training, which have one side of global views each."""
        return [replace(self, global_image_size=side) for side in self._given_sides] or [self]

    def part_at(self, epoch: int, epochs: int) -> int:
        """Number of the part that an epoch belongs to; the last epoch's is the last, always.

        Args:
            epoch: Number of the epoch, from 0.
            epochs: Epochs of the training; later ones belong to the last part.
        """
        count = max(1, len(self._given_sides))
        return count - 1 - count * max(0, epochs - 1 - epoch) // max(1, epochs)

    def by_epoch(self, epochs: int) -> list[ViewOptions]:
        """The options of the part that each epoch of a training belongs to."""
        parts = self.parts()
        return [parts[self.part_at(epoch, epochs)] for epoch in range(epochs)]

    def sides(self, image_size: int) -> list[int]:
        """Sides of all views in pixels, the global ones first, each the largest of all parts.

        Args:
            image_size: ``data.image_size``.
        """
        n_global = self.n_views - self.n_local_views
        large = max(self._given_sides, default=image_size)
        return [large] * n_global + [self.local_image_size] * self.n_local_views

    def pixels(self, image_size: int, epochs: int) -> list[int]:
        """Pixels of all views of an image, in each epoch of a training.

        Args:
            image_size: ``data.image_size``.
            epochs: Epochs of the training.
        """
        return [sum(side**2 for side in part.sides(image_size)) for part in self.by_epoch(epochs)]

    def every_side(self, image_size: int) -> list[int]:
        """Sides that views have in any part, each once.

        Args:
            image_size: ``data.image_size``.
        """
        sides = [side for part in self.parts() for side in part.sides(image_size)]
        return list(dict.fromkeys(sides))


def build_views(
    options: ViewOptions, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> MultiViewTransform:
    """Make the transform from an image to its views.

    Of images of other channels than one or three, what is made for colours is left out
    (:mod:`erssl.data.views.bands`).

    Args:
        options: The recipe and its sizes; of several sides of global views the largest is taken.
        image_size: Side of the global views in pixels, where the options say none.
        mean: Channel means to subtract, one value a channel for pixels in 0..1.
        std: Channel deviations to divide by.

    Returns:
        A transform from a PIL image, or a tensor of other channels than one or three, to a list of
        ``options.n_views`` tensors (C, side, side), the global ones before the local ones, of the
        sides of :meth:`ViewOptions.sides`.

    Raises:
        ConfigError: If the local views are larger than the global ones, or the recipe cannot be had
            for so many channels.
    """
    if not has_pixels(len(mean)):
        rgb = build_views(options, image_size, (0.0,) * RGB, (1.0,) * RGB)
        return MultiViewTransform(
            [BandView(_spec(options.recipe, view, len(mean)), mean, std) for view in rgb.transforms]
        )
    side, *_ = options.sides(image_size)
    if options.n_local_views > 0 and options.local_image_size > side:
        raise ConfigError(
            f"data.views.local_image_size={options.local_image_size} is larger than "
            f"{options.size_key}={side}; local views are the small ones, so give at most {side}."
        )
    row = RECIPES[options.recipe]
    own_scale = row.beside_local if options.n_local_views > 0 else row.global_scale
    crops = Crops(
        side,
        options.global_scale or own_scale,
        options.n_local_views,
        options.local_image_size,
        options.local_scale or row.local_scale or (0.0, 0.0),
        {"mean": list(mean), "std": list(std)},
    )
    return MultiViewTransform(list(row.views(crops)))


def _spec(recipe: str, view: View, channels: int) -> ViewSpec:
    """What a view of RGB images does, to be done to channels that are none."""
    try:
        return read_view(view)
    except ConfigError as error:
        raise ConfigError(
            f"data.views.recipe={recipe} has steps for 8-bit RGB or grey, and data.channels is "
            f"{channels}; choose another data.views.recipe."
        ) from error


def _those(fits: Callable[[ViewRecipe], bool]) -> str:
    return ", ".join(name for name in available_views() if fits(RECIPES[name]))


def _checked_scale(key: str, value: Sequence[float] | None) -> Scale | None:
    if value is None:
        return None
    low, high = as_numbers(key, value, 2, "a range of crop areas")
    if not 0 < low <= high <= 1:
        raise ConfigError(
            f"{key}={[low, high]} is not a range of crop areas; give two shares of the image, "
            "the smaller first, above 0 and up to 1."
        )
    return low, high
