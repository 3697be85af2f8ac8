"""Losses in lightly's idiom, each a thin module over :mod:`erssl.entropy`.

Every loss is called as ``loss(z0, z1)`` with two tensors, in place of lightly's ``NTXentLoss``,
or as ``loss(online, target)`` with lists where a target branch or local views exist.
"""

from erssl.loss.corinfomax import CorInfoMaxLoss
from erssl.loss.discrete_er import DiscreteERLoss
from erssl.loss.e2mc import E2MCLoss
from erssl.loss.emp_ssl import EMPSSLLoss
from erssl.loss.entrec import EntRecLoss
from erssl.loss.er import ERLoss
from erssl.loss.frossl import FroSSLLoss
from erssl.loss.lejepa import LeJEPALoss
from erssl.loss.mec import MatrixSSLLoss, MECLoss
from erssl.loss.mmcr import MMCRLoss
from erssl.loss.mveb import MVEBLoss
from erssl.loss.mvib import MVIBLoss
from erssl.loss.simdino import SimDINOLoss
from erssl.loss.state import StepState, accumulate_state
from erssl.loss.tico import TiCoLoss
from erssl.loss.visreg import VISRegLoss

__all__ = [
    "CorInfoMaxLoss",
    "DiscreteERLoss",
    "E2MCLoss",
    "EMPSSLLoss",
    "ERLoss",
    "EntRecLoss",
    "FroSSLLoss",
    "LeJEPALoss",
    "MECLoss",
    "MMCRLoss",
    "MVEBLoss",
    "MVIBLoss",
    "MatrixSSLLoss",
    "SimDINOLoss",
    "StepState",
    "TiCoLoss",
    "VISRegLoss",
    "accumulate_state",
]
