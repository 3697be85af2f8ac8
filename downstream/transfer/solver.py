"""Preconditioned L-BFGS for logistic regression, softmax or one-vs-rest."""

from __future__ import annotations

import math
import sys
from collections import deque
from typing import Any

import torch
from torch import Tensor

from erssl.downstream.transfer.logits import Logits, sum_of
from erssl.downstream.transfer.rotation import Rotation

TOLERANCE = 1e-6  # of the gradient: an optimum
MAX_ITER = 5000  # steps at one penalty, at the most
_MEMORY = 10  # pairs of steps and changes of the gradient
_SOLVED = 3  # fits that the next one is foreseen from
_SEARCHES = 30
_FLATTER = 0.1  # a step is taken where the slope has fallen to this share


class Problem:
    """Mean cross-entropy plus penalty of linear logits, and where the search stands.

    Parameters are (p + 1, C), the biases in the last row. The problem is one for softmax; for
    one-vs-rest it is C problems that share products of matrices, each with its own search
    direction, step and memory, so that every inner product below is one number or one a column.

    Attributes:
        logits: Those of the images at ``parameters``.
        parameters: Where the search stands (p + 1, C).
    """

    def __init__(
        self,
        logits: Logits,
        joint: bool,
        parameters: Tensor,
        rotation: Rotation,
        magnitude: float,
    ):
        """Start at given parameters.

        Args:
            logits: Of rotated features, float32 or float64: all is computed in that type.
            joint: Whether the classes are one problem, of softmax.
            parameters: Start (p + 1, C).
            rotation: What the features are rotated by.
            magnitude: Largest mean magnitude of a feature before it was rotated.
        """
        self.logits, self.rotation = logits, rotation
        self.magnitude, self.unit = magnitude, torch.finfo(logits.dtype).eps
        self.over = (0, 1) if joint else (0,)
        # Only rounding keeps the gradient from a new low for so long.
        self.patience = 50 if logits.dtype == torch.float32 else sys.maxsize
        self.pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=_MEMORY)
        self.solved: deque[tuple[float, Tensor, Any]] = deque(maxlen=_SOLVED)
        self.move(parameters)

    def move(self, parameters: Tensor) -> None:
        """Stand at other parameters, with everything computed anew."""
        self.parameters = parameters.to(self.logits.spread)
        self.logits.stand(self.parameters)
        self.drift = 0.0
        self._differentiate()

    def forget(self, parameters: Tensor) -> None:
        """Start anew at ``parameters``."""
        self.pairs.clear()
        self.solved.clear()
        self.move(parameters)

    def _differentiate(self) -> None:
        self.slopes, self.curvature = self.logits.differentiate()

    def gradient(self, penalty: float) -> Tensor:
        """Gradient (p + 1, C) of the mean loss plus penalty / 2 |W|²."""
        gradient = self.slopes.clone()
        gradient[:-1] += penalty * self.parameters[:-1]
        return gradient

    def steepest(self, penalty: float) -> float:
        """Largest entry of the gradient in the coordinates of the features."""
        return float(self.rotation.gradient(self.gradient(penalty)).abs().max())

    def value(self, penalty: float) -> float:
        """Mean loss plus penalty / 2 |W|², in float64."""
        squares = self.parameters[:-1].double().square().sum()
        return self.logits.loss() / self.logits.count + penalty / 2 * float(squares)

    def minimise(self, penalty: float, tolerance: float, max_iter: int) -> tuple[int, float]:
        """Search until no entry of the gradient exceeds ``tolerance``.

        It ends sooner after ``max_iter`` steps, or where rounding leaves nothing to descend.

        Args:
            penalty: λ / N.
            tolerance: Largest entry of the gradient in the coordinates of the features.
            max_iter: Steps at the most.

        Returns:
            Steps taken and the largest entry of the gradient. Logits that have drifted by rounding
            so far that it could be off by a tenth of the tolerance are computed anew for it.
        """
        iterations, steepest = self._descend(penalty, tolerance, max_iter)
        self.solved.append((math.log(penalty), self.parameters, self.logits.kept()))
        return iterations, steepest

    def _descend(self, penalty: float, tolerance: float, max_iter: int) -> tuple[int, float]:
        # The probabilities change by half of what the logits do, at the most.
        allowed = tolerance / 10 / max(self.magnitude / 2, self.unit)
        steepest = self.steepest(penalty)
        if steepest <= tolerance and self.drift <= allowed:
            return 0, steepest
        self._penalise(penalty)
        self._foresee(penalty)
        iterations, since, least, promise = 0, 0, math.inf, math.inf
        while True:
            gradient = self.gradient(penalty)
            norm = float(gradient.norm())
            since, least = (0, norm) if norm < least else (since + 1, least)
            last = iterations >= max_iter or since >= self.patience
            if norm <= promise or last:
                steepest = self.steepest(penalty)
                if (steepest <= tolerance or last) and self.drift <= allowed:
                    return iterations, steepest
                if steepest <= tolerance or last:
                    self.move(self.parameters)
                    continue
                # To rotate the gradient back costs a fifth of a step; not before it may do.
                promise = 1.2 * norm * tolerance / steepest
            if not self._step(gradient, penalty):
                self.move(self.parameters)
                return iterations, self.steepest(penalty)
            iterations += 1

    def _foresee(self, penalty: float) -> None:
        """Go to where a parabola through the last fits, in log λ, has the next one.

        The logits are on the same parabola, without a product where they are held; the step is
        taken back if it does not lead down.
        """
        if len(self.solved) < 2:
            return
        places = [place for place, _, _ in self.solved]
        shares = [
            math.prod((math.log(penalty) - b) / (a - b) for b in places if b != a) for a in places
        ]
        before = self.gradient(penalty).norm()
        stood = self.parameters, self.slopes, self.curvature, self.drift
        self.parameters = sum_of(shares, [parameters for _, parameters, _ in self.solved])
        anew = self.logits.foresee(self.parameters, shares, [kept for _, _, kept in self.solved])
        self._differentiate()
        added = sum(map(abs, shares)) * (self.drift + self._rounding())
        self.drift = 0.0 if anew else added
        if not self.gradient(penalty).norm() < before:
            self.parameters, self.slopes, self.curvature, self.drift = stood
            self.logits.back()

    def _rounding(self) -> float:
        return self.unit * self.logits.largest()

    def _penalise(self, penalty: float) -> None:
        """Give the remembered changes of the gradient, which are the loss's, the penalty's part."""
        self.penalty = penalty
        self.changes = deque((self._change(s, y) for s, y in self.pairs), maxlen=_MEMORY)

    def _change(self, step: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Change of the whole gradient over a step, and 1 / curvature; 0 where that is rounding."""
        whole = change.clone()
        whole[:-1] += self.penalty * step[:-1]
        curvature = self._dot(step, whole)
        least = self._dot(step, step) * self._dot(whole, whole)
        sure = curvature > self.unit * least.sqrt()
        return whole, torch.where(sure, 1 / curvature, 0.0)

    def _direction(self, gradient: Tensor) -> Tensor:
        """Newton's step as the diagonal of the Hessian and the last steps tell it.

        The two loops of Nocedal (1980).
        """
        curvature = self.curvature.clamp_min(1e-12)
        scale = torch.cat([self.logits.spread[:, None] * curvature + self.penalty, curvature])
        direction = gradient.clone()
        shares = []
        for (step, _), (change, inverse) in zip(
            reversed(self.pairs), reversed(self.changes), strict=True
        ):
            shares.append(inverse * self._dot(step, direction))
            direction -= shares[-1] * change
        direction /= scale
        if self.changes:
            change, inverse = self.changes[-1]
            met = inverse * self._dot(change, change / scale)
            direction /= torch.where(met > 0, met, 1.0)
        for (step, _), (change, inverse), share in zip(
            self.pairs, self.changes, reversed(shares), strict=True
        ):
            direction += (share - inverse * self._dot(change, direction)) * step
        return -direction

    def _dot(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=self.over, keepdim=True)

    def _step(self, gradient: Tensor, penalty: float) -> bool:
        """Go along a direction to where the slope is nearly 0; False if nothing descends."""
        direction = self._direction(gradient)
        slope = self._dot(direction, gradient)
        if not bool((slope < 0).any()):
            return False
        direction = torch.where(slope < 0, direction, 0.0)
        self.logits.look(direction)
        reached = self._search(direction, slope, penalty)
        before = self.slopes
        step = reached * direction
        self.parameters = self.parameters + step
        self.logits.go(reached)
        self._differentiate()
        self.drift += self._rounding()
        self.pairs.append((step, self.slopes - before))
        self.changes.append(self._change(*self.pairs[-1]))
        return True

    def _search(self, direction: Tensor, slope: Tensor, penalty: float) -> Tensor:
        """Length of the step, where the slope is nearly 0.

        The objective is convex and the logits are linear along the way, so that this is the zero of
        a rising function without products of matrices, and no two values of the loss, equal but for
        rounding near the optimum, need be compared.
        """
        weights, rate = self.parameters[:-1], direction[:-1]
        inner, square = self._dot(weights, rate), self._dot(rate, rate)
        low = torch.zeros_like(slope)
        high = torch.full_like(slope, math.inf)
        length = torch.ones_like(slope)
        for _ in range(_SEARCHES):
            here = self.logits.slope(length) + penalty * (inner + length * square)
            flat = (here.abs() <= _FLATTER * slope.abs()) | (slope >= 0)
            if bool(flat.all()):
                break
            low = torch.where(here < 0, length, low)
            high = torch.where(here > 0, length, high)
            # The secant from the start, or the bracket's middle; tenfold while there is no bracket.
            guess = length * slope / (slope - here)
            guess = torch.where((guess > low) & (guess < high), guess, (low + high) / 2)
            guess = torch.where(guess.isfinite() & (guess <= 10 * length), guess, 10 * length)
            length = torch.where(flat, length, guess)
        return length
