"""Losses in lightly's idiom, each a thin module over :mod:`erssl.entropy`.

Every loss is called as ``loss(z0, z1)`` with two tensors, in place of lightly's ``NTXentLoss``,
or as ``loss(online, target)`` with lists where a target branch or local views exist.
"""

from erssl.loss._state import StepState, accumulate_state
from erssl.loss.discrete_er import DiscreteERLoss
from erssl.loss.entrec import EntRecLoss
from erssl.loss.er import ERLoss
from erssl.loss.mveb import MVEBLoss
from erssl.loss.mvib import MVIBLoss

__all__ = [
    "DiscreteERLoss",
    "ERLoss",
    "EntRecLoss",
    "MVEBLoss",
    "MVIBLoss",
    "StepState",
    "accumulate_state",
]
