"""MVEB with a score whose size does not depend on how many rows it is estimated from."""

from __future__ import annotations

from typing import Literal

from typing_extensions import Unpack

from erssl.entropy.score_options import Geometry, ShrinkTo
from erssl.methods.info import MethodInfo
from erssl.methods.mveb import MVEB, MVEBOptions
from erssl.methods.registry import register_method
from erssl.recipes import read_recipe

RECIPE = read_recipe("mveb_stable")
OPTIONS = RECIPE.options


@register_method("mveb_stable")
class MVEBStable(MVEB):
    """MVEB whose entropy gradient is the score on the sphere, at its true size.

    The sphere's Stein identity, a ridge chosen by score matching on held-out rows, shrinkage
    towards the von Mises-Fisher density that fits the rows (docs/score.md).
    """

    info = MethodInfo(
        paper="this library; after Wen et al. 2024, arXiv 2403.19078",
        family="entropy bottleneck",
        target="momentum or shared",
        multi_crop=True,
        entropy="as mveb, by a score of the right size at any number of rows",
        reconstruction="alignment",
    )

    def __init__(
        self,
        batch_size_per_device: int,
        num_classes: int,
        *,
        beta: float = OPTIONS["beta"],
        eta: float | Literal["auto"] = OPTIONS["eta"],
        geometry: Geometry = OPTIONS["geometry"],
        score_rows: int | None = OPTIONS["score_rows"],
        shrink_to: ShrinkTo = OPTIONS["shrink_to"],
        **network: Unpack[MVEBOptions],
    ) -> None:
        """Defaults are MVEB's but for the score's.

        Args:
            batch_size_per_device: Images per step and device.
            num_classes: Classes of the online probe.
            beta: Weight of the entropy; open. The true score grows with d: at d = 256 the best lay
                at 0.01 and 0.02 (docs/score.md), of which d = 2048 makes 0.002.
            eta: Ridge of the score estimate, or ``"auto"``.
            geometry: ``"euclidean"`` or ``"sphere"``.
            score_rows: Rows of which a score is estimated; more rows, a smaller error.
            shrink_to: ``"zero"`` or ``"vmf"``.
            **network: See :class:`MVEB`.
        """
        network = RECIPE.options_of(MVEBOptions) | network
        super().__init__(
            batch_size_per_device,
            num_classes,
            beta=beta,
            eta=eta,
            geometry=geometry,
            score_rows=score_rows,
            shrink_to=shrink_to,
            **network,
        )
