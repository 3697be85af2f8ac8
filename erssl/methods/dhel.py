"""Decoupled hyperspherical energy (arXiv 2405.18045): SimCLR + ER of twice the entropy."""

from __future__ import annotations

from typing_extensions import Unpack

from erssl.methods.info import MethodInfo
from erssl.methods.registry import register_method
from erssl.methods.simclr_er import SimCLRER, SimCLREROptions
from erssl.recipes import read_recipe

RECIPE = read_recipe("dhel")


@register_method("dhel")
class DHEL(SimCLRER):
    """The settings of SimCLR + ER that its loss is.

    DHEL of both views is :class:`erssl.loss.ERLoss` at κ = 1/τ with an entropy of weight 2, each
    row left out of its own density; its gradient is the same to rounding.
    """

    info = MethodInfo(
        paper="Koromilas et al. 2024, arXiv 2405.18045",
        family="entropy-reconstruction",
        target="shared",
        entropy="kernel density, weighted (an upper bound of the entropy, in expectation)",
        reconstruction="vMF density",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        **options: Unpack[SimCLREROptions],
    ) -> None:
        """Defaults are in its recipe.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            **options: See :class:`SimCLRER`.
        """
        options = RECIPE.options_of(SimCLREROptions) | options
        super().__init__(batch_size_per_device, num_classes, **options)
