"""Methods: one short file each, a small base, and the registry."""

from erssl.methods.base import MethodInfo, MultiViewMethod, StepOutput
from erssl.methods.byol import BYOL
from erssl.methods.byol_er import BYOLER
from erssl.methods.dino import DINO
from erssl.methods.dino_er import DINOER
from erssl.methods.entrec import EntRec
from erssl.methods.mveb import MVEB
from erssl.methods.optimizer import OptimizerOptions
from erssl.methods.registry import METHODS, available_methods, get_method, register_method
from erssl.methods.simclr import SimCLR
from erssl.methods.simclr_er import SimCLRER

__all__ = [
    "BYOL",
    "BYOLER",
    "DINO",
    "DINOER",
    "METHODS",
    "MVEB",
    "EntRec",
    "MethodInfo",
    "MultiViewMethod",
    "OptimizerOptions",
    "SimCLR",
    "SimCLRER",
    "StepOutput",
    "available_methods",
    "get_method",
    "register_method",
]
