"""InfoMin (arXiv 2005.10243): MoCo v2 with views that share less."""

from __future__ import annotations

from typing_extensions import Unpack

from erssl.methods.info import MethodInfo
from erssl.methods.mocov2 import MoCoV2, MoCoV2Options
from erssl.methods.registry import register_method
from erssl.recipes import read_recipe

RECIPE = read_recipe("infomin")
OPTIONS = RECIPE.options


@register_method("infomin")
class InfoMin(MoCoV2):
    """MoCo v2 on views with RandAugment, ``data.views.recipe=infomin``.

    The JigSaw branch of the authors' code (PyContrast), half of its loss, is left out; the
    published results have it.
    """

    info = MethodInfo(
        paper="Tian et al. 2020, arXiv 2005.10243",
        family="contrastive",
        target="momentum",
        entropy="as mocov2",
        reconstruction="as mocov2, harder views",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        temperature: float = OPTIONS["temperature"],
        **network: Unpack[MoCoV2Options],
    ) -> None:
        """Defaults are those of PyContrast: MoCo v2's but for the temperature.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            temperature: Of the contrast; 0.15.
            **network: See :class:`MoCoV2`.
        """
        network = RECIPE.options_of(MoCoV2Options) | network
        super().__init__(batch_size_per_device, num_classes, temperature=temperature, **network)
