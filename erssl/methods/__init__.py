"""Methods: one short file each, a small base, and the registry."""

from erssl.methods.base import MethodInfo, MultiViewMethod, StepOutput
from erssl.methods.byol import BYOL
from erssl.methods.byol_er import BYOLER
from erssl.methods.deepcluster_er import DeepClusterER
from erssl.methods.deepclusterv2 import DeepClusterV2
from erssl.methods.dino import DINO
from erssl.methods.dino_er import DINOER
from erssl.methods.entrec import EntRec
from erssl.methods.mveb import MVEB
from erssl.methods.mvib import MVIB
from erssl.methods.optimizer import OptimizerOptions
from erssl.methods.registry import METHODS, available_methods, get_method, register_method
from erssl.methods.simclr import SimCLR
from erssl.methods.simclr_er import SimCLRER
from erssl.methods.swav_er import SwAVER

__all__ = [
    "BYOL",
    "BYOLER",
    "DINO",
    "DINOER",
    "METHODS",
    "MVEB",
    "MVIB",
    "DeepClusterER",
    "DeepClusterV2",
    "EntRec",
    "MethodInfo",
    "MultiViewMethod",
    "OptimizerOptions",
    "SimCLR",
    "SimCLRER",
    "StepOutput",
    "SwAVER",
    "available_methods",
    "get_method",
    "register_method",
]
