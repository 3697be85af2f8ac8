"""HyDeS (arXiv 2604.24498): SimCLR + ER with a weight for either entropy."""

from __future__ import annotations

from typing_extensions import Unpack

from erssl.methods.info import MethodInfo
from erssl.methods.registry import register_method
from erssl.methods.simclr_er import SimCLRER, SimCLREROptions
from erssl.recipes import read_recipe

RECIPE = read_recipe("hydes")


@register_method("hydes")
class HyDeS(SimCLRER):
    """The settings of SimCLR + ER that its loss is.

    Its local entropy, of a view's density around the image's other view, is at two views the
    reconstruction term of :class:`erssl.loss.ERLoss`: α H - β H_local has its gradient at an
    entropy weight of α / β, and β times its size.
    """

    info = MethodInfo(
        paper="Rodríguez-Betancourt and Casasola-Murillo 2026, arXiv 2604.24498",
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
