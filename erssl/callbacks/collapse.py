"""Says when embeddings have collapsed, from what the lens reads."""

from __future__ import annotations

import math
from collections.abc import Mapping

from erssl.entropy.vmf import log_normalizer_value

_CAUSES = (
    "Likely causes: a learning rate that is too high (optimizer.base_lr), an entropy weight that "
    "is too small (MVEB's method.beta), or DINO's centring switched off without an entropy term "
    "(method.center)."
)


class CollapseGuard:
    """Watch for entropy or rank at the floor.

    Embeddings count as collapsed when

    - the entropy stands within ``floor`` of the way from a single point to the uniform density;
    - the effective rank is below ``min_rank``;
    - the soft-max outputs use next to one outcome (discrete entropy below ``floor`` log K), or
      have become the same for every image (their ER bound below a tenth of its best).

    Attributes:
        floor: Share of the range of an entropy that counts as its floor.
        min_rank: Effective rank below which a single direction is left.
        patience: Readings in a row until it speaks.
        grace_steps: Optimiser steps in which a network that has not been seen healthy yet is let
            be: before training its embeddings are often next to a single point, and in eval mode
            its normalisation takes a while to follow.
        stop: Whether the run shall end.
    """

    def __init__(
        self,
        floor: float = 0.02,
        min_rank: float = 2.0,
        patience: int = 2,
        grace_steps: int = 100,
        stop: bool = False,
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
        self.floor = floor
        self.min_rank = min_rank
        self.patience = patience
        self.grace_steps = grace_steps
        self.stop = stop
        self._healthy = False
        self._low = 0
        self._best_bound = 0.0

    def state_dict(self) -> dict[str, float]:
        """What it has seen, to go on from a checkpoint."""
        return {"healthy": self._healthy, "low": self._low, "best_bound": self._best_bound}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from :meth:`state_dict`."""
        self._healthy, self._low = bool(state["healthy"]), int(state["low"])
        self._best_bound = float(state["best_bound"])

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
        self._healthy = self._healthy or not signs
        if not self._healthy and step <= self.grace_steps:
            return None
        self._low = self._low + 1 if signs else 0
        if self._low != self.patience:
            return None
        return f"The embeddings have collapsed at step {step}: {'; '.join(signs)}. {_CAUSES}"

    def _signs(self, reading: Mapping[str, float], dim: int) -> list[str]:
        broken = [name for name, value in reading.items() if not math.isfinite(value)]
        if broken:
            return [f"{broken[0]} is not finite"]
        signs = []
        name = next(n for n in reading if n.startswith("entropy_k"))
        kappa = float(name.removeprefix("entropy_k"))
        lowest = -(kappa + log_normalizer_value(dim, kappa))
        highest, entropy = reading["log_sphere_area"], reading[name]
        if entropy < lowest + self.floor * (highest - lowest):
            signs.append(
                f"entropy {entropy:.2f} nats, {lowest:.2f} at a single point and {highest:.2f} "
                f"when uniform (κ = {kappa:g})"
            )
        rank = reading["effective_rank"]
        if rank < self.min_rank:
            signs.append(f"effective rank {rank:.2f} of {dim}")
        if "discrete_entropy" in reading:
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
