"""Published recipes of detection, and what becomes of them at another batch or length.

Nothing here needs Detectron2 or torch: both backends read their schedule from these numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

from erssl.errors import ConfigError

DETECTRON2_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"
_SHORT_SIDES = (640, 672, 704, 736, 768, 800)  # Detectron2's Base-RCNN-FPN and MoCo's C4
_VOC_SHORT_SIDES = (480, 512, 544, 576, 608, *_SHORT_SIDES)
_REFERENCE_BATCH = 16  # of every recipe, two images on each of eight devices


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a detector is built and trained.

    Attributes:
        name: Under which it is chosen.
        neck: What lies between backbone and heads: a feature pyramid, or the C4 features alone.
        head: ``"mask"`` predicts boxes and masks, ``"box"`` boxes alone.
        data: The kind of data set that it is for.
        label: The schedule as tables of results print it.
        iterations: Length of the training, in steps of ``batch_size`` images.
        steps: Iterations at which the learning rate is divided by ten.
        batch_size: Images of one iteration, of all devices together.
        base_lr: Learning rate after the warm-up, at that batch.
        warmup_iterations: Length of the linear warm-up.
        warmup_factor: Share of ``base_lr`` that the warm-up begins with.
        weight_decay: Of all weights but those of normalisation layers.
        momentum: Of SGD.
        min_sizes: Short sides that training images are resized to at random, in pixels.
        max_size: The long side's limit, in pixels.
        test_size: Short side of test images, in pixels.
        config: The YAML file of the Detectron2 backend.
        source: Where the numbers come from.
    """

    name: str
    neck: Literal["fpn", "c4"]
    head: Literal["mask", "box"]
    data: Literal["coco", "voc"]
    label: str
    iterations: int
    steps: tuple[int, ...]
    batch_size: int = _REFERENCE_BATCH
    base_lr: float = 0.02
    warmup_iterations: int = 1000
    warmup_factor: float = 0.001
    weight_decay: float = 1e-4
    momentum: float = 0.9
    min_sizes: tuple[int, ...] = _SHORT_SIDES
    max_size: int = 1333
    test_size: int = 800
    config: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A recipe at the batch and length of one training.

    Attributes:
        batch_size: Images of one iteration, of all devices together.
        iterations: Length of the training.
        steps: Iterations at which the learning rate is divided by ten.
        base_lr: Learning rate after the warm-up.
        warmup_iterations: Length of the linear warm-up.
        warmup_factor: Share of ``base_lr`` that the warm-up begins with.
        sentence: What differs from the recipe and why.
    """

    batch_size: int
    iterations: int
    steps: tuple[int, ...]
    base_lr: float
    warmup_iterations: int
    warmup_factor: float
    sentence: str


_D2 = "Detectron2 configs/Base-RCNN-FPN.yaml and its solver's defaults"
_MOCO = "MoCo detection/configs"
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="mask_rcnn_fpn_1x",
            neck="fpn",
            head="mask",
            data="coco",
            label="1x",
            iterations=90_000,
            steps=(60_000, 80_000),
            config="mask_rcnn_R_50_FPN_1x.yaml",
            source=f"{_D2}; norms as in {_MOCO}",
        ),
        Recipe(
            name="mask_rcnn_fpn_2x",
            neck="fpn",
            head="mask",
            data="coco",
            label="2x",
            iterations=180_000,
            steps=(120_000, 160_000),
            config="mask_rcnn_R_50_FPN_2x.yaml",
            source=f"{_D2}; norms and length as in {_MOCO}/coco_R_50_C4_2x_moco.yaml",
        ),
        Recipe(
            name="faster_rcnn_fpn_1x",
            neck="fpn",
            head="box",
            data="coco",
            label="1x",
            iterations=90_000,
            steps=(60_000, 80_000),
            config="faster_rcnn_R_50_FPN_1x.yaml",
            source=f"{_D2}; norms as in {_MOCO}",
        ),
        Recipe(
            name="mask_rcnn_c4_1x",
            neck="c4",
            head="mask",
            data="coco",
            label="1x",
            iterations=90_000,
            steps=(60_000, 80_000),
            config="mask_rcnn_R_50_C4_1x.yaml",
            source=f"{_MOCO}/Base-RCNN-C4-BN.yaml",
        ),
        Recipe(
            name="mask_rcnn_c4_2x",
            neck="c4",
            head="mask",
            data="coco",
            label="2x",
            iterations=180_000,
            steps=(120_000, 160_000),
            config="mask_rcnn_R_50_C4_2x.yaml",
            source=f"{_MOCO}/coco_R_50_C4_2x_moco.yaml",
        ),
        Recipe(
            name="faster_rcnn_c4_voc_24k",
            neck="c4",
            head="box",
            data="voc",
            label="24k",
            iterations=24_000,
            steps=(18_000, 22_000),
            warmup_iterations=100,
            min_sizes=_VOC_SHORT_SIDES,
            config="faster_rcnn_R_50_C4_voc_24k.yaml",
            source=f"{_MOCO}/pascal_voc_R_50_C4_24k.yaml",
        ),
    )
}


def scaled(
    recipe: Recipe, batch_size: int, iterations: int | None = None, lr: float | None = None
) -> Schedule:
    """Fit a recipe to another batch, length or learning rate.

    The linear rule (Goyal et al. 2017, as in Detectron2's ``auto_scale_workers``): with k times the
    batch, k times the learning rate and 1/k of the iterations, decay steps and warm-up. Where the
    length is given, steps and warm-up keep their share of it.

    Args:
        recipe: The recipe at its own batch.
        batch_size: Images of one iteration, of all devices together.
        iterations: Length of the training; ``None`` for the rule's.
        lr: Learning rate after the warm-up; ``None`` for the rule's.

    Returns:
        The schedule, with a sentence on what was scaled.

    Raises:
        ConfigError: If a number is not positive.

    Example:
        >>> half = scaled(RECIPES["mask_rcnn_fpn_1x"], batch_size=8)
        >>> half.base_lr, half.iterations, half.steps, half.warmup_iterations
        (0.01, 180000, (120000, 160000), 2000)
    """
    if batch_size < 1 or (iterations is not None and iterations < 1):
        raise ConfigError(
            f"batch_size and iterations must be at least 1 but are {batch_size} and {iterations}."
        )
    if lr is not None and not 0 < lr < float("inf"):
        raise ConfigError(f"learning_rate={lr:g} trains nothing; give a number above 0.")
    scale = batch_size / recipe.batch_size
    length = round(recipe.iterations / scale) if iterations is None else iterations
    share = max(1, length) / recipe.iterations
    schedule = Schedule(
        batch_size=batch_size,
        iterations=max(1, length),
        steps=tuple(round(step * share) for step in recipe.steps),
        base_lr=recipe.base_lr * scale if lr is None else lr,
        warmup_iterations=round(recipe.warmup_iterations * share),
        warmup_factor=recipe.warmup_factor,
        sentence="",
    )
    sentence = _sentence(recipe, schedule, iterations is not None, lr is not None)
    return Schedule(**{**vars(schedule), "sentence": sentence})


def learning_rate(schedule: Schedule, iteration: int) -> float:
    """Learning rate of one iteration: linear warm-up, then a tenth after each step.

    Args:
        schedule: The schedule.
        iteration: From 0.

    Returns:
        The rate that the optimiser takes in this iteration.
    """
    rate = schedule.base_lr * 0.1 ** bisect_right(schedule.steps, iteration)
    if iteration >= schedule.warmup_iterations:
        return rate
    share = iteration / schedule.warmup_iterations
    return rate * (schedule.warmup_factor * (1 - share) + share)


def _sentence(recipe: Recipe, schedule: Schedule, own_length: bool, own_rate: bool) -> str:
    first, second = schedule.steps
    numbers = (
        f"{schedule.iterations} iterations of {schedule.batch_size} images, learning rate "
        f"{schedule.base_lr:g} after {schedule.warmup_iterations} of warm-up, divided by ten "
        f"at {first} and {second}"
    )
    changed = []
    if schedule.batch_size != recipe.batch_size:
        ruled = [name for name, own in (("rate", own_rate), ("length", own_length)) if not own]
        if ruled:
            rule = f"{' and '.join(ruled)} scaled by the linear rule"
            changed.append(f"{rule} from batch {recipe.batch_size} to {schedule.batch_size}")
        else:
            changed.append(f"batch {schedule.batch_size} instead of {recipe.batch_size}")
    if own_length:
        changed.append("steps and warm-up scaled to the length that was given")
    if own_rate:
        changed.append("the learning rate as given")
    return f"{recipe.name}: {numbers} ({'; '.join(changed) or 'as published'})."
