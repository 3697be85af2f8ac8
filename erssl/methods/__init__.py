"""Methods: one short file each, a small base, and the registry."""

from erssl.methods.base import MethodInfo, MultiViewMethod, StepOutput
from erssl.methods.entrec import EntRec
from erssl.methods.mveb import MVEB
from erssl.methods.optimizer import OptimizerOptions
from erssl.methods.registry import METHODS, available_methods, get_method, register_method
from erssl.methods.simclr import SimCLR

__all__ = [
    "METHODS",
    "MVEB",
    "EntRec",
    "MethodInfo",
    "MultiViewMethod",
    "OptimizerOptions",
    "SimCLR",
    "StepOutput",
    "available_methods",
    "get_method",
    "register_method",
]
