"""Says when embeddings have collapsed, from what the lens reads."""

from __future__ import annotations

import math
from collections.abc import Mapping

from erssl.entropy.vmf import log_normalizer_value
from erssl.evaluation.lens_quantities import KDE_BELOW, KNN_BELOW

_RISE = 1.0  # nats from one reading to the next by which a network is on its way out of a cone
_CAUSES = (
    "Likely causes: a learning rate that is too high (optimizer.base_lr), an entropy weight that "
    "is too small (MVEB's method.beta), or DINO's centring switched off without an entropy term "
    "(method.center)."
)


class CollapseGuard:
    """Watch for a point, a cone, a low rank, and outputs that are all alike.

    Embeddings count as collapsed when

    - they repeat themselves, so that their entropy is -inf, or the entropy at a fixed κ stands
      within ``floor`` of the way from a single point to the uniform density;
    - they lie in a cone: the mean cosine of different images is above ``max_cosine``, whatever
      the rank of what is left around its axis;
    - the effective rank is below ``min_rank``, or below ``min_rank_share`` of the smaller of
      images and dimensions;
    - the soft-max outputs use next to one outcome (discrete entropy below ``floor`` log K), or
      have become the same for every image (their ER bound below a tenth of its best).

    Attributes:
        floor: Share of the range of an entropy that counts as its floor.
        max_cosine: Mean cosine of different images above which they lie in a cone. In the runs of
            benchmarks/results/er_figure.json those that learn stay below 0.85 once under way,
            those that collapse end above 0.93.
        min_rank: Effective rank below which a single direction is left; 1.5 at most where images or
            dimensions are two.
        min_rank_share: Share of the largest effective rank that counts as low. In the same runs
            0.09 and more where they learn, 0.04 and less in collapses that are no cone.
        patience: Readings in a row until it speaks.
        grace_steps: Optimiser steps in which a network that has not been seen healthy yet is let
            be: before training its embeddings are often next to a single point, and in eval mode
            its normalisation takes a while to follow. Later it is, too, while its entropy rises
            by a nat or more from reading to reading.
        stop: Whether the run shall end.
    """

    def __init__(
        self,
        floor: float = 0.02,
        min_rank: float = 2.0,
        patience: int = 2,
        grace_steps: int = 100,
        stop: bool = False,
        max_cosine: float = 0.9,
        min_rank_share: float = 0.04,
    ) -> None:
        """Set the floors; see the class.

        Raises:
            ValueError: If a floor is out of range or the patience not at least 1.
        """
        if not 0 < floor < 1 or min_rank < 1 or patience < 1 or grace_steps < 0:
            raise ValueError(
                "The guard needs floor in (0, 1), min_rank and patience of at least 1 and "
                f"grace_steps of at least 0 but has {floor}, {min_rank}, {patience} and "
                f"{grace_steps}."
            )
        if not 0 < max_cosine <= 1 or not 0 <= min_rank_share < 1:
            raise ValueError(
                "The guard needs max_cosine in (0, 1] and min_rank_share in [0, 1) but has "
                f"{max_cosine} and {min_rank_share}."
            )
        self.floor = floor
        self.max_cosine = max_cosine
        self.min_rank_share = min_rank_share
        self.min_rank = min_rank
        self.patience = patience
        self.grace_steps = grace_steps
        self.stop = stop
        self._healthy = False
        self._low = 0
        self._best_bound = 0.0
        self._below = math.inf  # nats below uniform of the last reading

    def state_dict(self) -> dict[str, float]:
        """What it has seen, to go on from a checkpoint."""
        return {
            "healthy": self._healthy,
            "low": self._low,
            "best_bound": self._best_bound,
            "below": self._below,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from :meth:`state_dict`."""
        self._healthy, self._low = bool(state["healthy"]), int(state["low"])
        self._best_bound = float(state["best_bound"])
        self._below = float(state.get("below", math.inf))  # absent in checkpoints of before

    def check(self, step: int, reading: Mapping[str, float], dim: int) -> str | None:
        """Give a sentence when a collapse is seen for the first time in a row.

        Args:
            step: Optimiser step of the reading.
            reading: What :func:`erssl.evaluation.lens_reading` gave.
            dim: Dimension d of the embeddings.

        Returns:
            Step, values and likely causes; ``None`` where all is well or it was said before.
        """
        signs = self._signs(reading, dim)
        below = reading.get(KDE_BELOW, reading.get(KNN_BELOW, -math.inf))
        rising = below > self._below + _RISE
        self._below = below
        self._healthy = self._healthy or not signs
        if not self._healthy and (step <= self.grace_steps or rising):
            return None
        self._low = self._low + 1 if signs else 0
        if self._low != self.patience:
            return None
        return f"The embeddings have collapsed at step {step}: {'; '.join(signs)}. {_CAUSES}"

    def _signs(self, reading: Mapping[str, float], dim: int) -> list[str]:
        fallen = [name for name in (KDE_BELOW, KNN_BELOW) if reading.get(name) == -math.inf]
        broken = [n for n, value in reading.items() if not (math.isfinite(value) or n in fallen)]
        if broken:
            return [f"{broken[0]} is not finite"]
        signs = self._of_a_point(reading, dim)
        cosine = reading.get("mean_cosine", 0.0)
        if cosine > self.max_cosine:
            signs.append(
                f"mean cosine {cosine:.3f} of different images, a cone, 1 at a single point and "
                "about 0 when uniform"
            )
        rank = reading["effective_rank"]
        full = min(dim, round(math.exp(reading["log_n"])))
        least = min(self.min_rank, (1 + full) / 2)  # of two dimensions no rank passes 2
        if rank < max(least, self.min_rank_share * full):
            signs.append(f"effective rank {rank:.2f} of {full}")
        return signs + self._of_outputs(reading)

    def _of_a_point(self, reading: Mapping[str, float], dim: int) -> list[str]:
        """Signs of an entropy at its floor."""
        if reading.get(KDE_BELOW) == -math.inf:
            return ["entropy -inf: images share their embeddings"]
        name = next(n for n in reading if n.startswith("entropy_k"))
        kappa = float(name.removeprefix("entropy_k"))
        lowest = -(kappa + log_normalizer_value(dim, kappa)) - reading["log_sphere_area"]
        entropy = reading[name] - reading["log_sphere_area"]
        if entropy < (1 - self.floor) * lowest:
            return [
                f"entropy {entropy:.2f} nats below uniform by a kernel of κ = {kappa:g}, which "
                f"reads {lowest:.2f} at a single point"
            ]
        return []

    def _of_outputs(self, reading: Mapping[str, float]) -> list[str]:
        """Signs of soft-max outputs that use one outcome or are the same for all images."""
        if "discrete_entropy" not in reading:
            return []
        signs = []
        outcomes, log_k = reading["discrete_entropy"], reading["log_k"]
        if outcomes < self.floor * log_k:
            signs.append(f"entropy of the outputs {outcomes:.3f} of {log_k:.2f} nats")
        bound = reading["discrete_i_er"]
        self._best_bound = max(self._best_bound, bound)
        if bound < 0.1 * self._best_bound and self._best_bound > 0.05 * log_k:
            signs.append(
                f"the outputs' bound on the views' information fell to {bound:.3f} from "
                f"{self._best_bound:.3f} nats"
            )
        return signs
